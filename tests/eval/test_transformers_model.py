"""transformers behind lm-eval: against lm-eval's own `HFLM`, one by one and in batches, greedy and sampled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from sea_lion.eval.transformers_model import BudgetedHFLM, SeededSampling

from .small_world import noted, texts, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BudgetedHFLM:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, 256)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    return BudgetedHFLM(pretrained=loaded.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), backend="causal", rows=3)


def asked(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=given, idx=i) for i, given in enumerate(arguments)]


PROMPTS = [text[:start] for text in texts("eng", 0, 3) for start in (25, 60, 90)]
GREEDY = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}


def test_greedy_answers_are_those_of_lm_eval(model: BudgetedHFLM) -> None:
    reference: Any = HFLM
    other = reference(pretrained=model.model, tokenizer=model.tokenizer, backend="causal", batch_size=4)
    requests = asked("generate_until", *((prompt, GREEDY) for prompt in PROMPTS))
    answers = model.generate_until(requests)
    assert answers == other.generate_until(requests, disable_tqdm=True) and len(set(answers)) > 3
    stop = answers[0][3:5]
    cut = model.generate_until(asked("generate_until", (PROMPTS[0], GREEDY | {"until": [stop]})))
    assert cut == [answers[0].partition(stop)[0]] and not cut[0].is_truncated
    assert answers[0].is_truncated == (len(model.tokenizer.encode(answers[0])) >= 12)


def test_single_token_choices_share_a_forward_pass(model: BudgetedHFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reference: Any = HFLM
    other = reference(pretrained=model.model, tokenizer=model.tokenizer, backend="causal", batch_size=1, logits_cache=False)
    choices = [(prompt, choice) for prompt in PROMPTS[:4] for choice in "ABCDEFGHIJ"]
    requests = asked("loglikelihood", *choices, ("", PROMPTS[5]), (PROMPTS[0], " two words"))
    expected = other.loglikelihood(requests, disable_tqdm=True)
    batches = noted(monkeypatch, BudgetedHFLM, "_model_call")
    found = model.loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert sum(map(len, batches)) == 6


SAMPLED = GREEDY | {"until": [], "do_sample": True, "temperature": 0.9, "top_k": 20}


def test_a_sample_depends_on_its_seed_and_on_nothing_else(model: BudgetedHFLM) -> None:
    requests = asked("generate_until", *((prompt, SAMPLED | {"seed": i}) for i, prompt in enumerate(PROMPTS)))
    together = model.generate_until(requests)
    alone = [model.generate_until([request])[0] for request in reversed(requests)]
    assert together == alone[::-1]
    reseeded = asked("generate_until", *((PROMPTS[0], SAMPLED | {"seed": seed}) for seed in range(6)))
    assert len(set(model.generate_until(reseeded))) > 3


def test_samples_follow_the_tempered_softmax_of_the_top() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, -3.0])
    rows = 4000
    sampling = SeededSampling([{"temperature": 0.7, "top_k": 3, "seed": seed} for seed in range(rows)])
    drawn = sampling(torch.zeros(rows, 1, dtype=torch.long), logits.repeat(rows, 1)).argmax(-1)
    counts = Counter(drawn.tolist())
    expected = (logits[:3] / 0.7).softmax(-1).tolist()
    assert counts[3] == 0
    assert sum((counts[i] - rows * share) ** 2 / (rows * share) for i, share in enumerate(expected)) < 13.8  # p = 0.001


def test_a_prompt_begins_once_and_does_not_end(model: BudgetedHFLM) -> None:
    bos = model.tokenizer.bos_token_id
    assert model._prompt("<s><s>abc") == model._prompt("<s>abc")
    assert model._prompt("<s>abc").count(bos) == 1
    assert model._prompt("") == [bos]
