"""OpenAI-compatible endpoints, served on 127.0.0.1 by the same tiny model that transformers runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sea_lion.catalog.errors import MissingDependency, RecipeError, Unfinished
from sea_lion.catalog.records import Scorecard
from sea_lion.catalog.store import Options
from sea_lion.eval import backends
from sea_lion.eval.evaluate import evaluate_model
from sea_lion.eval.recipe import SUITES

from .small_world import World, write_model

DEFINITION = """
name = "served"
languages = ["eng"]
window_tokens = 200
[[task]]
name = "instructions"
form = "instructions"
items = "instructions"
max_tokens = 8
"""
ORDER = """
[[task]]
name = "word-order"
form = "word-order"
items = "sentences"
"""
DOCUMENTS = """
[[task]]
name = "heldout"
form = "documents"
source = "web"
"""


class Server(ThreadingHTTPServer):
    """Completions of a checkpoint, greedy, one at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
        self.model, self.tokenizer = loaded.eval(), AutoTokenizer.from_pretrained(folder)
        self.lock, self.status, self.is_silent = threading.Lock(), 200, False
        self.bodies: list[dict[str, Any]] = []

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        given = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        chosen = [None, *(float(given[i, token]) for i, token in enumerate(tokens[1:]))]
        best = [None, *({"x": float(row.max())} for row in given[:-1])]
        return {"token_logprobs": [*chosen, -1.0], "top_logprobs": [*best, {"x": -1.0}]}

    @torch.inference_mode()
    def completion(self, tokens: list[int], limit: int) -> dict[str, Any]:
        made: list[int] = []
        while len(made) < limit:
            made.append(int(self.model(torch.tensor([tokens + made])).logits[0, -1].argmax()))
            if made[-1] == self.tokenizer.eos_token_id:
                return {"text": self.tokenizer.decode(made[:-1]), "finish_reason": "stop"}
        return {"text": self.tokenizer.decode(made), "finish_reason": "length"}


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            if server.status != 200:
                self.send_error(server.status)
                return
            if "messages" in body:
                tokens = server.tokenizer.encode("".join(message["content"] for message in body["messages"]))
                made = server.completion(tokens, body["max_tokens"])
                content = None if server.is_silent else made["text"]
                self.reply({"choices": [{"index": 0, "message": {"content": content}, "finish_reason": made["finish_reason"]}]})
                return
            prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
            choices = [
                {"index": i, "logprobs": server.logprobs(tokens)} if body.get("echo") else
                {"index": i, **server.completion(tokens, body["max_tokens"])}
                for i, tokens in enumerate(prompts)
            ]  # fmt: skip
            self.reply({"choices": choices})

    def reply(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("endpoint"))
    world.checkpoint("checkpoint/long", lambda folder: write_model(folder, 512))
    (world.base / "instructions").mkdir()
    rows = (SUITES / "smoke" / "instructions" / "eng.jsonl").read_text("utf-8").splitlines()[:4]
    (world.base / "instructions" / "eng.jsonl").write_text("\n".join(rows), "utf-8")
    return world


@pytest.fixture
def server(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(world.folder("checkpoint/long@1"))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    monkeypatch.setenv(backends.ADDRESS, f"http://127.0.0.1:{found.server_port}/v1/completions")
    yield found
    found.shutdown()
    found.server_close()


def evaluate(world: World, name: str, definition: str, **changes: Any) -> tuple[Scorecard, dict[str, list[dict[str, Any]]]]:
    (world.base / "served.toml").write_text(definition, "utf-8")
    files = ("served.toml", "instructions/*.jsonl", "sentences/eng.jsonl")
    base: Any = {"model": "checkpoint/long@1", "suite": "served", "suite_files": files}
    recipe = replace(world.recipe, name=f"scorecard/{name}", **(base | changes))
    artifact = world.store.make(recipe, world.base, evaluate_model, Options())
    assert isinstance(artifact.body, Scorecard)
    folder = world.folder(str(artifact.ref))
    return artifact.body, {table: pq.read_table(folder / file).to_pylist() for table, file in artifact.tables.items()}


def test_completions_are_those_of_transformers(world: World, server: Server) -> None:
    whole = DEFINITION + ORDER + DOCUMENTS
    here, expected = evaluate(world, "here", whole)
    there, found = evaluate(world, "there", whole, backend="endpoint")
    assert there.settings["backend"] == "endpoint" and here.suite_fingerprint == there.suite_fingerprint
    for one, two in zip(expected["answers"], found["answers"], strict=True):
        assert (one["text"], one["truncated"]) == (two["text"], two["truncated"])
        assert two["loglikelihoods"] == pytest.approx(one["loglikelihoods"], abs=1e-3)
    bos = server.tokenizer.bos_token_id
    assert all(tokens.count(bos) <= 1 for body in server.bodies for tokens in body["prompt"])


def test_a_chat_endpoint_generates_only(world: World, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ADDRESS, f"http://127.0.0.1:{server.server_port}/v1/chat/completions")
    settings: Any = {"backend": "endpoint", "prompts": "chat"}
    with pytest.raises(RecipeError, match="the suite needs log-likelihoods, which none gives"):
        evaluate(world, "chat", DEFINITION + ORDER, **settings)
    with pytest.raises(RecipeError, match="prompts: must be 'chat' for a chat endpoint"):
        evaluate(world, "chat", DEFINITION, **settings | {"prompts": "bare"})
    assert not server.bodies
    card, tables = evaluate(world, "chat", DEFINITION, **settings)
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user"]
    assert sum(row["truncated"] for row in tables["answers"]) == card.scores[0].truncated == 4
    server.is_silent = True
    monkeypatch.setenv(backends.SERVED, "another")
    silent, tables = evaluate(world, "silent", DEFINITION, **settings)
    assert [row["text"] for row in tables["answers"]] == [""] * 4 and silent.scores[0].nulls == 4


def test_an_endpoint_that_fails_is_one_line(world: World, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 500
    monkeypatch.setattr("lm_eval.models.api_models.wait_exponential", lambda **_: lambda state: 0)
    monkeypatch.setenv(backends.SERVED, "failing")
    with pytest.raises(Unfinished, match=r"checkpoint/long@1: the endpoint does not answer \(500"):
        evaluate(world, "failing", DEFINITION, backend="endpoint")
    monkeypatch.delenv(backends.ADDRESS)
    with pytest.raises(RecipeError, match="set SEA_LION_ENDPOINT to its full address"):
        evaluate(world, "nowhere", DEFINITION, backend="endpoint")


def test_a_backend_that_is_not_installed_is_named(world: World) -> None:
    if find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(MissingDependency, match="vllm is needed to evaluate with backend = 'vllm'"):
        evaluate(world, "vllm", DEFINITION, backend="vllm")
