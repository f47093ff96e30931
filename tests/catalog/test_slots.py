"""Slots: planned, reported once, counted once; whatever is killed, altered, repeated or made up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import CorruptInput, DriftError
from sea_lion.catalog.fingerprint import canonical_json
from sea_lion.catalog.places import Place
from sea_lion.catalog.schema import tables
from sea_lion.catalog.slot_rows import MANIFEST, TABLES, Seen, SetRows, fold, set_rows
from sea_lion.catalog.slots import Count, Flow, Manifest, SlotSet, read_plan, sealed, slot_sets, unsealed

REF, STAGE = "corpus/tiny-x@2026.11.1", "clean"
KEY = (REF, STAGE)


def planned(root: Path, slots: int = 4, **options: Any) -> SlotSet:
    names = [(f"slot-{i}", f"file {i}") for i in range(slots)]
    return SlotSet(place=Place.at(root), ref=REF, stage=STAGE).plan(names, "recipe", **options)


def manifest(number: int = 0, **changed: Any) -> Manifest:
    counts = (
        Count(language="khm", source="web", split="train", crawl="CC-MAIN-2024-10", documents=3, characters=30, bytes=90,
              tokens={"tokenizer/a@1": 7, "tokenizer/b@1": 9}),
        Count(language="lao", source="web", documents=number),
    )  # fmt: skip
    removed = Flow(step=1, step_name="quality", source="web", language="khm", outcome="removed", reason="short", documents=2)
    given: dict[str, Any] = {
        "slot": f"slot-{number}",
        "documents": 3 + number,
        "seconds": 1.5,
        "counts": counts,
        "flow": (removed,),
    } | changed
    return Manifest(**given)


def seen(rows: SetRows) -> dict[tuple[str, str], Seen]:
    """What an index has that took these rows."""
    state = rows.tables["slot_sets"]["state"][0].as_py()
    conflicts = rows.tables["slot_conflicts"].to_pylist()
    names = {f"conflicts/{row['slot']}-{row['sha256'][:12]}" for row in conflicts} | set(
        rows.tables["slots"]["slot"].to_pylist()
    )
    return {KEY: (state, frozenset(names))}


def lengths(rows: SetRows) -> dict[str, int]:
    return {name: len(table) for name, table in rows.tables.items() if len(table)}


def test_what_is_reported_is_what_is_read(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    assert slots.report(manifest(2), b"shard") == "first"
    rows = set_rows(slots.place, {})
    assert lengths(rows) == {"slot_sets": 1, "slots": 1, "slot_counts": 2, "slot_tokens": 2, "slot_flow": 1}
    assert rows.problems == [] and rows.stale == [] and all(rows.tables[name].schema == tables()[name] for name in rows.tables)
    (row,) = rows.tables["slots"].to_pylist()
    digest = sha256(b"shard").hexdigest()
    assert row | {"reported": None, "attempt": None} == {
        "ref": REF, "stage": STAGE, "slot": "slot-2", "label": "file 2", "sha256": digest, "bytes": 5, "documents": 5,
        "path": f"{slots.folder}/{slots.generation}/shards/slot-2-{digest[:12]}.parquet", "seconds": 1.5, "reported": None,
        "attempt": None,
    }  # fmt: skip
    assert (tmp_path / row["path"]).read_bytes() == b"shard"
    assert [row["tokens"] for row in rows.tables["slot_tokens"].to_pylist()] == [7, 9]
    assert rows.tables["slot_flow"].to_pylist()[0]["reason"] == "short"
    assert rows.tables["slot_sets"].to_pylist()[0]["planned"] == 4


def test_a_manifest_has_the_columns_of_the_index() -> None:
    for name, table in TABLES.items():
        mine = [field.name for field in MANIFEST.field(name).type]
        assert ["ref", "stage", "slot", *mine] == tables()[table].names


def test_the_first_attempt_counts_and_a_later_one_is_kept_aside(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    assert slots.report(manifest(0), b"one") == "first"
    assert slots.report(manifest(0), b"one") == "same"
    assert slots.report(manifest(0, documents=99), b"two") == "conflict"
    assert slots.report(manifest(0, documents=99), b"two") == "conflict"
    rows = set_rows(slots.place, {})
    assert [row["documents"] for row in rows.tables["slots"].to_pylist()] == [3]
    (conflict,) = rows.tables["slot_conflicts"].to_pylist()
    assert (conflict["sha256"], conflict["kept_sha256"]) == (sha256(b"two").hexdigest(), sha256(b"one").hexdigest())
    assert lengths(set_rows(slots.place, seen(rows))) == {}
    slots.report(manifest(0), b"three")
    assert lengths(set_rows(slots.place, seen(rows))) == {"slot_conflicts": 1}


def test_a_lost_answer_is_not_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots, given = planned(tmp_path), manifest(0, sha256="a" * 64)
    place = type(slots.place)
    create = place.create
    monkeypatch.setattr(place, "create", lambda *given: create(*given) and False)  # the file is there, the answer is not
    assert slots.report(given) == "first"


def test_empty_shards_with_the_same_bytes_are_slots_of_their_own(tmp_path: Path) -> None:
    slots = planned(tmp_path, 10)
    for number in range(10):
        assert slots.report(manifest(number), b"") == "first"
    assert lengths(set_rows(slots.place, {}))["slots"] == 10


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    assert planned(tmp_path).generation == slots.generation
    assert SlotSet(place=slots.place, ref=REF, stage=STAGE).reported() == set()
    with pytest.raises(DriftError, match="slots: 4 -> 5; raise the version"):
        planned(tmp_path, 5)
    with pytest.raises(DriftError, match="fingerprint: recipe -> other"):
        SlotSet(place=slots.place, ref=REF, stage=STAGE).plan([("slot-0", "")], "other")
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda _: planned(tmp_path / "race"), range(8)))
    assert len({plan.generation for plan in plans}) == 1
    for name in ("", "a/b", "..", "x" * 121, ".hidden"):
        with pytest.raises(ValueError, match="id is unique"):
            SlotSet(place=slots.place, ref=REF, stage="other").plan([(name, "")], "")


def test_a_plan_that_is_replaced_takes_what_was_reported_with_it(tmp_path: Path) -> None:
    old = planned(tmp_path)
    old.report(manifest(0), b"old")
    known = seen(set_rows(old.place, {}))
    new = planned(tmp_path, 6, replaces=True)
    assert old.report(manifest(1), b"late") == "first"  # where nobody looks
    rows = set_rows(new.place, known)
    assert rows.stale == [KEY] and lengths(rows) == {"slot_sets": 1}
    new.report(manifest(1), b"new")
    assert set_rows(new.place, seen(rows)).tables["slots"]["sha256"].to_pylist() == [sha256(b"new").hexdigest()]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    slots = planned(tmp_path, 6)
    for number in range(4):
        slots.report(manifest(number), b"x")
    known = seen(set_rows(slots.place, {}))
    assert lengths(set_rows(slots.place, known)) == {}
    slots.report(manifest(5), b"x")
    assert set_rows(slots.place, known).tables["slots"]["slot"].to_pylist() == ["slot-5"]
    (tmp_path / slots.folder / slots.generation / "slot-1.json").unlink()
    rows = set_rows(slots.place, known)
    assert rows.stale == [KEY] and set(rows.tables["slots"]["slot"].to_pylist()) == {"slot-0", "slot-2", "slot-3", "slot-5"}
    for path in sorted((tmp_path / slots.folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert set_rows(slots.place, known).stale == [KEY]


def test_one_altered_byte_costs_that_manifest_only(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    for number in range(3):
        slots.report(manifest(number), b"x")
    path = tmp_path / slots.folder / slots.generation / "slot-1.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        with pytest.raises(ValueError, match="digest differs"):
            unsealed(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    for altered in (whole[:-1], whole + b"\n", b"", whole.replace(b'"documents":4', b'"documents":5')):
        path.write_bytes(altered)
        rows = set_rows(slots.place, {})
        assert set(rows.tables["slots"]["slot"].to_pylist()) == {"slot-0", "slot-2"}
        assert [(problem[0], "digest differs" in problem[1]) for problem in rows.problems] == [
            (path.relative_to(tmp_path).as_posix(), True)
        ]


MADE_UP: dict[str, Callable[[dict[str, Any]], Any]] = {
    "outside": lambda m: m | {"path": "../../etc/passwd"},
    "another's shard": lambda m: m | {"path": m["path"].replace("slot-1", "slot-2")},
    "another slot": lambda m: m | {"slot": "slot-2"},
    "another set": lambda m: m | {"ref": "corpus/other@1"},
    "a negative count": lambda m: m | {"documents": -1},
    "too large": lambda m: m | {"documents": 1 << 63},
    "a number as text": lambda m: m | {"documents": "4"},
    "a truth value": lambda m: m | {"documents": True},
    "a missing field": lambda m: {key: value for key, value in m.items() if key != "attempt"},
    "an empty field": lambda m: m | {"attempt": None},
    "another field": lambda m: m | {"hello": 1},
    "no digest": lambda m: m | {"sha256": "x"},
    "no time": lambda m: m | {"reported": "yesterday"},
    "a time without zone": lambda m: m | {"reported": "2026-11-01T00:00:00"},
    "columns of other lengths": lambda m: m | {"counts": m["counts"] | {"language": ["tha"]}},
    "an empty cell": lambda m: m | {"counts": m["counts"] | {"language": ["tha", None]}},
    "a negative cell": lambda m: m | {"flow": m["flow"] | {"documents": [-2]}},
    "a newer format": lambda m: m | {"format": 2},
    "no object": lambda m: [1, 2],
}


@pytest.mark.parametrize("name", MADE_UP)
def test_a_sealed_manifest_with_wrong_content_is_a_problem_and_no_row(tmp_path: Path, name: str) -> None:
    slots = planned(tmp_path)
    for number in range(3):
        slots.report(manifest(number), b"x")
    path = tmp_path / slots.folder / slots.generation / "slot-1.json"
    body = canonical_json(MADE_UP[name](json.loads(unsealed(path.read_bytes())))).encode()
    path.write_bytes(b'{"digest":"%s",%s' % (sha256(b"{" + body[1:]).hexdigest().encode(), body[1:]))
    rows = set_rows(slots.place, {})
    assert set(rows.tables["slots"]["slot"].to_pylist()) == {"slot-0", "slot-2"}
    assert lengths(rows)["slot_counts"] == 4
    ((where, problem),) = rows.problems
    assert where.endswith("/slot-1.json") and "\n" not in problem


@pytest.mark.parametrize("tail", [b'"a":"\xff"}', b'"a":' + b"[" * 100_000, b'"a":1}\n{"b":2}', b'"attempt":"\\ud800"}'])
def test_bytes_that_are_no_manifest_are_a_problem(tmp_path: Path, tail: bytes) -> None:
    slots = planned(tmp_path)
    slots.report(manifest(0), b"x")
    path = tmp_path / slots.folder / slots.generation / "slot-1.json"
    path.write_bytes(b'{"digest":"%s",%s' % (sha256(b"{" + tail).hexdigest().encode(), tail))
    rows = set_rows(slots.place, {})
    assert rows.tables["slots"]["slot"].to_pylist() == ["slot-0"] and len(rows.problems) == 1


def test_a_slot_nobody_planned_and_links_are_problems(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    assert slots.report(manifest(7), b"x") == "first"
    (tmp_path / "outside.json").write_bytes((tmp_path / slots.folder / slots.generation / "slot-7.json").read_bytes())
    (tmp_path / slots.folder / slots.generation / "slot-2.json").symlink_to(tmp_path / "outside.json")
    rows = set_rows(slots.place, {})
    assert lengths(rows) == {"slot_sets": 1}
    assert sorted(path.rpartition("/")[2] for path, _ in rows.problems) == ["slot-2.json", "slot-7.json"]
    assert any("slot-7 is not planned" in problem for _, problem in rows.problems)


def test_a_damaged_plan_costs_its_set_only(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    slots.report(manifest(0), b"x")
    known = seen(set_rows(slots.place, {}))
    other = SlotSet(place=slots.place, ref="corpus/other@1", stage="clean").plan([("slot-0", "")], "")
    other.report(manifest(0), b"x")
    path = tmp_path / slots.folder / "plan.json"
    whole = path.read_bytes()
    for altered in (whole.replace(b"file 1", b"file 9"), b"", (tmp_path / other.folder / "plan.json").read_bytes()):
        path.write_bytes(altered)
        rows = set_rows(slots.place, known)
        assert rows.stale == [KEY] and rows.tables["slots"]["ref"].to_pylist() == ["corpus/other@1"]
        assert [where for where, _ in rows.problems] == [f"{slots.folder}/plan.json"]
        with pytest.raises(CorruptInput):
            read_plan(slots.place, slots.folder)
    with pytest.raises(CorruptInput):
        planned(tmp_path)
    assert planned(tmp_path, replaces=True).reported() == set()


def test_labels_and_names_of_others_stay_text(tmp_path: Path) -> None:
    label = "ไฟล์ '); DROP TABLE slots;-- <script>\x1b[31m\udcff"
    slots = SlotSet(place=Place.at(tmp_path), ref=REF, stage=STAGE).plan([("slot-0", label)], "")
    slots.report(manifest(0, counts=(Count(language="'; --", documents=1),)), b"x")
    rows = set_rows(slots.place, {})
    assert rows.tables["slots"]["label"].to_pylist() == [label.replace("\udcff", "\\udcff")]
    assert rows.tables["slot_counts"]["language"].to_pylist() == ["'; --"]


def test_wrong_manifests_are_the_caller_s_bug(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    for wrong in (manifest(0), manifest(0, slot="../x", sha256="a" * 64), manifest(0, sha256="a" * 64, bytes=-1)):
        with pytest.raises(ValueError, match="needs an id"):
            slots.report(wrong)


def test_ledgers_give_the_same_rows_and_a_damaged_one_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sea_lion.catalog.slot_rows.BATCH", 20)
    slots = planned(tmp_path, 60)
    for number in range(40):
        slots.report(manifest(number), b"x")
    whole = set_rows(slots.place, {})
    assert fold(slots.place, slots.folder, at_least=100) == 0
    assert fold(slots.place, slots.folder, at_least=10) == 40
    assert fold(slots.place, slots.folder, at_least=1) == 0
    home = tmp_path / slots.folder / slots.generation
    kept = {path.name: path.read_bytes() for path in home.glob("slot-*.json")}
    for path in home.glob("slot-*.json"):
        path.write_bytes(b"not read")
    folded = set_rows(slots.place, {})
    assert folded.problems == [] and {name: sorted(map(str, t.to_pylist())) for name, t in folded.tables.items()} == {
        name: sorted(map(str, t.to_pylist())) for name, t in whole.tables.items()
    }
    for name, data in kept.items():
        (home / name).write_bytes(data)
    slots.report(manifest(50), b"x")
    assert len(set_rows(slots.place, {}).tables["slots"]) == 41
    (ledger,) = home.glob("ledgers/*.parquet")
    ledger.write_bytes(ledger.read_bytes()[:-1] + b"x")
    rows = set_rows(slots.place, {})
    assert len(rows.tables["slots"]) == 41 and [problem for _, problem in rows.problems] == [
        "is not a ledger: its digest differs"
    ]


def test_sets_are_found_by_their_plans(tmp_path: Path) -> None:
    slots = planned(tmp_path)
    replace(slots, ref="corpus/a/b@dev", stage="write").plan([("x", "")], "")
    (tmp_path / "slots" / "stray").mkdir()
    assert sorted((ref, stage) for _, ref, stage in slot_sets(slots.place)) == [("corpus/a/b@dev", "write"), KEY]
    assert list(slot_sets(Place.at(tmp_path / "none"))) == []


def test_the_seal_covers_every_byte() -> None:
    value = {"a": 1, "b": "ก"}
    assert json.loads(unsealed(sealed(value))) == value and json.loads(sealed(value)).keys() == {"a", "b", "digest"}


def test_counts_are_exact_whatever_is_killed() -> None:
    """The short form of the acceptance run (`crash_slots.py --minutes 10`)."""
    script = Path(__file__).with_name("crash_slots.py")
    done = subprocess.run([sys.executable, str(script), "--minutes", "0.05"], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    assert done.returncode == 0 and said["wrong"] == [], (said, done.stderr)
    assert said["attempts killed"] > 0 and said["ingests"] > 0 and said["slots"] == said["planned"]
