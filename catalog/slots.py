"""Slots: what was planned and what was reported, kept so that hundreds of writers need no server, no lock and no turn.

A stage of the making of an artifact plans its slots first, one for each task. Whoever does a task reports its slot once: the
shard, if there is one, and then the manifest, which only the first attempt can create. A later attempt finds it there; when it
has other bytes, it is kept as a conflict and counted nowhere. Completeness is planned minus reported: without the plan, a task
that was lost would be invisible.

The key is the slot, never the content: keyed by content, empty shards collapse into one and a retry that writes other bytes
counts twice (see the facts). Refused too: rows in a shared database, lines appended to a shared file.

    slots/{name}/{version}/{stage}/plan.json                            the slots, and what they were planned from
    slots/{name}/{version}/{stage}/{generation}/{slot}.json             the manifest of a slot
    slots/{name}/{version}/{stage}/{generation}/shards/{slot}-….parquet its shard, named by the digest
    slots/{name}/{version}/{stage}/{generation}/conflicts/{slot}-….json an attempt that came second with other bytes
    slots/{name}/{version}/{stage}/{generation}/ledgers/….parquet       rows of many manifests in one file (see `slot_rows`)

The generation is the plan's digest: an attempt that still works on a plan that was replaced reports where nobody looks.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from .errors import CorruptInput, DriftError
from .fingerprint import canonical_json, file_digest
from .places import Place
from .records import ArtifactRef

SLOTS = "slots"
"""The folder of all sets, in the catalog."""
PLAN = "plan.json"
FORMAT = 1
"""Of plans, manifests and conflicts."""
SLOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
"""Form of a slot's id, and of a stage's name: a file's name everywhere."""
SHA256 = re.compile(r"[0-9a-f]{64}")
NAMED_DIGITS = 12
"""Hex digits of a digest in a file's name."""
_OPENING, _HEAD = b'{"digest":"', 77


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Documents of a slot that have this language, source, split and crawl."""

    language: str
    """ISO 639-3, or `code`."""
    source: str = ""
    """The recipe's source."""
    split: str = ""
    """`train` or `heldout`."""
    crawl: str = ""
    """`CC-MAIN-2024-10`, empty when it is not from one."""
    documents: int = 0
    """Documents."""
    characters: int = 0
    """Unicode code points of their texts."""
    bytes: int = 0
    """UTF-8 bytes of their texts."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokenizer to their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Documents of a slot that came into, went out of, or were removed by one step."""

    step: int
    """Its place in the order of the steps."""
    step_name: str
    """Its name."""
    source: str = ""
    """The recipe's source."""
    language: str = ""
    """ISO 639-3, empty before it is known."""
    outcome: str
    """`in`, `out` or `removed`."""
    reason: str = ""
    """The rule that removed them."""
    documents: int
    """Documents."""
    bytes: int = 0
    """UTF-8 bytes of their texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one attempt at a slot reports."""

    slot: str
    """Id of the slot."""
    sha256: str = ""
    """Digest of its output: of the shard, or of whatever it wrote. Taken from the shard when there is one."""
    bytes: int = 0
    """Size of its output, taken from the shard when there is one."""
    documents: int = 0
    """Documents in its output."""
    seconds: float = 0.0
    """Wall time."""
    path: str = ""
    """The shard, relative to the catalog; empty when the output is no shard of the set."""
    reported: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    """UTC, ISO 8601, by the writer's clock: for people, nothing is decided by it."""
    attempt: str = field(default_factory=lambda: secrets.token_hex(8))
    """Drawn at random, another one for each attempt."""
    counts: tuple[Count, ...] = ()
    """Its documents by language, source, split and crawl."""
    flow: tuple[Flow, ...] = ()
    """What its steps removed."""


