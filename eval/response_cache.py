"""Answers that a model has given, kept by what gave them and what was asked: an interrupted evaluation repeats none.

A file belongs to one fingerprint of everything that decides on an answer: weights, tokenizer, template, precision, backend,
kind of device and versions. lm-eval's own cache is refused: its key is the request alone, so a second model is given the
first one's answers; it keeps no sampled answers, and one written while a batch is under way changes the batches after a
restart. Here what a model works out together is committed together, in one transaction: batches stay the same however often a
run is killed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from ..catalog.errors import CorruptInput, SeaLionError, Unfinished
from ..catalog.files import write_atomically
from ..catalog.fingerprint import canonical_json, fingerprint
from .rendering import ChatTemplate

RESPONSES = "responses.sqlite"
ASKED_AT_ONCE = 512
"""Requests handed to a backend that plans no batches of its own; each answer it gives is committed when it gives it."""
LOOKED_UP = 500
"""Keys of one SQL statement."""
BUSY_SECONDS = 60.0
"""How long another run's write is waited for."""

Value = list[Any]
"""`[log-likelihood, is greedy, is cut]`, `[log-likelihood]` of a whole text, or `[text, is truncated, is cut]`."""


class Answer(str):
    """A generated text, and how it ended."""

    __slots__ = ("is_cut", "is_truncated")

    is_truncated: bool
    """Whether it ended at the limit of tokens."""
    is_cut: bool
    """Whether its prompt was longer than the model's context and lost its beginning."""

    def __new__(cls, text: str, *, is_truncated: bool = False, is_cut: bool = False) -> Answer:
        answer = super().__new__(cls, text)
        answer.is_truncated, answer.is_cut = is_truncated, is_cut
        return answer


class ResponseCache:
    """The answers of one fingerprint: a key (digest of method and arguments) to a value, in SQLite with a write-ahead log."""

    def __init__(self, path: Path | None) -> None:
        """Open or make the file, None: in memory; raises CorruptInput when it is not a file of answers."""
        self.path = path
        try:
            self._connection = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # outlives a killed process without a sync an answer
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
            (self._count,) = self._connection.execute("SELECT count(key) + 0 * count(value) FROM answers").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._problem(error) from error

    def _problem(self, error: sqlite3.DatabaseError) -> SeaLionError:
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            return Unfinished(f"{self.path}: no space left on the device for answers; free some, then run it again")
        return CorruptInput(self.path or "memory", "", f"is not a file of answers ({error}); delete it to ask again")

    @classmethod
    def at(cls, root: Path, identity: dict[str, Any]) -> ResponseCache:
        """The cache below `root` of what `identity` describes, with that description beside it for people."""
        folder = root / fingerprint(identity)[:24]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "answers-of.json").is_file():
            write_atomically(folder / "answers-of.json", canonical_json(identity))
        return cls(folder / RESPONSES)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Value]:
        """The values of the keys that are there."""
        found: dict[bytes, Value] = {}
        keys = list(keys) if self._count else []
        try:
            for start in range(0, len(keys), LOOKED_UP):
                part = keys[start : start + LOOKED_UP]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)
                found |= {key: json.loads(value) for key, value in rows}
        except sqlite3.DatabaseError as error:
            raise self._problem(error) from error
        return found

    def put(self, values: dict[bytes, Value]) -> None:
        """Commit values, all or none; a key that is there keeps its value."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise self._problem(error) from error
        self._count += len(rows)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def request_key(method: str, arguments: Sequence[Any]) -> bytes:
    """Digest of a request: lm-eval's method and what it is called with."""
    return hashlib.sha256(json.dumps([method, *arguments], sort_keys=True).encode()).digest()


