"""Token files: datatrove's layout, every document once a variant, the same bytes however they are made."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.utils.dataset import DatatroveFileDataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Artifact, Corpus, TokenFiles, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data import token_files
from sea_lion.data.encoder import Encoder
from sea_lion.data.recipe import TokenFilesRecipe
from sea_lion.data.token_files import TABLE, EncodeShard, write_token_files

from .conftest import write_shard

TEXTS = {
    ("eng", "train", "a"): [f"The market at bridge {i} opens early, and boats arrive before the sun." for i in range(150)]
    + [""],
    ("eng", "train", "b"): [f"Teacher {i} reads a book to the children." for i in range(20)],
    ("tha", "train", "a"): [f"ตลาดเช้าริมทางรถไฟสาย {i} เปิดทุกวัน" for i in range(30)],
    ("tha", "heldout", "a"): ["แม่น้ำสายใหญ่"],
}


def recipe(**changes: Any) -> TokenFilesRecipe:
    """Two variants with dropout, three for Thai."""
    plain = TokenFilesRecipe(
        kind="token-files", name="token-files/small", version="1", corpora=("corpus/small@1",), tokenizer="tokenizer/small@1",
        dropout=0.2, variants=2, variants_of={"tha": 3}, seed=7,
    )  # fmt: skip
    return replace(plain, **changes)


def make_corpus(job: Job[Recipe]) -> Made:
    shards = []
    for (language, split, name), texts in sorted(TEXTS.items()):
        rows = [{"id": f"{language}-{split}-{name}-{i}", "text": text, "crawl": f"c{i % 2}"} for i, text in enumerate(texts)]
        shards.append(write_shard(job.folder, f"{language}/{split}-{name}.parquet", language, split, rows))
    return Made(body=Corpus(shards=tuple(shards), documents_in=0, documents_out=0))


def make_tokenizer(job: Job[Recipe]) -> Made:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([text for texts in TEXTS.values() for text in texts], trainer)
    tokenizer.save(str(job.folder / "tokenizer.json"))
    (job.folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=tokenizer.get_vocab_size()))


def fill(root: Path) -> Store:
    """A store with a corpus of four shards and a tokenizer."""
    made = Store(root)
    made.make(Recipe(kind="corpus", name="corpus/small", version="1"), root, make_corpus, Options())
    made.make(Recipe(kind="tokenizer", name="tokenizer/small", version="1"), root, make_tokenizer, Options())
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fill(tmp_path / "artifacts")


def made(store: Store, wanted: TokenFilesRecipe, options: Options | None = None) -> tuple[Artifact, Path, list[dict[str, Any]]]:
    """The artifact, its folder and the rows of its table."""
    artifact = store.make(wanted, store.root, write_token_files, options or Options())
    folder = store.folder(artifact.ref)
    return artifact, folder, pq.read_table(folder / TABLE).to_pylist()


def documents(folder: Path, row: dict[str, Any], kind: str = "<u2") -> dict[str, list[int]]:
    """Id to tokens of a file's documents, in order."""
    path = folder / row["path"]
    tokens, ends = np.fromfile(path, kind), np.fromfile(f"{path}.index", "<u8")
    ids = pq.read_table(f"{path}.documents")["id"].to_pylist()
    assert ends[-1] == len(tokens) and len(ids) == len(ends) == row["documents"]
    return {name: part.tolist() for name, part in zip(ids, np.split(tokens, ends[:-1].astype(int)), strict=True)}


def test_every_document_is_there_once_a_variant(store: Store) -> None:
    artifact, folder, rows = made(store, recipe())
    fast = Tokenizer.from_file(str(store.root / "tokenizer/small/1/tokenizer.json"))
    encoder = Encoder(store.root / "tokenizer/small/1/tokenizer.json")
    keys = [(row["language"], Path(row["shard"]).stem, row["variant"]) for row in rows]
    assert keys == [
        *[("eng", f"train-{name}", variant) for variant in range(2) for name in "ab"],
        *[("tha", "train-a", variant) for variant in range(3)],
    ]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.ds")} == {row["path"] for row in rows}
    assert rows[0]["path"] == "corpus/small/eng/web/train-a-v0.ds"
    for row in rows:
        texts = TEXTS[row["language"], "train", row["path"].split("train-")[1][0]]
        table = {each["id"]: each for each in pq.read_table(f"{folder / row['path']}.documents").to_pylist()}
        found = documents(folder, row)
        assert len(found) == sum(map(bool, texts)) and row["bytes"] == sum(len(text.encode()) for text in texts)
        for name, tokens in found.items():
            number = int(name.rpartition("-")[2])
            text = texts[number]
            assert tokens == [0, *encoder.encode(text, 0.2, (7, name, row["variant"])), 1]
            assert fast.decode(tokens[1:-1]) == text
            plain = len(fast.encode(text).ids) + 2
            assert table[name] == {
                "id": name, "crawl": f"c{number % 2}", "bytes": len(text.encode()), "tokens_plain": plain,
            }  # fmt: skip
        assert row["tokens"] == sum(map(len, found.values())) > row["tokens_plain"]
        assert row["tokens_plain"] == sum(each["tokens_plain"] for each in table.values())
    first = [row for row in rows if row["variant"] == 0]
    assert artifact.body == TokenFiles(
        tokenizer="tokenizer/small@1", tokenizer_sha256=file_digest(store.root / "tokenizer/small/1/tokenizer.json"),
        vocabulary=fast.get_vocab_size(), token_bytes=2, split="train", dropout=0.2, rule="provilkov-words", seed=7,
        variants={"eng": 2, "tha": 3}, documents=200, tokens=sum(row["tokens"] for row in rows),
        tokens_plain=sum(row["tokens_plain"] for row in first),
    )  # fmt: skip
    assert artifact.tables == {"token_files": TABLE}


