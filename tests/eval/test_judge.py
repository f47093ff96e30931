"""Judges: against a real server on this machine that misbehaves, with a tiny random Llama, and from recorded judgements."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.eval.endpoint import Unanswered
from sea_lion.eval.family import Message
from sea_lion.eval.judge import JudgeSettings, judged, judgement_key, open_judge, read_judge
from sea_lion.eval.judgements import Judgements, recorded_judgements

from .chat_server import ChatServer, chat_server


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


def settings(server: ChatServer | None = None, **changes: Any) -> JudgeSettings:
    url = f"{server.url}/v1" if server else "http://127.0.0.1:9/v1"
    usual: dict[str, Any] = {
        "kind": "endpoint",
        "model": "a/judge",
        "url": url,
        "timeout": 5.0,
        "tries": 2,
        "longest_pause": 0.01,
    }
    return JudgeSettings(**usual | changes)


def conversations(number: int) -> list[tuple[Message, ...]]:
    return [(Message(role="system", content="Judge."), Message(role="user", content=f"pair {i}")) for i in range(number)]


def echo(messages: list[dict[str, str]]) -> str:
    return f"seen {messages[-1]['content']}"


def test_judgements_come_in_order_and_are_never_asked_for_twice(server: ChatServer, tmp_path: Path) -> None:
    server.reply, server.mode = echo, "slow"
    judge = open_judge(settings(server, concurrency=4, reasoning_effort="high"))
    asked = [*conversations(9), *conversations(3)]
    with_file = Judgements(tmp_path / "judgements.sqlite")
    assert judged(judge, asked, with_file) == [f"seen pair {i}" for i in [*range(9), *range(3)]]
    assert len(server.requests) == 9, "equal conversations are one judgement"
    assert 1 < server.most_at_once <= 4
    body = server.requests[0]
    assert body.pop("messages")[0] == {"role": "system", "content": "Judge."}
    assert body == {"model": "a/judge", "temperature": 0.0, "max_tokens": 2048, "seed": 1234, "reasoning_effort": "high"}
    with_file.close()
    server.mode = "500"
    again = judged(judge, asked, Judgements(tmp_path / "judgements.sqlite"))
    assert again[0] == "seen pair 0" and len(server.requests) == 9


def test_another_judge_other_settings_or_another_answer_is_another_judgement(server: ChatServer) -> None:
    first, second = conversations(2)
    usual = settings(server)
    key = judgement_key(usual.identity, first)
    assert key != judgement_key(usual.identity, second)
    for change in ({"model": "b/judge"}, {"temperature": 0.5}, {"max_tokens": 9}, {"seed": 1}, {"reasoning_effort": "low"}):
        assert judgement_key(settings(server, **change).identity, first) != key, change
    for change in ({"url": "https://elsewhere/v1"}, {"timeout": 9.0}, {"concurrency": 1}, {"api_key_env": "KEY"}, {"tries": 9}):
        assert judgement_key(settings(server, **change).identity, first) == key, change


@pytest.mark.parametrize(
    ("mode", "said", "tries"),
    [
        ("500", "status 500", 2),
        ("garbage", "an answer that is not what was asked for", 2),
        ("timeout", "no answer in time", 2),
        ("refuse", "it refuses with status 401", 1),
    ],
)
def test_a_judge_that_fails_is_one_clear_line_and_nothing_is_lost(
    server: ChatServer, tmp_path: Path, mode: Any, said: str, tries: int
) -> None:
    server.mode, server.fails_from = mode, 3
    judge = open_judge(settings(server, concurrency=1, timeout=0.3))
    kept = Judgements(tmp_path / "judgements.sqlite")
    with pytest.raises(Unanswered, match="7 of 10 questions have no answer; the others are kept; run again") as raised:
        judged(judge, conversations(10), kept)
    assert said in str(raised.value) and "a/judge" in str(raised.value) and "\n" not in str(raised.value)
    assert len(server.requests) == 3 + tries, "the first question that stays open ends the round"
    assert "127.0.0.1" not in str(raised.value)
    server.mode = "good"
    server.requests.clear()
    assert len(judged(judge, conversations(10), kept)) == 10
    assert len(server.requests) == 7


def test_a_busy_server_is_asked_again(server: ChatServer) -> None:
    calls = iter(range(100))

    def sometimes(messages: list[dict[str, str]]) -> str:
        if next(calls) % 2 == 0:
            raise RuntimeError("the server itself fails: status 500")
        return "[[B]]"

    server.reply = sometimes
    assert judged(open_judge(settings(server, tries=6, concurrency=1)), conversations(4), Judgements()) == ["[[B]]"] * 4
    assert len(server.requests) == 8


def test_one_question_that_is_refused_does_not_stop_the_others(server: ChatServer) -> None:
    server.reply, server.mode, server.fails_from = echo, "too-long", 4
    kept = Judgements()
    judge = open_judge(settings(server, concurrency=1))
    with pytest.raises(Unanswered, match=r"status 400: \{\"error\": \"longer than the context\"\}: 2 of 6"):
        judged(judge, conversations(6), kept)
    assert len(server.requests) == 6 and len(list(kept.rows())) == 4


def test_the_key_is_read_from_the_environment_and_written_nowhere(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = open_judge(settings(server, api_key_env="JUDGE_KEY"))
    kept = Judgements(tmp_path / "judgements.sqlite")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(Unanswered, match="JUDGE_KEY, which should hold its key, is not set"):
        judged(judge, conversations(1), kept)
    monkeypatch.setenv("JUDGE_KEY", "secret-word")
    judged(judge, conversations(1), kept)
    assert server.headers == ["Bearer secret-word"]
    server.mode = "refuse"
    with pytest.raises(Unanswered) as raised:
        judged(judge, conversations(2), kept)
    assert "invalid key Bearer ***" in str(raised.value) and "secret-word" not in str(raised.value)
    assert b"secret-word" not in (tmp_path / "judgements.sqlite").read_bytes()


def test_nobody_listens_and_a_judge_that_says_nothing(server: ChatServer) -> None:
    with pytest.raises(Unanswered, match="a/judge: no connection: 2 of 2 questions have no answer; run again"):
        judged(open_judge(settings()), conversations(2), Judgements())
    server.mode = "null"
    assert judged(open_judge(settings(server)), conversations(1), Judgements()) == [""], "thought up to its limit"


def test_a_full_disk_under_the_judgements_is_its_own_error(server: ChatServer, tmp_path: Path) -> None:
    kept = Judgements(tmp_path / "judgements.sqlite")
    judge = open_judge(settings(server, concurrency=2))
    judged(judge, conversations(2), kept)
    kept._connection.execute("pragma max_page_count = 3")
    server.reply = lambda messages: "long " * 4000
    with pytest.raises(CorruptInput, match=r"judgements.sqlite: cannot be used .*full"):
        judged(judge, conversations(6), kept)
    assert len(Judgements(tmp_path / "judgements.sqlite").found([judgement_key(judge.identity, conversations(2)[1])])) == 1


RUN = """
import sys
from pathlib import Path
from sea_lion.eval.family import Message
from sea_lion.eval.judge import JudgeSettings, judged, open_judge
from sea_lion.eval.judgements import Judgements
judge = open_judge(JudgeSettings(kind="endpoint", model="a/judge", url=sys.argv[1], concurrency=2))
asked = [(Message(role="system", content="Judge."), Message(role="user", content=f"pair {i}")) for i in range(40)]
judged(judge, asked, Judgements(Path(sys.argv[2])))
"""


def test_a_killed_run_keeps_every_judgement(server: ChatServer, tmp_path: Path) -> None:
    server.reply, server.mode = echo, "slow"
    file = tmp_path / "judgements.sqlite"
    run = subprocess.Popen([sys.executable, "-c", RUN, f"{server.url}/v1", str(file)])
    while len(server.requests) < 12 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    time.sleep(0.2)  # requests of the killed run come to an end
    before = len(server.requests)
    kept = Judgements(file)
    done = len(list(kept.rows()))
    assert before - 2 - 2 <= done <= before, "all but those on their way"
    server.requests.clear()
    assert judged(open_judge(settings(server)), conversations(40), kept) == [f"seen pair {i}" for i in range(40)]
    assert len(server.requests) == 40 - done


def test_what_an_endpoint_said_is_replayed_as_recorded_judgements(server: ChatServer, tmp_path: Path) -> None:
    server.reply = echo
    kept = Judgements(tmp_path / "judgements.sqlite")
    said = judged(open_judge(settings(server)), conversations(5), kept)
    assert kept.write(tmp_path / "recorded.jsonl") == 5
    rows = [json.loads(line) for line in (tmp_path / "recorded.jsonl").read_text("utf-8").splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "recorded.parquet")
    for name in ("recorded.jsonl", "recorded.parquet"):
        judge = open_judge(settings(kind="recorded", url="", path=name), tmp_path)
        assert judged(judge, conversations(5), Judgements()) == said
        with pytest.raises(Unanswered, match="not among the recorded judgements: 1 of 6"):
            judged(judge, conversations(6), Judgements())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"key": "a", "text": "b"}\n{"key": "c"', "line 2: is not JSON"),
        ('{"key": "a", "text": 7}\n', "row 1: text must be a text"),
        ('["a"]\n', "row 1: key must be a text"),
        ('{"key": "a", "text": "b"}\n{"key": "a", "text": "c"}\n', "row 2: another judgement of the key a"),
    ],
)
def test_recorded_judgements_that_are_none(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "recorded.jsonl").write_text(content)
    with pytest.raises(CorruptInput, match=said):
        recorded_judgements(tmp_path / "recorded.jsonl")
    (tmp_path / "recorded.parquet").write_text(content)
    with pytest.raises(CorruptInput, match="is not a Parquet file"):
        recorded_judgements(tmp_path / "recorded.parquet")
    with pytest.raises(CorruptInput, match="no such file"):
        recorded_judgements(tmp_path / "absent.jsonl")


def test_a_file_that_holds_no_judgements_and_a_text_that_no_file_can_hold(tmp_path: Path) -> None:
    (tmp_path / "torn.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 4000)
    with pytest.raises(CorruptInput, match="restore it, or remove it to ask anew"):
        Judgements(tmp_path / "torn.sqlite")
    kept = Judgements(tmp_path / "new" / "judgements.sqlite")
    assert kept.keep("k", "j", "half a pair \ud800 and a \0") == "half a pair ? and a \0"
    assert Judgements(tmp_path / "new" / "judgements.sqlite").keep("k", "j", "later") == "half a pair ? and a \0"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('kind = "endpoint"\nmodel = "m"', "a judge of kind endpoint needs model and url"),
        ('kind = "local"\nmodel = "m"', "a judge of kind local needs model and path"),
        ('kind = "oracle"\nmodel = "m"', "judge.kind"),
        ('kind = "endpoint"\nmodel = "m"\nurl = "ftp://host"', "must begin with http"),
        ('kind = "endpoint"\nmodel = "m"\nurl = "http://me:word@host/v1"', "must not hold a password"),
        ('kind = "endpoint"\nmodel = "m"\nurl = "http://host/v1"\napi_key = "sk-1"', "did you mean 'api_key_env'"),
        ('kind = "local"\nmodel = "m"\npath = "m"\ntemperature = 0.5', "a local judge is greedy"),
        ('kind = "endpoint"\nmodel = "m"\nurl = "http://host/v1"\nweights = "0"', "weights are named for recorded"),
        ('kind = "endpoint"\nmodel = "m"\nurl = "http://host/v1"\ntimeout = 0', "timeout must be above 0"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "judge.toml").write_text(f"[judge]\n{table}\n")
    with pytest.raises(RecipeError, match=said) as raised:
        read_judge(tmp_path / "judge.toml")
    assert "judge.toml" in str(raised.value) and "me:word" not in str(raised.value)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a chat template that knows no system role."""
    folder = tmp_path_factory.mktemp("judge")
    words = {word: i for i, word in enumerate(["<unk>", "</s>", "<u>", "<a>", *"abcdefghijklmnopqrstuvwxyz0123456789"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<u>{{ m['content'] }}{% endfor %}<a>"
    )
    fast.save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)  # of the first weights drawn, some answer with nothing but the end
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), eos_token_id=1, **sizes)).save_pretrained(folder)
    return folder


