"""The items that a candidate answers worse than a baseline, with both models' answers: what a person looks at after a refusal.

Read from the items' and answers' tables of two scorecards, joined by DuckDB; a scorecard of before answers were kept gives the
items alone. Only the worst items of each task are listed, and how many there are is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.records import Artifact, Scorecard
from ..catalog.store import verify_files

LISTED = 20
"""Items listed of each task, the ones that lost most first."""
COLUMNS = (
    "baseline", "task", "language", "metric", "item", "was", "now", "baseline_answer", "candidate_answer", "target", "worse",
)  # fmt: skip
SCHEMA = pa.schema(
    [(name, pa.string()) for name in COLUMNS[:5]]
    + [("was", pa.float64()), ("now", pa.float64())]
    + [(name, pa.string()) for name in COLUMNS[7:10]]
    + [("worse", pa.int64())]
)
_KEYS = ("task", "language", "metric", "item")

_SQL = """
SELECT c.task, c.language, c.metric, c.item, b.value AS was, c.value AS now, coalesce(ba.said, '') AS baseline_answer,
    coalesce(ca.said, '') AS candidate_answer, coalesce(ca.target, ba.target, '') AS target,
    count(*) OVER (PARTITION BY c.task, c.language, c.metric) AS worse
FROM candidate c JOIN baseline b USING (task, language, metric, item) JOIN directions d USING (metric)
LEFT JOIN candidate_answers ca USING (task, language, item) LEFT JOIN baseline_answers ba USING (task, language, item)
WHERE d.sign * (c.value - b.value) < 0
QUALIFY row_number() OVER (PARTITION BY c.task, c.language, c.metric ORDER BY d.sign * (c.value - b.value), c.item) <= $listed
ORDER BY c.metric, c.language, c.task, d.sign * (c.value - b.value), c.item
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A scorecard and where it lies."""

    artifact: Artifact
    folder: Path

    @property
    def card(self) -> Scorecard:
        """The scorecard."""
        assert isinstance(self.artifact.body, Scorecard)
        return self.artifact.body


def broken_items(candidate: Side, baseline: Side, listed: int = LISTED) -> list[dict[str, Any]]:
    """The items that got worse, by `COLUMNS`: at most `listed` a task and metric, `worse` says how many there are.

    Raises CorruptInput for a table of answers that is missing, changed or none.
    """
    connection = duckdb.connect(config={"threads": 1})
    try:
        for name, side in (("candidate", candidate), ("baseline", baseline)):
            connection.register(name, _items(side))
            connection.register(f"{name}_answers", _answers(side))
        signs = {score.metric: 1 if score.higher_is_better else -1 for score in candidate.card.scores}
        connection.register("directions", pa.table({"metric": list(signs), "sign": list(signs.values())}))
        found = connection.sql(_SQL, params={"listed": listed}).to_arrow_table().to_pylist()
    finally:
        connection.close()
    return [{"baseline": baseline.card.model, **row} for row in found]


def some_of_each(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most `count` of the rows in their order, the first ones of every task and language before the second ones of any."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for place, row in enumerate(rows):
        key = (row["task"], row["language"])
        ranked.append((seen[key], place))
        seen[key] += 1
    return [rows[place] for place in sorted(place for _, place in sorted(ranked)[:count])]


def write_broken(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as a Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, compression="zstd")


def _items(side: Side) -> pa.Table:
    return pq.read_table(side.folder / side.artifact.tables["items"], columns=[*_KEYS, "value"])


def _answers(side: Side) -> pa.Table:
    """One row an item: what the model said, its turns below each other, or which of the choices it found likeliest."""
    schema = pa.schema([(name, pa.string()) for name in ("task", "language", "item", "said", "target")])
    if "answers" not in side.artifact.tables:
        return schema.empty_table()
    path = side.folder / side.artifact.tables["answers"]
    verify_files(side.folder, side.artifact, [side.artifact.tables["answers"]])
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(path, "", f"is not a table of answers: {str(error).splitlines()[0]}") from error
    said: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in table.to_pylist():
        key = (row["task"], row["language"], row["item"])
        text = row["text"] or _likeliest(row.get("loglikelihoods") or [])
        earlier = said.get(key)
        joined = f"{earlier['said']}\n\n{text}" if earlier else text
        said[key] = {"said": joined, "target": str(row.get("target") or (earlier or {}).get("target", ""))}
    rows = [{"task": k[0], "language": k[1], "item": k[2], **v} for k, v in said.items()]
    return pa.Table.from_pylist(rows, schema=schema)


def _likeliest(values: Sequence[float]) -> str:
    return f"choice {max(range(len(values)), key=values.__getitem__)} of {len(values)}" if len(values) > 1 else ""
