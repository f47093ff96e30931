"""The verb of the data area: from crawls, texts and source code to the shards of a corpus, by datatrove pipelines.

Four rounds of tasks (`rounds`): a file, or small files together, through every stage that looks at one document alone (read,
gate, extract, identify, filter, mask), to files by language and the signatures of their documents; a group of languages, whose
duplicates are found and whose documents are given their places; a shard; the tables of a language's documents from one source.
Nothing holds a language in memory, and what is done is kept in the job's folder: a build that was killed, or ran out of disk,
goes on from there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..catalog.errors import RecipeError, SeaLionError
from ..catalog.records import Corpus
from ..catalog.store import SCRATCH, Job, Made, write_rows
from . import ledger, stages
from .decontaminate import NgramIndex
from .dedup import language_group, write_signatures
from .executors import executor
from .language import Classifier, lid176
from .placement import Group, Place, Tabulate, Write, document_licences, listings, parts, write_counts, write_removals
from .planned import Where
from .planning import FILE as PLAN
from .recipe import CorpusRecipe
from .reporting import removed, reporting, written
from .rounds import run_round
from .sandbox import Sandbox
from .shards import Spool, shard_records
from .sources import Task, check_names, tasks
from .thresholds import Thresholds, read_thresholds
from .urls import UrlList

log = logging.getLogger(__name__)

CODE_DIGEST = "code"
READ_WITH = (
    "trafilatura",
    "lxml",
    "resiliparse",
    "pyicu-wheels",
    "pycld2",
    "fasttext-predict",
    "duckdb",
    "pyarrow",
    "phonenumbers",
)
"""Packages whose versions show in the documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """The first round's work: everything that looks at one document alone."""

    recipe: CorpusRecipe
    thresholds: Mapping[str, Thresholds]
    model: Path | None
    url_lists: tuple[Path, ...]
    ngrams: Path | None
    where: Where

    def __call__(self, task: Task, folder: Path) -> None:
        """Write `ledger.json`, `removals.parquet`, `spool/<language>/*.parquet` and their `signatures`."""
        tally = ledger.Tally(folder)
        with Sandbox(self.recipe.extractor) as sandbox:
            data: Any = None
            for step in self._steps(task, tally, sandbox, folder / "spool"):
                data = step(data, 0, 1)
            deque(data, maxlen=0)
        tally.save()
        for spool in sorted(folder.glob("spool/*/*.parquet")):
            out = folder / "signatures" / spool.relative_to(folder / "spool")
            out.parent.mkdir(parents=True, exist_ok=True)
            write_signatures(spool, out, spool.parent.name, self.recipe.deduplication)

    def _steps(self, task: Task, tally: ledger.Tally, sandbox: Sandbox, spool: Path) -> list[Any]:
        recipe, languages = self.recipe, self.recipe.languages
        classifier = Classifier.load(self.model) if self.model else lid176()
        return [
            stages.Read(tally, task, self.where, recipe.bad_files == "refuse"),
            stages.Usable(tally),
            stages.Gate(tally, languages, recipe.metadata_gate == "cld2"),
            stages.Urls(tally, [UrlList.load(path) for path in self.url_lists]),
            stages.Decode(tally),
            stages.Sample(tally, languages, classifier, recipe.metadata_gate != "off"),
            stages.Extract(tally, sandbox),
            stages.Identify(tally, languages, self.thresholds, classifier, recipe.zawgyi, recipe.traditional_chinese),
            stages.Quality(tally, self.thresholds),
            stages.Contamination(tally, NgramIndex(self.ngrams) if self.ngrams else None),
            stages.Mask(tally, recipe.mask_personal_data),
            Spool(spool),
        ]


def build_corpus(job: Job[CorpusRecipe]) -> Made:
    """Make the shards of a corpus, and its tables: what came in and went, and what is known of the documents.

    Raises CorruptInput for a file that is not what its form says (unless the recipe counts them), RecipeError for a recipe or
    thresholds that cannot be, SeaLionError when no document is left, Unfinished when the disk is full.
    """
    recipe, scratch = job.recipe, _scratch(job.folder)
    check_names(recipe)
    run = executor(job.options, scratch / "logs")
    found = tasks(recipe, _files(job), job.options.mirror)
    clean = _clean(job, scratch)
    shown, code = job.options.show_progress, (scratch / CODE_DIGEST).read_text("utf-8")
    told = reporting(job, "clean", code, removed)
    run_round("clean", clean, found, scratch / "clean", run, shows_progress=shown, reporting=told)
    rows = _checked_flow(scratch, "mask")
    if not ledger.total(rows, "mask", "out"):
        raise SeaLionError(f"{recipe.ref}: no document is left; {_most_frequent(rows)}")
    groups = _groups(scratch / "clean")
    place = Place(clean=scratch / "clean", recipe=recipe)
    told = reporting(job, "duplicates", code, removed)
    run_round("duplicates", place, groups, scratch / "places", run, shows_progress=shown, reporting=told)
    shards = [part for group in groups for part in parts(scratch / "places" / group.key, group)]
    write = Write(clean=scratch / "clean", places=scratch / "places")
    told = reporting(job, "shards", code, written)
    run_round("shards", write, shards, scratch / "write", run, shows_progress=shown, reporting=told)
    tables, tabulate = listings(shards), Tabulate(written=scratch / "write", thresholds=clean.thresholds)
    told = reporting(job, "tables", code)
    run_round("tables", tabulate, tables, scratch / "tables", run, shows_progress=shown, reporting=told)
    return _assembled(job, scratch, [scratch / "tables" / listing.key for listing in tables])


