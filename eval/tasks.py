"""The suite's tasks as lm-eval runs them: built in memory, one a task and language.

lm-eval's own index of 13,000 tasks is never read (seconds), and no dataset touches the disk or the network. What a model is
asked is always a whole text: for multiple choice the whole sentence, not its end given its beginning. lm-eval scores an end by
encoding beginning and whole apart and cutting the whole where the beginning's tokens end; in languages written without spaces a
token often reaches over that cut, and then part of the text is scored as something it is not, or not at all. The beginning is
the same in all choices, so the ranking by whole texts is the ranking that was meant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from .metrics import METRICS, accuracy, margin
from .suite import Form, LanguageTask

logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)  # a warning a task: that custom datasets can take arguments


def harness_name(task: LanguageTask) -> str:
    """The name under which lm-eval knows a task in one language."""
    return f"{task.name}_{task.language}"


def harness_tasks(tasks: Iterable[LanguageTask]) -> dict[str, ConfigurableTask]:
    """lm-eval's tasks by `harness_name`."""
    return {harness_name(task): ConfigurableTask(config=_config(task)) for task in tasks}


def _config(task: LanguageTask) -> dict[str, Any]:
    metrics = [
        {"metric": metric.name, "aggregation": _AGGREGATION[task.form], "higher_is_better": metric.higher_is_better}
        for metric in METRICS[task.form]
    ]
    config = {
        "task": harness_name(task),
        "custom_dataset": partial(_rows, task),
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": "",
        "doc_to_text": _no_prompt,
        "metric_list": metrics,
    }
    if task.form == "documents":
        return config | {
            "output_type": "loglikelihood_rolling",
            "doc_to_target": _only_text,
            "process_results": _document_values,
        }
    return config | {
        "output_type": "multiple_choice",
        "doc_to_target": _gold,
        "doc_to_choice": _texts,
        "process_results": _choice_values,
    }


_AGGREGATION: dict[Form, str] = {"documents": "bits_per_byte", "word-order": "mean"}


def _rows(task: LanguageTask, **_: Any) -> Mapping[str, datasets.Dataset]:
    rows = [{"id": item.id, "texts": list(item.texts), "gold": item.gold} for item in task.items]
    return {"test": datasets.Dataset.from_list(rows)}


def _no_prompt(doc: Mapping[str, Any]) -> str:
    return ""


def _only_text(doc: Mapping[str, Any]) -> str:
    return str(doc["texts"][0])


def _texts(doc: Mapping[str, Any]) -> list[str]:
    return list(doc["texts"])


def _gold(doc: Mapping[str, Any]) -> int:
    return int(doc["gold"])


def _document_values(doc: Mapping[str, Any], results: list[float]) -> dict[str, tuple[float, int]]:
    return {"bits_per_byte": (results[0], len(_only_text(doc).encode()))}


def _choice_values(doc: Mapping[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    loglikelihoods = [loglikelihood for loglikelihood, _ in results]
    return {"acc": accuracy(loglikelihoods, _gold(doc)), "margin": margin(loglikelihoods, _gold(doc))}