def test_variants_differ_in_tokens_and_order(store: Store) -> None:
    _, folder, rows = made(store, recipe())
    first, second = (documents(folder, row) for row in rows if row["shard"] == "eng/train-a.parquet")
    assert list(first) != list(second) != sorted(second) and first.keys() == second.keys()
    assert sum(first[name] != second[name] for name in first) > len(first) // 2


def test_without_dropout_it_is_the_plain_tokenizer(store: Store) -> None:
    artifact, folder, rows = made(store, recipe(dropout=0.0, variants=1, variants_of={}, split="heldout"))
    assert isinstance(artifact.body, TokenFiles) and artifact.body.rule == "" and artifact.body.split == "heldout"
    assert artifact.body.tokens == artifact.body.tokens_plain and [row["split"] for row in rows] == ["heldout"]
    fast = Tokenizer.from_file(str(store.root / "tokenizer/small/1/tokenizer.json"))
    assert documents(folder, rows[0]) == {"tha-heldout-a-0": [0, *fast.encode("แม่น้ำสายใหญ่").ids, 1]}


def test_datatrove_reads_them(store: Store) -> None:
    _, folder, rows = made(store, recipe())
    path = folder / rows[0]["path"]
    tokens, ends = np.fromfile(path, "<u2"), np.fromfile(f"{path}.index", "<u8").tolist()
    dataset = DatatroveFileDataset(str(path), seq_len=63, token_size=2, return_positions=True)
    assert len(dataset) == len(tokens) // 64 > 10
    starts = np.repeat([0, *ends[:-1]], np.diff([0, *ends]))
    for i in range(len(dataset)):
        window = slice(i * 64, i * 64 + 64)
        assert dataset[i]["input_ids"].tolist() == tokens[window].tolist()
        expected = np.arange(window.start, window.stop) - np.maximum(starts[window], window.start)
        assert dataset[i]["positions"].tolist() == expected.tolist()


def test_a_large_vocabulary_takes_four_bytes(store: Store) -> None:
    def with_a_late_token(job: Job[Recipe]) -> Made:
        made = make_tokenizer(job)
        path = job.folder / "tokenizer.json"
        content = json.loads(path.read_text("utf-8"))
        content["model"]["vocab"] |= {f"filler{i}": i for i in range(len(content["model"]["vocab"]), 1 << 16)}
        content["model"]["vocab"]["last"] = 1 << 16
        path.write_text(json.dumps(content), "utf-8")
        return made

    store.make(Recipe(kind="tokenizer", name="tokenizer/large", version="1"), store.root, with_a_late_token, Options())
    artifact, folder, rows = made(store, recipe(tokenizer="tokenizer/large@1"))
    small, small_folder, small_rows = made(store, recipe(name="token-files/again"))
    assert isinstance(artifact.body, TokenFiles) and isinstance(small.body, TokenFiles)
    assert (artifact.body.token_bytes, artifact.body.vocabulary, small.body.token_bytes) == (4, (1 << 16) + 1, 2)
    assert documents(folder, rows[0], "<u4") == documents(small_folder, small_rows[0])


def test_batches_and_processes_change_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _, _ = made(store, recipe())
    monkeypatch.setattr(token_files, "BATCH", 7)
    other, _, _ = made(store, recipe(name="token-files/batches"))
    monkeypatch.setattr(token_files, "FEW_BYTES", 0)
    many, _, _ = made(store, recipe(name="token-files/processes"), Options(workers=2))
    assert one.files == other.files == many.files


def job_of(store: Store, wanted: TokenFilesRecipe, folder: Path) -> Job[TokenFilesRecipe]:
    """A job outside of the store's care, as an attempt that can be killed and taken up again."""
    planned = store.plan(wanted, store.root)
    folder.mkdir(exist_ok=True)
    return Job(recipe=wanted, inputs=planned.inputs, files=planned.files, folder=folder, store=store)