def _files(job: Job[CorpusRecipe]) -> dict[str, list[Path]]:
    """The recipe's files, and the plans that are artifacts."""
    plans = {f"source.{i}.files": source.plan for i, source in enumerate(job.recipe.source) if source.plan}
    return {**job.files, **{key: [job.folder_of(ref) / PLAN] for key, ref in plans.items()}}


def _scratch(folder: Path) -> Path:
    """The folder of the rounds; emptied when other code than this, ours or the libraries', filled it."""
    scratch, code = folder / SCRATCH, hashlib.sha256()
    package = Path(__file__).parent.parent
    for path in sorted([*package.glob("data/**/*.py"), *package.glob("data/**/*.toml"), *package.glob("catalog/*.py")]):
        code.update(path.read_bytes())
    for name in READ_WITH:
        code.update(f"{name} {version(name)}\n".encode())
    mark = scratch / CODE_DIGEST
    if not mark.is_file() or mark.read_text("utf-8") != code.hexdigest():
        for stale in (scratch, folder / "shards", folder / "documents", folder / "document_ids"):
            shutil.rmtree(stale, ignore_errors=True)
        scratch.mkdir(parents=True)
        mark.write_text(code.hexdigest(), "utf-8")
    return scratch


def _clean(job: Job[CorpusRecipe], scratch: Path) -> Clean:
    recipe, files = job.recipe, job.files
    given = [source.language for source in recipe.source if source.language]
    lists = scratch / "urls"
    lists.mkdir(exist_ok=True)
    return Clean(
        recipe=recipe,
        thresholds=read_thresholds(files.get("thresholds", []), [*recipe.languages, *given]),
        model=_one(recipe, "language_model", files.get("language_model", [])),
        url_lists=tuple(UrlList.compiled(source, lists) for source in (*files.get("url_lists", ()), *recipe.bundled_url_lists)),
        ngrams=job.folder_of(recipe.evaluation_ngrams) if recipe.evaluation_ngrams else None,
        where=Where(mirror=job.options.mirror, folder=scratch / "fetched", processes=job.options.workers),
    )


def _one(recipe: CorpusRecipe, key: str, paths: Sequence[Path]) -> Path | None:
    if len(paths) > 1:
        raise RecipeError(str(recipe.ref), key, f"matches {len(paths)} files, one is needed")
    return paths[0] if paths else None


def _groups(clean: Path) -> list[Group]:
    """The languages that documents were found in, in groups within which duplicates are looked for."""
    languages = sorted({path.name for path in clean.glob("*/spool/*")})
    names = sorted({language_group(language) for language in languages})
    return [Group(key=name, languages=tuple(x for x in languages if language_group(x) == name)) for name in names]


def _assembled(job: Job[CorpusRecipe], scratch: Path, tabulated: Sequence[Path]) -> Made:
    """Move the shards and the tables of documents to their places, and write the other tables."""
    for pattern in ("write/*/shards", "tables/*/documents", "tables/*/document_ids"):
        for done in sorted(scratch.glob(pattern)):
            for path in sorted(done.glob("*/*/*.parquet")):
                final = job.folder / path.relative_to(done.parent)
                final.parent.mkdir(parents=True, exist_ok=True)
                path.rename(final)
    flow = _checked_flow(scratch, "write")
    ledgers = sorted(scratch.glob(f"*/*/{ledger.LEDGER}"))
    records = shard_records(job.folder)
    documents_in, documents_out = ledger.total(flow, "read", "in"), sum(shard.documents for shard in records)
    assert documents_out == ledger.total(flow, "write", "out"), "the shards hold other documents than the ledger says"
    write_rows(job.folder / "flow.parquet", flow, ledger.FLOW)
    write_rows(job.folder / "failures.parquet", ledger.failures(ledgers), ledger.FAILURES)
    write_removals(sorted(scratch.glob(f"*/*/{ledger.LISTED}")), job.folder / "removals.parquet")
    write_counts(tabulated, job.folder)
    log.info("corpus: %d of %d documents kept", documents_out, documents_in)
    return Made(
        licences=document_licences(sorted(job.folder.glob("documents/*/*/*.parquet")), job.recipe.licence),
        body=Corpus(shards=records, documents_in=documents_in, documents_out=documents_out),
        tables={
            "flow": "flow.parquet",
            "failures": "failures.parquet",
            "removals": "removals.parquet",
            "documents": "documents/*/*/*.parquet",
            "document_ids": "document_ids/*/*/*.parquet",
            "shard_counts": "shard_counts.parquet",
            "origins": "origins.parquet",
        },
    )


def _checked_flow(scratch: Path, last: str) -> list[dict[str, Any]]:
    """The ledger up to a stage; documents in = documents out + removed, in every stage and language."""
    rows = ledger.flow(sorted(scratch.glob(f"*/*/{ledger.LEDGER}")))
    wrong = ledger.imbalances(rows, ledger.STAGES.index(last))
    assert not wrong, f"the ledger does not balance: {'; '.join(wrong)}"
    return rows


def _most_frequent(rows: Sequence[dict[str, Any]]) -> str:
    removed = sorted((row for row in rows if row["outcome"] == "removed"), key=lambda row: -row["documents"])[:3]
    return "removed were " + ", ".join(f"{row['documents']} in {row['stage']} ({row['reason']})" for row in removed)
