"""SEA-MTBench and its judge's prompts: recorded outputs of SEA-HELM, and a real server as the judge.

The prompts of these tests are our own; the benchmark's are read from its files at run time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.family import Message, TaskScores
from sea_lion.eval.judge import judgement_key, open_judge
from sea_lion.eval.judgements import Judgements
from sea_lion.eval.sea_helm.judge_prompts import JUDGE_FILES, PAIRWISE, judge_prompts
from sea_lion.eval.sea_helm.mt_bench import (
    Verdict,
    final_verdict,
    mt_bench_scorer,
    verdict,
    verdict_score,
    win_rates,
)

from ..chat_server import ChatServer, chat_server
from .judged_tasks import BASELINE, question, settings, task

SHARED = Path(__file__).parents[4] / "shared"
ORACLES = SHARED / "oracles" / "sea_helm_vectors.json"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
OUTCOMES: tuple[Verdict, ...] = ("WIN", "LOSE", "TIE", "ERROR")


def vectors(*groups: str) -> list[dict[str, Any]]:
    if not ORACLES.exists():
        return []
    return [vector for vector in json.loads(ORACLES.read_text("utf-8"))["vectors"] if vector["group"] in groups]


def flat(output: Any) -> Any:
    """A vector's output with its categories beside its other figures."""
    if not isinstance(output, dict):
        return output
    categories = {f"category {name}": rate for name, rate in output["categories"].items()}
    return categories | {name: rate for name, rate in output.items() if name != "categories"}


def outcome(given: dict[str, Any], function: str) -> Any:
    """What our functions make of a vector's input."""
    ties = given.get("ties_allowed", True)
    match function.rpartition(".")[2]:
        case "parse_judgment" | "parse_judgement":
            text = given["judgment"] if "judgment" in given else given["judgement"]
            return verdict(text, is_reversed=given["reverse"], ties_allowed=ties)
        case "get_final_judgment" | "get_final_judgement":
            return final_verdict(given["first"], given["second"], ties_allowed=ties)
        case "get_score":
            return verdict_score(given["outcome"])
        case "get_mt_bench_metrics" | "get_judge_metrics":
            rates = win_rates(given.get("final_judgments") or given["final_judgements"], given["categories"])
            return flat({"categories": dict(rates.categories)}) | {
                "win_rate": rates.win_rate,
                "weighted_win_rate": rates.weighted_win_rate,
            }
    raise AssertionError(f"no function for {function}")


@pytest.mark.skipif(not ORACLES.exists(), reason="shared/oracles is not here")
def test_recorded_outputs_of_sea_helm() -> None:
    found = vectors("mtbench")
    assert Counter(vector["version"] for vector in found).keys() == {"v1.0.0", "v1.2.1"} and len(found) >= 63
    for vector in found:
        assert outcome(vector["input"], vector["function"]) == pytest.approx(flat(vector["output"]), abs=1e-9), vector["id"]


def rule(row: int, turn: int, is_baseline_after: bool) -> str:
    return ("[[A]]", "[[B]]", "[[C]]", "none")[(row + 2 * turn + is_baseline_after) % 4]


REAL = [vector for vector in vectors("realdata") if vector["task"] == "mt-bench"]


@pytest.mark.parametrize("vector", REAL, ids=lambda vector: str(vector["id"]))
def test_recorded_outputs_on_the_benchmarks_rows(vector: dict[str, Any]) -> None:
    file = DATA / vector["input"]["filepath"]
    if not file.exists():
        pytest.skip(f"{file.name} is not in shared/data (CC BY-NC-SA)")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    finals: list[list[Verdict]] = [
        [
            final_verdict(verdict(rule(i, turn, False), is_reversed=True), verdict(rule(i, turn, True), is_reversed=False))
            for turn in (1, 2)
        ]
        for i in range(len(rows))
    ]
    rates = win_rates(finals, [row["metadata"]["category"] for row in rows])
    assert rates.weighted_win_rate == pytest.approx(vector["output"]["weighted_win_rate"], abs=1e-9)
    assert rates.win_rate == pytest.approx(vector["output"]["win_rate"], abs=1e-9)
    assert dict(rates.categories) == pytest.approx(vector["output"]["categories"], abs=1e-9)


@given(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES), st.booleans())
def test_the_order_of_two_verdicts_does_not_matter(first: Verdict, second: Verdict, ties_allowed: bool) -> None:
    assert final_verdict(first, second, ties_allowed=ties_allowed) == final_verdict(second, first, ties_allowed=ties_allowed)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(OUTCOMES)), min_size=1, max_size=30), st.integers(0, 29))
