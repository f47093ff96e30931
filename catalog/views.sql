-- The views over the index, replaced at every refresh. Portable: each runs on DuckDB and on PostgreSQL. Later ones use earlier ones.

-- What was removed: stage, language, reason.
CREATE VIEW ledger AS
    SELECT ref, step, stage, source, language, reason, CAST(sum(documents) AS BIGINT) AS documents,
        CAST(sum(bytes) AS BIGINT) AS bytes
    FROM flow WHERE outcome = 'removed' GROUP BY ref, step, stage, source, language, reason;

-- Documents in = documents out + ledger, for each stage and language (the language at the stage's entry).
CREATE VIEW balance AS
    SELECT ref, step, stage, language, documents_in, documents_out, documents_removed,
        documents_in = documents_out + documents_removed AS balances
    FROM (
        SELECT ref, step, stage, language,
            CAST(coalesce(sum(CASE WHEN outcome = 'in' THEN documents END), 0) AS BIGINT) AS documents_in,
            CAST(coalesce(sum(CASE WHEN outcome = 'out' THEN documents END), 0) AS BIGINT) AS documents_out,
            CAST(coalesce(sum(CASE WHEN outcome = 'removed' THEN documents END), 0) AS BIGINT) AS documents_removed
        FROM flow GROUP BY ref, step, stage, language
    ) AS summed;

-- What was planned and what was reported, for each artifact and stage of its making; an artifact made without slots counts as
-- one slot, reported when its record was written.
CREATE VIEW completeness AS
    SELECT p.ref, p.stage, p.planned, coalesce(r.reported, 0) AS reported, p.planned - coalesce(r.reported, 0) AS missing,
        coalesce(c.conflicts, 0) AS conflicts
    FROM slot_sets p
    LEFT JOIN (SELECT ref, stage, count(*) AS reported FROM slots GROUP BY ref, stage) r ON r.ref = p.ref AND r.stage = p.stage
    LEFT JOIN (SELECT ref, stage, count(*) AS conflicts FROM slot_conflicts GROUP BY ref, stage) c
        ON c.ref = p.ref AND c.stage = p.stage
    UNION ALL
    SELECT ref, 'record', 1, 1, 0, 0 FROM artifacts a
    WHERE NOT EXISTS (SELECT 1 FROM slot_sets s WHERE s.ref = a.ref);

-- The same, one row an artifact: all its stages together.
CREATE VIEW complete AS
    SELECT ref, CAST(sum(planned) AS BIGINT) AS slots_planned, CAST(sum(reported) AS BIGINT) AS slots_reported,
        CAST(sum(conflicts) AS BIGINT) AS conflicts
    FROM completeness GROUP BY ref;

-- Documents of the corpora by crawl: of finished ones, and, while they are being made, of the slots reported so far.
CREATE VIEW corpus_counts AS
    SELECT ref, language, source, split, crawl, documents, characters, bytes, TRUE AS is_finished FROM corpus_sums
    UNION ALL
    SELECT s.ref, s.language, s.source, s.split, '', CAST(sum(s.documents) AS BIGINT), CAST(sum(s.characters) AS BIGINT),
        CAST(sum(s.bytes) AS BIGINT), TRUE
    FROM shards s WHERE NOT EXISTS (SELECT 1 FROM corpus_sums c WHERE c.ref = s.ref) GROUP BY s.ref, s.language, s.source, s.split
    UNION ALL
    SELECT s.ref, s.language, s.source, s.split, s.crawl, CAST(sum(s.documents) AS BIGINT), CAST(sum(s.characters) AS BIGINT),
        CAST(sum(s.bytes) AS BIGINT), FALSE
    FROM slot_counts s WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.ref = s.ref)
    GROUP BY s.ref, s.language, s.source, s.split, s.crawl;

