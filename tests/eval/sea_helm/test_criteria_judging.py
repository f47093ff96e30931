"""Criteria that a real server judges: MT-Bench, Kalahi and syntax of the 2026 profile. The prompts are our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.family import Question, TaskScores
from sea_lion.eval.judge import open_judge
from sea_lion.eval.sea_helm.criteria_judging import criteria_scorer
from sea_lion.eval.sea_helm.judge_prompts import CRITERIA, criteria_prompts

from ..chat_server import ChatServer, chat_server
from .judged_tasks import question, settings, task


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


def write_criteria(folder: Path, name: str, **changes: Any) -> Path:
    template = "<{prompt}> <{response}> <{keyPointText}>{reference_text_block}"
    by_turn = {f"turn_{turn}": "<{transcript}> <{response}> <{keyPointText}>" for turn in (1, 2)}
    classes = (
        {"CLASS_UNMET": 0, "CLASS_MET": 1.0} if name == "syntax-criteria" else {"CLASS_UNMET": 0, "CLASS_MAJORLY_MET": 0.75}
    )
    prompts = {
        "system_prompt": "judge by criteria",
        "criteria_prompt": by_turn if name == "mt-bench-judge" else template,
        "reference_prompt": "see {reference}",
    }
    judge = {
        "judge_model_name": "openai/gpt-oss-120b",
        "judge_generation_kwargs": {"max_tokens": 16384, "reasoning_effort": "high"},
        "classifications": classes,
        "judge_prompts": prompts,
    } | changes
    languages = {code: {"prompt_template": {"task_template": "Say: {text}"}} for code in ("id", "tl")}
    path = folder / CRITERIA[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({name: {"judge": judge, "languages": languages}}), "utf-8")
    return folder


def criteria_run(server: ChatServer, folder: Path, name: str, asked: Question, answers: Sequence[str]) -> TaskScores:
    judge = open_judge(settings(server, model="gpt-oss-120b", max_tokens=16384, concurrency=1))
    scorer = criteria_scorer("ind", judge, criteria_prompts(write_criteria(folder, name), name))
    return scorer(task([asked], scorer, name=name), [answers])


def said_class(*names: str) -> str:
    return " ".join(f"<classification>{name}</classification>" for name in names)


def test_criteria_of_two_turns_weigh_by_turn(server: ChatServer, tmp_path: Path) -> None:
    criteria = [{"criterion": "short", "turn": 0}, {"criterion": "kind", "turn": 0}, {"criterion": "true of {text}", "turn": 1}]
    asked = replace(question("m", "math"), details={"criteria": criteria, "prompts": [{"text": "one"}, {"text": "two"}]})

    def reply(messages: list[dict[str, str]]) -> str:
        shown = messages[1]["content"]
        if "<short>" in shown:
            return "no class"
        return said_class("CLASS_UNMET", "CLASS_MAJORLY_MET")  # the last counts

    server.reply = reply
    scores = criteria_run(server, tmp_path, "mt-bench-judge", asked, ("first", "second"))
    assert server.requests[2]["messages"][1]["content"] == (
        "<[User]\nSay: one\n\n[Assistant (fixed)]\nfirst\n\n[User]\nSay: two> <second> <true of one>"
    )
    assert server.requests[0]["messages"][0]["content"] == "judge by criteria"
    assert scores.items[0].value == pytest.approx((0.375 + 0.75) / 2)
    assert scores.scores[0].value == pytest.approx(56.25)
    [warning] = scores.warnings
    assert "no class could be read out of 1 of 3 judgements" in warning


def test_kalahi_believes_the_first_class_and_may_show_a_reference(server: ChatServer, tmp_path: Path) -> None:
    criteria = [{"criterion": "kind", "include_reference": True}, {"criterion": "short"}]
    asked = replace(question("k", "x"), details={"criteria": criteria}, target="the best answer", follow_ups=())
    server.reply = lambda messages: said_class("CLASS_MAJORLY_MET", "CLASS_UNMET")
    scores = criteria_run(server, tmp_path, "kalahi-judge", asked, ("ours",))
    assert scores.scores[0].value == 75.0 and scores.items[0].extracted == "CLASS_MAJORLY_MET CLASS_MAJORLY_MET"
    shown = [body["messages"][1]["content"] for body in server.requests]
    assert shown == ["<ask k 1> <ours> <kind>\nsee the best answer\n", "<ask k 1> <ours> <short>"]


def test_syntax_weighs_criteria_by_severity(server: ChatServer, tmp_path: Path) -> None:
    severities = ["high", "low", "generic", "generic"]
    criteria = [{"criterion": f"c{i}", "severity": severity} for i, severity in enumerate(severities)]
    asked = replace(question("s", "x"), details={"criteria": criteria}, follow_ups=())
    server.reply = lambda messages: said_class("CLASS_MET" if messages[1]["content"][-3:-1] in ("c0", "c2") else "CLASS_UNMET")
    scores = criteria_run(server, tmp_path, "syntax-criteria", asked, ("ours",))
    assert scores.scores[0].value == pytest.approx(45.45454545454545, abs=1e-9), "as SEA-HELM's own code gives it"
    with pytest.raises(CorruptInput, match="question s: a syntax item's criteria cannot be weighed"):
        broken = replace(asked, details={"criteria": [{"criterion": "c0", "severity": "dire"}]})
        criteria_run(server, tmp_path, "syntax-criteria", broken, ("ours",))


def test_criteria_without_a_judge_or_with_one_that_fails(server: ChatServer, tmp_path: Path) -> None:
    asked = replace(question("k", "x"), details={"criteria": [{"criterion": "kind"}]}, follow_ups=())
    scorer = criteria_scorer("ind", None, None)
    assert "no judge is set" in scorer(task([asked], scorer, name="kalahi-judge"), [("ours",)]).incomplete
    server.mode = "500"
    assert "status 500" in criteria_run(server, tmp_path, "kalahi-judge", asked, ("ours",)).incomplete
    for broken, said in (
        ({}, "must have a list of criteria"),
        ({"criteria": [{"criterion": 7}]}, "must have a list of criteria"),
    ):
        with pytest.raises(CorruptInput, match=said):
            criteria_run(server, tmp_path, "kalahi-judge", replace(asked, details=broken), ("ours",))
    with pytest.raises(CorruptInput, match="about turn 2, which there is not"):
        late = replace(asked, details={"criteria": [{"criterion": "kind", "turn": 2}]})
        criteria_run(server, tmp_path, "mt-bench-judge", late, ("ours",))
    with pytest.raises(CorruptInput, match="classifications: must give every class a score"):
        criteria_prompts(write_criteria(tmp_path, "kalahi-judge", classifications={"CLASS_MET": 7}), "kalahi-judge")
