"""Token counts: every document once, the tokenizer's own counts, a damaged shard refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Corpus, Shard, TokenCounts, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.recipe import TokensRecipe
from sea_lion.data.tokens import COUNTS, DOCUMENTS, count_tokens

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
        path = f"{language}-{split}.parquet"
        rows = [{"id": f"{language}-{split}-{i}", "text": text} for i, text in enumerate(texts)]
        write_rows(job.folder / path, rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
        shards.append(
            Shard(
                path=path, language=language, source="web", split=split, documents=len(texts),
                characters=sum(map(len, texts)), bytes=sum(len(text.encode()) for text in texts),
                sha256=file_digest(job.folder / path),
            )
        )  # fmt: skip
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
    assert documents[0].keys() == {"corpus", "shard", "id", "language", "source", "split", "tokens"}
    for row in documents:
        text = TEXTS[row["language"], row["split"]][int(row["id"].rpartition("-")[2])]
        assert row["tokens"] == len(tokenizer.encode(text, add_special_tokens=False).ids)
    counts = {(row["language"], row["split"]): row for row in pq.read_table(folder / COUNTS).to_pylist()}
    assert counts.keys() == TEXTS.keys()
    for key, row in counts.items():
        own = [document["tokens"] for document in documents if (document["language"], document["split"]) == key]
        assert (row["documents"], row["tokens"]) == (len(own), sum(own))
        assert row["bytes"] == sum(len(text.encode()) for text in TEXTS[key])
        assert (row["corpus"], row["tokenizer"]) == ("corpus/small@1", "tokenizer/small@1")
    total = sum(row["tokens"] for row in documents)
    assert artifact.body == TokenCounts(tokenizer="tokenizer/small@1", documents=6, tokens=total)
    assert artifact.tables == {"token_counts": COUNTS}


def test_counting_twice_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    first = store.make(recipe(), tmp_path, count_tokens, Options())
    second = store.make(recipe(name="tokens/again"), tmp_path, count_tokens, Options())
    assert first.files == second.files


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