-- Tokens of the corpora, BPE-dropout off: of several counts of a corpus with one tokenizer, the latest. A set of slots that
-- reports its own tokens counts as its own count.
CREATE VIEW tokens AS
    SELECT t.ref, t.corpus, t.tokenizer, t.language, t.source, t.split, t.crawl, t.documents, t.bytes, t.words, t.tokens
    FROM token_sums t
    JOIN (
        SELECT corpus, tokenizer, ref, row_number() OVER (PARTITION BY corpus, tokenizer ORDER BY created DESC, ref DESC) AS place
        FROM (SELECT DISTINCT corpus, tokenizer, ref FROM token_sums) AS counts JOIN artifacts USING (ref)
    ) latest ON latest.ref = t.ref AND latest.corpus = t.corpus AND latest.tokenizer = t.tokenizer AND latest.place = 1
    UNION ALL
    SELECT t.ref, t.ref, t.tokenizer, t.language, t.source, t.split, t.crawl, c.documents, c.bytes, NULL, t.tokens
    FROM (
        SELECT ref, tokenizer, language, source, split, crawl, CAST(sum(tokens) AS BIGINT) AS tokens
        FROM slot_tokens s
        WHERE NOT EXISTS (SELECT 1 FROM token_sums k WHERE k.corpus = s.ref AND k.tokenizer = s.tokenizer)
        GROUP BY ref, tokenizer, language, source, split, crawl
    ) t
    LEFT JOIN (
        SELECT ref, language, source, split, crawl, CAST(sum(documents) AS BIGINT) AS documents,
            CAST(sum(bytes) AS BIGINT) AS bytes
        FROM slot_counts GROUP BY ref, language, source, split, crawl
    ) c ON c.ref = t.ref AND c.language = t.language AND c.source = t.source AND c.split = t.split AND c.crawl = t.crawl;