def test_a_local_judge_is_greedy_and_known_by_its_weights(judge_folder: Path, tmp_path: Path) -> None:
    local = JudgeSettings(kind="local", model="tiny", path=judge_folder.name, max_tokens=8)
    judge = open_judge(local, judge_folder.parent)
    kept = Judgements(tmp_path / "judgements.sqlite")
    said = judged(judge, conversations(3), kept)
    assert all(said) and judged(open_judge(local, judge_folder.parent), conversations(3), Judgements()) == said
    assert len(list(kept.rows())) == 3
    without_system = [(Message(role="user", content=f"Judge.\n\npair {i}"),) for i in range(3)]
    assert judged(judge, without_system, Judgements()) == said, "the system text stands before the user's"
    kept.write(tmp_path / "recorded.jsonl")
    weights = str(judge.identity["weights"])
    recorded = JudgeSettings(kind="recorded", model="tiny", path="recorded.jsonl", max_tokens=8, weights=weights)
    assert judged(open_judge(recorded, tmp_path), conversations(3), Judgements()) == said
    other = tmp_path / "other"
    LlamaForCausalLM(LlamaConfig.from_pretrained(judge_folder)).save_pretrained(other)
    identity = open_judge(JudgeSettings(kind="local", model="tiny", path=str(other), max_tokens=8)).identity
    assert identity["weights"] != judge.identity["weights"] and identity["model"] == judge.identity["model"]


def test_a_folder_without_a_judge(judge_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="is not a folder of a model"):
        open_judge(JudgeSettings(kind="local", model="tiny", path=str(tmp_path)))
    for path in judge_folder.iterdir():
        if path.suffix != ".jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    judge = open_judge(JudgeSettings(kind="local", model="tiny", path=str(tmp_path)))
    with pytest.raises(CorruptInput, match="has no chat template"):
        judged(judge, conversations(1), Judgements())


def test_recorded_judgements_that_were_mended_are_the_ones_that_count(tmp_path: Path) -> None:
    (asked,) = conversations(1)
    kept, described = Judgements(tmp_path / "kept.sqlite"), JudgeSettings(kind="recorded", model="a/judge", path="said.jsonl")
    for text in ("[[A]]", "[[B]]"):
        row = {"key": judgement_key(described.identity, asked), "text": text}
        (tmp_path / "said.jsonl").write_text(json.dumps(row), "utf-8")
        assert judged(open_judge(described, tmp_path), [asked], kept) == [text]
    assert not list(kept.rows()), "what a file says is not put on record as what the judge said"
