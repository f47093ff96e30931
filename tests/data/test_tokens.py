"""Token counts: every document once, the tokenizer's own counts, nothing counted twice, a damaged shard refused."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.recipes import Files, Recipe, Reference
from sea_lion.catalog.records import Corpus, TokenCounts, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data import tokens
from sea_lion.data.counted import COUNTS, DOCUMENTS
from sea_lion.data.recipe import TokensRecipe
from sea_lion.data.segment import words
from sea_lion.data.tokens import count_tokens

from .conftest import write_shard

TEXTS = {
    ("tha", "train"): ["ตลาดเช้าเปิดทุกวัน", "เด็ก ๆ เดินไปโรงเรียน"],
    ("tha", "heldout"): ["แม่น้ำสายใหญ่"],
    ("eng", "train"): ["The morning market opens every day.", "", "Children walk to school."],
}


def recipe(**changes: Any) -> TokensRecipe:
    """Counts over the small corpus."""
    plain = TokensRecipe(
        kind="tokens", name="tokens/small", version="1", corpora=("corpus/small@1",), tokenizer="tokenizer/small@1"
    )
    return replace(plain, **changes)


def make_corpus(job: Job[Recipe]) -> Made:
    shards = []
    for (language, split), texts in sorted(TEXTS.items()):
        rows = [{"id": f"{language}-{split}-{i}", "text": text} for i, text in enumerate(texts)]
        shards.append(write_shard(job.folder, f"{language}-{split}.parquet", language, split, rows))
    return Made(body=Corpus(shards=tuple(shards), documents_in=6, documents_out=6))


def make_tokenizer(job: Job[Recipe]) -> Made:
    tokenizer = Tokenizer(models.BPE(dropout=0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator([text for texts in TEXTS.values() for text in texts] * 3, trainer)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(job.folder / "tokenizer.json"))
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=tokenizer.get_vocab_size()))


def make_other_tokenizer(job: Job[Recipe]) -> Made:
    made = make_tokenizer(job)
    path = job.folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    path.write_text(json.dumps(tokenizer), "utf-8")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a corpus of three shards and a tokenizer whose file has dropout and truncation on."""
    made = Store(tmp_path / "artifacts")
    made.make(Recipe(kind="corpus", name="corpus/small", version="1"), tmp_path, make_corpus, Options())
    made.make(Recipe(kind="tokenizer", name="tokenizer/small", version="1"), tmp_path, make_tokenizer, Options())
    return made


