"""The ways into a corpus agree: files at hand, a listing on a mirror, a crawl plan, the plan of a corpus that is published."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from warcio.archiveiterator import ArchiveIterator

from sea_lion import chain, cli
from sea_lion.catalog.errors import CorruptInput, RecipeError, Unfinished
from sea_lion.catalog.export import export
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Artifact, CrawlPlan
from sea_lion.catalog.store import Options, Store
from sea_lion.data.build import build_corpus
from sea_lion.data.columnar import write_index
from sea_lion.data.executors import executor
from sea_lion.data.planning import make_plan, write_corpus_plan
from sea_lion.data.recipe import CorpusRecipe, PlanRecipe, Reading, Source
from sea_lion.data.remote import Manners
from sea_lion.data.rounds import run_round

from .conftest import WarcFile
from .crawl_server import mirror_of, random_faults
from .test_rounds import EXPECTED, UNITS, Square, squares

WANTED = ("tha", "zsm", "ind", "mya", "lao")
SEGMENT = "crawl-data/CC-MAIN-2024-18/segments/1712/warc"


def article(language: str, number: int) -> bytes:
    """A page of a sample article that takes 35 kB when compressed, as a crawl's do."""
    lines = files("sea_lion").joinpath(f"data/sample/articles/{language}.jsonl").read_text("utf-8").splitlines()
    row = json.loads(lines[number])
    noise = random.Random(f"{language}{number}").randbytes(33_000).hex()
    body = "".join(f"<p>{paragraph}</p>" for paragraph in row["paragraphs"])
    script = f"<script>var state = '{noise}'</script>"
    return f"<html><head><title>{row['title']}</title>{script}</head><body><article>{body}</article></body></html>".encode()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two WARC files below a folder as Common Crawl has them, their index and their listing."""
    root = tmp_path_factory.mktemp("mirror")
    (root / SEGMENT).mkdir(parents=True)
    paths = [root / SEGMENT / f"CC-MAIN-20240412-{number:05}.warc.gz" for number in range(2)]
    for number, path in enumerate(paths):
        warc = WarcFile(path)
        for language in (*WANTED, "eng", "fil"):
            for page in range(3):
                url = f"https://{language}.example/{number}/{page}"
                warc.page(url, article(language, number * 3 + page))
                warc.note(url, (LANGUAGES[language].cld2, 0.9), ("eng", 0.1))
        url = f"https://again.example/{number}"  # the same article twice: an exact duplicate
        warc.page(url, article("tha", 0))
        warc.note(url, ("tha", 0.99))
        warc.save()
    write_index(paths, root, root / "index.parquet", crawl="CC-MAIN-2024-18")
    listing = "".join(f"{path.relative_to(root).as_posix()}\n" for path in paths).encode()
    (root / "warc.paths.gz").write_bytes(gzip.compress(listing))
    return root


def recipe(source: Source, name: str = "corpus/ways", **changes: Any) -> CorpusRecipe:
    fields: dict[str, Any] = {"kind": "corpus", "name": name, "version": "1", "languages": WANTED, "heldout_documents": 1}
    return CorpusRecipe(**fields, source=(source,), **changes)


def build(root: Path, made: CorpusRecipe, **options: Any) -> tuple[Artifact, Path]:
    store = Store(root)
    artifact = store.make(made, Path("/"), build_corpus, Options(**options))
    return artifact, store.folder(artifact.ref)


def rows(folder: Path, kind: str = "shards") -> list[dict[str, Any]]:
    found = [row for path in sorted(folder.glob(f"{kind}/*/*/*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(found, key=lambda row: (row["language"], row["split"], row["id"], row["offset"]))


@pytest.fixture(scope="module")
def warc_first(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    source = Source(name="web", form="warc", files=(f"{mirror}/{SEGMENT}/*.warc.gz",), crawl="CC-MAIN-2024-18")
    return build(tmp_path_factory.mktemp("warc-first"), recipe(source))


def without_place(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A file at hand has a name only; one below a mirror has its place there."""
    return [row | {"file": Path(row["file"]).name} for row in found]