def test_one_more_win_lowers_no_rate(pairs: list[tuple[str, Verdict]], place: int) -> None:
    better: list[tuple[str, Verdict]] = [
        (category, "WIN" if i == place % len(pairs) else won) for i, (category, won) in enumerate(pairs)
    ]
    before, after = (win_rates([[won] for _, won in these], [name for name, _ in these]) for these in (pairs, better))
    assert after.win_rate >= before.win_rate and after.weighted_win_rate >= before.weighted_win_rate - 1e-9


def fields(names: Sequence[str], turns: int) -> str:
    return " ".join(f"<{name} {number}: {{{name}_{number}}}>" for number in range(1, turns + 1) for name in names)


PAIR, GUIDED = ("question", "answer_a", "answer_b"), ("question", "ref_answer", "answer_a", "answer_b")


def write_2025(folder: Path, **changes: Any) -> Path:
    """A mirror with pairwise prompts of our own, laid out as release v1.0.0 lays out its ones."""
    prompts = {
        key: [{"system_prompt": f"{key} turn {turn}", "prompt_template": fields(names, turn)} for turn in (1, 2)]
        for key, names in (("without-reference", PAIR), ("with-reference", GUIDED))
    }
    (folder / PAIRWISE).mkdir(parents=True)
    module = f"import absent_module\nCATEGORIES_WITH_REFERENCE = {{'math', 'reasoning'}}\nJUDGE_PROMPTS = {prompts!r}\n"
    (folder / PAIRWISE / "mt_bench_prompts.py").write_text(changes.pop("module", module), "utf-8")
    settings = {"judge_model": "gpt-4-1106-preview", "judge_seed": 1234, "judge_temperature": 0, "judge_max_tokens": 2048}
    task = settings | {"baseline_model": BASELINE} | changes
    (folder / PAIRWISE / "config.yaml").write_text(yaml.safe_dump({"mt-bench": task}), "utf-8")
    return folder


def write_2026(folder: Path, **changes: Any) -> Path:
    prompts = {
        key: [
            {"system_prompt": f"{key} {turn}: {{A_wins}} {{B_wins}} {{Tie}}", "prompt_template": fields(names, turn)}
            for turn in (1, 2)
        ]
        for key, names in (("without-reference", PAIR), ("with-reference", GUIDED))
    }
    kwargs = {"temperature": 0.6, "max_tokens": 2048}
    task = {
        "judge": {"judge_model_name": "gpt-4.1-2025-04-14", "judge_generation_kwargs": kwargs, "judge_prompts": prompts},
        "judgement_labels": {"A_wins": "[[A]]", "B_wins": "[[B]]", "Tie": "[[C]]"},
        "categories_with_reference": ["math", "reasoning"],
        "baseline_model": BASELINE,
        "ties_allowed": True,
    } | changes
    (folder / PAIRWISE).mkdir(parents=True)
    (folder / PAIRWISE / "config.yaml").write_text(yaml.safe_dump({"mt-bench": task}), "utf-8")
    return folder


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


QUESTIONS = (question("m", "math", has_references=True), question("w1", "writing"), question("w2", "writing"))
ANSWERS = (("ours {m} 1", "ours m 2"), ("ours w1 1", "ours w1 2"), ("ours w2 1", ""))


def run(server: ChatServer, mirror: Path, kept: Judgements, language: str = "ind", **changes: Any) -> TaskScores:
    judge = open_judge(settings(server, **changes))
    scorer = mt_bench_scorer("sea_helm_2025", language, judge, judge_prompts(mirror, "sea_helm_2025"), kept)
    return scorer(task(QUESTIONS, scorer, language), ANSWERS)


def test_both_orders_are_judged_and_categories_weigh_the_same(server: ChatServer, tmp_path: Path) -> None:
    def reply(messages: list[dict[str, str]]) -> str:
        """Math: ours; w1: always the first answer; w2: its first turn is unreadable, of the second ours is worse."""
        shown = messages[1]["content"]
        ours_is_a = "<answer_a 1: ours" in shown
        if "ask m" in shown:
            return "[[A]]" if ours_is_a else "[[B]]"
        if "ask w1" in shown:
            return "[[A]]"
        return "no idea" if "question 2" not in shown else "[[B]]" if ours_is_a else "[[A]]"

    server.reply = reply
    scores = run(server, write_2025(tmp_path / "mirror"), Judgements())
    assert [(item.item, item.value, item.stratum, item.is_null) for item in scores.items] == [
        ("m", 1.0, "math", False), ("w1", 0.5, "writing", False), ("w2", 0.0, "writing", True),
    ]  # fmt: skip
    assert scores.items[2].extracted == "ERROR (ERROR/ERROR), LOSE (LOSE/LOSE)"
    weighted, plain = scores.scores
    assert (weighted.metric, weighted.role, weighted.value, weighted.nulls) == ("weighted_win_rate", "score", 62.5, 1)
    assert (plain.metric, plain.role, plain.value) == ("win_rate", "diagnostic", 0.5)
    assert weighted.stderr == pytest.approx(100 * (3 / 2 * 2 * (0.25 / 4) ** 2) ** 0.5)
    assert any(
        "no verdict could be read out of 2 of 12 judgements; 1 of 6 turns count as lost" in text for text in scores.warnings
    )
    assert not scores.incomplete and len(scores.warnings) == 1


