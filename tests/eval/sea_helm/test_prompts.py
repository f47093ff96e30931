"""Prompts equal SEA-HELM's own byte for byte (by digest), and generation is set as it sets it."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.family import Message
from sea_lion.eval.sea_helm.generation import examples_asked, generation, sampling
from sea_lion.eval.sea_helm.prompts import BASE_TEMPLATES, base_text, conversations
from sea_lion.eval.sea_helm.templates import TaskSettings, TaskTexts, fill, read_generation, read_suites, read_tasks

SHARED = Path(__file__).parents[4] / "shared"
ORACLE = SHARED / "oracles" / "sea_helm_vectors.json"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILES = {"v1.0.0": "sea_helm_2025", "v1.2.1": "sea_helm_2026"}
LIMITS_2026 = {"sentiment": 32, "nli": 128, "if-eval": 4096, "translation-en-xx": 256, "abssum": 512, "sentiment-logprobs": 32}
"""Tokens of v1.2.1, whose configurations are not here."""


def vectors(group: str, version: str) -> list[Any]:
    """Vectors of a group, as parameters; one that is skipped where the oracle is absent."""
    if not ORACLE.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{ORACLE.name} is not here: it lies in ../shared"))]
    found = json.loads(ORACLE.read_text("utf-8"))["vectors"]
    return [
        pytest.param(vector, id=vector["id"]) for vector in found if (vector["group"], vector["version"]) == (group, version)
    ]


@cache
def tasks() -> dict[str, TaskSettings]:
    """The tasks whose configurations are here."""
    found: dict[str, TaskSettings] = {}
    for path in sorted((DATA / "seahelm_tasks").rglob("config.yaml")):
        found |= read_tasks(path.read_text("utf-8"), "sea_helm_2025", path)
    return found


@cache
def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / path).read_text("utf-8").split("\n") if line.strip()]


def digest(talks: Iterable[tuple[Message, ...]]) -> str:
    said = ("\x1e".join(f"{message.role}\x1f{message.content}" for message in talk) + "\x1d" for talk in talks)
    return hashlib.sha256("".join(said).encode()).hexdigest()


def _texts(vector: Any) -> TaskTexts:
    if vector["task"] not in tasks():
        pytest.skip(f"the configuration of {vector['task']} is not among the files in ../shared")
    return tasks()[vector["task"]].languages[vector["lang"]]


@pytest.mark.parametrize("vector", vectors("prompt", "v1.0.0"))
def test_conversations_of_2025_have_the_digest_of_the_benchmarks_own(vector: Any) -> None:
    given, wanted = vector["input"], vector["output"]
    if vector["task"] is None:
        _check_base_template(vector)
        return
    texts = _texts(vector)
    count = given["num_examples"] if given["example_filepath"] else 0
    needed = [given["filepath"], *([given["example_filepath"]] if count else [])]
    if absent := [path for path in needed if not (DATA / path).is_file()]:
        pytest.skip(f"{absent[0]} is not among the files in ../shared")
    assert texts.file == given["filepath"] and (texts.example_file or None) == given["example_filepath"]
    examples = rows(given["example_filepath"])[:count] if count else []
    as_turns = given["fewshot_as_multiturn"]
    talks = [
        talk
        for row in rows(given["filepath"])
        for talk in conversations("sea_helm_2025", texts, row, examples, as_turns=as_turns)
    ]
    assert len(talks) == wanted["conversations"]
    assert digest(talks) == wanted["sha256_all"]


def _check_base_template(vector: Any) -> None:
    given, profile = vector["input"], PROFILES[vector["version"]]
    messages = [Message(**message) for message in given["messages"]]
    assert base_text(profile, messages, given.get("bos_token", "")) == vector["output"]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(BASE_TEMPLATES[profile])
    assert template.render(**given) == vector["output"]


@pytest.mark.parametrize("vector", vectors("prompt", "v1.2.1"))
def test_conversations_of_2026(vector: Any) -> None:
    if vector["task"] is None:
        _check_base_template(vector)
        return
    place = SHARED / "data" / "sea-helm-v1.2.1" / "seahelm_tasks"
    found: dict[str, TaskSettings] = {}
    for path in sorted(place.rglob("config.yaml")):
        found |= read_tasks(path.read_text("utf-8"), "sea_helm_2026", path)
    if vector["task"] not in found:
        pytest.skip("the configurations of v1.2.1 are not here")
    row = {"prompts": [vector["input"]["values"]]}
    talk = conversations(
        "sea_helm_2026", found[vector["task"]].languages[vector["lang"]], row, vector["input"]["examples"] or []
    )
    assert [message.role for message in talk[0]] == vector["output"]["roles"]
    digests = [hashlib.sha256(message.content.encode()).hexdigest() for message in talk[0]]
    assert digests == vector["output"]["sha256"]


OWN = """
shapes:
  competency: nlu
  metric: normalized_accuracy
  fewshot_num_examples: {instruct: 0, base: 2}
  languages:
    id:
      filepath: org/Shapes
      example_filepath: org/Shapes
      max_tokens: 7
      prompt_template:
        preamble: "\\nSay \\"{answer_tag} WORD\\".\\n"
        task_template: "Shape: {text} "
        answer_template: "{answer_tag} {label}"
        answer_tag: "Shape:"
