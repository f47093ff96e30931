"""Conversations written by a model: against a real server on this machine that misbehaves, and with a tiny random Llama."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from sea_lion.catalog.errors import CorruptInput, SeaLionError, Unfinished
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.conversations import Settings, gather, turn_language
from sea_lion.data.generators import TEMPLATES, Endpoint, LocalModel, NoAnswer
from sea_lion.data.sample_crawl import SAMPLE
from sea_lion.data.sampling import Sampling
from sea_lion.data.steering import STEERING
from sea_lion.data.synthesis import LEDGER, Synthesis, attempts, fault, repeats_itself, synthesize

WORK = Synthesis(model="a/model", languages=("tha", "vie"), attempts=12, seed=5)


def texts(language: str) -> list[str]:
    """Sentences of a language, each once."""
    rows = [json.loads(line) for line in (SAMPLE / "conversations" / f"{language}.jsonl").read_text("utf-8").splitlines()]
    return list(dict.fromkeys(message["content"] for row in rows for message in row["messages"]))


class Server:
    """An endpoint on 127.0.0.1 that writes sample sentences by the prompt's language and seed, unless `fault` misbehaves."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[str] = []
        self.pause = 0.0
        self.fault: Callable[[int], Awaitable[web.StreamResponse | None]] | None = None
        self._loop = asyncio.new_event_loop()
        self.address = ""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            app = web.Application()
            app.router.add_post("/v1/{path:.*}", self._answer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.address = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        number = len(self.requests)
        self.paths.append(request.path)
        self.headers.append(request.headers.get("Authorization", ""))
        await asyncio.sleep(self.pause)
        if self.fault and (response := await self.fault(number)):
            return response
        said = body.get("prompt") or json.dumps(body["messages"], ensure_ascii=False)
        language = next(code for code in ("tha", "vie", "lao") if STEERING[code].system[:20] in said)
        known = texts(language)
        is_answer = said.endswith("assistant\n") if "prompt" in body else STEERING[language].request not in said
        text = known[(body["seed"] * 7 + is_answer) % len(known)]
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        return web.json_response({"choices": [choice | {"finish_reason": "stop"}]})


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that behaves until told otherwise."""
    running = Server()
    yield running
    running.stop()


def endpoint(server: Server, timeout: float = 20.0) -> Endpoint:
    """A client that does not wait long between tries."""
    return Endpoint(server.address, "a/model", "secret-key", timeout=timeout, longest_pause=0.02)


def test_the_model_is_given_the_user_s_header_only_and_then_its_own_question(server: Server, tmp_path: Path) -> None:
    work = replace(WORK, languages=("tha",), attempts=1)
    synthesize(work, endpoint(server), tmp_path)
    question, answer = server.requests
    assert question["prompt"].startswith("<|im_start|>system\nคุณเป็น") and question["prompt"].endswith(
        "<|im_end|>\n<|im_start|>user\n"
    )
    [row] = [json.loads(line) for line in (tmp_path / "tha-synthetic.jsonl").read_text("utf-8").splitlines()]
    said = row["messages"][0]["content"]
    assert answer["prompt"] == question["prompt"] + said + "<|im_end|>\n<|im_start|>assistant\n"
    assert question["stop"] == ["<|im_end|>"] and question["model"] == "a/model"
    assert (question["temperature"], question["max_tokens"]) == (1.0, 1024) and answer["temperature"] == 0.7
    assert set(server.headers) == {"Bearer secret-key"}


def test_what_is_written_is_what_conversations_reads(server: Server, tmp_path: Path) -> None:
    kept = synthesize(WORK, endpoint(server), tmp_path)
    assert set(kept) == {"tha", "vie"} and min(kept.values()) >= 3
    files = sorted(tmp_path.glob("*-synthetic.jsonl"))
    out = tmp_path / "out"
    out.mkdir()
    assert gather(files, out, Settings(form="messages")) == kept
    rows = pq.read_table(tmp_path / LEDGER).to_pylist()
    for language in WORK.languages:
        assert sum(row["rows"] for row in rows if row["language"] == language) == WORK.attempts
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"127.0.0.1" in path.read_bytes()]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-key" in path.read_bytes()]


def test_the_order_of_answers_and_faults_of_the_server_change_nothing(server: Server, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    synthesize(WORK, endpoint(server), tmp_path / "good", concurrency=1)
    good = len(server.requests)

    async def misbehave(number: int) -> web.StreamResponse | None:
        times = server.requests.count(server.requests[number - 1])  # this one was asked
        match (times + server.requests[number - 1]["seed"]) % 6 if times < 5 else 5:
            case 0:
                return web.Response(status=500, text="out of memory")
            case 1:
                return web.Response(status=429, headers={"Retry-After": "0"})
            case 2:
                return web.Response(text='{"choices": [')
            case 3:
                return web.json_response({"choices": []})
            case 4 if times == 1:
                await asyncio.sleep(30)
        return None

    server.fault = misbehave
    server.requests.clear()
    synthesize(WORK, endpoint(server, timeout=0.5), tmp_path / "bad", concurrency=9)
    assert len(server.requests) > 1.5 * good
    assert files(tmp_path / "good") == files(tmp_path / "bad")


def test_a_prompt_without_an_answer_is_counted(server: Server, tmp_path: Path) -> None:
    async def misbehave(number: int) -> web.StreamResponse | None:
        return web.Response(text="[]") if server.requests[-1]["seed"] == first.seed else None

    first = attempts(WORK, "tha", 0)[0]
    server.fault = misbehave
    synthesize(WORK, endpoint(server), tmp_path, concurrency=1)
    rows = pq.read_table(tmp_path / LEDGER).to_pylist()
    assert {"language": "tha", "outcome": "removed", "reason": "failed_malformed", "rows": 1} in rows


def test_a_server_that_is_down_ends_the_run_and_what_is_done_stays(server: Server, tmp_path: Path) -> None:
    async def misbehave(number: int) -> web.StreamResponse | None:
        return web.Response(status=503) if number > 10 else None

    server.fault = misbehave
    with pytest.raises(Unfinished, match="no answer 20 times in a row \\(http_503\\); run again"):
        synthesize(replace(WORK, attempts=30), endpoint(server), tmp_path, concurrency=1)
    server.fault = None
    server.requests.clear()
    synthesize(replace(WORK, attempts=30), endpoint(server), tmp_path, concurrency=1)
    assert len(server.requests) == 2 * 30 * 2 - 10, "five conversations were there, those that failed are tried again"


def test_a_refusal_for_good_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    async def misbehave(number: int) -> web.StreamResponse | None:
        return web.json_response({"error": "invalid key"}, status=401)

    server.fault = misbehave
    with pytest.raises(SeaLionError, match=r"refuses completions for model a/model: status 401: .*invalid key"):
        synthesize(WORK, endpoint(server), tmp_path)
    assert len(server.requests) <= 32 and not list(tmp_path.glob("*.jsonl"))


def test_nobody_listens(tmp_path: Path) -> None:
    async def ask() -> None:
        async with Endpoint("http://127.0.0.1:9/v1", "m", timeout=2, longest_pause=0.01) as nowhere:
            await nowhere.complete("x", Sampling(), 1, ())

    with pytest.raises(NoAnswer, match="connection"):
        asyncio.run(ask())


def test_whole_messages_where_there_is_no_other_interface(server: Server, tmp_path: Path) -> None:
    work = replace(WORK, interface="chat", languages=("vie",))
    assert synthesize(work, endpoint(server), tmp_path)["vie"] >= 3
    assert set(server.paths) == {"/v1/chat/completions"}
    asked = [body["messages"][1]["content"] for body in server.requests]
    assert asked.count(STEERING["vie"].request) == work.attempts


RUN = """
import sys
from pathlib import Path
from sea_lion.data.generators import Endpoint
from sea_lion.data.synthesis import Synthesis, synthesize
work = Synthesis(model="a/model", languages=("tha", "vie"), attempts=12, seed=5)
synthesize(work, Endpoint(sys.argv[1], "a/model"), Path(sys.argv[2]), concurrency=2)
"""


def test_a_killed_run_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    synthesize(WORK, endpoint(server), tmp_path / "whole")
    needed = len(server.requests)
    server.requests.clear()
    server.pause = 0.05
    run = subprocess.Popen([sys.executable, "-c", RUN, server.address, str(tmp_path / "killed")])
    while len(server.requests) < needed // 2 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert run.returncode == -signal.SIGKILL
    [partial, *_] = sorted((tmp_path / "killed" / "attempts").glob("*.partial"))
    with partial.open("ab") as file:
        file.write(b'{"key": "torn')
    server.pause = 0.0
    time.sleep(0.2)  # requests of the killed run come to an end
    server.requests.clear()
    synthesize(WORK, endpoint(server), tmp_path / "killed")
    assert needed // 4 < len(server.requests) < needed - 10
    for path in (tmp_path / "whole").glob("*-*.jsonl"):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()


def test_attempts_of_other_settings_are_not_taken_over(server: Server, tmp_path: Path) -> None:
    work = replace(WORK, languages=("tha",))
    keys = {attempt.key for attempt in attempts(work, "tha", 0)}
    for other in (
        replace(work, model="b/model"), replace(work, seed=6), replace(work, answer=Sampling(temperature=0.1)),
        replace(work, template="llama3"), replace(work, interface="chat"),
    ):  # fmt: skip
        assert not keys & {attempt.key for attempt in attempts(other, "tha", 0)}
    more = replace(work, attempts=500, languages=("tha", "lao"))
    assert keys < {attempt.key for attempt in attempts(more, "tha", 0)}, "more of the same keeps what there is"
    folder = tmp_path / "attempts"
    folder.mkdir()
    stale = {"key": "0" * 32, "question": "x", "answer": "y", "problem": ""}
    (folder / "tha-000000.partial").write_text(json.dumps(stale) + "\n")
    synthesize(work, endpoint(server), tmp_path)
    assert "0" * 32 not in (folder / "tha-000000.jsonl").read_text() and len(server.requests) == 24


def test_nothing_kept_is_refused_with_the_reasons(server: Server, tmp_path: Path) -> None:
    async def misbehave(number: int) -> web.StreamResponse | None:
        return web.json_response({"choices": [{"text": "Sorry, no.", "finish_reason": "stop"}]})

    server.fault = misbehave
    with pytest.raises(CorruptInput, match=r"nothing that it wrote is kept: .*'tha echo': 12"):
        synthesize(WORK, endpoint(server), tmp_path)


THAI, THAI_TOO, LAO = texts("tha")[0], texts("tha")[1], texts("lao")[1]


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (THAI, THAI_TOO, ""),
        ("ทำไม", THAI_TOO, "question_length"),
        (THAI, "", "answer_length"),
        (THAI, "ก" * 20_000, "answer_length"),
        (THAI, THAI, "echo"),
        (THAI, THAI_TOO + "<|im_start|>user", "special_token"),
        (THAI, "ขออภัย " + THAI_TOO, "refusal"),
        (THAI, "As an AI, I cannot help with this.", "refusal"),
        (THAI, "ลองดูนะ " * 40, "repetition"),
        (LAO, THAI_TOO, "question_language"),
        (THAI, "This is an answer in the English language, not in Thai.", "answer_language"),
        (THAI, "42", ""),
        (THAI, "กขคงจ ฉชซฌญ ฎฏฐฑฒ ณดตถท ธนบปผ zxqv wkjh qzx vbnm", "answer_language"),
    ],
)
def test_faults(question: str, answer: str, reason: str) -> None:
    assert fault(question, answer, "tha") == reason


def test_no_sample_text_repeats_itself_or_is_refused() -> None:
    for language in LANGUAGES:
        for text in texts(language):
            assert not repeats_itself(text)


def test_every_language_is_steered_in_itself() -> None:
    assert set(STEERING) == set(LANGUAGES)
    for language, steering in STEERING.items():
        for topic in steering.topics:
            assert turn_language(steering.system.format(topic=topic)) == language
        assert turn_language(steering.request) in (language, "") and len(set(steering.topics)) == 8
        assert all(phrase == phrase.casefold() for phrase in steering.refusals)


def test_templates_without_a_system_text_begin_with_words_of_the_language() -> None:
    drawn = attempts(replace(WORK, template="gemma", languages=("fil",)), "fil", 0)
    assert {attempt.opening for attempt in drawn} == set(STEERING["fil"].openings)
    prompt = TEMPLATES["gemma"].question_prompt(drawn[0].system, drawn[0].opening)
    assert prompt == f"<start_of_turn>user\n{drawn[0].opening}"
    assert {attempt.opening for attempt in attempts(WORK, "tha", 0)} == {""}
    topics = Counter(attempt.system for attempt in attempts(replace(WORK, attempts=256), "tha", 0))
    assert len(topics) == 8 and min(topics.values()) > 15


def test_impossible_work_is_refused() -> None:
    for change in ({"languages": ("fra",)}, {"languages": ()}, {"attempts": 0}, {"template": "x"}):
        with pytest.raises(ValueError, match="languages must be of"):
            replace(WORK, **change)
    with pytest.raises(ValueError, match="temperature must be"):
        Sampling(top_p=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a byte-level tokenizer that knows ChatML's tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts("eng"), trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrapped = wrap(tokenizer_object=tokenizer, eos_token="</s>")
    wrapped.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_model_continues_a_prompt_by_its_seed(tiny: Path) -> None:
    model = LocalModel(tiny)
    prompt = TEMPLATES["chatml"].question_prompt("Be brief.", "")

    def written(seed: int, sampling: Sampling) -> Any:
        return asyncio.run(model.complete(prompt, sampling, seed, ("<|im_end|>",)))

    drawn = [written(seed, Sampling(max_tokens=20)) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    greedy = [written(seed, Sampling(temperature=0.0, max_tokens=4)) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    ended = [asyncio.run(model.complete(prompt, Sampling(max_tokens=60), seed, letters)) for seed in range(4)]
    assert any(completion.is_whole for completion in ended)
    assert not any(letter in completion.text for completion in ended for letter in letters)
    assert not written(1, Sampling(max_tokens=1)).is_whole
    assert asyncio.run(model.reply([{"role": "user", "content": "Hi"}], Sampling(max_tokens=5), 1)).text


def test_a_run_with_a_local_model_is_recorded_and_its_noise_left_out(tiny: Path, tmp_path: Path) -> None:
    work = replace(WORK, languages=("eng",), attempts=6, question=Sampling(max_tokens=30), answer=Sampling(max_tokens=30))
    for folder in (tmp_path / "one", tmp_path / "two"):
        with suppress(CorruptInput):  # nothing is kept, unless it is too short to tell
            synthesize(work, LocalModel(tiny), folder)
    block = (tmp_path / "one" / "attempts" / "eng-000000.jsonl").read_bytes()
    assert block == (tmp_path / "two" / "attempts" / "eng-000000.jsonl").read_bytes()
    rows = [json.loads(line) for line in block.splitlines()]
    assert len(rows) == 6 and all(row["problem"] in ("", "cut_short") for row in rows)
    assert sum(pq.read_table(tmp_path / "one" / LEDGER)["rows"].to_pylist()) == 6


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="is no causal language model"):
        LocalModel(tmp_path)
