"""A suite's questions as lm-eval asks them: tasks built in memory, one a task and language.

lm-eval's own index of 13,000 tasks is never read (seconds), and no dataset touches the disk or the network. What a model is
asked by likelihood is always a whole text: for multiple choice the whole sentence, not its end given its beginning. lm-eval
scores an end by encoding beginning and whole apart and cutting the whole where the beginning's tokens end; in languages
written without spaces a token often reaches over that cut, and then part of the text is scored as something it is not, or not
at all. The beginning is the same in all choices, so the ranking by whole texts is the ranking that was meant.

Prompts for generation are rendered before lm-eval sees them, as its few-shot joiner and its chat history know neither a
benchmark's plain template nor a second turn. Values are worked out from the answers later, here lm-eval is told only that there
was one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from ..catalog.fingerprint import fingerprint
from .family import Generation, GenerationTask
from .suite import LanguageTask

logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)  # a warning a task: that custom datasets can take arguments

Task: Any = ConfigurableTask


def harness_name(task: LanguageTask | GenerationTask) -> str:
    """The name under which lm-eval knows a task in one language."""
    return f"{task.name}_{task.language}"


def harness_tasks(tasks: Iterable[LanguageTask]) -> dict[str, Any]:
    """lm-eval's tasks by `harness_name`: texts to be scored by likelihood."""
    return {harness_name(task): Task(config=_likelihood_config(task)) for task in tasks}


def _likelihood_config(task: LanguageTask) -> dict[str, Any]:
    rows = [{"id": item.id, "turn": 0, "texts": list(item.asked), "gold": item.gold} for item in task.items]
    config = _config(harness_name(task), rows)
    if task.form == "documents":
        return config | {"output_type": "loglikelihood_rolling", "doc_to_text": _no_text, "doc_to_target": _only_text}
    choices = {"output_type": "multiple_choice", "doc_to_target": _gold, "doc_to_choice": _texts}
    return config | choices | {"doc_to_text": _no_text}


def _config(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task": name,
        "custom_dataset": partial(_split, rows),
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": "",
        "process_results": _answered,
        "metric_list": [{"metric": "answered", "aggregation": "mean", "higher_is_better": True}],
    }


def _split(rows: list[dict[str, Any]], **_: Any) -> Mapping[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list(rows)}


def _no_text(doc: Mapping[str, Any]) -> str:
    return ""


def _only_text(doc: Mapping[str, Any]) -> str:
    return str(doc["texts"][0])


def _texts(doc: Mapping[str, Any]) -> list[str]:
    return list(doc["texts"])


def _gold(doc: Mapping[str, Any]) -> int:
    return int(doc["gold"])


def _answered(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    return {"answered": 1.0}


class PromptTask(Task):  # type: ignore[misc]
    """One turn of a task that is answered by generation: the prompts are given, by item."""

    def __init__(self, task: GenerationTask, turn: int, prompts: Mapping[str, Any]) -> None:
        self.prompts, self.turn, self.asked = prompts, turn, task
        rows = [{"id": item, "turn": turn} for item in prompts]
        config = _config(harness_name(task), rows)
        kind = {"output_type": "generate_until", "doc_to_text": _no_text, "doc_to_target": _no_text}
        settings = request_settings(task.generation, "", "", turn)  # each request has its own; without any lm-eval warns
        super().__init__(config=config | kind | {"generation_kwargs": settings})

    def construct_requests(self, doc: Mapping[str, Any], ctx: Any, **kwargs: Any) -> Instance:
        settings = request_settings(self.asked.generation, harness_name(self.asked), doc["id"], self.turn)
        return Instance(
            request_type="generate_until",
            doc=dict(doc),
            arguments=(self.prompts[doc["id"]], settings),
            idx=0,
            metadata=kwargs["metadata"],
        )


def request_settings(generation: Generation, task: str, item: str, turn: int) -> dict[str, Any]:
    """lm-eval's settings of one request; only sampled answers have a seed, which is the item's own."""
    settings: dict[str, Any] = {
        "until": list(generation.stop),
        "max_gen_toks": generation.max_tokens,
        "do_sample": generation.temperature > 0,
        "temperature": generation.temperature,
    }
    if generation.temperature > 0:
        seed = int(fingerprint([generation.seed, task, item, turn])[:8], 16) >> 1  # servers take 31 bits
        settings |= {"top_k": generation.top_k, "seed": seed}
    return settings