Report = Literal["first", "same", "conflict"]
"""`first`: the manifest is in. `same`: another attempt was first, with these bytes. `conflict`: with other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was planned for one stage of an artifact."""

    ref: str
    """The artifact, `name@version`."""
    stage: str
    """The stage of its making."""
    fingerprint: str
    """Of what the slots were planned from."""
    created: str
    """UTC, ISO 8601, by the planner's clock."""
    slots: dict[str, str]
    """Id to label, ordered by id."""
    digest: str
    """Of the plan; names its generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSet:
    """The slots of one stage of one artifact. Goes to workers as it is."""

    place: Place
    """The catalog."""
    ref: str
    """The artifact, `name@version`."""
    stage: str
    """The stage of its making."""
    generation: str = ""
    """Which plan is meant; empty for the one that is there."""

    def __post_init__(self) -> None:
        ArtifactRef.parse(self.ref)
        if not SLOT.fullmatch(self.stage):
            raise ValueError(f"{self.stage!r} is no name of a stage")

    @property
    def folder(self) -> str:
        """Where the set is, relative to the catalog."""
        ref = ArtifactRef.parse(self.ref)
        return f"{SLOTS}/{ref.name}/{ref.version}/{self.stage}"

    def plan(self, slots: Iterable[tuple[str, str]], fingerprint: str, *, replaces: bool = False) -> SlotSet:
        """Write down the slots (id, label), once; returns the set that workers report to.

        The same plan again is fine, also from several planners at once. Another one is a DriftError, unless it `replaces`: the
        version is `dev`, or still being made by who asks. What was reported to the old plan is dropped then.
        """
        planned = sorted((slot, label.encode("utf-8", "backslashreplace").decode()) for slot, label in slots)
        if len({slot for slot, _ in planned}) < len(planned) or not all(SLOT.fullmatch(slot) for slot, _ in planned):
            raise ValueError(f"{self.ref} {self.stage}: a slot's id is unique and matches {SLOT.pattern}")
        path, created = f"{self.folder}/{PLAN}", datetime.now(UTC).isoformat(timespec="microseconds")
        value = {"fingerprint": fingerprint, "format": FORMAT, "ref": self.ref, "slots": planned, "stage": self.stage}
        data = sealed(value | {"created": created})
        if not self.place.create(path, data):
            if there := self._planned_before(fingerprint, planned, replaces):
                return replace(self, generation=there[:NAMED_DIGITS])
            self.place.write(path, data)
        now = replace(self, generation=digest_of(data)[:NAMED_DIGITS])
        for file in list(self.place.files(self.folder)) if replaces else ():
            if not file.path.startswith((f"{now.folder}/{now.generation}/", path)):
                self.place.remove(file.path)
        return now

    def _planned_before(self, fingerprint: str, planned: list[tuple[str, str]], replaces: bool) -> str:
        """The digest of the plan that is there, empty when it may be replaced."""
        try:
            there = read_plan(self.place, self.folder)
        except CorruptInput:
            if replaces:
                return ""
            raise
        if (there.fingerprint, [*there.slots.items()]) == (fingerprint, planned):
            return there.digest
        if replaces:
            return ""
        sides = (("fingerprint", there.fingerprint, fingerprint), ("slots", len(there.slots), len(planned)))
        change = [f"{name}: {old} -> {new}" for name, old, new in sides if old != new]
        raise DriftError(f"{self.ref} {self.stage}", change or ["slots: others, or with other labels"])

    def report(self, manifest: Manifest, shard: Path | bytes | None = None) -> Report:
        """Hand in what an attempt at a slot made. The shard is in place before the manifest that names it."""
        home = f"{self.folder}/{self.generation or self._current()}"
        if shard is not None:
            digest, size = _digest_and_size(shard)
            path = f"{home}/{shard_name(manifest.slot, digest)}"
            manifest = replace(manifest, path=path, sha256=digest, bytes=size)
            found = self.place.found(path)
            if found is None or found.bytes != size:
                self.place.write(path, shard) if isinstance(shard, bytes) else self.place.put(path, shard)
        data = sealed(_manifest_json(manifest, self.ref, self.stage))
        path = f"{home}/{manifest.slot}.json"
        if self.place.create(path, data) or (kept := self.place.read(path)) == data:  # the answer to the first can be lost
            return "first"
        kept_sha256 = _sha256_in(kept)
        if kept_sha256 == manifest.sha256:
            return "same"
        conflict = {
            "attempt": manifest.attempt, "format": FORMAT, "kept_sha256": kept_sha256, "ref": self.ref,
            "reported": manifest.reported, "sha256": manifest.sha256, "slot": manifest.slot, "stage": self.stage,
        }  # fmt: skip
        self.place.create(f"{home}/{conflict_name(manifest.slot, manifest.sha256)}", sealed(conflict))
        return "conflict"

    def reported(self) -> set[str]:
        """The slots that have a manifest."""
        names = self.place.names(f"{self.folder}/{self.generation or self._current()}")
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def _current(self) -> str:
        """The generation of the plan that is there, from the first bytes of what may be a long file."""
        path = f"{self.folder}/{PLAN}"
        with self.place.open(path) as file:
            head = file.read(_HEAD)
        if not (head.startswith(_OPENING) and SHA256.fullmatch(head[len(_OPENING) : -2].decode("ascii", "replace"))):
            raise CorruptInput(path, "", "is not a plan of slots")
        return digest_of(head)[:NAMED_DIGITS]


def slot_sets(place: Place) -> Iterator[tuple[str, str, str]]:
    """The folder, artifact and stage of every set of a catalog."""
    waiting = [SLOTS]
    while waiting:
        folder = waiting.pop()
        folders, files = place.listing(folder)
        if PLAN in files:
            name, _, rest = folder.removeprefix(f"{SLOTS}/").rpartition("/")[0].rpartition("/")
            yield folder, f"{name}@{rest}", folder.rpartition("/")[2]
        else:
            waiting += [f"{folder}/{inner}" for inner in sorted(folders, reverse=True)]


def read_plan(place: Place, folder: str) -> Plan:
    """The plan of a set; raises CorruptInput when it is not what was written, or claims to be another set's."""
    path = f"{folder}/{PLAN}"
    data = place.read(path)
    try:
        value = json.loads(unsealed(data))
        plan = Plan(
            ref=value["ref"], stage=value["stage"], fingerprint=value["fingerprint"], created=value["created"],
            slots=dict(value["slots"]), digest=digest_of(data),
        )  # fmt: skip
        texts = (plan.fingerprint, *plan.slots, *plan.slots.values())
        if value["format"] != FORMAT or not all(isinstance(text, str) for text in texts):
            raise ValueError("is of a format that this version does not know")
        if SlotSet(place=place, ref=plan.ref, stage=plan.stage).folder != folder:
            raise ValueError(f"claims to be the plan of {plan.ref}, {plan.stage}")
        if not (all(map(SLOT.fullmatch, plan.slots)) and datetime.fromisoformat(plan.created).tzinfo):
            raise ValueError("has a slot's id, or a time, of another form")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        problem = str(error) if isinstance(error, ValueError) else "is not a plan of slots"
        raise CorruptInput(path, "", problem) from error
    return plan