class Keeper:
    """lm-eval's cache hook: takes answers as a backend gives them, and tells a backend that plans batches what is there."""

    def __init__(self, cache: ResponseCache, told: Callable[[int], None]) -> None:
        self.cache, self.told = cache, told
        self.found: dict[bytes, Value] = {}
        """Answers to the requests of the call under way."""
        self.keys: dict[tuple[Any, ...], bytes] = {}
        self.cut: set[bytes] = set()
        self.waiting: dict[bytes, Value] = {}
        self.is_batched = False
        """Whether the backend says when a batch is complete; else each answer is committed by itself."""

    def key(self, method: str, arguments: Sequence[Any]) -> bytes:
        """The request's key, worked out once where its arguments are texts."""
        if method == "generate_until":
            return request_key(method, arguments)
        short = (method, *arguments)
        if short not in self.keys:
            self.keys[short] = request_key(method, arguments)
        return self.keys[short]

    def has(self, method: str, arguments: Sequence[Any]) -> bool:
        """Whether the answer is there."""
        return self.key(method, arguments) in self.found

    def mark_cut(self, method: str, arguments: Sequence[Any]) -> None:
        """Note that the request lost its beginning; said before its answer is given."""
        self.cut.add(self.key(method, arguments))

    def add_partial(self, attr: str, req: Sequence[Any] | None, res: Any) -> None:
        """Take an answer (lm-eval's name and signature); None: a window of a text, whose sum comes later."""
        if req is None:
            return
        key = self.key(attr, req)
        self.waiting[key] = _value(attr, res, key in self.cut)
        if not self.is_batched:
            self.commit()

    def commit(self) -> None:
        """Commit what waits, as one."""
        if self.waiting:
            self.cache.put(self.waiting)
            new = len(self.waiting.keys() - self.found.keys())
            self.found |= self.waiting
            self.waiting = {}
            self.told(new)


def _value(method: str, answer: Any, is_cut: bool) -> Value:
    if method == "loglikelihood":
        return [float(answer[0]), bool(answer[1]), is_cut]
    if method == "loglikelihood_rolling":
        return [float(answer)]
    return [str(answer), getattr(answer, "is_truncated", False), is_cut or getattr(answer, "is_cut", False)]


class RememberingLM(LM):  # type: ignore[misc]
    """A model whose answers are kept: only what is not in the cache is asked, and that once.

    A backend with `plans_batches` is handed all requests and leaves out those that its hook has; others are handed what is
    missing. `told` hears how many answers came, kept ones included. `template` takes the place of the model's own, if given.
    """

    def __init__(
        self,
        lm: Any,
        cache: ResponseCache,
        told: Callable[[int], None] = lambda count: None,
        template: ChatTemplate | None = None,
    ) -> None:
        super().__init__()
        self.template = template
        self.lm, self.keeper = lm, Keeper(cache, told)
        self.cut: dict[str, int] = {}
        """Method to the requests whose beginning was cut off, since the last time somebody took it."""
        self.keeper.is_batched = bool(getattr(lm, "plans_batches", False))
        lm.set_cache_hook(self.keeper)

    @property
    def max_length(self) -> int:
        return int(self.lm.max_length)

    @property
    def tokenizer_name(self) -> str:
        return str(self.lm.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template: str | None = self.lm.chat_template(chat_template)
        return template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        if self.template is not None:
            return self.template.apply(chat_history, add_generation_prompt)
        return self.lm.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(value[0], value[1]) for value in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [value[0] for value in self._answers("loglikelihood_rolling", requests)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [Answer(value[0], is_truncated=value[1], is_cut=value[2]) for value in self._answers("generate_until", requests)]

    def _answers(self, method: str, requests: list[Any]) -> list[Value]:
        keeper = self.keeper
        keys = [keeper.key(method, request.args) for request in requests]
        keeper.found = keeper.cache.get(dict.fromkeys(keys))
        keeper.told(len(keeper.found))
        unique = dict(zip(reversed(keys), reversed(requests), strict=True))  # of equal requests the first
        asked = [unique[key] for key in dict.fromkeys(keys)]
        if len(keeper.found) < len(asked):
            self._ask(method, asked)
        values = [keeper.found[key] for key in keys]
        self.cut[method] = self.cut.get(method, 0) + sum(len(value) == 3 and value[2] for value in values)
        keeper.found, keeper.keys, keeper.cut = {}, {}, set()
        return values

    def _ask(self, method: str, requests: list[Any]) -> None:
        keeper = self.keeper
        if keeper.is_batched:
            getattr(self.lm, method)(requests)
            keeper.commit()
            return
        missing = [request for request in requests if not keeper.has(method, request.args)]
        for start in range(0, len(missing), ASKED_AT_ONCE):
            part = missing[start : start + ASKED_AT_ONCE]
            for request, answer in zip(part, getattr(self.lm, method)(part), strict=True):
                if not keeper.has(method, request.args):
                    keeper.add_partial(method, request.args, answer)
