"""Questions about single documents, and two corpora compared, over corpora whose tables the data area writes."""

from __future__ import annotations

import shutil
from base64 import b32encode
from collections import Counter
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import difference, index
from sea_lion.catalog.documents import Table, documents, domains, find, outcome
from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.files import write_rows
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Corpus, TokenCounts
from sea_lion.catalog.store import Job, Made, Options, Store, read_artifact
from sea_lion.data.ledger import FLOW, REMOVALS
from sea_lion.data.placement import Part, Tabulate, listings, write_counts
from sea_lion.data.shards import EVIDENCE, SCHEMA, shard_records, write_shard
from sea_lion.data.thresholds import Thresholds
from sea_lion.data.tokens import COUNTS_SCHEMA, DOCUMENTS_SCHEMA

A, B = "corpus/site@1", "corpus/site@2"
LIMITS = Thresholds(min_characters=3, max_characters=90, min_letters=0.7)
ROW: dict[str, Any] = {"string": "", "float": 0.0, "int32": 0, "int64": 0, "map<string, float>": []}


def digest_of(name: str) -> str:
    """A payload digest as WARC records have it."""
    return b32encode(sha1(name.encode()).digest()).decode()


def document(name: str, text: str = "Selamat pagi", language: str = "ind", split: str = "train", **more: Any) -> dict[str, Any]:
    """A row with the columns of a shard and of the table of its documents."""
    columns = dict(zip(SCHEMA.names, SCHEMA.types, strict=True)) | EVIDENCE
    row: dict[str, Any] = {column: ROW[str(kind)] for column, kind in columns.items()}
    known: dict[str, Any] = {"url": f"https://berita.example/{name}", "domain": "berita.example", "source": "web"}
    known |= {"crawl": "CC-MAIN-2024-18", "file": "a.warc.gz", "offset": int(name, 36), "digest": digest_of(name)}
    row |= known | {"id": name, "text": text, "language": language, "split": split, "rules": [("letters", 0.75)]}
    return row | {"characters": len(text), "bytes": len(text.encode())} | more


def removal(name: str, stage: str, reason: str, language: str = "ind", domain: str = "berita.example") -> dict[str, Any]:
    """A removed document."""
    found = document(name)
    known = {"stage": stage, "reason": reason, "language": language, "detail": "", "domain": domain}
    return {column: found.get(column) for column in REMOVALS.names} | known


def make_corpus(store: Store, version: str, rows: Sequence[dict[str, Any]], removed: Sequence[dict[str, Any]] = ()) -> None:
    """A corpus of these documents, its tables written as a build writes them."""

    def make(job: Job[Recipe]) -> Made:
        scratch, parts = job.folder / ".scratch", dict[tuple[str, str, str], list[dict[str, Any]]]()
        for row in sorted(rows, key=lambda row: (row["id"], row["file"])):
            parts.setdefault((row["language"], row["source"], row["split"]), []).append(row)
        shards = [
            Part(key="-".join(key), group="", language=key[0], source=key[1], split=key[2], part=0, parts=1, first="", last="")
            for key in sorted(parts)
        ]
        for part in shards:
            table = pa.Table.from_pylist(
                parts[part.language, part.source, part.split], schema=pa.schema([*SCHEMA, *EVIDENCE.items()])
            )
            write_shard(scratch / part.key, part.label, table.to_batches())
            shutil.copytree(scratch / part.key / "shards", job.folder / "shards", dirs_exist_ok=True)
        tabulate = Tabulate(written=scratch, thresholds=dict.fromkeys(("ind", "tha", "zsm"), LIMITS))
        folders = []
        for listing in listings(shards):
            folders.append(scratch / listing.key)
            tabulate(listing, folders[-1])
            for name in ("documents", "document_ids"):
                shutil.copytree(folders[-1] / name, job.folder / name, dirs_exist_ok=True)
        write_counts(folders, job.folder)
        write_rows(job.folder / "removals.parquet", list(removed), REMOVALS)
        counted = Counter((row["stage"], row["reason"], row["language"]) for row in removed)
        flow = [
            {"step": 7, "stage": stage, "source": "web", "language": language, "outcome": "removed", "reason": reason,
             "documents": count, "bytes": count}
            for (stage, reason, language), count in counted.items()
        ]  # fmt: skip
        write_rows(job.folder / "flow.parquet", flow, FLOW)
        shutil.rmtree(scratch)
        tables = {name: f"{name}/*/*/*.parquet" for name in ("documents", "document_ids")}
        tables |= {name: f"{name}.parquet" for name in ("removals", "flow", "shard_counts", "origins")}
        body = Corpus(shards=shard_records(job.folder), documents_in=len(rows), documents_out=len(rows))
        return Made(body=body, tables=tables)

    store.make(Recipe(kind="corpus", name="corpus/site", version=version), store.root, make, Options())