@pytest.mark.parametrize("place", ["in a unit", "between units", "while files are moved"])
def test_a_killed_attempt_is_taken_up_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    expected, _, _ = made(store, recipe())
    work = tmp_path / "work"
    if (child := os.fork()) == 0:
        calls = {"left": 3}

        def killing(function: Any) -> Any:
            def called(*arguments: Any) -> Any:
                calls["left"] -= 1
                if calls["left"] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments)

            return called

        target = {"in a unit": "_copy", "between units": "EncodeShard", "while files are moved": "_placed"}[place]
        if target == "EncodeShard":
            EncodeShard.__call__ = killing(EncodeShard.__call__)  # type: ignore[method-assign]
        else:
            setattr(token_files, target, killing(getattr(token_files, target)))
        write_token_files(job_of(store, recipe(), work))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    encoded: list[str] = []
    encode = EncodeShard.__call__

    def noted(self: EncodeShard, unit: token_files.ShardVariant, folder: Path) -> None:
        encoded.append(unit.label)
        encode(self, unit, folder)

    monkeypatch.setattr(EncodeShard, "__call__", noted)
    write_token_files(job_of(store, recipe(), work))
    assert len(encoded) == (0 if place == "while files are moved" else 4), "of seven units three were done"
    found = {path.relative_to(work).as_posix(): file_digest(path) for path in work.rglob("*") if path.is_file()}
    assert found == {file.path: file.sha256 for file in expected.files}


def test_a_damaged_shard_is_one_clear_line(store: Store) -> None:
    shard = store.root / "corpus/small/1/tha/train-a.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptInput) as raised:
        made(store, recipe())
    assert str(raised.value).startswith(f"{shard}: is not what corpus/small@1 wrote (sha256 differs)")
    assert store.get(recipe().ref) is None


def test_a_shard_without_texts_is_one_clear_line(store: Store) -> None:
    def without_texts(job: Job[Recipe]) -> Made:
        made = make_corpus(job)
        assert isinstance(made.body, Corpus)
        path = job.folder / made.body.shards[0].path
        pq.write_table(pq.read_table(path).drop_columns("text"), path)
        return Made(body=replace(made.body, shards=(replace(made.body.shards[0], sha256=file_digest(path)),)))

    store.make(Recipe(kind="corpus", name="corpus/odd", version="1"), store.root, without_texts, Options())
    with pytest.raises(CorruptInput, match=r"train-a\.parquet: cannot be read as a shard"):
        made(store, recipe(corpora=("corpus/odd@1",), variants_of={}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": ("tokenizer/small@1",)}, "corpora.0: tokenizer/small@1 is a tokenizer, not a Corpus"),
        ({"tokenizer": "corpus/small@1"}, "tokenizer: corpus/small@1 is a corpus, not a TokenizerBody"),
        ({"corpora": ("corpus/small@1", "corpus/small@1")}, "corpora.1: corpus/small is named twice"),
        (
            {"variants_of": {"lao": 2}},
            "variants_of.lao: the corpora have no train documents in lao; they have eng, tha",
        ),
        (
            {"split": "heldout", "dropout": 0.0, "variants_of": {"eng": 2}},
            "variants_of.eng: the corpora have no heldout documents in eng; they have tha",
        ),
    ],
)
def test_what_a_recipe_cannot_mean(store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        made(store, recipe(**changes))
    assert str(raised.value) == f"token-files/small@1: {message}"


def test_a_corpus_without_the_split(store: Store) -> None:
    def only_training(job: Job[Recipe]) -> Made:
        body = make_corpus(job).body
        assert isinstance(body, Corpus)
        return Made(body=replace(body, shards=tuple(shard for shard in body.shards if shard.split == "train")))

    store.make(Recipe(kind="corpus", name="corpus/t", version="1"), store.root, only_training, Options())
    with pytest.raises(RecipeError, match=r"corpora\.0: corpus/t@1 has no documents of split heldout"):
        made(store, recipe(corpora=("corpus/t@1",), split="heldout", dropout=0.0, variants_of={}))


def test_a_tokenizer_file_of_one_s_own(store: Store) -> None:
    expected, _, _ = made(store, recipe())
    source = store.root / "tokenizer/small/1/tokenizer.json"
    (store.root / "mine.json").write_bytes(source.read_bytes())
    found, _, _ = made(store, recipe(name="token-files/file", tokenizer="", tokenizer_file=("mine.json",)))
    assert found.files == expected.files
    assert isinstance(found.body, TokenFiles) and found.body.tokenizer == f"file:{file_digest(source)}"