-- Tokens a word (ICU's) and bytes a token, for each tokenizer and language.
CREATE VIEW fertility AS
    SELECT ref, tokenizer, language, CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes,
        CAST(sum(words) AS BIGINT) AS words, CAST(sum(tokens) AS BIGINT) AS tokens,
        CAST(sum(tokens) AS DOUBLE PRECISION) / nullif(sum(words), 0) AS fertility,
        CAST(sum(bytes) AS DOUBLE PRECISION) / nullif(sum(tokens), 0) AS bytes_per_token
    FROM token_sums GROUP BY ref, tokenizer, language;

-- Tokens at each stage of a model's data: in a corpus, planned by a mixture, trained on by a run. The stages count the same
-- text again: never add them up. A mixture does not say which crawls it will take.
CREATE VIEW tokens_by_stage AS
    SELECT 'corpus' AS stage, ref, corpus, tokenizer, language, source, crawl, documents, tokens FROM tokens
    UNION ALL
    SELECT 'planned', p.ref, p.corpus, a.body->>'tokenizer', p.language, p.source, '', NULL, p.tokens_planned
    FROM mixture_parts p JOIN artifacts a ON a.ref = p.ref
    UNION ALL
    SELECT 'trained', c.ref, c.corpus, m.body->>'tokenizer', c.language, c.source, c.crawl, c.documents, c.tokens
    FROM consumed c JOIN inputs i ON i.ref = c.ref AND i.role = 'mixture' JOIN artifacts m ON m.ref = i.input_ref;

-- Planned against trained, one row per run and part of its mixture; `off_by_sequences` is 0 when the run kept to the plan.
CREATE VIEW mixture_kept AS
    SELECT t.ref, t.mixture, t.part, p.weight,
        t.tokens / nullif(sum(CAST(t.tokens AS DOUBLE PRECISION)) OVER (PARTITION BY t.ref), 0) AS share,
        CAST(p.sequences AS BIGINT) AS sequences_planned, CAST(t.sequences AS BIGINT) AS sequences_trained,
        CAST(t.tokens AS BIGINT) AS tokens,
        abs(t.sequences - p.weight * sum(CAST(t.sequences AS DOUBLE PRECISION)) OVER (PARTITION BY t.ref)) AS off_by_sequences
    FROM (
        SELECT p.ref, i.input_ref AS mixture, p.part, sum(p.sequences) AS sequences, sum(p.tokens) AS tokens
        FROM training_parts p JOIN inputs i ON i.ref = p.ref AND i.role = 'mixture' GROUP BY p.ref, i.input_ref, p.part
    ) t
    JOIN (
        SELECT ref, part, sum(weight) AS weight, sum(sequences) AS sequences FROM mixture_parts GROUP BY ref, part
    ) p ON p.ref = t.mixture AND p.part = t.part;

-- Planned against consumed tokens, one row per run (empty: no run yet), corpus, language and source of a mixture. A run of before
-- the table `consumed` does not say the corpus: its tokens stand where the mixture takes that language and source from one only.
CREATE VIEW mixture_consumed AS
    SELECT p.ref AS mixture, coalesce(t.ref, '') AS run, p.part, p.corpus, p.language, p.source, p.weight, p.tokens_available,
        p.tokens_planned, t.tokens AS tokens_consumed, p.epochs AS epochs_planned,
        CAST(t.tokens AS DOUBLE PRECISION) / nullif(p.tokens_available, 0) AS epochs_consumed
    FROM mixture_parts p
    LEFT JOIN (
        SELECT i.input_ref AS mixture, c.ref, c.part, c.corpus, c.language, c.source, CAST(sum(c.tokens) AS BIGINT) AS tokens
        FROM consumed c JOIN inputs i ON i.ref = c.ref AND i.role = 'mixture'
        GROUP BY i.input_ref, c.ref, c.part, c.corpus, c.language, c.source
        UNION ALL
        SELECT i.input_ref, o.ref, o.part, m.corpus, o.language, o.source, o.tokens
        FROM (
            SELECT ref, part, language, source, CAST(sum(tokens) AS BIGINT) AS tokens FROM training_parts t
            WHERE NOT EXISTS (SELECT 1 FROM consumed c WHERE c.ref = t.ref) GROUP BY ref, part, language, source
        ) o
        JOIN inputs i ON i.ref = o.ref AND i.role = 'mixture'
        JOIN (
            SELECT ref, part, language, source, CASE WHEN count(*) = 1 THEN min(corpus) END AS corpus
            FROM mixture_parts GROUP BY ref, part, language, source
        ) m ON m.ref = i.input_ref AND m.part = o.part AND m.language = o.language AND m.source = o.source
    ) t ON t.mixture = p.ref AND t.part = p.part AND t.corpus = p.corpus AND t.language = p.language AND t.source = p.source;

-- A stage's alias: its latest promotion.
CREATE VIEW stages AS
    SELECT p.stage, p.model, p.ref AS promotion FROM promotions p
    WHERE p.sequence = (SELECT max(q.sequence) FROM promotions q WHERE q.stage = p.stage);

-- Every decision with what became of it.
CREATE VIEW standings AS
    SELECT a.created, d.ref, d.stage, d.model, d.policy, d.verdict, d.reason, d.on_refusal, d.kept, p.ref AS promotion,
        p.waiver_by, p.waiver_reason, p.waiver_expires
    FROM decisions d JOIN artifacts a ON a.ref = d.ref LEFT JOIN promotions p ON p.decision = d.ref AND coalesce(p.rolled_back, '') = '';

-- The latest score of each model under each suite, task, language and metric: what counts, of scorecards that asked all items.
CREATE VIEW latest_scores AS
    SELECT s.*, a.created FROM scores s JOIN artifacts a ON a.ref = s.ref
    WHERE coalesce(s.role, 'score') = 'score' AND s.ref = (
        SELECT o.ref FROM scores o JOIN artifacts b ON b.ref = o.ref
        WHERE coalesce(b.body->>'limit', '0') = '0' AND o.model = s.model AND o.suite = s.suite AND o.task = s.task AND o.language = s.language AND o.metric = s.metric
        ORDER BY b.created DESC, o.ref DESC LIMIT 1
    );

-- Every ancestor of every artifact.
CREATE VIEW ancestors AS
    WITH RECURSIVE up(ref, ancestor, distance) AS (
        SELECT ref, input_ref, 1 FROM inputs
        UNION
        SELECT up.ref, inputs.input_ref, up.distance + 1 FROM up JOIN inputs ON inputs.ref = up.ancestor
    )
    SELECT ref, ancestor, min(distance) AS distance FROM up GROUP BY ref, ancestor;

-- What each model saw, by its own training run and those of its parents; a run counts once, however many ways lead to it. Tokens
-- are those of the run's own tokenizer, an epoch counted again; runs of before the table `consumed` do not know the crawl.
CREATE VIEW seen AS
    WITH RECURSIVE models(model, run) AS (
        SELECT ref, ref FROM artifacts WHERE kind = 'checkpoint'
        UNION
        SELECT m.model, i.input_ref FROM models m JOIN inputs i ON i.ref = m.run
        JOIN artifacts a ON a.ref = i.input_ref AND a.kind = 'checkpoint'
    )
    SELECT m.model, p.language, p.source, p.crawl, CAST(sum(p.tokens) AS BIGINT) AS tokens,
        CAST(sum(p.documents) AS BIGINT) AS documents
    FROM models m JOIN (
        SELECT ref, language, source, crawl, tokens, documents FROM consumed
        UNION ALL
        SELECT ref, language, source, '', tokens, documents FROM training_parts t
        WHERE NOT EXISTS (SELECT 1 FROM consumed c WHERE c.ref = t.ref)
    ) p ON p.ref = m.run
    GROUP BY m.model, p.language, p.source, p.crawl;

-- The tensors of a merge in three ways: by layer (`embeddings`, `0` and so on, `head`), by part (all norms as one), all together.
CREATE VIEW merge_places AS
    SELECT ref, tensor, elements, base_norm, merged_norm, sign_conflict, 'layer' AS scope,
        CASE WHEN layer IS NOT NULL THEN CAST(layer AS VARCHAR) WHEN part LIKE '%embed%' OR part IN ('wte', 'wpe') THEN 'embeddings'
            ELSE 'head' END AS place,
        CASE WHEN layer IS NOT NULL THEN layer WHEN part LIKE '%embed%' OR part IN ('wte', 'wpe') THEN -1 ELSE 1000000 END AS position
    FROM merge_tensors
    UNION ALL
    SELECT ref, tensor, elements, base_norm, merged_norm, sign_conflict, 'part',
        CASE WHEN part LIKE '%norm%' OR substr(part, 1, 3) = 'ln_' THEN 'norms' ELSE part END, 0
    FROM merge_tensors
    UNION ALL
    SELECT ref, tensor, elements, base_norm, merged_norm, sign_conflict, 'model', '', 0 FROM merge_tensors;

-- What a merge did to each layer, to each part, and to the model.
CREATE VIEW merge_changes AS
    SELECT ref, scope, place, position, count(*) AS tensors, CAST(sum(elements) AS BIGINT) AS elements,
        sqrt(sum(base_norm * base_norm)) AS base_norm, sqrt(sum(merged_norm * merged_norm)) AS merged_norm,
        sum(sign_conflict * elements) / nullif(sum(CASE WHEN sign_conflict IS NOT NULL THEN elements END), 0) AS sign_conflict
    FROM merge_places GROUP BY ref, scope, place, position;

-- How far each parent lies from the base there; `relative` is the norm of its difference over the norm of the base.
CREATE VIEW merge_parent_changes AS
    SELECT t.ref, t.scope, t.place, t.position, p.parent, p.model, min(p.weight) AS weight, sqrt(sum(p.norm * p.norm)) AS norm,
        sqrt(sum(p.norm * p.norm)) / nullif(sqrt(sum(t.base_norm * t.base_norm)), 0) AS relative,
        sum(p.changed * t.elements) / nullif(sum(CASE WHEN p.changed IS NOT NULL THEN t.elements END), 0) AS changed,
        sum(p.kept * t.elements) / nullif(sum(CASE WHEN p.kept IS NOT NULL THEN t.elements END), 0) AS kept
    FROM merge_places t JOIN merge_parents p ON p.ref = t.ref AND p.tensor = t.tensor
    GROUP BY t.ref, t.scope, t.place, t.position, p.parent, p.model;

-- How alike two parents' differences are there. `overlap` is of the elements of all its tensors together: with the shares a and b
-- that were kept of the two, overlap o is (kept of both) / (a + b - kept of both), so kept of both is (a + b) * o / (1 + o).
CREATE VIEW merge_pair_changes AS
    SELECT ref, scope, place, position, one, other, sum(dot) / nullif(sqrt(sum(squares_one)) * sqrt(sum(squares_other)), 0) AS cosine,
        sum(kept_both) / nullif(sum(kept_each) - sum(kept_both), 0) AS overlap
    FROM (
        SELECT t.ref, t.scope, t.place, t.position, p.one, p.other, p.cosine * a.norm * b.norm AS dot,
            a.norm * a.norm AS squares_one, b.norm * b.norm AS squares_other, (a.kept + b.kept) * t.elements AS kept_each,
            (a.kept + b.kept) * t.elements * p.overlap / (1 + p.overlap) AS kept_both
        FROM merge_places t JOIN merge_pairs p ON p.ref = t.ref AND p.tensor = t.tensor
        JOIN merge_parents a ON a.ref = p.ref AND a.tensor = p.tensor AND a.parent = p.one
        JOIN merge_parents b ON b.ref = p.ref AND b.tensor = p.tensor AND b.parent = p.other
    ) AS pairs GROUP BY ref, scope, place, position, one, other;