shapes-logprobs:
  metadata: ${shapes.metadata}
  languages: ${shapes.languages}
"""


def test_examples_of_2026_are_turns_and_the_preamble_stands_before_the_first() -> None:
    task = read_tasks(OWN, "sea_helm_2026", "own.yaml")["shapes"]
    examples = [{"prompts": [{"text": "□"}], "label": "square"}, {"prompts": [{"text": "△"}], "label": "triangle"}]
    row = {"prompts": [{"text": "○"}, {"text": "◇"}]}
    first, second = conversations("sea_helm_2026", task.languages["id"], row, examples)
    assert [(message.role, message.content) for message in first] == [
        ("user", 'Say "Shape: WORD".\n\n\nShape: □'),
        ("assistant", "Shape: square"),
        ("user", "Shape: △ "),
        ("assistant", "Shape: triangle"),
        ("user", "Shape: ○ "),
    ]
    assert second == (Message(role="user", content="Shape: ◇ "),)
    assert conversations("sea_helm_2026", task.languages["id"], row)[0][0].content == 'Say "Shape: WORD".\n\n\nShape: ○'
    assert [examples_asked("sea_helm_2026", task, is_base=is_base) for is_base in (False, True)] == [0, 2]


@pytest.mark.parametrize("vector", vectors("generation", "v1.0.0"))
def test_generation_of_2025(vector: Any) -> None:
    texts = _texts(vector)
    path = DATA / "seahelm_tasks" / "generation_config.yaml"
    shared = read_generation(path.read_text("utf-8"), path)
    made = sampling("sea_helm_2025", tasks()[vector["task"]], texts, shared, is_base=vector["input"]["is_base_model"])
    assert made == vector["output"]
    asked = generation(made)
    assert (asked.max_tokens, asked.stop) == (made["max_tokens"], tuple(made.get("stop", ())))
    assert (asked.temperature, asked.top_k, asked.seed) == (made["temperature"], made["top_k"], made["seed"])


@pytest.mark.parametrize("vector", vectors("generation", "v1.2.1"))
def test_generation_of_2026(vector: Any) -> None:
    """The limits are facts; what reasoning, base models and seeds change is under test."""
    given = vector["input"]
    texts = TaskTexts(source="", file="", example_file="", max_tokens=LIMITS_2026[vector["task"]], parts={})
    task = TaskSettings(name=vector["task"], competency="", metric="", languages={})
    made = sampling(
        "sea_helm_2026",
        task,
        texts,
        {},
        is_base=given["is_base_model"],
        is_reasoning=given["is_reasoning_model"],
        seed=given["seed"],
    )
    assert made == vector["output"]["generation_kwargs"]


def test_a_reasoning_model_of_2025_draws_and_may_be_long() -> None:
    texts = TaskTexts(source="", file="", example_file="", max_tokens=16, parts={})
    task = TaskSettings(name="x", competency="", metric="", temperature=0.3, languages={})
    made = sampling("sea_helm_2025", task, texts, {"seed": 1234}, is_reasoning=True)
    assert made == {"temperature": 0.6, "max_tokens": 20_016, "seed": 1234}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{text.__class__}", "no plain field"),
        ("{text!r}", "no plain field"),
        ("{text:>9}", "no plain field"),
        ("{}", "no plain field"),
        ("{other}", "'other', which the row has not"),
        ("{text", "not a template"),
    ],
)
def test_a_template_fills_plain_fields_only(template: str, problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem):
        fill(template, {"text": "x"}, "own.yaml")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"max_tokens": "7"}, r"shapes\.id: max_tokens: is str, not int"),
        ({"max_tokens": 0}, "must be at least 1"),
        ({"max_token": 9}, "max_token: is a key that this platform does not know"),
        ({"filepath": None}, "filepath: is missing"),
        ({"prompt_template": {"preamble": "", "task_template": "", "answer_template": ""}}, "answer_tag: is missing"),
        ({"prompt_template": {"template": "{text}"}}, "template: is a key that this platform does not know"),
    ],
)
def test_a_configuration_that_is_not_as_the_release_has_it_is_named(change: dict[str, Any], problem: str) -> None:
    table = yaml.safe_load(OWN)
    table["shapes"]["languages"]["id"] |= change
    with pytest.raises(CorruptInput, match=problem):
        read_tasks(yaml.safe_dump(table), "sea_helm_2026", "own.yaml")


def test_settings_that_are_no_settings_are_named() -> None:
    with pytest.raises(CorruptInput, match="not YAML"):
        read_tasks("a: [", "sea_helm_2026", "own.yaml")
    with pytest.raises(CorruptInput, match=r"seahelm\.id: is neither a list of tasks nor 'all'"):
        read_suites("seahelm: {id: some}", "task_config.yaml")
    with pytest.raises(CorruptInput, match=r"top_p: is 0\.9"):
        read_generation(
            "generation_kwargs: {top_p: 0.9, top_k: 50, repetition_penalty: 1.0, seed: 1}", "generation_config.yaml"
        )
    with pytest.raises(CorruptInput, match="yaml"):
        read_tasks("!!python/object/apply:os.getcwd []", "sea_helm_2026", "own.yaml")
