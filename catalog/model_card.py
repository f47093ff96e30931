"""The card of a checkpoint: what it was trained and merged from, on what, how it scores, and who said that it may ship.

Training data is what all the runs of its lineage consumed: a merge has seen what its parents have seen. The header's
`model-index` is written by huggingface_hub, from the same rows as the table of scores; benchmarks go by the suite's own names
and not by the hub's, because a score under another suite is another number.
"""

from __future__ import annotations

from typing import Any

import duckdb
from huggingface_hub import EvalResult, ModelCardData

from .card_queries import answered, grouped, hub_name, lineage, percent, provenance_questions, short_codes
from .card_tables import Question
from .inheritance import MATERIAL
from .records import Artifact, ArtifactRef, Checkpoint


def model_questions(ref: str) -> list[Question]:
    """The tables of a checkpoint's card."""
    return [*_made(ref), *_data(ref), *provenance_questions(ref), *_evaluation(ref), *_limits(ref), _again(ref)]


def _made(ref: str) -> list[Question]:
    return [
        Question(
            heading="What it is",
            sql=f"""SELECT body->>'architecture' AS architecture, body->>'stage' AS stage, body->>'method' AS method,
    CAST(body->>'parameters' AS BIGINT) AS parameters, bytes FROM artifacts WHERE ref = '{ref}'""",
        ),
        Question(
            heading="Stages",
            sql=f"""{lineage(ref)}
SELECT a.ref AS checkpoint, a.body->>'stage' AS stage, a.body->>'method' AS merged_by,
    CAST(a.body->>'step' AS BIGINT) AS steps, CAST(a.body->>'tokens_seen' AS BIGINT) AS tokens_in_loss
FROM artifacts a JOIN lineage USING (ref) WHERE a.kind = 'checkpoint' ORDER BY a.created, a.ref""",
        ),
        Question(
            heading="Merges",
            about="A stage that an alias stood for is named beside its model.",
            sql=f"""{lineage(ref)}
SELECT a.ref AS checkpoint, a.body->>'method' AS method, i.role, i.input_ref AS parent, i.via AS chosen_as,
    CASE WHEN i.role LIKE 'parents.%'
        THEN CAST(a.recipe->'parents'->CAST(split_part(i.role, '.', 2) AS INTEGER)->>'weight' AS DOUBLE PRECISION)
        END AS weight,
    CASE WHEN i.role LIKE 'parents.%'
        THEN CAST(a.recipe->'parents'->CAST(split_part(i.role, '.', 2) AS INTEGER)->>'density' AS DOUBLE PRECISION)
        END AS density
FROM artifacts a JOIN lineage USING (ref) JOIN inputs i USING (ref)
WHERE a.kind = 'checkpoint' AND a.body->>'stage' = 'merge' ORDER BY a.created, a.ref, i.role""",
        ),
    ]


def _data(ref: str) -> list[Question]:
    runs = "t.run IN (SELECT ref FROM lineage)"
    consumed = "t.ref IN (SELECT ref FROM lineage)"
    about = "Of all runs of its lineage together; a text that two runs read counts twice."
    planned = ("tokens_planned", "tokens_consumed")

    def asked(heading: str, source: str, where: str, groups: tuple[str, ...], sums: tuple[str, ...], of: str = "") -> Question:
        more = percent(of, groups[0]) if of else ""
        return Question(heading=heading, about=about, sql=f"{lineage(ref)}\n{grouped(source, where, groups, sums, more=more)}")

    return [
        asked("Training tokens by language", "mixture_consumed", runs, ("language",), planned, "tokens_planned"),
        asked("Training tokens by source", "mixture_consumed", runs, ("corpus", "source"), planned, "tokens_planned"),
        asked("Training tokens by run", "mixture_consumed", runs, ("run", "mixture"), planned),
        asked("Training tokens by crawl", "consumed", consumed, ("crawl", "language"), ("documents", "tokens"), "tokens"),
        Question(
            heading="Conversations and preferences",
            sql=f"""{lineage(ref)}
SELECT CASE WHEN grouping(t.dataset) = 1 THEN 'total' ELSE t.dataset END AS dataset, t.form,
    CAST(sum(t.number) AS BIGINT) AS number
FROM (
    SELECT a.ref AS dataset, a.body->>'form' AS form, CAST(a.body->>'rows' AS BIGINT) AS number
    FROM artifacts a JOIN lineage USING (ref) WHERE a.kind = 'conversations'
) AS t
GROUP BY GROUPING SETS ((t.dataset, t.form), ()) HAVING count(*) > 0 ORDER BY grouping(t.dataset), t.dataset""",
        ),
        Question(
            heading="Written by models",
            sql=f"""{lineage(ref)}
SELECT a.ref AS dataset, a.body->>'generator' AS generator, CAST(a.body->>'attempts' AS BIGINT) AS attempts
FROM artifacts a JOIN lineage USING (ref) WHERE a.kind = 'synthesis' ORDER BY a.ref""",
        ),
    ]