def shard_name(slot: str, digest: str) -> str:
    """The shard of a slot, relative to the folder of its generation."""
    return f"shards/{slot}-{digest[:NAMED_DIGITS]}.parquet"


def conflict_name(slot: str, digest: str) -> str:
    """A conflict at a slot, relative to the folder of its generation."""
    return f"conflicts/{slot}-{digest[:NAMED_DIGITS]}.json"


def sealed(value: Mapping[str, Any]) -> bytes:
    """A record as JSON that begins with the digest of all that follows: no byte of it can change unnoticed."""
    body = canonical_json(dict(value)).encode()
    return b'{"digest":"%s",%s' % (sha256(body).hexdigest().encode(), body[1:])


def unsealed(data: bytes) -> bytes:
    """The JSON of a sealed record without its digest; raises ValueError when that differs."""
    body = b"{" + data[_HEAD:]
    if not data.startswith(_OPENING) or data[_HEAD - 2 : _HEAD] != b'",' or digest_of(data) != sha256(body).hexdigest():
        raise ValueError("is not what was written (its digest differs)")
    return body


def digest_of(data: bytes) -> str:
    """The digest that a sealed record begins with."""
    return data[len(_OPENING) : _HEAD - 2].decode("ascii", "replace")


def _digest_and_size(shard: Path | bytes) -> tuple[str, int]:
    if isinstance(shard, bytes):
        return sha256(shard).hexdigest(), len(shard)
    return file_digest(shard), shard.stat().st_size


def _manifest_json(manifest: Manifest, ref: str, stage: str) -> dict[str, Any]:
    """A manifest with its rows as columns, which is shorter and many times faster to read."""
    numbers = (manifest.bytes, manifest.documents, manifest.seconds)
    if not SLOT.fullmatch(manifest.slot) or not SHA256.fullmatch(manifest.sha256) or min(numbers) < 0:
        raise ValueError(f"slot {manifest.slot!r}: needs an id of the form {SLOT.pattern}, a sha256 and numbers from 0 up")
    value = {name: getattr(manifest, name) for name in ("slot", "sha256", "bytes", "documents", "seconds", "path", "reported")}
    flow = [asdict(row) for row in manifest.flow]
    counts = [asdict(row) for row in manifest.counts]
    tokens = [row | {"tokenizer": name, "tokens": n} for row in counts for name, n in row["tokens"].items()]
    rows = {"counts": (COUNTS, counts), "tokens": (TOKENS, tokens), "flow": (FLOW, flow)}
    columns = {name: {column: [row[column] for row in some] for column in wanted} for name, (wanted, some) in rows.items()}
    return value | {"attempt": manifest.attempt, "format": FORMAT, "ref": ref, "stage": stage} | columns


COUNTS = ("language", "source", "split", "crawl", "documents", "characters", "bytes")
TOKENS = ("language", "source", "split", "crawl", "tokenizer", "tokens")
FLOW = ("step", "step_name", "source", "language", "outcome", "reason", "documents", "bytes")
"""Columns of a manifest's tables."""


def _sha256_in(data: bytes) -> str:
    """The digest of the output that a manifest names, empty when the manifest is damaged: fsck says so."""
    try:
        found = json.loads(unsealed(data))["sha256"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(found)
