"""All 39 tasks through lm-eval on miniature mirrors: a tiny Llama, one that knows everything and one that is always wrong."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion.catalog.records import Aggregate, Score
from sea_lion.eval.family import HarnessFamily, Suite, TaskScores
from sea_lion.eval.leaderboard import tasks as tasks_module
from sea_lion.eval.leaderboard.definition import families, sources
from sea_lion.eval.leaderboard.mirror import MirroredFiles, mirror_files
from sea_lion.eval.leaderboard.suite import open_suite
from sea_lion.eval.leaderboard.tasks import build_tasks

from .conftest import IFEVAL_PROMPTS, Rows, gpqa_rows, write_card, write_csv, write_parquet

Tasks = Mapping[str, Any]
FOLLOWED = {prompt: answer for prompt, _, answer in IFEVAL_PROMPTS}
LIKELY, UNLIKELY = (-0.001, True), (-1000.0, False)


def right_choice(task: str, doc: Mapping[str, Any], prompt: str) -> str:
    """What a reader of the prompt who knows everything would choose; for GPQA the letter is looked up in the prompt."""
    if "gpqa" in task:
        lines = [line for line in prompt.splitlines() if line[:1] == "(" and line[4:] == doc["Correct Answer"]]
        return lines[-1][:3]
    return str(doc.get("target") or doc.get("answer_choice") or doc.get("answer"))


class Knowing(LM):  # type: ignore[misc]
    """Chooses and writes what is right, or always something else."""

    def __init__(self, is_right: bool) -> None:
        super().__init__()
        self.is_right = is_right

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [self._likelihood(request) for request in requests]

    def _likelihood(self, request: Any) -> tuple[float, bool]:
        prompt, choice = request.args
        is_gold = choice.strip() == right_choice(request.task_name, request.doc, prompt)
        return LIKELY if is_gold == self.is_right else UNLIKELY

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        return [self._answer(request.task_name, request.doc) for request in requests]

    def _answer(self, task: str, doc: Mapping[str, Any]) -> str:
        if "ifeval" in task:
            return FOLLOWED[doc["prompt"]] if self.is_right else ""
        answer = doc["answer"] if self.is_right else "-1"
        return f"Final Answer: The final answer is ${answer}$. I hope it is correct."

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise AssertionError("no task of the leaderboard asks for the likelihood of a whole text")


def tiny_llama() -> LM:
    """A random Llama over bytes; its weights are large, so that its choices differ."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "</s>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrap: Any = PreTrainedTokenizerFast
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=320,
        initializer_range=0.5,
        eos_token_id=256,
    )
    model: Any = LlamaForCausalLM(config)
    model.train(False)
    hflm: Any = HFLM
    lm: LM = hflm(pretrained=model, tokenizer=wrap(tokenizer_object=tokenizer, eos_token="</s>"), batch_size=16, max_length=320)
    return lm


def ask(lm: LM, suite: Suite, tasks: Tasks) -> dict[str, TaskScores]:
    results: Any = evaluate(lm=lm, task_dict={"tasks": dict(tasks), "groups": {}}, bootstrap_iters=0)
    return read(suite, results["samples"])


def read(suite: Suite, samples: Mapping[str, Any]) -> dict[str, TaskScores]:
    found: dict[str, TaskScores] = {}
    for family in suite.families:
        assert isinstance(family, HarnessFamily)
        for (task, language), scores in family.read(samples).items():
            assert language == "eng"
            found[task] = scores
    return found


def averages(suite: Suite, found: Mapping[str, TaskScores]) -> dict[str, Aggregate]:
    scores = [score for task in found.values() for score in task.scores]
    return {aggregate.name: aggregate for aggregate in suite.aggregate(scores)}


def score_of(found: Mapping[str, TaskScores], task: str, metric: str) -> Score:
    return next(score for score in found[task].scores if score.metric == metric)


@pytest.fixture(scope="module")
def suite(mirrored: tuple[Path, MirroredFiles]) -> Suite:
    return open_suite(mirrored[0])