def test_what_the_judge_is_shown(server: ChatServer, tmp_path: Path) -> None:
    run(server, write_2025(tmp_path / "mirror"), Judgements(), concurrency=1)
    shown = [tuple(message["content"] for message in body["messages"]) for body in server.requests]
    assert shown[0] == (
        "with-reference turn 1",
        "<question 1: ask m 1> <ref_answer 1: ref m 1> <answer_a 1: base m {1}> <answer_b 1: ours {m} 1>",
    )
    assert "<answer_a 1: ours {m} 1> <answer_b 1: base m {1}>" in shown[1][1]
    assert shown[7] == (
        "without-reference turn 2",
        "<question 1: ask w1 1> <answer_a 1: ours w1 1> <answer_b 1: base w1 {1}> "
        "<question 2: ask w1 2> <answer_a 2: ours w1 2> <answer_b 2: base w1 2>",
    )
    assert len(shown) == 12


def test_thai_categories_are_capitalised_and_never_get_their_references(server: ChatServer, tmp_path: Path) -> None:
    mirror = write_2025(tmp_path / "mirror")
    thai = (question("t", "Math", has_references=True), question("u", "Writing"))
    judge = open_judge(settings(server))
    scorer = mt_bench_scorer("sea_helm_2025", "tha", judge, judge_prompts(mirror, "sea_helm_2025"))
    scores = scorer(task(thai, scorer, "tha"), [("a", "b"), ("c", "d")])
    assert not [body for body in server.requests if "ref t" in str(body)]
    assert any("1 questions have references that the judge is not shown" in text for text in scores.warnings)


def test_a_judge_that_fails_leaves_the_task_incomplete_and_what_was_judged_stays(server: ChatServer, tmp_path: Path) -> None:
    mirror, kept = write_2025(tmp_path / "mirror"), Judgements(tmp_path / "judgements.sqlite")
    for mode, said in (("500", "status 500"), ("garbage", "not what was asked for"), ("timeout", "no answer in time")):
        server.mode, server.fails_from = mode, len(server.requests) + 2  # type: ignore[assignment]
        scores = run(server, mirror, kept, concurrency=1, timeout=0.3)
        assert said in scores.incomplete and "\n" not in scores.incomplete
        assert not scores.items and not scores.scores
    assert len(list(kept.rows())) == 6, "two more in each round"
    server.mode = "good"
    server.requests.clear()
    scores = run(server, mirror, kept)
    assert len(server.requests) == 6 and scores.scores[0].value == 50.0, "a judge who always says A moves nothing"
    server.requests.clear()
    assert run(server, mirror, kept) == scores and not server.requests


def test_without_a_judge_or_its_prompts_the_task_says_so(server: ChatServer, tmp_path: Path) -> None:
    for judge, said in ((None, "no judge is set"), (open_judge(settings(server)), "the mirror holds no judge prompts")):
        scorer = mt_bench_scorer("sea_helm_2025", "ind", judge, None)
        scores = scorer(task(QUESTIONS, scorer), ANSWERS)
        assert said in scores.incomplete and scores.scores == ()
    with pytest.raises(
        CorruptInput, match=r"mt_bench/config.yaml: the judge's prompts are not here: mirror the benchmark again"
    ):
        judge_prompts(tmp_path, "sea_helm_2025")


def test_a_new_answer_is_judged_anew_and_another_judge_is_named(server: ChatServer, tmp_path: Path) -> None:
    mirror, kept = write_2025(tmp_path / "mirror"), Judgements()
    assert run(server, mirror, kept).warnings == ()
    judge = open_judge(settings(server))
    scorer = mt_bench_scorer("sea_helm_2025", "ind", judge, judge_prompts(mirror, "sea_helm_2025"), kept)
    server.requests.clear()
    scorer(task(QUESTIONS, scorer), [ANSWERS[0], ("ours w1 1", "changed"), ANSWERS[2]])
    assert len(server.requests) == 2
    [warning] = run(server, mirror, kept, model="Qwen/Qwen2.5-72B-Instruct").warnings
    assert "judged by Qwen/Qwen2.5-72B-Instruct, not by gpt-4-1106-preview" in warning
    [warning] = run(server, mirror, kept, temperature=1.0).warnings
    assert "temperature 1, not 0" in warning