def test_counts_are_the_tokenizer_s(store: Store, tmp_path: Path) -> None:
    artifact = store.make(recipe(), tmp_path, count_tokens, Options())
    folder = store.folder(artifact.ref)
    tokenizer = Tokenizer.from_file(str(store.root / "tokenizer/small/1/tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.model.dropout = None
    documents = pq.read_table(folder / DOCUMENTS).to_pylist()
    assert documents[0].keys() == {"corpus", "shard", "id", "language", "source", "split", "words", "tokens"}
    for row in documents:
        text = TEXTS[row["language"], row["split"]][int(row["id"].rpartition("-")[2])]
        assert row["tokens"] == len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert row["words"] == len(words(text, row["language"]))
    counts = {(row["language"], row["split"]): row for row in pq.read_table(folder / COUNTS).to_pylist()}
    assert counts.keys() == TEXTS.keys()
    for key, row in counts.items():
        own = [document["tokens"] for document in documents if (document["language"], document["split"]) == key]
        assert (row["documents"], row["tokens"]) == (len(own), sum(own))
        assert row["words"] == sum(len(words(text, key[0])) for text in TEXTS[key])
        assert row["bytes"] == sum(len(text.encode()) for text in TEXTS[key])
        assert (row["corpus"], row["tokenizer"]) == ("corpus/small@1", "tokenizer/small@1")
    total = sum(row["tokens"] for row in documents)
    assert artifact.body == TokenCounts(tokenizer="tokenizer/small@1", documents=6, tokens=total)
    assert artifact.tables == {"token_counts": COUNTS}


def test_counting_twice_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    first = store.make(recipe(), tmp_path, count_tokens, Options())
    second = store.make(recipe(name="tokens/again"), tmp_path, count_tokens, Options())
    assert first.files == second.files


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Every part that is counted from now on, in this process: the shard, and whether its words are known."""
    seen: list[tuple[str, bool]] = []
    count = tokens.CountPart.__call__

    def noted(self: Any, part: tokens.PartOfShard, folder: Path) -> None:
        seen.append((part.path.name, part.has_words))
        count(self, part, folder)

    monkeypatch.setattr(tokens.CountPart, "__call__", noted)
    return seen


def fresh_files(store: Store, root: Path, wanted: TokensRecipe) -> Any:
    """The files of a recipe's artifact when no earlier count is there."""
    for name in ("corpus", "tokenizer"):
        shutil.copytree(store.root / name, root / name)
    return Store(root).make(wanted, root, count_tokens, Options()).files


def test_counted_shards_are_not_counted_again(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    store.make(recipe(), tmp_path, count_tokens, Options())
    assert sorted(counted) == [("eng-train.parquet", False), ("tha-heldout.parquet", False), ("tha-train.parquet", False)]
    TEXTS["lao", "train"] = ["ຕະຫຼາດເຊົ້າ"]
    try:
        store.make(Recipe(kind="corpus", name="corpus/small", version="2"), tmp_path, make_corpus, Options())
    finally:
        del TEXTS["lao", "train"]
    counted.clear()
    wanted = recipe(name="tokens/more", corpora=("corpus/small@2", "corpus/small@1"))
    more = store.make(wanted, tmp_path, count_tokens, Options())
    assert counted == [("lao-train.parquet", False)]
    assert more.files == fresh_files(store, tmp_path / "fresh", wanted)


def test_another_tokenizer_finds_the_words_counted(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    store.make(recipe(), tmp_path, count_tokens, Options())
    store.make(Recipe(kind="tokenizer", name="tokenizer/other", version="1"), tmp_path, make_other_tokenizer, Options())
    counted.clear()
    wanted = recipe(name="tokens/other", tokenizer="tokenizer/other@1")
    other = store.make(wanted, tmp_path, count_tokens, Options())
    assert len(counted) == 3 and all(has_words for _, has_words in counted)
    assert other.files == fresh_files(store, tmp_path / "fresh", wanted)
    assert other.body.tokens != store.require("tokens/small@1").body.tokens  # type: ignore[union-attr]


def test_an_earlier_count_that_was_damaged_is_not_used(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    first = store.make(recipe(), tmp_path, count_tokens, Options())
    path = store.folder(first.ref) / DOCUMENTS
    path.write_bytes(path.read_bytes()[:-1])
    counted.clear()
    again = store.make(recipe(name="tokens/again"), tmp_path, count_tokens, Options())
    assert len(counted) == 3 and again.files == first.files


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecipe(TokensRecipe):
    """With a tokenizer of one's own."""

    tokenizer: Reference = ""
    tokenizer_file: Files = ()


def test_a_tokenizer_file_of_one_s_own(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    by_artifact = store.make(recipe(), tmp_path, count_tokens, Options())
    shutil.copy(store.root / "tokenizer/small/1/tokenizer.json", tmp_path / "mine.json")
    counted.clear()
    wanted = FileRecipe(
        kind="tokens", name="tokens/file", version="1", corpora=("corpus/small@1",), tokenizer_file=("mine.json",)
    )
    by_file = store.make(wanted, tmp_path, count_tokens, Options())
    assert counted == []
    digest = file_digest(tmp_path / "mine.json")
    assert by_file.body == TokenCounts(tokenizer=f"file:{digest}", documents=6, tokens=by_artifact.body.tokens)  # type: ignore[union-attr]
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CorruptInput, match=r"broken\.json: is not a tokenizer"):
        store.make(replace(wanted, name="tokens/b", tokenizer_file=("broken.json",)), tmp_path, count_tokens, Options())
    with pytest.raises(RecipeError, match="tokenizer_file: matches 2 files"):
        store.make(replace(wanted, name="tokens/c", tokenizer_file=("*.json",)), tmp_path, count_tokens, Options())


def test_parts_and_processes_change_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "write_table", partial(pq.write_table, row_group_size=1))
    store.make(Recipe(kind="corpus", name="corpus/cut", version="1"), tmp_path, make_corpus, Options())
    monkeypatch.undo()
    monkeypatch.setattr(tokens, "PART", 1)
    monkeypatch.setattr(tokens, "FEW_DOCUMENTS", 0)
    whole = store.make(recipe(), tmp_path, count_tokens, Options())
    cut = store.make(recipe(name="tokens/cut", corpora=("corpus/cut@1",)), tmp_path, count_tokens, Options(workers=2))
    columns = ["id", "words", "tokens", "language", "split"]
    one, two = (pq.read_table(store.folder(made.ref) / DOCUMENTS, columns=columns) for made in (whole, cut))
    assert pq.read_metadata(store.root / "corpus/cut/1/eng-train.parquet").num_row_groups == 3
    assert one.combine_chunks() == two.combine_chunks()


CRAWLS = ("CC-MAIN-2024-18", "", "CC-MAIN-2024-10")


def make_crawled(job: Job[Recipe]) -> Made:
    """The corpus whose shards say the crawls of their documents, which come in turns."""
    made = make_corpus(job)
    assert isinstance(made.body, Corpus)
    shards = []
    for shard in made.body.shards:
        path = job.folder / shard.path
        rows = pq.read_table(path).to_pylist()
        rows = [row | {"crawl": CRAWLS[i % 3] or None, "bytes": len(row["text"].encode())} for i, row in enumerate(rows)]
        schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("crawl", pa.string()), ("bytes", pa.int64())])
        write_rows(path, rows, schema)
        shards.append(replace(shard, sha256=file_digest(path)))
    return Made(body=replace(made.body, shards=tuple(shards)))


def test_a_shard_s_crawls_are_counted_apart(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    store.make(Recipe(kind="corpus", name="corpus/crawled", version="1"), tmp_path, make_crawled, Options())
    artifact = store.make(recipe(corpora=("corpus/crawled@1",)), tmp_path, count_tokens, Options())
    documents = {row["id"]: row for row in pq.read_table(store.folder(artifact.ref) / DOCUMENTS).to_pylist()}
    rows = pq.read_table(store.folder(artifact.ref) / COUNTS).to_pylist()
    assert [(row["language"], row["split"], row["crawl"]) for row in rows] == [
        ("eng", "train", ""), ("eng", "train", CRAWLS[2]), ("eng", "train", CRAWLS[0]),
        ("tha", "heldout", CRAWLS[0]), ("tha", "train", ""), ("tha", "train", CRAWLS[0]),
    ]  # fmt: skip
    for row in rows:
        i = CRAWLS.index(row["crawl"])
        own = documents[f"{row['language']}-{row['split']}-{i}"]
        size = len(TEXTS[row["language"], row["split"]][i].encode())
        assert (row["documents"], row["bytes"]) == (1, size)
        assert (row["words"], row["tokens"]) == (own["words"], own["tokens"])
    counted.clear()
    again = store.make(recipe(name="tokens/again", corpora=("corpus/crawled@1",)), tmp_path, count_tokens, Options())
    assert counted == [] and again.files == artifact.files


def test_a_count_from_before_the_crawls_is_used(store: Store, tmp_path: Path, counted: list[tuple[str, bool]]) -> None:
    store.make(Recipe(kind="corpus", name="corpus/crawled", version="1"), tmp_path, make_crawled, Options())
    wanted = recipe(corpora=("corpus/crawled@1",))

    def count_as_before(job: Job[TokensRecipe]) -> Made:
        made = count_tokens(job)
        table = pq.read_table(job.folder / COUNTS)
        sums = [(name, "sum") for name in ("documents", "bytes", "words", "tokens")]
        keys = [name for name in table.column_names if name not in ("crawl", *(name for name, _ in sums))]
        summed = table.group_by(keys).aggregate(sums)
        before = summed.rename_columns([name.removesuffix("_sum") for name in summed.column_names])
        pq.write_table(before, job.folder / COUNTS)
        return made

    store.make(wanted, tmp_path, count_as_before, Options())
    counted.clear()
    now = store.make(replace(wanted, name="tokens/now"), tmp_path, count_tokens, Options())
    fresh = fresh_files(store, tmp_path / "fresh", replace(wanted, name="tokens/now"))
    assert now.files == fresh and len(counted) == 3  # those of the fresh store


def test_source_code_has_words_between_spaces() -> None:
    assert tokens.num_words("def add(a, b):\n    return a + b", "code") == 7


def test_a_shard_with_other_documents_than_recorded(store: Store, tmp_path: Path) -> None:
    def too_many(job: Job[Recipe]) -> Made:
        made = make_corpus(job)
        assert isinstance(made.body, Corpus)
        return Made(body=replace(made.body, shards=tuple(replace(shard, documents=9) for shard in made.body.shards)))

    store.make(Recipe(kind="corpus", name="corpus/wrong", version="1"), tmp_path, too_many, Options())
    with pytest.raises(CorruptInput, match=r"eng-train\.parquet: holds 3 documents, its corpus says 9"):
        store.make(recipe(corpora=("corpus/wrong@1",)), tmp_path, count_tokens, Options())


def test_a_corrupted_shard_is_one_clear_line(store: Store, tmp_path: Path) -> None:
    shard = store.root / "corpus/small/1/tha-train.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptInput) as raised:
        store.make(recipe(), tmp_path, count_tokens, Options())
    assert str(raised.value).startswith(f"{shard}: is not what corpus/small@1 wrote (sha256 differs)")
    assert "\n" not in str(raised.value)
    assert store.get(recipe().ref) is None and not list((store.root / "tokens").rglob("*.parquet"))


def test_a_missing_shard_is_named(store: Store, tmp_path: Path) -> None:
    (store.root / "corpus/small/1/eng-train.parquet").unlink()
    with pytest.raises(CorruptInput, match=r"eng-train\.parquet: is missing from corpus/small@1"):
        store.make(recipe(), tmp_path, count_tokens, Options())


def test_a_changed_tokenizer_is_refused(store: Store, tmp_path: Path) -> None:
    path = store.root / "tokenizer/small/1/tokenizer.json"
    path.write_text(path.read_text("utf-8").replace('"dropout": 0.5', '"dropout": 0.1'), "utf-8")
    with pytest.raises(CorruptInput, match=r"tokenizer\.json: is not what tokenizer/small@1 wrote"):
        store.make(recipe(), tmp_path, count_tokens, Options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": ("tokenizer/small@1",)}, "corpora.0: tokenizer/small@1 is a tokenizer, not a Corpus"),
        ({"tokenizer": "corpus/small@1"}, "tokenizer: corpus/small@1 is a corpus, not a TokenizerBody"),
        ({"corpora": ("corpus/small@1", "corpus/small@1")}, "corpora.1: corpus/small@1 is named twice"),
    ],
)
def test_an_input_of_another_kind(store: Store, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        store.make(recipe(**changes), tmp_path, count_tokens, Options())
    assert str(raised.value) == f"tokens/small@1: {message}"