@pytest.fixture(scope="module")
def tasks(suite: Suite) -> Tasks:
    """lm-eval's 39 tasks, built once, with no way to the network."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket, "create_connection", _no_network)
    patch.setattr(socket.socket, "connect", _no_network)
    built: dict[str, Any] = {}
    for family in suite.families:
        assert isinstance(family, HarnessFamily)
        built.update(family.build())
    patch.undo()
    for task in built.values():  # the tiny model is slow at what it cannot do anyway
        if task.OUTPUT_TYPE == "generate_until":
            task.config.generation_kwargs["max_gen_toks"] = 4
    return built


def _no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was asked")


@pytest.fixture(scope="module")
def llama(suite: Suite, tasks: Tasks) -> tuple[dict[str, Any], dict[str, TaskScores]]:
    """lm-eval's own results for the tiny Llama, and ours."""
    results: Any = evaluate(lm=tiny_llama(), task_dict={"tasks": dict(tasks), "groups": {}}, bootstrap_iters=0)
    return results["results"], read(suite, results["samples"])


def test_all_39_tasks_run_and_the_raw_scores_are_lm_evals(
    suite: Suite, tasks: Tasks, llama: tuple[dict[str, Any], dict[str, TaskScores]]
) -> None:
    official, found = llama
    assert set(tasks) == set(found) == set(sources()) and len(tasks) == 39
    assert suite.name == suite.profile == "leaderboard" and not suite.missing and not suite.warnings
    assert [family.name for family in suite.families] == ["ifeval", "bbh", "math_hard", "gpqa", "musr", "mmlu_pro"]
    compared = 0
    for task, scores in found.items():
        for score in scores.scores:
            if score.source == "lm-eval":
                assert score.value == pytest.approx(official[task][f"{score.metric},none"], abs=1e-12), (task, score.metric)
                assert score.role in ("raw", "diagnostic") and score.higher_is_better
                compared += 1
    assert compared == 24 + 3 + 3 + 1 + 2 * 7 + 4
    assert len({score_of(found, task, "acc_norm").value for task in found if "bbh" in task}) > 2  # it does choose


def test_items_are_on_the_raw_scale_and_average_to_the_raw_score(
    llama: tuple[dict[str, Any], dict[str, TaskScores]],
) -> None:
    for task, scores in llama[1].items():
        for metric in sources()[task].family.metrics:
            values = [item.value for item in scores.items if item.metric == metric]
            raw = score_of(llama[1], task, metric)
            assert raw.items == len(values) and raw.role == "raw"
            assert math.fsum(values) / len(values) == pytest.approx(raw.value, abs=1e-12)
        first = scores.scores[0]
        assert (first.metric, first.role, first.source) == ("normalised", "score", "leaderboard")
        assert len({(item.item, item.metric) for item in scores.items}) == len(scores.items)


def test_a_model_that_knows_everything_scores_100_everywhere(suite: Suite, tasks: Tasks) -> None:
    found = ask(Knowing(is_right=True), suite, tasks)
    for task, scores in found.items():
        assert {score.value for score in scores.scores if score.role != "score"} == {1.0}, (task, scores.scores)
        assert scores.scores[0].value == 100.0
    assert {name: aggregate.value for name, aggregate in averages(suite, found).items()} == dict.fromkeys(
        ["IFEval", "BBH", "MATH", "GPQA", "MuSR", "MMLU-PRO", "overall"], 100.0
    )
    chosen = {item.extracted for item in found["leaderboard_bbh_navigate"].items}
    assert chosen == {"Yes", "No"}


def test_a_model_that_is_always_wrong_scores_0_everywhere(suite: Suite, tasks: Tasks) -> None:
    found = ask(Knowing(is_right=False), suite, tasks)
    assert {score.value for scores in found.values() for score in scores.scores} == {0.0}
    assert {aggregate.value for aggregate in averages(suite, found).values()} == {0.0}
    nulls = {task: scores.scores[0].nulls for task, scores in found.items() if scores.scores[0].nulls}
    assert nulls == {"leaderboard_ifeval": 3}


def test_items_that_share_a_question_or_a_story_are_one_cluster(
    llama: tuple[dict[str, Any], dict[str, TaskScores]],
) -> None:
    found = llama[1]

    def clusters(task: str) -> list[str]:
        return [item.cluster for item in found[f"leaderboard_{task}"].items]

    assert clusters("gpqa_diamond") == clusters("gpqa_main")[:3] == clusters("gpqa_extended")[:3]
    assert len(set(clusters("gpqa_extended"))) == 5
    stories = clusters("musr_team_allocation")
    assert stories[0] == stories[1] != stories[2] == stories[3]
    assert len({*clusters("bbh_snarks"), *clusters("bbh_navigate")}) == 6