def test_2026_fills_the_labels_in_and_can_forbid_ties(server: ChatServer, tmp_path: Path) -> None:
    labels = {"A_wins": "<A>", "B_wins": "<B>", "Tie": "<T>"}
    prompts = judge_prompts(write_2026(tmp_path / "ties", judgement_labels=labels), "sea_helm_2026")
    assert prompts.plain[1].system == "without-reference 2: <A> <B> <T>" and prompts.drawn["temperature"] == 0.6
    strict = judge_prompts(write_2026(tmp_path / "strict", ties_allowed=False), "sea_helm_2026")
    server.reply = lambda messages: "[[A]]"
    judge = open_judge(settings(server, model="gpt-4.1-2025-04-14", temperature=0.6))
    for read, value in ((replace(prompts, labels=strict.labels), 50.0), (strict, 0.0)):
        scorer = mt_bench_scorer("sea_helm_2026", "ind", judge, read)
        scores = scorer(task(QUESTIONS, scorer), ANSWERS)
        assert scores.scores[0].value == value and scores.warnings == ()


BROKEN = {
    "JUDGE_PROMPTS = {": "is not a Python module",
    "CATEGORIES_WITH_REFERENCE = ['math']": "JUDGE_PROMPTS: is not assigned",
    "CATEGORIES_WITH_REFERENCE = ['math']\nJUDGE_PROMPTS = open('/etc/passwd').read()": "JUDGE_PROMPTS: is no literal",
    "CATEGORIES_WITH_REFERENCE = 7\nJUDGE_PROMPTS = {}": "CATEGORIES_WITH_REFERENCE: is no collection",
    "CATEGORIES_WITH_REFERENCE = ['math']\nJUDGE_PROMPTS = {'without-reference': []}": "without-reference: has 0 prompts",
}


@pytest.mark.parametrize("module", BROKEN)
def test_a_module_of_prompts_that_is_none(tmp_path: Path, module: str) -> None:
    with pytest.raises(CorruptInput, match=BROKEN[module]):
        judge_prompts(write_2025(tmp_path, module=module), "sea_helm_2025")


def test_a_prompt_that_shows_no_answer_is_refused(tmp_path: Path) -> None:
    turns = [{"system_prompt": "s", "prompt_template": fields(PAIR, turn)} for turn in (1, 2)]
    for template, said in (("{question_1} {answer_a_1}", "no 'answer_b_1'"), (fields(PAIR, 1) + "{other}", "field 'other'")):
        broken = {"without-reference": [{**turns[0], "prompt_template": template}, turns[1]], "with-reference": turns}
        module = f"CATEGORIES_WITH_REFERENCE = []\nJUDGE_PROMPTS = {broken!r}"
        with pytest.raises(CorruptInput, match=said):
            judge_prompts(write_2025(tmp_path / said[-6:], module=module), "sea_helm_2025")
    with pytest.raises(CorruptInput, match="baseline_model: is not as the release has it: 7"):
        judge_prompts(write_2025(tmp_path / "x", baseline_model=7), "sea_helm_2025")
    with pytest.raises(CorruptInput, match="judgement_labels: must name A_wins, B_wins, Tie"):
        judge_prompts(write_2026(tmp_path / "y", judgement_labels={"A_wins": "a", "B_wins": "b"}), "sea_helm_2026")


def test_a_row_that_cannot_be_judged(server: ChatServer, tmp_path: Path) -> None:
    prompts = judge_prompts(write_2025(tmp_path), "sea_helm_2025")
    scorer = mt_bench_scorer("sea_helm_2025", "ind", open_judge(settings(server)), prompts)
    whole = QUESTIONS[1]
    for details, said in (
        ({"category": "writing"}, "question w1: baselines is absent"),
        ({**whole.details, "category": "math"}, "question w1: references must hold a text for each of 1 turns"),
        ({**whole.details, "baselines": {"other": ["a", "b"]}}, f"question w1: baselines.{BASELINE} must hold"),
    ):
        with pytest.raises(CorruptInput, match=said):
            scorer(task([replace(whole, details=details)], scorer), [("a", "b")])
    with pytest.raises(CorruptInput, match="question w1: has 1 turns, not 2"):
        scorer(task([replace(whole, follow_ups=())], scorer), [("a",)])
    assert not server.requests


def test_the_files_that_a_mirror_must_hold() -> None:
    assert all(path.startswith("seahelm_tasks/") for files in JUDGE_FILES.values() for path in files)
    assert JUDGE_FILES["sea_helm_2025"][1].endswith("mt_bench_prompts.py")
    first = (Message(role="user", content="x"),)
    assert judgement_key({"model": "a"}, first) == judgement_key({"model": "a"}, list(first))
