"""Questions of two turns with a baseline's answers, their task, and a judge at a server of `chat_server`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sea_lion.eval.family import Generation, GenerationTask, Message, Question
from sea_lion.eval.judge import JudgeSettings

from ..chat_server import ChatServer

BASELINE = "gpt-3.5-turbo-0125"


def question(identity: str, category: str, *, has_references: bool = False) -> Question:
    details: dict[str, Any] = {
        "category": category,
        "baselines": {BASELINE: [f"base {identity} {{1}}", f"base {identity} 2"], "other": ["", ""]},
    }
    if has_references:
        details["references"] = [f"ref {identity} 1", f"ref {identity} 2"]
    messages = (Message(role="user", content=f"ask {identity} 1"),)
    return Question(id=identity, cluster=identity, messages=messages, follow_ups=(f"ask {identity} 2",), details=details)


def task(questions: Sequence[Question], scorer: Any, language: str = "ind", name: str = "mt-bench") -> GenerationTask:
    generation = Generation(max_tokens=1024)
    return GenerationTask(name=name, language=language, questions=tuple(questions), generation=generation, scorer=scorer)


def settings(server: ChatServer, **changes: Any) -> JudgeSettings:
    usual: dict[str, Any] = {
        "kind": "endpoint", "model": "gpt-4-1106-preview", "url": f"{server.url}/v1", "tries": 2,
        "longest_pause": 0.01, "timeout": 5.0,
    }  # fmt: skip
    return JudgeSettings(**usual | changes)
