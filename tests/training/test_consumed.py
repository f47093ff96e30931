"""A mixture as a plan: what it reads is what the files hold, what it says it read is what it read, and what it refuses."""

import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.store import Store
from sea_lion.training.batches import BLANK, IGNORED
from sea_lion.training.mixture import MixturePlan, mixture_plan

WRITER: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("token_writer.py"))))
LENGTH = WRITER.LENGTH


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found: Store = WRITER.filled(tmp_path_factory.mktemp("store"))
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Store:
    """A store that a test may harm."""
    found: Store = WRITER.filled(tmp_path)
    return found


def folder_of(store: Store) -> Path:
    return store.folder(store.require(WRITER.FILES).ref)


def laid_out(store: Store, language: str) -> tuple[list[int], list[bool], list[str], list[float]]:
    """Two rounds of a language's stream, the slow way: tokens, starts, crawls, plain tokens of each token."""
    folder = folder_of(store)
    table = pq.read_table(folder / "token_files.parquet").to_pylist()
    files = sorted((row for row in table if row["language"] == language), key=lambda row: (row["variant"], row["shard"]))
    tokens, starts, crawls, plain = [], [], [], []
    for row in files * 2:
        ids = np.fromfile(folder / row["path"], "<u2").tolist()
        ends = np.fromfile(folder / f"{row['path']}.index", "<u8").tolist()
        documents = pq.ParquetFile(folder / f"{row['path']}.documents").read().to_pylist()
        tokens += ids
        for begin, end, document in zip([0, *ends], ends, documents, strict=False):
            starts += [place == begin for place in range(begin, end)]
            crawls += [document["crawl"]] * (end - begin)
            whole, size = document["tokens_plain"], end - begin
            plain += [whole * (i + 1) // size - whole * i // size for i in range(size)]
    return tokens, starts, crawls, plain


def sequences(plan: MixturePlan, first: int, last: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Part, tokens and labels of each row of some steps."""
    for step in range(first, last + 1):
        examples = plan.examples(step).tolist()
        if examples:
            batch = plan.collate(examples)
            columns = (batch.parts_RT[:, 0], batch.input_ids_RT, batch.labels_RT)
            yield from zip(*(column.tolist() for column in columns), strict=True)


EDITS: list[dict[str, Any]] = [
    {},
    {"skip_steps": ((3, 5), (16, 16))},
    {"drop": ({"source": "code", "from_step": 7},), "skip_steps": ((8, 8),)},
]


def plan_of(store: Store, edits: dict[str, Any]) -> MixturePlan:
    from sea_lion.training.recipe import Drop

    drops = tuple(Drop(**drop) for drop in edits.get("drop", ()))
    return mixture_plan(WRITER.job_of(store, **{**edits, "drop": drops}))


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize(("first", "last"), [(1, 16), (4, 11), (6, 6)])
def test_what_it_says_it_read_is_what_it_read(store: Store, edits: dict[str, Any], first: int, last: int) -> None:
    plan = plan_of(store, edits)
    read, labels = Counter[int](), Counter[int]()
    for part, _, row_labels in sequences(plan, first, last):
        read[part] += 1
        labels[part] += sum(label != IGNORED for label in row_labels)
    assert plan.labels(first, last) == [labels[part] for part in range(3)]
    assert [row["sequences"] for row in plan.read(first, last)] == [read[part] for part in range(3)]
    # What came before, so that the places in the streams are known.
    before = Counter(part for part, _, _ in sequences(plan_of(store, {**edits, "skip_steps": ()}), 1, first - 1))
    skipped = set(range(first, last + 1)) - {step for step in range(first, last + 1) if len(plan.examples(step))}
    rows = plan.consumed(first, last)
    for number, planned in enumerate(plan.parts):
        tokens = sum(row["tokens"] for row in rows if row["language"] == planned.language)
        documents = sum(row["documents"] for row in rows if row["language"] == planned.language)
        assert tokens == plan.read(first, last)[number]["tokens"] == read[number] * LENGTH
        assert documents == plan.read(first, last)[number]["documents"]
        if skipped:
            continue
        _, starts, crawls, plain = laid_out(store, planned.language)
        span = range(before[number] * LENGTH, (before[number] + read[number]) * LENGTH)
        wanted = {
            crawl: (
                sum(starts[i] for i in span if crawls[i] == crawl),
                sum(crawls[i] == crawl for i in span),
                sum(plain[i] for i in span if crawls[i] == crawl),
            )
            for crawl in {crawls[i] for i in span}
        }
        own = [row for row in rows if row["language"] == planned.language]
        found = {row["crawl"]: (row["documents"], row["tokens"], row["tokens_plain"]) for row in own}
        assert found == wanted
        assert {row["corpus"] for row in own} == ({WRITER.CORPUS} if own else set())


def test_rows_are_the_streams_in_order_and_labels_stay_within_documents(store: Store) -> None:
    plan = plan_of(store, {})
    place = [0, 0, 0]
    streams = [laid_out(store, part.language) for part in plan.parts]
    for part, tokens, labels in sequences(plan, 1, plan.steps):
        all_tokens, starts, _, _ = streams[part]
        begin = place[part]
        assert tokens == all_tokens[begin : begin + LENGTH]
        wanted = range(begin + 1, begin + LENGTH + 1)
        assert labels == [IGNORED if starts[i] else all_tokens[i] for i in wanted]
        place[part] += LENGTH
    assert [count // LENGTH for count in place] == [40, 24, 16]


def test_blank_rows_are_in_no_loss(store: Store) -> None:
    plan = plan_of(store, {})
    batch, alone = plan.collate([BLANK, 4, BLANK]), plan.collate([4])
    assert torch.unique(batch.labels_RT[[0, 2]]).tolist() == [IGNORED]
    assert batch.input_ids_RT[1].tolist() == alone.input_ids_RT[0].tolist()
    assert len(batch.trained_N) == len(alone.trained_N)
    assert plan.collate([BLANK]).trained_N.tolist() == []


def test_the_digest_tells_where_plans_part(store: Store, fresh: Store) -> None:
    plain, skipping, dropping = (plan_of(store, edits) for edits in EDITS)
    assert plain.digest(2) == skipping.digest(2) == dropping.digest(2)
    assert plain.digest(3) == dropping.digest(3) != skipping.digest(3)
    assert plain.digest(6) == dropping.digest(6) != dropping.digest(7) != plain.digest(7)
    assert mixture_plan(WRITER.job_of(fresh)).digest(16) == plain.digest(16)
    assert mixture_plan(WRITER.job_of(store, seed=4)).digest(1) != plain.digest(1)


@pytest.mark.parametrize("end", ["", ".index", ".documents"])
def test_a_file_that_changed_since_planning_is_refused(fresh: Store, end: str) -> None:
    path = folder_of(fresh) / f"w/tha/0-v1.ds{end}"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match="sha256 differs") as caught:
        mixture_plan(WRITER.job_of(fresh))
    assert caught.value.source == str(path)
    shares = [isinstance(failure(fresh, rank), CorruptInput) for rank in range(4)]
    assert sum(shares) == 1


def failure(store: Store, rank: int) -> Exception | None:
    """How planning fails on one of four processes, each of which verifies other files."""
    try:
        mixture_plan(WRITER.job_of(store), rank, 4)
    except CorruptInput as error:
        return error
    return None


def test_a_token_that_no_vocabulary_has_is_refused(fresh: Store) -> None:
    plan = mixture_plan(WRITER.job_of(fresh))
    path = folder_of(fresh) / "w/code/0-v0.ds"
    tokens = np.fromfile(path, "<u2")
    tokens[50] = WRITER.VOCABULARY
    tokens.tofile(path)
    with pytest.raises(CorruptInput, match="holds token 100, the tokenizer has 100") as caught:
        for step in range(1, plan.steps + 1):
            plan.collate(plan.examples(step).tolist())
    assert caught.value.source == str(path)


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"mixture": "mixture/counted@1"}, "mixture", "planned with token counts only"),
        ({"mixture": "token-files/w@1"}, "mixture", "is a token-files, not a mixture"),
        ({"model": "model/other@1"}, "mixture", "not the tokenizer of model/other@1"),
        ({"model": "model/small@1"}, "mixture", "tokens up to 99, model/small@1 a vocabulary of 99"),
        ({"drop": ({"source": "books", "from_step": 2},)}, "drop.0", "reads nothing from books; it reads code/code, web/eng"),
        ({"drop": ({"source": "web", "language": "lao", "from_step": 2},)}, "drop.0", "reads nothing from web/lao"),
        ({"drop": tuple({"source": name, "from_step": 2} for name in ("web", "code"))}, "drop", "leaves nothing"),
        ({"drop": ({"source": "web", "from_step": 2},)}, "drop", "code from code of corpus/w@1 for "),
    ],
)
def test_what_does_not_fit_is_refused(store: Store, changes: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        if "drop" in changes:
            plan_of(store, changes)
        else:
            mixture_plan(WRITER.job_of(store, **changes))
    assert caught.value.key == key
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
