"""Conversations and preference pairs are read strictly; a bad row is named."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Conversations
from sea_lion.catalog.store import Options, Store
from sea_lion.data.conversations import FILE, file_language, gather_conversations, read_rows
from sea_lion.data.recipe import ConversationsRecipe
from sea_lion.data.sample_crawl import SAMPLE

USER, ASSISTANT = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = {"prompt": "What is 2 + 2?", "chosen": "4.", "rejected": "5."}


def recipe_of(form: Any, *files: str) -> ConversationsRecipe:
    """A recipe over these patterns."""
    return ConversationsRecipe(kind="conversations", name="conversations/few", version="1", form=form, files=files)


def write(path: Path, *rows: Any) -> Path:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_messages_through_the_store(tmp_path: Path) -> None:
    write(tmp_path / "tha.jsonl", {"messages": [USER, ASSISTANT]}, {"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]})
    write(tmp_path / "general.jsonl", {"messages": [USER, ASSISTANT]})
    store = Store(tmp_path / "artifacts")
    artifact = store.make(recipe_of("messages", "*.jsonl"), tmp_path, gather_conversations, Options())
    assert artifact.body == Conversations(form="messages", rows=3, languages={"eng": 1, "tha": 2})
    rows = pq.read_table(store.folder(artifact.ref) / FILE).to_pylist()
    assert [(row["id"], row["language"]) for row in rows] == [("general-0001", "eng"), ("tha-0001", "tha"), ("tha-0002", "tha")]
    assert rows[2]["messages"] == [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]


def test_preferences_through_the_store(tmp_path: Path) -> None:
    write(tmp_path / "id.jsonl", PAIR)
    store = Store(tmp_path / "artifacts")
    artifact = store.make(recipe_of("preference", "id.jsonl"), tmp_path, gather_conversations, Options())
    assert artifact.body == Conversations(form="preference", rows=1, languages={"ind": 1})
    assert pq.read_table(store.folder(artifact.ref) / FILE).to_pylist() == [{"id": "id-0001", "language": "ind", **PAIR}]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "vie.jsonl", PAIR)
    made = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        artifact = store.make(recipe_of("preference", "vie.jsonl"), tmp_path, gather_conversations, Options())
        made.append((store.folder(artifact.ref) / FILE).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": []}, "roles must alternate"),
        ({"messages": [ASSISTANT, USER]}, "roles must alternate"),
        ({"messages": [USER]}, "end with assistant"),
        ({"messages": [USER, ASSISTANT, SYSTEM]}, "roles must alternate"),
        ({"messages": [SYSTEM]}, "roles must alternate"),
        ({"messages": "Hello"}, "messages must be a list, not str"),
        ({"messages": [USER, {**ASSISTANT, "name": "x"}]}, "exactly the keys role, content, not role, content, name"),
        ({"messages": [USER, {"role": "assistant", "content": "  "}]}, "content must be text that is not empty"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "content must be text that is not empty, not None"),
        ({"messages": [USER, ["assistant", "Hello"]]}, "a message must be an object, not list"),
        ({"messages": [USER, ASSISTANT], "id": 3}, "exactly the keys messages, not messages, id"),
        (PAIR, "exactly the keys messages"),
        ([], "a row must be an object, not list"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path: Path, row: Any, problem: str) -> None:
    path = write(tmp_path / "tha.jsonl", {"messages": [USER, ASSISTANT]}, row)
    with pytest.raises(CorruptInput) as raised:
        read_rows(path, "messages")
    assert str(raised.value).startswith(f"{path}: line 2: ")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**PAIR, "rejected": "4."}, "chosen and rejected are the same"),
        ({**PAIR, "prompt": ""}, "prompt must be text that is not empty, not ''"),
        ({"prompt": "a", "chosen": "b"}, "exactly the keys prompt, chosen, rejected, not prompt, chosen"),
    ],
)
def test_a_bad_pair_is_named(tmp_path: Path, row: Any, problem: str) -> None:
    path = write(tmp_path / "lao.jsonl", row)
    with pytest.raises(CorruptInput, match="line 1: ") as raised:
        read_rows(path, "preference")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"messages": [', "is not JSON"),
        (b"", "is not JSON"),
        (b'{"messages": "\xff"}', "is not UTF-8 at byte 15"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a surrogate pair at character 1"),
    ],
)
def test_a_line_that_is_no_row(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "eng.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(CorruptInput, match="line 1: ") as raised:
        read_rows(path, "messages")
    assert problem in str(raised.value)


def test_a_bad_row_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "tha.jsonl", {"messages": [USER, ASSISTANT]}, {"messages": [USER]})
    with pytest.raises(CorruptInput):
        Store(tmp_path / "artifacts").make(recipe_of("messages", "tha.jsonl"), tmp_path, gather_conversations, Options())
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_names_of_files() -> None:
    names = {"tha": "tha", "id": "ind", "msa": "zsm", "general": "eng", "maths": "eng", "vie-letters": "vie"}
    assert {name: file_language(Path(f"{name}.jsonl")) for name in names} == names
    with pytest.raises(CorruptInput, match="'fra' names no language"):
        file_language(Path("fra.jsonl"))


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "tha.jsonl", PAIR)
    recipe = recipe_of("preference", "a/*.jsonl", "b/*.jsonl")
    with pytest.raises(CorruptInput, match="ids would not be unique"):
        Store(tmp_path / "artifacts").make(recipe, tmp_path, gather_conversations, Options())


def test_an_empty_line_at_the_end_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tha.jsonl"
    path.write_bytes(b"")
    with pytest.raises(CorruptInput, match="holds no row"):
        read_rows(path, "messages")


def test_the_package_s_own_sets_are_good() -> None:
    for name in LANGUAGES:
        assert len(read_rows(SAMPLE / "conversations" / f"{name}.jsonl", "messages")) >= 20
        assert len(read_rows(SAMPLE / "preferences" / f"{name}.jsonl", "preference")) >= 10
    assert len(read_rows(SAMPLE / "conversations" / "general.jsonl", "messages")) == 60
    maths = read_rows(SAMPLE / "conversations" / "maths.jsonl", "messages")
    assert len({row["messages"][0]["content"] for row in maths}) == 120
