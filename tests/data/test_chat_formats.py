"""Every common format of chat and preference data, from every kind of file."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data.conversations import REJECTED, Settings, gather, read_rows

USER, ASSISTANT = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = {"prompt": "What is 2 + 2?", "chosen": "4.", "rejected": "5."}
BRIEF = [SYSTEM, USER, ASSISTANT]
SHAREGPT = {"id": "x", "conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]}
ALPACA = {"instruction": "Hello?", "input": "", "output": "Hello."}


def said(*texts: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def write(path: Path, *rows: Any) -> Path:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": [USER, ASSISTANT], "source": "x"}, [USER, ASSISTANT]),
        ({"messages": [{"role": "developer", "content": "Be brief."}, USER, {**ASSISTANT, "name": "x"}]}, BRIEF),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": text} for text in ("Hel", "lo?")]}, ASSISTANT]},
         [USER, ASSISTANT]),
        (SHAREGPT, [USER, ASSISTANT]),
        ({**SHAREGPT, "system": "Be brief."}, [SYSTEM, USER, ASSISTANT]),
        ({"conversations": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT]),
        (ALPACA, [USER, ASSISTANT]),
        ({"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["Hello?", "Hello."]]},
         [SYSTEM, USER, ASSISTANT, *said("Add.\n\n1, 2", "3")]),
    ],
)  # fmt: skip
def test_formats_of_conversations(tmp_path: Path, row: Any, messages: Any) -> None:
    path = write(tmp_path / "eng.jsonl", row)
    [found] = read_rows(path, Settings(form="messages", layout="auto"))
    assert found["messages"] == messages


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({**PAIR, "score": 3}, PAIR),
        ({"prompt": "What is 2 + 2?", "chosen": said("What is 2 + 2?", "4."), "rejected": said("What is 2 + 2?", "5.")}, PAIR),
        ({"chosen": said("What is 2 + 2?", "4."), "rejected": said("What is 2 + 2?", "5.")}, PAIR),
        ({"prompt": said("What is 2 + 2?"), "chosen": [{"role": "assistant", "content": "4."}], "rejected": "5."}, PAIR),
        ({"prompt": [SYSTEM, *said("a", "b", "c")], "chosen": "4.", "rejected": "5."},
         {**PAIR, "prompt": json.dumps([SYSTEM, *said("a", "b", "c")])}),
        ({"prompt": '[{"role": "x"', "chosen": "4.", "rejected": "5."}, {**PAIR, "prompt": json.dumps(said('[{"role": "x"'))}),
        ({"instruction": "What is 2 + 2?", "completions": [
            {"response": text, "overall_score": score} for text, score in (("6.", 4), ("4.", 9.5), ("5.", 1))
        ]}, PAIR),
    ],
)  # fmt: skip
def test_formats_of_pairs(tmp_path: Path, row: Any, pair: Any) -> None:
    path = write(tmp_path / "eng.jsonl", row)
    [found] = read_rows(path, Settings(form="preference", layout="auto"))
    assert {key: found[key] for key in PAIR} == pair


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "not_an_object"),
        ({"text": "Hello"}, "unknown_format"),
        ({"messages": []}, "bad_roles"),
        ({"messages": None}, "not_a_list"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ASSISTANT]}, "bad_roles"),
        ({"messages": [USER, {"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "bad_roles"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "empty_text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT]}, "not_text"),
        ({"messages": [USER, "Hello."]}, "wrong_keys"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, "bad_roles"),
        ({"instruction": "a", "output": ""}, "empty_text"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "bad_roles"),
        ({"instruction": "a", "output": "\ud800"}, "half_surrogate"),
    ],
)
def test_bad_conversations_have_a_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "eng.jsonl", {"messages": [USER, ASSISTANT]})
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    settings = Settings(form="messages", layout="auto", bad_rows="count")
    assert gather([path], tmp_path, settings) == {"eng": 1}
    [rejected] = pq.read_table(tmp_path / REJECTED).to_pylist()
    assert (rejected["file"], rejected["place"], rejected["stage"], rejected["reason"]) == ("eng", "line 2", "read", reason)
    with pytest.raises(CorruptInput, match="line 2: "):
        list(read_rows(path, Settings(form="messages", layout="auto")))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "same_answers"),
        ({"prompt": "a", "chosen": said("a", "b"), "rejected": said("c", "d")}, "different_prompts"),
        ({"chosen": "b", "rejected": "c"}, "bad_roles"),
        ({"prompt": "a", "chosen": [], "rejected": "c"}, "bad_roles"),
        ({"instruction": "a", "completions": [{"response": "b", "overall_score": 1}]}, "no_preference"),
        (
            {"instruction": "a", "completions": [{"response": "b", "score": 1}, {"response": "c", "score": 1.0}]},
            "no_preference",
        ),
        ({"instruction": "a", "completions": [{"response": "b", "score": "1"}]}, "no_preference"),
        ({"messages": [USER, ASSISTANT]}, "unknown_format"),
    ],
)
def test_bad_pairs_have_a_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "eng.jsonl", row, PAIR)
    assert gather([path], tmp_path, Settings(form="preference", layout="auto", bad_rows="count")) == {"eng": 1}
    assert pq.read_table(tmp_path / REJECTED)["reason"].to_pylist() == [reason]


def test_a_format_that_is_asked_for_is_the_only_one_read(tmp_path: Path) -> None:
    path = write(tmp_path / "eng.jsonl", {**ALPACA, "messages": [USER, ASSISTANT, USER, ASSISTANT]})
    for layout, turns in (("alpaca", 2), ("messages", 4), ("auto", 4)):
        [row] = read_rows(path, Settings(form="messages", layout=layout))
        assert len(row["messages"]) == turns
    with pytest.raises(CorruptInput, match="messages must be a list, not NoneType"):
        list(read_rows(path, Settings(form="messages", layout="sharegpt")))
    with pytest.raises(CorruptInput, match="format 'pairs' holds no messages"):
        list(read_rows(path, Settings(form="messages", layout="pairs")))


# -- files ---------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"messages": said(f"Question {number}?", "ตอบ " * number)} for number in range(1, 90)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    contents = {
        "a.jsonl": lines, "b.jsonl.gz": gzip.compress(lines), "c.jsonl.zst": zstandard.compress(lines),
        "d.jsonl.bz2": bz2.compress(lines), "e.json": json.dumps(rows).encode(), "i.json": lines,
        "g.json": b"\xef\xbb\xbf [ " + b" , \n".join(lines.splitlines()) + b"\n]\n",
        "h.json.gz": gzip.compress(json.dumps(rows, indent=1).encode()),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    settings = Settings(form="messages", language="tha")
    for name in [*contents, "f.parquet"]:
        found = list(read_rows(tmp_path / name, settings))
        assert [row["messages"] for row in found] == [row["messages"] for row in rows], name
        assert found[1]["id"] == f"{name[0]}-0002"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", b'[{"a": 1}, {"a": ]', "element 2: is not JSON"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "element 2: follows"),
        ("a.json", b'[{"a": 1}, ', "element 2: is not JSON"),
        ("a.json", b'[{"a": 1}', "element 2: is missing: the array does not end"),
        ("a.json", b"[" * 100_000, "element 1: is not JSON"),
        ("a.json", b'[{"a": "\xff"}]', "is not UTF-8"),
        ("a.json", b"[]", "holds no row"),
        ("a.parquet", b"PAR1PAR1", "cannot be read as Parquet"),
        ("a.jsonl.gz", gzip.compress(b'{"messages": []}\n' * 50_000)[:-20], "cut short or damaged"),
        ("a.jsonl.zst", zstandard.compress(b'{"messages": []}\n' * 50_000)[:-9], "cut short or damaged"),
    ],
)
def test_a_damaged_file_is_named_whatever_becomes_of_bad_rows(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptInput, match=problem):
        list(read_rows(tmp_path / name, Settings(form="messages", language="tha", bad_rows="count")))


def test_lines_that_cannot_be_read_cost_themselves_only(tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, ASSISTANT]}).encode()
    too_large = b'{"messages": "' + b"x" * (17 << 20) + b'"}'
    (tmp_path / "eng.jsonl").write_bytes(
        b"\n".join([b"\xff", good, b"", b"{", too_large, b"[" * 100_000, good.replace(b"H", b"J")])
    )
    assert gather([tmp_path / "eng.jsonl"], tmp_path, Settings(form="messages", bad_rows="count")) == {"eng": 2}
    rejected = pq.read_table(tmp_path / REJECTED).to_pylist()
    assert [row["reason"] for row in rejected] == ["not_utf8", "not_json", "not_json", "too_large", "not_json"]
