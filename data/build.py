"""The verb of the data area: from crawls, texts and source code to the shards of a corpus, by a datatrove pipeline.

Four rounds of tasks, each run by datatrove's local executor: the records of one input file a task (read, gate, decode, extract,
identify, quality, mask); one language a task (exact duplicates, MinHash signatures); MinHash's buckets and clusters; again one
language a task (near duplicates, shards). Everything between them lies in a scratch folder inside the job's, which starts empty
and is removed: datatrove's marks of completion know only a task's number, not what it was to do.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster
from tqdm import tqdm

from ..catalog.errors import SeaLionError
from ..catalog.records import Corpus
from ..catalog.store import Job, Made, write_rows
from . import ledger, stages
from .dedup import Signatures, minhash_config
from .quality import read_thresholds
from .recipe import CorpusRecipe
from .shards import DOCUMENTS, document_rows, shard_records
from .sources import check_names, tasks

log = logging.getLogger(__name__)

SCRATCH = ".scratch"
FEW_DOCUMENTS = 5_000
"""Up to here the rounds after the first run in this process: they take less time than worker processes take to start."""


def build_corpus(job: Job[CorpusRecipe]) -> Made:
    """Make the shards of a corpus, the tables `flow` and `documents`.

    Raises CorruptInput for a file that is not what its form says (before anything is made), RecipeError for a recipe or
    thresholds that cannot be, SeaLionError when no document is left.
    """
    scratch = job.folder / SCRATCH
    for stale in (scratch, job.folder / "shards"):
        shutil.rmtree(stale, ignore_errors=True)
    with tqdm(total=4, desc="corpus", disable=not job.options.show_progress) as bar:
        _clean(job, scratch)
        bar.update()
        rows = _checked_flow(scratch)
        kept = ledger.total(rows, "mask", "out")
        if not kept:
            raise SeaLionError(f"{job.recipe.ref}: no document is left; {_most_frequent(rows)}")
        languages = sorted(path.name for path in (scratch / "clean").iterdir())
        workers = 1 if kept <= FEW_DOCUMENTS else job.options.workers
        for stage in (_unique, _near_duplicates, _write):
            stage(job, scratch, languages, workers)
            bar.update()
    made = _recorded(job.folder, _checked_flow(scratch))
    shutil.rmtree(scratch)
    return made


def _clean(job: Job[CorpusRecipe], scratch: Path) -> None:
    """The first round: every stage that looks at one document alone."""
    recipe, counts = job.recipe, str(scratch / "ledger")
    check_names(recipe)
    given = [source.language for source in recipe.source if source.language]
    thresholds = read_thresholds(job.files["thresholds"], [*recipe.languages, *given])
    found = tasks(recipe, job.files)
    log.info("corpus: %d records in %d tasks", sum(task.documents for task in found), len(found))
    steps = [
        stages.Read(found),
        stages.Usable(counts),
        stages.Gate(counts, recipe.languages, recipe.metadata_gate == "cld2"),
        stages.Decode(counts),
        stages.Extract(counts),
        stages.Identify(counts, recipe.languages, thresholds),
        stages.Quality(counts, thresholds),
        stages.Mask(counts, recipe.mask_personal_data),
        stages.Spool(str(scratch / "clean")),
    ]
    _run("clean", steps, len(found), scratch, job.options.workers)


def _unique(job: Job[CorpusRecipe], scratch: Path, languages: Sequence[str], workers: int) -> None:
    """The second round: exact duplicates, and the signatures of what stays."""
    settings = job.recipe.deduplication
    steps: list[PipelineStep] = [
        stages.ReadSpool(str(scratch / "clean"), languages),
        stages.ExactDuplicates(str(scratch / "ledger"), settings.exact),
        stages.Spool(str(scratch / "unique")),
    ]
    if settings.near:
        steps.append(Signatures(str(scratch / "signatures"), minhash_config(settings), languages))
    _run("unique", steps, len(languages), scratch, workers)


def _near_duplicates(job: Job[CorpusRecipe], scratch: Path, languages: Sequence[str], workers: int) -> None:
    """The third round: pairs with an equal band, and their clusters."""
    if not job.recipe.deduplication.near:
        return
    config = minhash_config(job.recipe.deduplication)
    buckets = MinhashDedupBuckets(str(scratch / "signatures"), str(scratch / "pairs"), config=config, lines_to_buffer=1_000)
    _run("buckets", [buckets], config.num_buckets, scratch, workers)
    cluster = MinhashDedupCluster(str(scratch / "pairs"), str(scratch / "removed"), config=config)
    with redirect_stderr(StringIO()):  # it draws a progress bar, terminal or not
        _run("cluster", [cluster], 1, scratch, 1)


def _write(job: Job[CorpusRecipe], scratch: Path, languages: Sequence[str], workers: int) -> None:
    """The last round: what the clustering left, as shards."""
    steps = [
        stages.ReadSpool(str(scratch / "unique"), languages),
        stages.NearDuplicates(str(scratch / "removed"), str(scratch / "ledger")),
        stages.WriteShards(str(job.folder), str(scratch / "ledger"), job.recipe.heldout_documents),
    ]
    _run("write", steps, len(languages), scratch, workers)


def _run(name: str, steps: Sequence[PipelineStep], count: int, scratch: Path, workers: int) -> None:
    """Run a pipeline of `count` tasks, with its own folder of logs and marks of completion."""
    workers = max(1, min(workers, count))
    log.info("corpus: %s, %d tasks, %d workers", name, count, workers)
    LocalPipelineExecutor(list(steps), tasks=count, workers=workers, logging_dir=str(scratch / "runs" / name)).run()


def _checked_flow(scratch: Path) -> list[dict[str, Any]]:
    """The ledger so far; documents in = documents out + removed, in every stage and language."""
    rows = ledger.flow(scratch / "ledger")
    last = max((row["step"] for row in rows), default=0)
    wrong = ledger.imbalances(rows, last)
    assert not wrong, f"the ledger does not balance: {'; '.join(wrong)}"
    return rows


def _most_frequent(rows: Sequence[dict[str, Any]]) -> str:
    removed = sorted((row for row in rows if row["outcome"] == "removed"), key=lambda row: -row["documents"])[:3]
    return "removed were " + ", ".join(f"{row['documents']} in {row['stage']} ({row['reason']})" for row in removed)


def _recorded(folder: Path, flow: list[dict[str, Any]]) -> Made:
    shards = shard_records(folder)
    documents_out = sum(shard.documents for shard in shards)
    assert documents_out == ledger.total(flow, "write", "out"), "the shards hold other documents than the ledger says"
    write_rows(folder / "flow.parquet", flow, ledger.FLOW)
    write_rows(folder / "documents.parquet", list(document_rows(folder, shards)), DOCUMENTS)
    log.info("corpus: %d of %d documents kept", documents_out, ledger.total(flow, "read", "in"))
    return Made(
        body=Corpus(shards=shards, documents_in=ledger.total(flow, "read", "in"), documents_out=documents_out),
        tables={"flow": "flow.parquet", "documents": "documents.parquet"},
    )