def test_the_order_of_gpqas_answers_follows_from_the_question_alone(mirrored: tuple[Path, MirroredFiles], tasks: Tasks) -> None:
    gpqa = next(family for family in families() if family.name == "gpqa")
    random.seed(99)
    again = build_tasks(mirrored[0], gpqa)
    order = [[doc[f"choice{place}"] for place in (1, 2, 3, 4)] for doc in again["leaderboard_gpqa_extended"].eval_docs]
    random.seed(1)
    for task in (tasks["leaderboard_gpqa_extended"], tasks["leaderboard_gpqa_main"], again["leaderboard_gpqa_extended"]):
        docs = list(task.eval_docs)
        assert [[doc[f"choice{place}"] for place in (1, 2, 3, 4)] for doc in docs] == order[: len(docs)]
        assert all(doc[f"choice{'ABCD'.index(doc['answer'][1]) + 1}"] == doc["Correct Answer"] for doc in docs)
    assert "An anvil of iron" in order[2]  # lm-eval's own cleaning of the texts is kept


def test_gpqas_right_answers_are_spread_over_the_letters() -> None:
    letters = [tasks_module._ordered(row)["answer"] for row in gpqa_rows(400)]
    assert all(70 <= letters.count(letter) <= 130 for letter in ("(A)", "(B)", "(C)", "(D)"))


def test_a_limit_is_a_fixed_choice_of_the_items_that_are_asked(mirrored: tuple[Path, MirroredFiles]) -> None:
    by_name = {family.name: family for family in families()}
    math_tasks = build_tasks(mirrored[0], by_name["math_hard"], limit=2)
    assert {len(task.eval_docs) for task in math_tasks.values()} == {2}  # of the hard ones: the easy one is no item
    (mmlu,) = build_tasks(mirrored[0], by_name["mmlu_pro"], limit=2).values()
    (same,) = build_tasks(mirrored[0], by_name["mmlu_pro"], limit=2).values()
    assert mmlu.eval_docs["question"] == same.eval_docs["question"] and len(mmlu.eval_docs) == 2
    assert len(mmlu.dataset["validation"]) == 6  # examples are not items


def test_ifeval_is_scored_the_same_each_time(tasks: Tasks) -> None:
    """langdetect draws at random; on a text of mixed languages its answers differ from call to call unless it is seeded."""
    task = tasks["leaderboard_ifeval"]
    doc = {
        "key": 1,
        "prompt": "In lower case.",
        "instruction_id_list": ["change_case:english_lowercase"],
        "kwargs": [{}],
    }
    texts = ["sol no mar is son", "an ocean is en mar", "pan con ham", "rest in pace"]
    state = random.getstate()
    first = [task.process_results(doc, [text]) for text in texts]
    assert all([task.process_results(doc, [text]) for text in texts] == first for _ in range(5))
    assert random.getstate() == state


def test_a_file_that_changes_after_the_look_is_not_asked(downloads: Path, tmp_path: Path) -> None:
    rows: Rows = [{"input": "Sail or oar?", "target": "Yes"}]
    path = "SaylorTwift/bbh/navigate/test-0.parquet"
    write_parquet(tmp_path / "d" / path, rows)
    mirror_files(tmp_path / "d", tmp_path / "m")
    opened = open_suite(tmp_path / "m")
    write_parquet(tmp_path / "m" / path, [{"input": "Sail or oar?", "target": "No"}])
    (family,) = opened.families
    assert isinstance(family, HarnessFamily)
    with pytest.raises(Exception, match="its sha256 is"):
        family.build()


def test_a_mirror_without_gpqa_says_what_the_averages_lack(tmp_path: Path) -> None:
    folder = tmp_path / "d/TAUR-Lab/MuSR"
    row = {"narrative": "It rained.", "question": "Who?", "choices": "['Ann', 'Bo']", "answer_choice": "Bo"}
    write_csv(folder / "murder_mystery.csv", [row])
    write_card(folder, {"default": {"murder_mysteries": "murder_mystery.csv"}})
    mirror_files(tmp_path / "d", tmp_path / "m")
    opened = open_suite(tmp_path / "m")
    (family,) = opened.families
    assert isinstance(family, HarnessFamily)
    found = ask(Knowing(is_right=True), opened, family.build())
    groups = averages(opened, found)
    assert groups["MuSR"].missing == ("leaderboard_musr_object_placements", "leaderboard_musr_team_allocation")
    assert groups["overall"].members == ("MuSR",)
    assert groups["overall"].missing == ("IFEval", "BBH", "MATH", "GPQA", "MuSR", "MMLU-PRO")
    assert len(opened.missing) == 38