def make_counts(store: Store, version: str, rows: Sequence[dict[str, Any]]) -> None:
    """A count of a corpus in which every word is a token."""
    shared: dict[str, Any] = {"corpus": f"corpus/site@{version}", "tokenizer": "tokenizer/words@1", "words": 0}

    def make(job: Job[Recipe]) -> Made:
        counts = [
            shared | row | {"tokens": len(row["text"].split()), "documents": 1, "shard_sha256": "", "tokenizer_sha256": "",
            "shard": f"shards/language={row['language']}/source={row['source']}/{row['split']}-00000-of-00001.parquet"}
            for row in rows
        ]  # fmt: skip
        for name, schema in (("token_counts", COUNTS_SCHEMA), ("document_tokens", DOCUMENTS_SCHEMA)):
            write_rows(job.folder / f"{name}.parquet", [{key: row[key] for key in schema.names} for row in counts], schema)
        body = TokenCounts(tokenizer="tokenizer/words@1", documents=len(rows), tokens=sum(row["tokens"] for row in counts))
        return Made(body=body, tables={"token_counts": "token_counts.parquet"})

    store.make(Recipe(kind="tokens", name="tokens/site", version=version), store.root, make, Options())


FIRST = [
    document("same"),
    document("lost1", "Dua kata"),
    document("lost2", "Tiga kata lagi"),
    document("moves", "Selamat datang", crawl="CC-MAIN-2024-10"),
    document("split"),
    document("source", source="text"),
    document("longer", "Pendek"),
    document("twice", "satu", file="x.warc.gz", offset=1),
    document("twice", "dua", file="y.warc.gz", offset=1),
    document("thai", "ตลาดเช้าเปิดทุกวัน", "tha", url="https://talat.example/1", domain="talat.example"),
]
SECOND = [
    document("same"),
    document("new1", "Baru sekali"),
    document("new2", "Baru"),
    document("moves", "Selamat datang", "zsm", crawl="CC-MAIN-2024-10"),
    document("split", split="heldout"),
    document("source", source="web"),
    document("longer", "Sekarang panjang"),
    document("twice", "satu", file="x.warc.gz", offset=1),
    document("thai", "ตลาดเช้าเปิดทุกวัน", "tha", url="https://talat.example/1", domain="talat.example"),
]
GONE_FROM_FIRST = [removal("new1", "quality", "few_letters"), removal("other", "identify", "low_language_score")]
GONE_FROM_SECOND = [removal("lost1", "near", "near_duplicate"), removal("more", "quality", "few_letters")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two versions of a corpus, both counted."""
    store = Store(tmp_path_factory.mktemp("documents") / "cat[1]")
    store.root.mkdir()
    make_corpus(store, "1", FIRST, GONE_FROM_FIRST)
    make_corpus(store, "2", SECOND, GONE_FROM_SECOND)
    make_counts(store, "1", FIRST)
    make_counts(store, "2", SECOND)
    return store


@pytest.fixture
def store(shared: Store, tmp_path: Path) -> Store:
    """The same, to be damaged."""
    shutil.copytree(shared.root, tmp_path / "artifacts")
    return Store(tmp_path / "artifacts")


def dicts(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_document_is_found_by_its_id_and_by_its_digest(shared: Store) -> None:
    found = dicts(find(shared, "same"))
    assert [row["ref"] for row in found] == [A, B]
    assert all(row["url"] == "https://berita.example/same" and row["rules"] == {"letters": 0.75} for row in found)
    assert [row["file"] for row in dicts(find(shared, "twice"))] == ["x.warc.gz", "y.warc.gz", "x.warc.gz"]
    for digest in (digest_of("lost1"), f"sha1:{digest_of('lost1')}"):
        assert [(row["ref"], row["id"]) for row in dicts(find(shared, digest))] == [(A, "lost1")]
    for unknown in ("", "nothing", "' OR 1 = 1 --", "%"):
        assert find(shared, unknown).rows == []


def test_the_row_in_the_shard_is_the_document(shared: Store) -> None:
    for name in ("thai", "same", "moves"):
        for row in dicts(find(shared, name)):
            path = shared.root / row["ref"].replace("@", "/") / row["shard"]
            assert pq.ParquetFile(path).read().to_pylist()[row["row"]]["id"] == name


def test_a_corpus_without_a_table_of_ids_is_searched(store: Store) -> None:
    record = store.root / "corpus/site/1/artifact.json"

    artifact = read_artifact(record)
    tables = {name: path for name, path in artifact.tables.items() if name != "document_ids"}

    def again(job: Job[Recipe]) -> Made:
        shutil.copytree(
            record.parent, job.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json", "document_ids")
        )
        return Made(body=artifact.body, tables=tables)

    store.make(Recipe(kind="corpus", name="corpus/old", version="1"), store.root, again, Options())
    assert [row["ref"] for row in dicts(find(store, "lost2"))] == [A, "corpus/old@1"]


def test_examples_by_what_they_are(shared: Store) -> None:
    def ids(**which: Any) -> list[str]:
        return [row["id"] for row in dicts(documents(shared, limit=99, **which))]

    assert len(ids()) == len(FIRST) + len(SECOND)
    assert ids(ref=A, domain="talat.example") == ids(ref=A, language="tha") == ["thai"]
    assert ids(source="text") == ["source"] and ids(crawl="CC-MAIN-2024-10", ref=B) == ["moves"]
    assert ids(ref=B, where="characters > 15 AND language <> 'tha'") == ["longer"]
    assert ids(ref=A, where="rules['letters'] < 0.7") == [] == ids(ref="corpus/none@1")
    assert len(documents(shared, limit=3).rows) == 3


def test_rules_are_shown_with_their_limits(shared: Store) -> None:
    row = dicts(documents(shared, ref=A, language="tha"))[0]
    assert row["rules"] == "letters 0.75 (min 0.7)"
    limits = [
        {"measure": "words", "bound": "min", "limit": 50}, {"measure": "words", "bound": "max", "limit": 90},
        {"measure": "letters", "bound": "min", "limit": 0.7}, {"measure": "unmeasured", "bound": "max", "limit": 1},
    ]  # fmt: skip
    said = outcome({"words": 99.0, "letters": 0.699999988079071, "script": 1.0}, limits)
    assert said == "words 99 (min 50, max 90 broken); letters 0.7 (min 0.7); script 1"


def test_texts_are_opened_and_a_lost_one_costs_itself(store: Store) -> None:
    rows = dicts(documents(store, ref=A, limit=99, text=5))
    assert {row["id"]: row["text"] for row in rows if row["id"] != "twice"} == {
        row["id"]: row["text"][:5] for row in FIRST if row["id"] != "twice"
    }
    shard = next((store.root / "corpus/site/1/shards").glob("language=tha/*/*.parquet"))
    shard.write_bytes(b"PAR1" + bytes(90) + b"PAR1")
    broken = documents(store, ref=A, limit=99, text=5)
    assert [row["id"] for row in dicts(broken) if row["text"] is None] == ["thai"]
    assert len(broken.warnings) == 1 and "language=tha" in broken.warnings[0] and "\n" not in broken.warnings[0]
    shard.unlink()
    shard.symlink_to("/etc/passwd")
    assert "symbolic link" in documents(store, ref=A, language="tha", text=5).warnings[0]


@pytest.mark.parametrize(
    "where",
    [
        "read_text('/etc/passwd') IS NOT NULL",
        "true; DROP TABLE artifacts",
        "nonsense = 1",
        "true) -- ",
        "(SELECT",
        "1 = 1 LIMIT",
    ],
)
def test_conditions_of_others_are_confined(shared: Store, where: str) -> None:
    before = {path: path.read_bytes() for path in sorted(shared.root.rglob("*")) if path.is_file()}
    try:
        answer = documents(shared, where=where, limit=2)
    except SeaLionError as error:
        assert "\n" not in str(error)
    else:
        assert where == "true) -- " and answer.columns[0] == "ref"
    assert {path: path.read_bytes() for path in sorted(shared.root.rglob("*")) if path.is_file()} == before


def test_a_damaged_file_of_another_language_is_not_looked_at(store: Store) -> None:
    path = next((store.root / "corpus/site/1/documents").glob("language=ind/source=web/*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert documents(store, ref=A, language="tha").warnings == ()
    found = documents(store, limit=99)
    assert len(found.warnings) == 1 and A in found.warnings[0]
    assert len(found.rows) == len(SECOND) + 2  # Thai, and the source `text`


def test_domains_with_what_was_removed_of_them(shared: Store) -> None:
    found = dicts(domains(shared, "ind", ref=A))
    bytes_kept = sum(row["bytes"] for row in FIRST if row["language"] == "ind")
    assert found == [
        {"ref": A, "domain": "berita.example", "documents": 9, "bytes": bytes_kept, "share": 1.0, "removed": 2,
         "slots_reported": 1, "slots_planned": 1}
    ]  # fmt: skip
    assert [(row["ref"], row["documents"], row["removed"]) for row in dicts(domains(shared, "tha"))] == [
        (A, 1, None),
        (B, 1, None),
    ]
    assert domains(shared, "khm").rows == []


def test_two_corpora_by_their_counts(shared: Store) -> None:
    question = difference.counts(A, B, ("language", "crawl"))
    names, rows = index.query(shared, question.sql, question.parameters)
    found = {row[:2]: dict(zip(names, row, strict=True)) for row in rows}
    counts = [Counter((row["language"], row["crawl"]) for row in side) for side in (FIRST, SECOND)]
    assert found.keys() == counts[0].keys() | counts[1].keys()
    for key, row in found.items():
        assert (row["documents_a"], row["documents_b"]) == (counts[0][key], counts[1][key])
        assert row["documents_change"] == counts[1][key] - counts[0][key]
        assert row["slots_reported_a"] == row["slots_planned_a"] == row["slots_planned_b"] == 1
    question = difference.tokens(A, B)
    rows = index.query(shared, question.sql, question.parameters)[1]
    words = [sum(len(row["text"].split()) for row in side if row["language"] == "ind") for side in (FIRST, SECOND)]
    assert ("tokenizer/words@1", "ind", *words, words[1] - words[0]) in [row[:5] for row in rows]
    question = difference.removals(A, B)
    removed = {row[1:6] for row in index.query(shared, question.sql, question.parameters)[1]}
    assert ("near", "near_duplicate", 0, 1, 1) in removed and ("quality", "few_letters", 1, 1, 0) in removed
    question = difference.shards(A, B)
    assert index.query(shared, question.sql, question.parameters)[1][0][:3] == ("both", 1, 1)
    with pytest.raises(SeaLionError, match="did you mean 'language'"):
        difference.counts(A, B, ("languages",))


def test_two_corpora_document_by_document(shared: Store) -> None:
    found = dicts(difference.documents(shared, A, B))
    changes = {(row["change"], row["language"], row["reason"]): row for row in found}
    assert {key: row["documents"] for key, row in changes.items()} == {
        ("gained", "ind", "quality: few_letters"): 1,
        ("gained", "ind", difference.NOT_LISTED): 1,
        ("lost", "ind", "near: near_duplicate"): 1,
        ("lost", "ind", difference.NOT_LISTED): 2,  # `lost2` and the second one of `twice`
        ("moved", "zsm", "language ind -> zsm"): 1,
        ("moved", "ind", "split train -> heldout"): 1,
        ("moved", "ind", "source text -> web"): 1,
        ("rewritten", "ind", ""): 1,
    }
    assert changes["lost", "ind", "near: near_duplicate"]["tokens_a"] == 2
    assert changes["rewritten", "ind", ""]["bytes_b"] == len("Sekarang panjang")
    for name, size in (("bytes", lambda row: row["bytes"]), ("tokens", lambda row: len(row["text"].split()))):
        changed = sum(row[f"{name}_b"] - row[f"{name}_a"] for row in found)
        assert changed == sum(map(size, SECOND)) - sum(map(size, FIRST))
    back = {(row["change"], row["reason"]): row["documents"] for row in dicts(difference.documents(shared, B, A))}
    assert back["gained", "near: near_duplicate"] == 1 and back["lost", "quality: few_letters"] == 1
    assert dicts(difference.documents(shared, A, A)) == []


def test_without_a_count_of_both_there_are_no_tokens(shared: Store) -> None:
    rows = dicts(difference.documents(shared, A, B, tokenizer="tokenizer/none@1"))
    assert rows and all(row["tokens_a"] is row["tokens_b"] is None for row in rows)
