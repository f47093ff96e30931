"""Answers are kept by what was asked of what model, each once, in batches that are whole or not there."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.response_cache import RESPONSES, Answer, RememberingLM, ResponseCache, request_key

Harness: Any = LM


class Counting(Harness):  # type: ignore[misc]
    """Answers with the length of what it is asked, and counts."""

    def __init__(self, fails_after: int = 10**9) -> None:
        super().__init__()
        self.asked: list[tuple[Any, ...]] = []
        self.fails_after = fails_after

    def _ask(self, request: Any) -> int:
        if len(self.asked) == self.fails_after:
            raise KeyboardInterrupt
        self.asked.append(request.args)
        return len(request.args[0])

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(-self._ask(request) / 3, True) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [-self._ask(request) / 7 for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        answers: list[str] = []
        for request in requests:
            answers.append(Answer("x" * self._ask(request), is_truncated=True))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


def test_every_kind_of_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    told: list[int] = []
    for attempt in range(2):
        lm = Counting()
        kept = RememberingLM(lm, ResponseCache(tmp_path / RESPONSES), told.append)
        assert kept.loglikelihood(requests("loglikelihood", ("a", "b"), ("aa", "b"))) == [(-1 / 3, True), (-2 / 3, True)]
        assert kept.loglikelihood_rolling(requests("loglikelihood_rolling", ("aaa",))) == [-3 / 7]
        (answer,) = kept.generate_until(requests("generate_until", ("aaaa", {"do_sample": True, "seed": 3})))
        assert answer == "xxxx" and isinstance(answer, Answer) and answer.is_truncated
        assert len(lm.asked) == (4 if attempt == 0 else 0)
        assert sum(told) == 4 * (attempt + 1)


def test_equal_requests_are_asked_once_and_others_apart(tmp_path: Path) -> None:
    lm = Counting()
    kept = RememberingLM(lm, ResponseCache(tmp_path / RESPONSES))
    settings: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"seed": 1}]
    kept.generate_until(requests("generate_until", *(("a", setting) for setting in settings)))
    assert lm.asked == [("a", {"seed": 1}), ("a", {"seed": 2})]
    kept.loglikelihood(requests("loglikelihood", ("a", "bc"), ("ab", "c")))
    assert len(lm.asked) == 4


def test_answers_before_a_break_are_kept(tmp_path: Path) -> None:
    asked = requests("generate_until", *((f"{i}", {}) for i in range(5)))
    with pytest.raises(KeyboardInterrupt):
        RememberingLM(Counting(fails_after=3), ResponseCache(tmp_path / RESPONSES)).generate_until(asked)
    lm = Counting()
    assert len(RememberingLM(lm, ResponseCache(tmp_path / RESPONSES)).generate_until(asked)) == 5
    assert lm.asked == [("3", {}), ("4", {})]


def test_values_are_committed_together(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / RESPONSES)
    keys = [request_key("loglikelihood", (str(i), "x")) for i in range(1200)]
    cache.put({key: [-0.1 * i, False, False] for i, key in enumerate(keys)})
    other = ResponseCache(tmp_path / RESPONSES)
    assert other.get(keys)[keys[7]] == [-0.1 * 7, False, False] and len(other.get(keys)) == 1200
    with pytest.raises(TypeError):
        cache.put({b"a" * 32: [1.0], b"b" * 32: [object()]})
    assert len(ResponseCache(tmp_path / RESPONSES).get([b"a" * 32])) == 0
    cache.put({keys[0]: [99.0, False, False], b"c" * 32: [math.inf]})
    assert cache.get([keys[0], b"c" * 32]) == {keys[0]: [0.0, False, False], b"c" * 32: [math.inf]}


def test_each_identity_has_a_file_of_its_own(tmp_path: Path) -> None:
    one, two = ResponseCache.at(tmp_path, {"files": ["a"]}), ResponseCache.at(tmp_path, {"files": ["b"]})
    one.put({b"k" * 32: [1.0]})
    assert two.get([b"k" * 32]) == {} and ResponseCache.at(tmp_path, {"files": ["a"]}).get([b"k" * 32]) == {b"k" * 32: [1.0]}
    assert sorted(path.read_text() for path in tmp_path.glob("*/answers-of.json")) == ['{"files":["a"]}', '{"files":["b"]}']


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / RESPONSES).write_bytes(b"no database " * 100)
    with pytest.raises(CorruptInput, match=r"responses\.sqlite: is not a file of answers"):
        ResponseCache(tmp_path / RESPONSES)
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE answers (something TEXT)")
    with pytest.raises(CorruptInput, match=r"other: is not a file of answers"):
        ResponseCache(tmp_path / "other")
