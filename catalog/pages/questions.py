"""The questions that the report's figures answer, each a statement that anyone can run again.

No statement holds a double quote, a dollar sign, a backtick, a backslash or an exclamation mark, so that each can stand between
double quotes on a shell's command line. Whatever grows with the data is summed up or cut off in the statement.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One statement and what it answers."""

    title: str
    """The question in words."""
    sql: str
    """The statement."""

    @property
    def command(self) -> str:
        """The command that asks it."""
        return f'sea-lion catalog sql "{self.sql}"'


TRIALS = "-trials/"
"""What the names of a merge search's trials have; they are shown with its result and not as merges of their own."""
LAST_MERGES = f"""
    SELECT ref FROM artifacts WHERE kind = 'checkpoint' AND body->>'method' <> '' AND name NOT LIKE '%{TRIALS}%'
    ORDER BY created DESC, ref DESC LIMIT 12
"""


def _question(title: str, sql: str) -> Question:
    return Question(title=title, sql=sql.strip())


QUESTIONS: dict[str, Question] = {
    "totals": _question(
        "How much is on record?",
        """
SELECT kind, count(*) AS artifacts, sum(seconds) AS seconds, CAST(sum(bytes) AS BIGINT) AS bytes,
    CAST(sum(CAST(body->>'documents_in' AS BIGINT)) AS BIGINT) AS documents_in,
    CAST(sum(CAST(body->>'documents_out' AS BIGINT)) AS BIGINT) AS documents_out
FROM artifacts GROUP BY kind ORDER BY kind""",
    ),
    "artifacts": _question(
        "What was made last, how long did it take, and from which code?",
        """
SELECT ref, kind, licence, seconds, peak_memory_bytes, bytes, commit, substr(fingerprint, 1, 12) AS fingerprint, created
FROM artifacts ORDER BY created DESC, ref LIMIT 500""",
    ),
    "problems": _question(
        "Which records, manifests and tables could not be read?",
        "SELECT path, problem FROM problems ORDER BY path LIMIT 200",
    ),
    "failures": _question(
        "Which files of the corpora could not be read to their end?",
        "SELECT ref, source, file, problem FROM failures ORDER BY ref, source, file LIMIT 200",
    ),
    "completeness": _question(
        "How many of the planned slots were reported?",
        """
SELECT ref, stage, planned, reported, missing, conflicts FROM completeness
WHERE stage <> 'record' ORDER BY ref, stage""",
    ),
    "corpora": _question(
        "Which corpora are there, and how much is in them so far?",
        """
WITH known AS (SELECT ref FROM artifacts WHERE kind = 'corpus' UNION SELECT ref FROM corpus_counts)
SELECT k.ref, a.created, a.ref IS NOT NULL AS is_finished, CAST(sum(c.documents) AS BIGINT) AS documents,
    CAST(sum(c.bytes) AS BIGINT) AS bytes
FROM known k LEFT JOIN artifacts a ON a.ref = k.ref LEFT JOIN corpus_counts c ON c.ref = k.ref
GROUP BY k.ref, a.created, a.ref ORDER BY a.created NULLS LAST, k.ref""",
    ),
    "tokens": _question(
        "How many tokens of which language are in a corpus, from which source?",
        """
SELECT corpus, tokenizer, language, source, CAST(sum(documents) AS BIGINT) AS documents,
    CAST(sum(bytes) AS BIGINT) AS bytes, CAST(sum(tokens) AS BIGINT) AS tokens
FROM tokens GROUP BY corpus, tokenizer, language, source ORDER BY corpus, tokenizer, language, source""",
    ),
    "crawls": _question(
        "How many documents came from which crawl?",
        """
SELECT ref, crawl, language, CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes
FROM corpus_counts WHERE crawl <> '' GROUP BY ref, crawl, language ORDER BY ref, crawl, language""",
    ),
    "origins": _question(
        "How many files did each source read, from how many crawls, and what was kept of them?",
        """
SELECT ref, source, count(DISTINCT nullif(crawl, '')) AS crawls, count(DISTINCT file) AS files,
    CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes
FROM origins GROUP BY ref, source ORDER BY ref, source""",
    ),
    "funnel": _question(
        "How many documents went into each stage, and how many came out?",
        """
SELECT ref, step, stage, CAST(sum(documents_in) AS BIGINT) AS documents_in,
    CAST(sum(documents_out) AS BIGINT) AS documents_out, CAST(sum(documents_removed) AS BIGINT) AS removed,
    min(CASE WHEN balances THEN 1 ELSE 0 END) AS balances
FROM balance GROUP BY ref, step, stage ORDER BY ref, step""",
    ),
    "survival": _question(
        "Which stage removed how much of each language, and what was kept?",
        """
SELECT ref, language, step, stage, documents_removed AS documents, FALSE AS is_kept FROM balance
WHERE documents_removed > 0
UNION ALL
SELECT b.ref, b.language, b.step, b.stage, b.documents_out, TRUE FROM balance b
WHERE b.step = (SELECT max(l.step) FROM balance l WHERE l.ref = b.ref)
ORDER BY 1, 2, 3, 6""",
    ),
    "reasons": _question(
        "Which rule removed how many documents, in which language?",
        """
SELECT ref, step, stage, reason, language, CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes
FROM ledger GROUP BY ref, step, stage, reason, language ORDER BY ref, step, documents DESC, reason, language""",
    ),
    "domains": _question(
        "Which sites gave most documents of each language?",
        """
SELECT ref, language, domain, documents, bytes FROM (
    SELECT ref, language, domain, count(*) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes,
        row_number() OVER (PARTITION BY ref, language ORDER BY count(*) DESC, domain) AS place
    FROM documents WHERE domain <> '' GROUP BY ref, language, domain
) AS sites WHERE place <= 8 ORDER BY ref, language, place""",
    ),
    "fertility": _question(
        "How many tokens does a word take under each tokenizer?",
        """
SELECT ref, tokenizer, language, words, tokens, fertility, bytes_per_token FROM fertility
ORDER BY tokenizer, language, ref""",
    ),
    "mixture": _question(
        "What does a mixture take from each language, and what did a run consume of it?",
        """
SELECT mixture, run, part, corpus, language, source, weight, tokens_available, tokens_planned, tokens_consumed,
    epochs_planned, epochs_consumed
FROM mixture_consumed ORDER BY mixture, run, part, language, source, corpus""",
    ),
    "parts": _question(
        "Did each run keep to the shares that its mixture planned?",
        """
SELECT mixture, ref, part, weight, share, sequences_planned, sequences_trained, tokens, off_by_sequences
FROM mixture_kept ORDER BY mixture, ref, part""",
    ),
    "consumed": _question(
        "How many tokens of which crawl did a run read?",
        """
SELECT ref, language, source, crawl, CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(tokens) AS BIGINT) AS tokens
FROM consumed GROUP BY ref, language, source, crawl ORDER BY ref, language, source, crawl""",
    ),
    "trained": _question(
        "How many tokens of which language and source did a run train on?",
        """
SELECT ref, language, source, CAST(sum(sequences) AS BIGINT) AS sequences, CAST(sum(tokens) AS BIGINT) AS tokens
FROM training_parts GROUP BY ref, language, source ORDER BY ref, language, source""",
    ),
    "models": _question(
        "Which models were made, how, and from which parents?",
        """
SELECT ref, created, seconds, peak_memory_bytes, licence, body->>'stage' AS stage, body->>'method' AS method,
    CAST(body->>'parameters' AS BIGINT) AS parameters, CAST(body->>'step' AS BIGINT) AS steps,
    CAST(body->>'tokens_seen' AS BIGINT) AS tokens, CAST(body->'parents' AS VARCHAR) AS parents,
    CASE WHEN body->>'method' <> '' THEN CAST(recipe AS VARCHAR) END AS merge_recipe
FROM artifacts WHERE kind = 'checkpoint' ORDER BY created, ref""",
    ),
    "merge-changes": _question(
        "What did each of the last merges do to each layer and part, and how much do its parents disagree there?",
        f"""
SELECT ref, scope, place, elements, base_norm, merged_norm, merged_norm / nullif(base_norm, 0) AS relative, sign_conflict
FROM merge_changes WHERE ref IN ({LAST_MERGES})
ORDER BY ref, scope, position, place""",
    ),
    "merge-parents": _question(
        "How far does each parent of the last merges lie from the base, and how much of it was kept?",
        f"""
SELECT ref, scope, place, parent, model, weight, norm, relative, changed, kept
FROM merge_parent_changes WHERE ref IN ({LAST_MERGES})
ORDER BY ref, scope, position, place, parent""",
    ),
    "merge-pairs": _question(
        "How alike are the differences of two parents of the last merges, and what was kept of both?",
        f"""
SELECT ref, scope, place, one, other, cosine, overlap
FROM merge_pair_changes WHERE ref IN ({LAST_MERGES})
ORDER BY ref, scope, position, place, one, other""",
    ),
    "merge-trials": _question(
        "Which merges were the best of those that each of the last merge searches tried?",
        f"""
SELECT ref, trial, method, value, failed, tried, settings
FROM (
    SELECT t.*, row_number() OVER (PARTITION BY ref ORDER BY value IS NULL, value DESC, trial) AS place,
        count(*) OVER (PARTITION BY ref) AS tried,
        (SELECT string_agg(p.parameter || ' ' || CAST(p.value AS VARCHAR), ', ' ORDER BY p.parameter)
            FROM merge_trial_parameters p WHERE p.ref = t.ref AND p.trial = t.trial) AS settings
    FROM merge_trials t WHERE ref IN ({LAST_MERGES})
) ranked
WHERE place <= 12 ORDER BY ref, place""",
    ),
    "losses": _question(
        "How did the loss and the learning rate of a run go?",
        """
SELECT l.ref, CAST(floor((l.step - s.first_step) * 200.0 / (s.last_step - s.first_step + 1)) AS INTEGER) AS bin,
    max(l.step) AS step, avg(CASE WHEN abs(l.loss) < 1e300 THEN l.loss END) AS loss,
    min(CASE WHEN abs(l.loss) < 1e300 THEN l.loss END) AS lowest, max(CASE WHEN abs(l.loss) < 1e300 THEN l.loss END) AS highest,
    max(CASE WHEN abs(l.lr) < 1e300 THEN l.lr END) AS lr, CAST(sum(l.tokens) AS BIGINT) AS tokens,
    CAST(sum(CASE WHEN abs(l.loss) < 1e300 THEN 0 ELSE 1 END) AS BIGINT) AS broken,
    CAST(sum(CASE WHEN l.skipped THEN 1 ELSE 0 END) AS BIGINT) AS skipped
FROM training_log l
JOIN (SELECT ref, min(step) AS first_step, max(step) AS last_step FROM training_log GROUP BY ref) s ON s.ref = l.ref
GROUP BY 1, 2 ORDER BY 1, 2""",
    ),
    "pace": _question(
        "How fast did each run go, and what of the devices did it use?",
        """
SELECT ref, CAST(sum(tokens) AS DOUBLE PRECISION) / sum(seconds) AS tokens_per_second,
    sum(mfu * seconds) / sum(seconds) AS mfu, sum(mfu_causal * seconds) / sum(seconds) AS mfu_causal,
    max(peak_memory) AS peak_memory, sum(data_wait) / sum(seconds) AS waiting, max(slowest_over_fastest) AS spread,
    max(processes) AS processes
FROM training_pace GROUP BY ref ORDER BY ref""",
    ),
    "language-losses": _question(
        "How did the training loss of each language go?",
        """
SELECT l.ref, l.language,
    CAST(floor((l.step - s.first_step) * 40.0 / (s.last_step - s.first_step + 1)) AS INTEGER) AS bin, max(l.step) AS step,
    CAST(sum(l.tokens) AS BIGINT) AS tokens, sum(l.loss * l.tokens) / sum(l.tokens) AS loss,
    sum(l.bits_per_byte * l.bytes) / nullif(sum(l.bytes), 0) AS bits_per_byte
FROM language_losses l JOIN (
    SELECT ref, min(step) AS first_step, max(step) AS last_step FROM language_losses WHERE split = 'train' GROUP BY ref
) s ON s.ref = l.ref
WHERE l.split = 'train' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    ),
    "heldout": _question(
        "How well does each run predict held-out text, by language and source?",
        """
SELECT ref, language, source, step, CAST(sum(tokens) AS BIGINT) AS tokens, sum(loss * tokens) / sum(tokens) AS loss,
    sum(bits_per_byte * bytes) / nullif(sum(bytes), 0) AS bits_per_byte
FROM language_losses WHERE split = 'heldout' GROUP BY ref, language, source, step
ORDER BY ref, language, source, step""",
    ),
    "scores": _question(
        "What does each model score in each language, at the latest evaluation?",
        """
SELECT suite, task, metric, model, language, value, stderr, items, higher_is_better FROM latest_scores
ORDER BY suite, task, metric, model, language""",
    ),
    "decisions": _question(
        "Which model may stand for which stage, and who said so?",
        """
SELECT s.created, s.ref, s.stage, s.model, s.policy, s.verdict, s.reason, s.on_refusal, s.kept, s.promotion, s.waiver_by,
    s.waiver_reason, s.waiver_expires, CAST(a.body->'baselines' AS VARCHAR) AS baselines
FROM standings s JOIN artifacts a ON a.ref = s.ref ORDER BY s.created, s.ref""",
    ),
    "outcomes": _question(
        "What did each test of each gate find?",
        """
SELECT ref, baseline, level, node, metric, candidate_value, baseline_value, delta, lower, upper, margin, p_value, items,
    clusters, verdict
FROM outcomes ORDER BY ref, baseline, metric, level, node""",
    ),
    "stages": _question(
        "Which model does each stage stand for now?",
        "SELECT stage, model, promotion FROM stages ORDER BY stage",
    ),
    "lineage": _question(
        "What was made from what?",
        """
SELECT i.ref, a.kind, i.role, i.input_ref, i.via FROM inputs i JOIN artifacts a ON a.ref = i.ref
ORDER BY a.created, i.ref, i.role""",
    ),
    "licences": _question(
        "Which licences does each promoted or last model inherit, and what brought them in?",
        """
WITH RECURSIVE up(ref, ancestor) AS (
    SELECT ref, ref FROM artifacts WHERE kind = 'checkpoint' AND (
        ref IN (SELECT model FROM stages)
        OR ref NOT IN (SELECT i.input_ref FROM inputs i JOIN artifacts a ON a.ref = i.ref WHERE a.kind = 'checkpoint'))
    UNION
    SELECT up.ref, i.input_ref FROM up JOIN inputs i ON i.ref = up.ancestor
), own(ref, licence, given_by) AS (
    SELECT ref, licence, given_by FROM own_licences
    UNION
    SELECT ref, recipe->>'licence', ref FROM artifacts
    WHERE recipe->>'licence' <> '' AND kind NOT IN ('ngrams', 'plan') AND ref NOT IN (SELECT ref FROM own_licences)
)
SELECT up.ref, m.licence AS combined, own.licence, own.given_by, min(own.ref) AS brought_in_by
FROM up JOIN artifacts m ON m.ref = up.ref LEFT JOIN own ON own.ref = up.ancestor
GROUP BY up.ref, m.licence, own.licence, own.given_by ORDER BY up.ref, own.licence, own.given_by""",
    ),
    "own-licences": _question(
        "Which licences did an artifact itself bring in?",
        """
SELECT ref, licence, given_by FROM own_licences
UNION
SELECT ref, recipe->>'licence', ref FROM artifacts
WHERE recipe->>'licence' <> '' AND kind NOT IN ('ngrams', 'plan') AND ref NOT IN (SELECT ref FROM own_licences)
ORDER BY 1, 2, 3""",
    ),
}
"""Name to question; the order is that of the page that lists them."""
