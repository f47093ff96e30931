"""Conversations and preference pairs are read strictly, or with their bad rows counted, and gathered in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Conversations
from sea_lion.catalog.store import Options, Store
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.conversations import (
    FILE,
    LEDGER,
    MESSAGES_SCHEMA,
    REJECTED,
    Settings,
    file_language,
    gather,
    gather_conversations,
    read_rows,
)
from sea_lion.data.decontaminate import Item, NgramIndex
from sea_lion.data.sample_crawl import SAMPLE

USER, ASSISTANT = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
MESSAGES, PAIRS = Settings(form="messages"), Settings(form="preference")
PAIR = {"prompt": "What is 2 + 2?", "chosen": "4.", "rejected": "5."}


def recipe_of(form: Any, *files: str) -> ConversationsRecipe:
    """A recipe over these patterns."""
    return ConversationsRecipe(kind="conversations", name="conversations/few", version="1", form=form, files=files)


def said(*texts: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


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
    row = {"id": "id-0001", "language": "ind", **PAIR, "turn_languages": ["", "", ""], "licence": ""}
    assert pq.read_table(store.folder(artifact.ref) / FILE).to_pylist() == [row]


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
        list(read_rows(path, MESSAGES))
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
        list(read_rows(path, PAIRS))
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
        list(read_rows(path, MESSAGES))
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
        list(read_rows(path, MESSAGES))


def test_the_package_s_own_sets_are_good() -> None:
    for name in LANGUAGES:
        assert len(list(read_rows(SAMPLE / "conversations" / f"{name}.jsonl", MESSAGES))) >= 20
        assert len(list(read_rows(SAMPLE / "preferences" / f"{name}.jsonl", PAIRS))) >= 10
    assert len(list(read_rows(SAMPLE / "conversations" / "general.jsonl", MESSAGES))) == 60
    maths = list(read_rows(SAMPLE / "conversations" / "maths.jsonl", MESSAGES))
    assert len({row["messages"][0]["content"] for row in maths}) == 120


# -- languages, licences, evaluation items, duplicates -------------------------------------------------------------------------

ALPACA = {"instruction": "Hello?", "input": "", "output": "Hello."}

THAI = "ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า มีผักสดและขนมไทยให้เลือกมากมาย"
VIETNAMESE = "Thư viện của thị trấn là một ngôi nhà hai tầng sơn vàng, mở cửa từ thứ hai đến thứ bảy."


def test_the_language_of_every_turn_is_noted_and_can_be_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mixed.jsonl", {"messages": said("Translate this into Thai for me, please, it is urgent.", THAI)},
        {"messages": said("Ok?", "4")}, {"messages": said(VIETNAMESE, "4")}, {"lang": "id", "messages": said("Apa?", "Ya")},
    )  # fmt: skip
    settings = Settings(form="messages", layout="auto", language="identify", language_column="lang")
    rows = list(read_rows(path, settings))
    assert [row["language"] for row in rows] == ["tha", "und", "vie", "ind"]
    assert [row["turn_languages"] for row in rows] == [["eng", "tha"], ["", ""], ["vie", ""], ["", ""]]
    wanted = Settings(form="messages", layout="auto", language="identify", languages=("tha", "vie"))
    assert gather([path], tmp_path, wanted) == {"tha": 1, "vie": 1}
    assert pq.read_table(tmp_path / REJECTED)["reason"].to_pylist() == ["language_und", "language_und"]
    with pytest.raises(CorruptInput, match="names no language"):
        list(read_rows(path, Settings(form="messages", layout="auto")))


def test_licences_are_checked_row_by_row(tmp_path: Path) -> None:
    rows = [{**ALPACA, "instruction": f"{licence}?", "licence": licence} for licence in ("Apache-2.0", "cc-by-nc-4.0", None)]
    path = write(tmp_path / "eng.jsonl", *rows)
    allowed = {"form": "messages", "layout": "auto", "licences": ("apache-2.0", "CC-BY-4.0"), "licence_column": "licence"}
    with pytest.raises(CorruptInput, match=r"line 2: licence 'cc-by-nc-4.0' is not one of apache-2\.0, CC-BY-4\.0"):
        list(read_rows(path, Settings(**allowed)))  # type: ignore[arg-type]
    settings = Settings(**allowed, bad_rows="count", licence="CC-BY-4.0")  # type: ignore[arg-type]
    assert gather([path], tmp_path, settings) == {"eng": 2}
    assert pq.read_table(tmp_path / FILE)["licence"].to_pylist() == ["Apache-2.0", "CC-BY-4.0"]
    assert pq.read_table(tmp_path / REJECTED)["stage"].to_pylist() == ["licence"]
    with pytest.raises(CorruptInput, match="licence 'none' is not one of"):
        list(read_rows(write(tmp_path / "tha.jsonl", ALPACA), Settings(**allowed)))  # type: ignore[arg-type]


def test_evaluation_items_are_left_out_and_do_not_refuse_the_set(tmp_path: Path) -> None:
    NgramIndex.build([Item("quiz", "7", THAI)], tmp_path / "index")
    path = write(tmp_path / "tha.jsonl", {"messages": said("แปลหน่อย", THAI)}, {"messages": said("แปลหน่อย", VIETNAMESE)})
    assert gather([path], tmp_path, MESSAGES, NgramIndex(tmp_path / "index")) == {"tha": 1}
    [rejected] = pq.read_table(tmp_path / REJECTED).to_pylist()
    assert (rejected["stage"], rejected["reason"]) == ("contamination", "contaminated_quiz")


def test_duplicates_are_left_out_within_a_language(tmp_path: Path) -> None:
    first = write(tmp_path / "eng.jsonl", {"messages": said("Hello?", "Hello.")}, {"messages": said("hello?", " ＨELLO. ")})
    second = write(tmp_path / "eng-more.jsonl", {"messages": said("Hello?", "Hello!")}, {"messages": said("Hello?", "Hello.")})
    third = write(tmp_path / "tha.jsonl", {"messages": said("Hello?", "Hello.")})
    assert gather([first, second, third], tmp_path, MESSAGES) == {"eng": 2, "tha": 1}
    assert pq.read_table(tmp_path / FILE)["id"].to_pylist() == ["eng-0001", "eng-more-0001", "tha-0001"]
    rejected = [(row["file"], row["place"], row["detail"]) for row in pq.read_table(tmp_path / REJECTED).to_pylist()]
    assert rejected == [("eng", "0002", "of eng-0001"), ("eng-more", "0002", "of eng-0001")]
    assert gather([first, second], tmp_path, Settings(form="messages", deduplicate=False)) == {"eng": 4}
    pair = write(tmp_path / "vie.jsonl", PAIR, {**PAIR, "prompt": "What  is 2 + 2?"}, {**PAIR, "chosen": "4"})
    assert gather([pair], tmp_path, PAIRS) == {"vie": 2}


def test_the_ledger_balances_by_file(tmp_path: Path) -> None:
    files = [
        write(
            tmp_path / f"{name}.jsonl", *({"messages": said(f"{number % 7}?", name)} for number in range(30)), {"messages": 3}
        )
        for name in ("tha", "vie")
    ]
    assert gather(files, tmp_path, Settings(form="messages", bad_rows="count")) == {"tha": 7, "vie": 7}
    rows = pq.read_table(tmp_path / LEDGER).to_pylist()
    for name in ("tha", "vie"):
        totals = {outcome: sum(row["rows"] for row in rows if (row["file"], row["outcome"]) == (name, outcome))
                  for outcome in ("in", "removed", "out")}  # fmt: skip
        assert totals == {"in": 31, "removed": 24, "out": 7}
    assert not list(tmp_path.glob("spool*"))


def test_no_row_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = write(tmp_path / "tha.jsonl", {"messages": []}, {"messages": [USER]})
    with pytest.raises(CorruptInput, match=r"no row is left: {'bad_roles': 2}"):
        gather([path], tmp_path, Settings(form="messages", bad_rows="count"))


def test_many_duplicates_in_a_row_over_several_batches(tmp_path: Path) -> None:
    path = write(tmp_path / "eng.jsonl", *({"messages": said(f"{number // 3}?", "Yes.")} for number in range(7000)))
    assert gather([path], tmp_path, MESSAGES) == {"eng": 2334}
    ids = pq.read_table(tmp_path / FILE)["id"].to_pylist()
    assert ids == [f"eng-{number:04}" for number in range(1, 7001, 3)]


MEMORY = """
import sys
from pathlib import Path
from sea_lion.data import conversations
from sea_lion.data.conversations import Settings, gather
conversations.GROUP_CHARACTERS = 1 << 20  # a small set holds many groups
folder = Path(sys.argv[1])
gather([folder / "eng.jsonl"], folder, Settings(form="messages"))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would count the parent's memory
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (1_500, 5_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        text = "0123456789 " * 600
        write(folder / "eng.jsonl", *({"messages": said(f"{number}?", text + str(number))} for number in range(rows)))
        run = subprocess.run([sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout.split()[-1]) / 1024)
    size = (tmp_path / "5000" / "eng.jsonl").stat().st_size / 2**20
    assert size > 30 and peaks[1] - peaks[0] < size / 2, f"peaks of {peaks} MiB"


def test_the_schema_holds_what_the_trainer_reads() -> None:
    assert MESSAGES_SCHEMA.names[:3] == ["id", "language", "messages"]