def _evaluation(ref: str) -> list[Question]:
    return [
        Question(
            heading="Scores",
            sql=f"""SELECT suite, language, task, metric, value, stderr, items,
    CASE WHEN higher_is_better THEN 'higher' ELSE 'lower' END AS better
FROM latest_scores WHERE model = '{ref}' ORDER BY suite, metric, language, task""",
        ),
        Question(
            heading="Gate decisions",
            about="Who said that it, and what it was made from, may go on.",
            sql=f"""{lineage(ref)}
SELECT s.stage, s.model, s.policy, s.verdict, s.reason, s.promotion, s.waiver_by, s.waiver_expires, s.waiver_reason
FROM standings s JOIN lineage ON lineage.ref = s.model ORDER BY s.created, s.ref""",
        ),
    ]


def _limits(ref: str) -> list[Question]:
    return [
        Question(
            heading="Limits: tests that it did not pass",
            sql=f"""SELECT o.stage, o.level, o.node, o.baseline, o.candidate_value, o.baseline_value, o.lower, o.upper,
    o.verdict
FROM outcomes o WHERE o.model = '{ref}' AND o.verdict <> 'pass' ORDER BY o.stage, o.verdict, o.level, o.node, o.baseline""",
        ),
        Question(
            heading="Limits: languages that it was trained on and that no suite scores",
            sql=f"""{lineage(ref)}
SELECT DISTINCT c.language FROM mixture_consumed c WHERE c.run IN (SELECT ref FROM lineage)
    AND c.language NOT IN (SELECT language FROM latest_scores WHERE model = '{ref}') ORDER BY c.language""",
        ),
    ]


def _again(ref: str) -> Question:
    return Question(
        heading="How to make it again",
        about="`sea-lion catalog show REF` prints each recipe. Made in this order, they have these fingerprints again.",
        sql=f"""{lineage(ref)}
SELECT a.ref AS artifact, a.kind, left(a.fingerprint, 12) AS fingerprint, a.commit
FROM artifacts a JOIN lineage USING (ref) ORDER BY a.created, a.ref""",
    )


def model_header(connection: duckdb.DuckDBPyConnection, artifact: Artifact, checkpoint: Checkpoint) -> dict[str, Any]:
    """The hub's YAML header of a checkpoint, but for its licence: names are those that the catalog's parts would have there."""
    ref = str(artifact.ref)
    parents = [hub_name(ArtifactRef.parse(given.ref)) for given in artifact.inputs if given.ref.startswith("checkpoint/")]
    used = answered(connection, f"{lineage(ref)} SELECT ref FROM lineage JOIN artifacts USING (ref) ORDER BY created, ref")[1]
    data = [hub_name(ArtifactRef.parse(name)) for (name,) in used if name.partition("/")[0] in MATERIAL]
    trained = f"{lineage(ref)} SELECT DISTINCT language FROM mixture_consumed WHERE run IN (SELECT ref FROM lineage)"
    results = _results(connection, ref)
    languages = {str(code) for (code,) in answered(connection, trained)[1]} | {str(each.dataset_config) for each in results}
    data_card: Any = ModelCardData(  # its methods are not typed
        language=short_codes(sorted(languages)) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=list(dict.fromkeys(parents)) or None,
        datasets=data or None,
        tags=sorted({"sea-lion", checkpoint.stage, *([checkpoint.method] if checkpoint.method else [])}),
        eval_results=results or None,
        model_name=hub_name(artifact.ref),
    )
    relation = {"base_model_relation": "merge" if checkpoint.method else "finetune"} if parents else {}
    return dict(data_card.to_dict()) | relation


def _results(connection: duckdb.DuckDBPyConnection, ref: str) -> list[EvalResult]:
    rows = answered(
        connection,
        """SELECT suite, language, task, metric, value, stderr, items FROM latest_scores WHERE model = $1
        ORDER BY suite, metric, language, task""",
        [ref],
    )[1]
    return [
        EvalResult(
            task_type="text-generation", dataset_type=suite, dataset_name=f"{suite}: {task}", dataset_config=language,
            metric_type=metric, metric_name=f"{metric} of {task}, {language}", metric_value=value,
            metric_args={"stderr": stderr, "items": items},
        )
        for suite, language, task, metric, value, stderr, items in rows
    ]  # fmt: skip