def test_every_document_leads_back_to_its_record(mirror: Path, warc_first: tuple[Artifact, Path]) -> None:
    documents = rows(warc_first[1], "documents")
    assert len(documents) == 30 and {row["language"] for row in documents} == set(WANTED)
    for row in documents:
        with (mirror / SEGMENT / row["file"]).open("rb") as file:
            file.seek(row["offset"])
            record = next(iter(ArchiveIterator(file)))
            assert record.rec_headers.get_header("WARC-Target-URI") == row["url"] and record.rec_type == "response"
            body = record.content_stream().read()
        assert __import__("base64").b32encode(__import__("hashlib").sha1(body).digest()).decode() == row["digest"]
        file_bytes = (mirror / SEGMENT / row["file"]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
        assert gzip.decompress(file_bytes).startswith(b"WARC/1.0")


def test_a_listing_on_a_mirror_gives_the_same(mirror: Path, warc_first: tuple[Artifact, Path], tmp_path: Path) -> None:
    source = Source(name="web", form="warc", listing="warc.paths.gz", crawl="CC-MAIN-2024-18")
    with mirror_of(mirror) as server:
        _, folder = build(tmp_path, recipe(source), mirror=server.address)
    assert without_place(rows(folder)) == rows(warc_first[1])
    half = Source(name="web", form="warc", listing="warc.paths.gz", crawl="CC-MAIN-2024-18", first=1, count=1)
    artifact, _ = build(tmp_path, recipe(half, "corpus/half"), mirror=str(mirror))
    assert artifact.body.documents_in == 22  # type: ignore[union-attr]


def plan(root: Path, mirror: Path, name: str = "plan/ways") -> Artifact:
    made = PlanRecipe(kind="plan", name=name, version="1", languages=WANTED, index=(str(mirror / "index.parquet"),))
    return Store(root).make(made, Path("/"), make_plan, Options())


def test_plan_and_fetch_give_the_same(mirror: Path, warc_first: tuple[Artifact, Path], tmp_path: Path) -> None:
    body = plan(tmp_path, mirror).body
    assert isinstance(body, CrawlPlan) and body.records == 32 and set(body.languages) == set(WANTED)
    source = Source(name="web", form="plan", plan="plan/ways@1")
    with mirror_of(mirror) as server:
        server.fault = random_faults(0.15, 3)
        artifact, folder = build(tmp_path, recipe(source), mirror=server.address, workers=1)
    assert without_place(rows(folder)) == rows(warc_first[1])
    assert [given.ref for given in artifact.inputs] == ["plan/ways@1"]
    flow = pq.read_table(folder / "flow.parquet").to_pylist()
    assert sum(row["documents"] for row in flow if (row["stage"], row["outcome"]) == ("read", "in")) == body.records


def test_what_cannot_be_fetched_is_counted(mirror: Path, tmp_path: Path) -> None:
    plan(tmp_path, mirror)
    source = Source(name="web", form="plan", plan="plan/ways@1")
    with mirror_of(mirror) as server:
        server.fault = lambda file, start, nth: "404" if file.endswith("00001.warc.gz") else ""
        artifact, folder = build(tmp_path, recipe(source), mirror=server.address)
    flow = pq.read_table(folder / "flow.parquet").to_pylist()
    lost = {row["reason"]: row["documents"] for row in flow if row["stage"] == "read" and row["outcome"] == "removed"}
    assert lost == {"fetch_status_404": 16}
    assert artifact.body.documents_in == 32  # type: ignore[union-attr]


def test_a_published_plan_rebuilds_the_same_shards(
    mirror: Path, warc_first: tuple[Artifact, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, folder = warc_first
    published = export(Store(folder.parents[2]), str(artifact.ref), tmp_path / "hub", "parquet", write_corpus_plan)
    with mirror_of(mirror / SEGMENT) as server:
        command = ["build", "--from-plan", str(published / "plan.parquet"), "--mirror", server.address]
        assert cli.main([*command, "--catalog", str(tmp_path / "again")]) == 0, capsys.readouterr().err
    again = tmp_path / "again" / "corpus" / "ways" / "1"
    for path in sorted(folder.glob("shards/*/*/*.parquet")):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    assert len(list(again.glob("shards/*/*/*.parquet"))) == len(list(folder.glob("shards/*/*/*.parquet")))


def test_a_plan_without_a_recipe_is_refused(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path, mirror)
    path = tmp_path / "plan" / "ways" / "1" / "plan.parquet"
    assert cli.main(["build", "--from-plan", str(path), "--catalog", str(tmp_path)]) == 2
    assert "holds no recipe" in capsys.readouterr().err
    assert cli.main(["build", "--catalog", str(tmp_path)]) == 2
    assert "name a recipe, or a plan" in capsys.readouterr().err


def test_bad_files_are_refused_or_counted(mirror: Path, tmp_path: Path) -> None:
    whole = sorted((mirror / SEGMENT).glob("*.warc.gz"))
    (tmp_path / "a.warc.gz").write_bytes(whole[0].read_bytes())
    (tmp_path / "b.warc.gz").write_bytes(whole[1].read_bytes()[:-200])
    (tmp_path / "c.warc.gz").write_bytes(b"this is no crawl")
    source = Source(name="web", form="warc", files=(str(tmp_path / "*.warc.gz"),))
    with pytest.raises(CorruptInput, match=r"c\.warc\.gz: is not a gzipped WARC file"):
        build(tmp_path / "refused", recipe(source))
    two = Source(name="web", form="warc", files=(str(tmp_path / "[ab].warc.gz"),))
    with pytest.raises(CorruptInput, match=r"b\.warc\.gz: byte \d+: .*cut short"):
        build(tmp_path / "refused", recipe(two))
    artifact, folder = build(tmp_path / "counted", recipe(source, bad_files="count"))
    failures = pq.read_table(folder / "failures.parquet").to_pylist()
    assert [(row["source"], row["file"]) for row in failures] == [("web", "c.warc.gz")]
    assert "is not a gzipped WARC file" in failures[0]["problem"]
    assert artifact.body.documents_out >= 29  # type: ignore[union-attr]


def test_recipes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one of files, listing"):
        Source(name="web", form="warc")
    with pytest.raises(ValueError, match="exactly one of files, plan"):
        Source(name="web", form="plan", listing="x")
    with pytest.raises(ValueError, match="preset"):
        Source(name="web", form="rows", files=("x",))
    with pytest.raises(ValueError, match="choose from a listing"):
        Source(name="web", form="warc", files=("x",), first=3)
    with pytest.raises(RecipeError, match="fineweb-edu"):
        build(tmp_path, recipe(Source(name="web", form="rows", files=(str(__file__),), preset="fineweb-edo")))


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_in_between_changes_nothing(
    mirror: Path, warc_first: tuple[Artifact, Path], forked: Any, tmp_path: Path, workers: int
) -> None:
    """The same bytes, whatever died when."""
    (tmp_path / "corpus.toml").write_text(
        f"""kind = "corpus"
name = "corpus/ways"
version = "1"
languages = {json.dumps(WANTED)}
heldout_documents = 1
[[source]]
name = "web"
form = "warc"
crawl = "CC-MAIN-2024-18"
files = ["{mirror}/{SEGMENT}/*.warc.gz"]
""",
        "utf-8",
    )
    command = ["build", str(tmp_path / "corpus.toml"), "--workers", str(workers), "--catalog", str(tmp_path / "catalog")]
    for seconds in (0.3, 0.9, 2.0):
        process = forked.started("sea_lion.cli", *command)
        time.sleep(seconds)
        process.kill()
        process.join()
    assert forked.exit_codes([forked.started("sea_lion.cli", *command, says=tmp_path)], 200) == [0], (
        tmp_path / "stderr"
    ).read_text()
    folder = tmp_path / "catalog" / "corpus" / "ways" / "1"
    for path in sorted(warc_first[1].glob("*/*/*/*.parquet")):
        assert (folder / path.relative_to(warc_first[1])).read_bytes() == path.read_bytes(), path
    assert rows(folder) == rows(warc_first[1])


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One cluster, which the first build starts; it takes longer than what it does here. A small one: left to itself Ray takes
    all cores and a third of the memory of a machine that other tests use as well."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_cpus=2, object_store_memory=100_000_000))
        yield
    ray.shutdown()


def test_ray_gives_the_same_bytes(mirror: Path, ray: None, tmp_path: Path) -> None:
    """Two languages: each unit is an actor that imports everything anew."""
    source = Source(name="web", form="warc", files=(f"{mirror}/{SEGMENT}/*.warc.gz",), crawl="CC-MAIN-2024-18")
    two = replace(recipe(source), languages=WANTED[:2])
    _, here = build(tmp_path / "here", two)
    _, there = build(tmp_path / "ray", two, workers=2, executor="ray", executor_settings={"memory_gb": "0.1"})
    tables = sorted(path.relative_to(here) for path in here.glob("*/*/*/*.parquet"))
    assert len(tables) >= 8 and tables == sorted(path.relative_to(there) for path in there.glob("*/*/*/*.parquet"))
    for path in tables:
        assert (there / path).read_bytes() == (here / path).read_bytes(), path


def test_ray_runs_the_same_units(ray: None, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    run = executor(Options(workers=2, executor="ray", executor_settings={"memory_gb": "0.1"}), tmp_path / "logs")
    run_round("squares", Square(tmp_path / "traces"), UNITS[:5], tmp_path / "round", run)
    assert squares(tmp_path / "round") == {unit.key: EXPECTED[unit.key] for unit in UNITS[:5]}


def test_two_builds_at_once_make_one_corpus(mirror: Path, forked: Any, tmp_path: Path) -> None:
    (tmp_path / "make.py").write_text(
        f"""from pathlib import Path
from sea_lion.catalog.store import *
from sea_lion.data.build import build_corpus
from sea_lion.data.recipe import *
s = Source(name="web", form="warc", files=({str(mirror / SEGMENT)!r} + "/*.warc.gz",))
r = CorpusRecipe(kind="corpus", name="corpus/ways", version="1", languages={WANTED!r}, source=(s,))
print(Store(Path({str(tmp_path / "made")!r})).make(r, Path("/"), build_corpus, Options()).provenance.created)
"""
    )
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    both = [forked.started(tmp_path / "make.py", says=folder) for folder in folders]
    assert forked.exit_codes(both, 200) == [0, 0], [(folder / "stderr").read_text() for folder in folders]
    times = [(folder / "stdout").read_text().strip() for folder in folders]
    assert times[0] == times[1] != ""
    assert len(chain.RECIPES) > 0 and len(list(tmp_path.rglob("artifact.json"))) == 1


def test_listed_files_of_one_name_are_two_files(mirror: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((mirror / SEGMENT).glob("*.warc.gz"))):
        (tmp_path / "crawl" / str(number)).mkdir(parents=True)
        (tmp_path / "crawl" / str(number) / "part.warc.gz").write_bytes(path.read_bytes())
    (tmp_path / "paths").write_text("crawl/0/part.warc.gz\ncrawl/1/part.warc.gz\n")
    listing = recipe(Source(name="web", form="warc", listing="paths", crawl="X"), "corpus/listing")
    artifact, folder = build(tmp_path / "a", listing, mirror=str(tmp_path))
    assert artifact.body.documents_in == 44  # type: ignore[union-attr]
    assert {row["file"] for row in rows(folder)} == {"crawl/0/part.warc.gz", "crawl/1/part.warc.gz"}
    local = recipe(Source(name="web", form="warc", files=(str(tmp_path / "crawl" / "*" / "*.warc.gz"),)), "corpus/local")
    artifact, folder = build(tmp_path / "a", local)
    assert artifact.body.documents_in == 44 and {row["file"] for row in rows(folder)} == {"0/part.warc.gz", "1/part.warc.gz"}  # type: ignore[union-attr]


def test_believed_rows_in_unwanted_languages_are_dropped(tmp_path: Path) -> None:
    lines = files("sea_lion").joinpath("data/sample/articles/tha.jsonl").read_text("utf-8").splitlines()
    texts = [" ".join(json.loads(line)["paragraphs"]) for line in lines[:6]]
    said = ["th", "th", "id", "jv", "th", ""]
    table = [{"id": str(i), "text": text, "lang": code} for i, (text, code) in enumerate(zip(texts, said, strict=True))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), "utf-8")
    reading = Reading(columns={"language": "lang"}, trust="believed", licence="CC-BY-4.0")
    source = Source(name="text", form="rows", preset="jsonl", files=(str(tmp_path / "rows.jsonl"),), reading=reading)
    artifact, folder = build(tmp_path / "a", replace(recipe(source), languages=("tha",)))
    assert [row["language"] for row in rows(folder)] == ["tha"] * 4
    flow = pq.read_table(folder / "flow.parquet").to_pylist()
    lost = {row["reason"]: row["documents"] for row in flow if row["stage"] == "gate" and row["outcome"] == "removed"}
    assert lost == {"said_ind": 1, "said_jav": 1} or lost == {"said_ind": 1, "said_jv": 1}
    assert artifact.licence == "CC-BY-4.0"


def test_a_mirror_that_is_down_is_asked_again(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sea_lion.data.planned.Manners", lambda: Manners(backoff=0.01, tries=2))
    plan(tmp_path, mirror)
    made = recipe(Source(name="web", form="plan", plan="plan/ways@1"))
    with mirror_of(mirror) as server:
        server.fault = lambda file, start, nth: "503" if file.endswith("00001.warc.gz") and nth < 2 else ""
        with pytest.raises(Unfinished, match="run again to ask for these only"):
            build(tmp_path, made, mirror=server.address)
        asked = len(server.asked)
        artifact, _ = build(tmp_path, made, mirror=server.address)
        assert 0 < len(server.asked) - asked <= asked
    assert artifact.body.documents_out == 30  # type: ignore[union-attr]
