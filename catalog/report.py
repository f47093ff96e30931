"""`sea-lion report`: a self-contained HTML site about a catalog, from its index alone.

No script, no font, no request: its pages open from a mail attachment or a build server as they do here, and their content
policy forbids them to load anything. The folder is put in place whole: its readers find the old site or the new one.
"""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .errors import SeaLionError
from .fingerprint import plain
from .lineage import MODEL
from .markup import Child, Html, inside
from .pages.compare import catalogs_page, models_page
from .pages.corpus import corpus_page
from .pages.evaluation import evaluation_page
from .pages.frame import GENERATOR, NAMES, framed, questions_page
from .pages.gates import gates_page
from .pages.lineage import lineage_page
from .pages.merges import merges_page
from .pages.mixture import mixture_page
from .pages.overview import headline, overview_page
from .pages.parts import duration, ref
from .pages.source import Source, opened
from .pages.training import training_page
from .records import Artifact
from .store import Store
from .tables import cell

LISTED = 12
"""Records of a list that `artifact_summary` prints."""
PAGES: dict[str, tuple[str, str, Callable[[Source], list[Html]]]] = {
    "corpus.html": ("The corpora", "What was read, what was removed and why, and what is left, in tokens.", corpus_page),
    "mixture.html": ("The mixtures", "What was to be taken from each source and language, and what was.", mixture_page),
    "training.html": ("The training runs", "Losses, learning rates and throughput of every run.", training_page),
    "merges.html": ("The merges", "Which models were merged, how, and what it did to each language.", merges_page),
    "evaluation.html": ("The evaluations", "What every model scores in every language.", evaluation_page),
    "gates.html": ("The gates", "Which model may stand for which stage, who said so, on what evidence.", gates_page),
    "lineage.html": ("The lineage", "What everything was made from, and what it inherits.", lineage_page),
}
"""Page to its title, its first sentence and its function; `index.html`, `compare.html` and `questions.html` come on top."""


def site(store: Store, other: Store | None = None, models: tuple[str, str] | None = None) -> dict[str, str]:
    """File name to HTML of every page, of an empty store too.

    With `other`, or with the references of two `models` (the second one from `other` if that is given), a page puts the
    two side by side. Raises MissingArtifact for a model that is not there.
    """
    with ExitStack() as stack:
        source = stack.enter_context(opened(store))
        second = stack.enter_context(opened(other)) if other else source
        present = [name for name in NAMES if name != "compare.html" or other or models]
        made: dict[str, str] = {}
        for name, (heading, words, page) in PAGES.items():
            made[name] = framed(name, heading, words, page(source), present)
        if "compare.html" in present:
            title, lead, parts = _compared(source, second, models)
            made["compare.html"] = framed("compare.html", title, lead, parts, present)
        title, lead = headline(source)
        made["index.html"] = framed("index.html", title, lead, overview_page(source), present)
        words = "Each figure of the report links to the query behind it: all of them, as they stand."
        made["questions.html"] = framed("questions.html", "The queries", words, questions_page(), present)
        return {name: made[name] for name in present}


def _compared(a: Source, b: Source, models: tuple[str, str] | None) -> tuple[str, Child, list[Html]]:
    if models is None:
        return "Two catalogs", "A is this catalog, B the other one; differences are B − A.", catalogs_page(a, b)
    found = [source.store.require(name) for source, name in zip((a, b), models, strict=True)]
    for artifact in found:
        if artifact.kind != MODEL:
            raise SeaLionError(f"{artifact.ref}: is a {artifact.kind}, not a model")
    pair = str(found[0].ref), str(found[1].ref)
    lead = inside("A is ", ref(pair[0]), ", B is ", ref(pair[1]), "; differences are B − A.")
    return "Two models", lead, models_page(a, b, pair)


def write_report(store: Store, folder: Path, other: Store | None = None, models: tuple[str, str] | None = None) -> Path:
    """Write the site into a folder, which may hold nothing but an earlier one; returns the path of its first page."""
    _check_replaceable(folder)
    pages = site(store, other, models)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "site"
        fresh.mkdir()
        for name, text in pages.items():
            with (fresh / name).open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        _put_in_place(fresh, folder)
    return folder / "index.html"


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace whatever is not a site of ours: everything in the folder goes."""
    if folder.is_symlink() or folder.is_file():
        raise SeaLionError(f"{folder}: is a {'link' if folder.is_symlink() else 'file'}; the report is a folder of pages")
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in NAMES or not path.is_file() or GENERATOR not in path.read_text("utf-8", "replace")[:2000]:
            raise SeaLionError(f"{folder}: holds {path.name!r}, which no report wrote; choose an empty folder")


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Let `fresh` be `folder`; what was there is left where `fresh` was."""
    if not folder.exists():
        fresh.rename(folder)
        return
    if _exchanged(fresh, folder):
        return
    aside = fresh.with_name("before")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux, most file systems): no moment without a site."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def artifact_summary(store: Store, artifact: Artifact) -> str:
    """Everything on record about one artifact, as text."""
    made = artifact.provenance
    lines = [f"{artifact.ref}  ({artifact.kind})"]
    facts = {
        "description": artifact.recipe.get("description", ""), "fingerprint": artifact.fingerprint, "licence": artifact.licence,
        "folder": str(store.path(artifact.ref)), "created": made.created, "took": duration(made.seconds),
        "peak memory": f"{made.peak_memory_bytes / 1e6:,.0f} MB", "commit": made.commit, "python": made.python,
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(made.packages.items())),
    }  # fmt: skip
    lines += [f"{name:<12} {value}" for name, value in facts.items() if value]
    lines += ["", "inputs"] + [f"  {i.role}: {i.ref}" + (f"  [{i.via}]" if i.via else "") for i in artifact.inputs]
    for heading, value in (("recipe", artifact.recipe), (artifact.kind, plain(artifact.body))):
        lines += ["", heading, *_listing(value)]
    mark = store.discarded(artifact.ref)
    gone = dict.fromkeys(mark.files, f"  (discarded {mark.reason})") if mark else {}
    lines += ["", "files"]
    lines += [f"  {file.bytes:>14,}  {file.sha256[:12]}  {file.path}{gone.get(file.path, '')}" for file in artifact.files]
    return "\n".join(lines)


def _listing(value: dict[str, Any]) -> list[str]:
    lines = []
    for name, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"  {name}: {len(item)}")
            lines += [f"    {', '.join(f'{k} {cell(v)}' for k, v in row.items())}" for row in item[:LISTED]]
            lines += [f"    … and {len(item) - LISTED} more"] * (len(item) > LISTED)
        else:
            lines.append(f"  {name}: {json.dumps(item, ensure_ascii=False)}")
    return lines
