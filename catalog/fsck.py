"""Checks a whole catalog against itself: records, files, references and slots; lists everything that is not as it should be.

Nothing is mended and nothing stops the check: a person decides what each finding means. Sizes are compared always, contents
only when asked (`deep`), because that reads all there is. The index is not looked at; it is made from what is checked here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from tqdm import tqdm

from .discarding import DISCARDED, REMAKE
from .errors import CorruptInput
from .files import RECORD, read_artifact
from .footers import footers
from .paths import PARTIAL, checked_path
from .places import Place
from .recipes import recipe_fingerprint
from .records import Artifact, Corpus, GateDecision, Promotion
from .remote import RemoteStore, object_path
from .slot_rows import ledgers, manifest_batches
from .slots import NAMED_DIGITS, PLAN, Plan, read_plan, slot_sets
from .store import WORK, Store

BOMB = 1_000
"""A Parquet file that would decode to so many times its size is named."""
EXAMPLES = 3
"""Of many alike, so many are named."""
Severity = Literal["error", "warning", "note"]
"""`error`: an answer would be wrong or cannot be given. `warning`: a person should look. `note`: could be deleted, or was on
purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be."""

    severity: Severity
    """How bad it is."""
    path: str
    """What it is about, relative to the catalog."""
    problem: str
    """What is wrong, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A file that a record or a manifest names."""

    path: str
    """Where it lies, relative to the catalog."""
    bytes: int
    """Its size."""
    sha256: str
    """Its digest."""
    owner: str
    """Who says so."""


def fsck(store: Store, *, deep: bool = False, shows_progress: bool = False) -> list[Finding]:
    """Everything in a catalog that is not as it should be, the worst first; `deep` reads every file."""
    artifacts, findings = _readable(store, shows_progress)
    expected: list[Expected] = []
    for artifact in artifacts.values():
        findings += _record_findings(artifact)
        findings += _reference_findings(artifact, artifacts)
        files, wrong = _files(store, artifact)
        expected += files
        findings += wrong
    for folder, ref, _ in tqdm(list(slot_sets(store.place)), desc="slots", disable=not shows_progress):
        try:
            for found in _set_findings(store.place, folder, is_made=ref in artifacts):
                if isinstance(found, Finding):
                    findings.append(found)
                else:
                    expected.append(found)
        except CorruptInput as error:
            findings.append(_error(f"{folder}/{PLAN}", _line(error, f"{folder}/{PLAN}")))
    findings += _left_behind(store)
    if deep:
        findings += _content_findings(store.place, expected, shows_progress)
        findings += _footer_findings(store, artifacts, expected)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: (order[finding.severity], finding.path, finding.problem))


# -- records ---------------------------------------------------------------------------------------------------------------


def _readable(store: Store, shows_progress: bool) -> tuple[dict[str, Artifact], list[Finding]]:
    """The artifacts by reference, and the records that are none."""
    artifacts, findings = dict[str, Artifact](), list[Finding]()
    for ref, path, _ in tqdm(list(store.records()), desc="records", disable=not shows_progress):
        try:
            artifact = read_artifact(path)
        except (CorruptInput, OSError) as error:
            findings.append(_error(_record_at(ref), _line(error, path)))
            continue
        if str(artifact.ref) == ref:
            artifacts[ref] = artifact
        else:
            findings.append(_error(_record_at(ref), f"says it is {artifact.ref}: two artifacts cannot have one version"))
    return artifacts, findings


def _record_findings(artifact: Artifact) -> Iterator[Finding]:
    where = _record_at(str(artifact.ref))
    if recipe_fingerprint(artifact.identity) != artifact.fingerprint:
        yield _error(where, "its fingerprint is not that of its identity")
    files = {file.path for file in artifact.files}
    for table, pattern in artifact.tables.items():
        if "*" not in pattern and pattern not in files:
            yield _error(where, f"names {pattern!r} as table {table}, but no such file")


def _files(store: Store, artifact: Artifact) -> tuple[list[Expected], list[Finding]]:
    """The files of a record that are there with the right size, and what is wrong with the others."""
    folder, expected = f"{artifact.ref.name}/{artifact.ref.version}", list[Expected]()
    there = {found.path: found.bytes for found in store.place.files(folder)}
    gone, findings = _discarded(store, artifact)
    for file in artifact.files:
        try:
            path = object_path(artifact.ref, file) if isinstance(store, RemoteStore) else f"{folder}/{checked_path(file.path)}"
        except CorruptInput:
            findings.append(_error(_record_at(str(artifact.ref)), f"names a file outside its folder: {file.path[:100]!a}"))
            continue
        size = there.pop(path, None)
        if size is None and file.path in gone:
            continue
        if size != file.bytes:
            problem = "is missing" if size is None else f"has {size:,} bytes, {artifact.ref} wrote {file.bytes:,}"
            findings.append(_error(path, problem))
        else:
            expected.append(Expected(path=path, bytes=file.bytes, sha256=file.sha256, owner=str(artifact.ref)))
    for beside in (RECORD, *((DISCARDED, REMAKE) if gone else ())):
        there.pop(f"{folder}/{beside}", None)
    findings += [_error(path, f"lies inside {artifact.ref}: nothing finds it") for path in there if path.endswith(f"/{RECORD}")]
    others = [path for path in there if not path.endswith(f"/{RECORD}")]
    return expected, findings + _several("note", folder, others, "no file of the record")


def _discarded(store: Store, artifact: Artifact) -> tuple[frozenset[str], list[Finding]]:
    """The files of an artifact that were deleted on purpose, with a note of it; a mark that cannot be so is an error."""
    folder = f"{artifact.ref.name}/{artifact.ref.version}"
    try:
        mark = store.discarded(artifact.ref)
    except CorruptInput as error:
        return frozenset(), [_error(f"{folder}/{DISCARDED}", _line(error, store.path(artifact.ref) / DISCARDED))]
    if mark is None:
        return frozenset(), []
    unknown = sorted(set(mark.files) - {file.path for file in artifact.files})
    findings = [_error(f"{folder}/{DISCARDED}", f"names {path[:100]!a}, no file of the record") for path in unknown]
    return frozenset(mark.files), findings + _several("note", folder, mark.files, f"discarded {mark.reason}")


def _reference_findings(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> Iterator[Finding]:
    where = _record_at(str(artifact.ref))
    for given in artifact.inputs:
        found = artifacts.get(given.ref)
        if found is None:
            yield _error(where, f"was made from {given.ref} ({given.role}), which is not there")
        elif found.fingerprint != given.fingerprint:
            severity: Severity = "warning" if given.ref.endswith("@dev") else "error"
            problem = f"was made from {given.ref} ({given.role}), which has been made anew from another recipe"
            yield Finding(severity=severity, path=where, problem=problem)
    if isinstance(artifact.body, Promotion):
        yield from _promotion_findings(where, artifact.body, artifacts)


def _promotion_findings(where: str, promotion: Promotion, artifacts: Mapping[str, Artifact]) -> Iterator[Finding]:
    if promotion.model not in artifacts:
        yield _error(where, f"promotes {promotion.model}, which is not there")
    decision = artifacts.get(promotion.decision)
    if decision is None or not isinstance(decision.body, GateDecision):
        yield _error(where, f"rests on {promotion.decision}, which is no gate decision")
        return
    body = decision.body
    if (body.model, body.stage, body.verdict) != (promotion.model, promotion.stage, promotion.verdict):
        said = f"{body.verdict} for {body.model} as {body.stage}"
        yield _error(where, f"says something else than {promotion.decision}: {said}")
    if promotion.verdict != "pass" and not promotion.waiver_by:
        yield _error(where, f"promotes after {promotion.verdict}, without a waiver")


# -- slots -----------------------------------------------------------------------------------------------------------------


def _set_findings(place: Place, folder: str, *, is_made: bool) -> Iterator[Finding | Expected]:
    """What is wrong with a set of slots, and the shards that its manifests name and that are there."""
    plan = read_plan(place, folder)
    home = f"{folder}/{plan.digest[:NAMED_DIGITS]}"
    files = {found.path: found.bytes for found in place.files(folder)}
    manifests = {path[len(home) + 1 : -5] for path in files if path.rpartition("/")[0] == home}
    unplanned = manifests - plan.slots.keys()
    yield from _several("error", home, (f"{slot}.json" for slot in unplanned), "reported, but not planned")
    missing = (f"{slot} ({label})" for slot, label in plan.slots.items() if slot not in manifests)
    yield from _several("error" if is_made else "warning", folder, missing, f"planned, of {len(plan.slots):,}, not reported")
    conflicts = (path for path in files if path.startswith(f"{home}/conflicts/"))
    yield from _several("warning", folder, conflicts, "later attempts with other bytes, counted nowhere")
    named: set[str] = set()
    for batch in manifest_batches(place, home, plan, sorted(manifests & plan.slots.keys())):
        yield from (_error(path, problem) for path, problem in batch.problems)
        for found in _shards(batch.tables["slots"], files, plan):
            named.add(found.path)
            yield found
    yield from _ledger_findings(place, home, plan)
    orphans = [path for path in files if path.startswith(f"{home}/shards/") and path not in named]
    yield from _several("note", folder, orphans, "a shard that no manifest names, of an attempt that died or came second")
    earlier = [path for path in files if path != f"{folder}/{PLAN}" and not path.startswith(f"{home}/")]
    yield from _several("note", folder, earlier, "reported to an earlier plan")


def _shards(slots: pa.Table, files: Mapping[str, int], plan: Plan) -> Iterator[Finding | Expected]:
    columns = (slots[name].to_pylist() for name in ("path", "bytes", "sha256"))
    for path, size, digest in zip(*columns, strict=True):
        if path and files.get(path) == size:
            yield Expected(path=path, bytes=size, sha256=digest, owner=plan.ref)
        elif path:
            yield _error(path, f"has {files[path]:,} bytes, its manifest says {size:,}" if path in files else "is missing")


def _ledger_findings(place: Place, home: str, plan: Plan) -> Iterator[Finding]:
    for _, problems in ledgers(place, home, plan):
        yield from (Finding(severity="warning", path=path, problem=f"{problem}; delete it") for path, problem in problems)


# -- what is left, and contents --------------------------------------------------------------------------------------------


def _left_behind(store: Store) -> Iterator[Finding]:
    """Work folders of makings that did not end, and files of writers that died."""
    for folder in sorted(path for path in (store.root / WORK).glob("*") if path.is_dir()):
        problem = "an artifact that is being made, or whose making was interrupted: the same command goes on there"
        yield Finding(severity="note", path=f"{WORK}/{folder.name}", problem=problem)
    partials = [
        os.path.relpath(os.path.join(folder, name), store.root)  # noqa: PTH118  # 100,000 of them
        for folder, _, names in os.walk(store.root)
        for name in names
        if PARTIAL.match(name)
    ]
    yield from _several("note", ".", partials, "being written, or left by a writer that died")


def _content_findings(place: Place, expected: list[Expected], shows_progress: bool) -> list[Finding]:
    def wrong(file: Expected) -> Finding | None:
        try:
            with place.open(file.path) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        except (OSError, CorruptInput) as error:
            return _error(file.path, _line(error))
        return None if digest == file.sha256 else _error(file.path, f"is not what {file.owner} wrote (sha256 differs)")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing holds no lock
        bar = tqdm(total=sum(file.bytes for file in expected), unit="B", unit_scale=True, disable=not shows_progress)
        found = []
        for file, finding in zip(expected, pool.map(wrong, expected), strict=True):
            bar.update(file.bytes)
            found += [finding] if finding else []
        bar.close()
    return found


def _footer_findings(store: Store, artifacts: Mapping[str, Artifact], expected: list[Expected]) -> Iterator[Finding]:
    """Parquet files whose footer is damaged, promises too much, or counts other documents than the record."""
    if isinstance(store, RemoteStore):
        return
    rows = {
        f"{artifact.ref.name}/{artifact.ref.version}/{shard.path}": shard.documents
        for artifact in artifacts.values()
        if isinstance(artifact.body, Corpus)
        for shard in artifact.body.shards
    }
    sizes = {file.path: file.bytes for file in expected if file.path.endswith(".parquet")}
    for footer in footers(store.root, list(sizes)):
        if footer.problem:
            yield _error(footer.path, f"is not a Parquet file that can be read: {footer.problem}")
        elif footer.decoded > BOMB * sizes[footer.path]:
            problem = f"would decode to {footer.decoded:,} bytes, {footer.decoded // sizes[footer.path]:,} times its size"
            yield Finding(severity="warning", path=footer.path, problem=problem)
        elif footer.rows != rows.get(footer.path, footer.rows):
            yield _error(footer.path, f"has {footer.rows:,} rows, the record says {rows[footer.path]:,} documents")


def _several(severity: Severity, folder: str, names: Iterable[str], what: str) -> list[Finding]:
    """One finding for all that are alike."""
    ordered = sorted(names)
    if not ordered:
        return []
    shown = ", ".join(name.removeprefix(f"{folder}/") for name in ordered[:EXAMPLES])
    more = f" and {len(ordered) - EXAMPLES:,} more" if len(ordered) > EXAMPLES else ""
    return [Finding(severity=severity, path=folder, problem=f"{len(ordered):,} {what}: {shown}{more}")]


def _error(path: str, problem: str) -> Finding:
    return Finding(severity="error", path=path, problem=problem)


def _record_at(ref: str) -> str:
    name, _, version = ref.rpartition("@")
    return f"{name}/{version}/{RECORD}"


def _line(error: BaseException, source: object = "") -> str:
    text = " ".join((str(error) or type(error).__name__).splitlines()[0].split())
    return text.removeprefix(f"{source}: ") if source else text
