"""The runner on a tiny Llama: generation against transformers, conversations, resuming, caches of two models, scoring anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lm_eval.api.task import ConfigurableTask
from transformers import AutoTokenizer

from sea_lion.catalog.errors import CorruptInput, RecipeError, Unfinished
from sea_lion.catalog.index import query, rebuild
from sea_lion.catalog.records import Aggregate, Artifact, ArtifactRef, Score, Scorecard
from sea_lion.catalog.store import Options
from sea_lion.eval import evaluate as evaluate_module
from sea_lion.eval import recipe as recipe_module
from sea_lion.eval import runner
from sea_lion.eval.answers import ANSWERS_SCHEMA, ITEMS_SCHEMA
from sea_lion.eval.evaluate import evaluate_model
from sea_lion.eval.family import (
    Generation,
    GenerationFamily,
    GenerationTask,
    HarnessFamily,
    ItemScore,
    LikelihoodFamily,
    Message,
    Question,
    Suite,
    TaskScores,
)
from sea_lion.eval.rendering import ChatTemplate
from sea_lion.eval.suite import Item, LanguageTask
from sea_lion.eval.transformers_model import BudgetedHFLM

from .small_world import World, noted, write_model

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
SILENT = TEMPLATE.replace("[{{ m.role }}]", "{% if m.role != 'system' %}[{{ m.role }}]").replace("[/]", "[/]{% endif %}")


def template(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_model(folder, 256)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = text
        tokenizer.save_pretrained(folder)

    return change


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("runner"))
    world.checkpoint("checkpoint/chat", template(TEMPLATE))
    world.checkpoint("checkpoint/no-system", template(NO_SYSTEM))
    world.checkpoint("checkpoint/silent", template(SILENT))
    return world


# -- suites ------------------------------------------------------------------------------------------------------------------


def score_lengths(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
    """Characters of all turns."""
    values = [float(sum(map(len, turns))) for turns in answers]
    items = tuple(
        ItemScore(item=q.id, metric="characters", value=v, stratum=q.cluster, is_null=not v, extracted=turns[-1])
        for q, v, turns in zip(task.questions, values, answers, strict=True)
    )
    mean = math.fsum(values) / len(values)
    fixed: Any = {"stderr": 0.0, "items": len(values), "higher_is_better": True}
    score = Score(task=task.name, language=task.language, metric="characters", value=mean, **fixed)
    return TaskScores(items=items, scores=(score,), warnings=(f"{task.name} counts characters",))


def question(name: str, *turns: str, system: str = "") -> Question:
    messages = (*((Message(role="system", content=system),) if system else ()), Message(role="user", content=turns[0]))
    return Question(id=name, cluster="c", messages=messages, follow_ups=turns[1:], target={"right": name})


def generated(*questions: Question, name: str = "talk", scorer: Any = score_lengths, **settings: Any) -> GenerationFamily:
    generation = Generation(max_tokens=8, **settings)
    task = GenerationTask(name=name, language="eng", questions=questions, generation=generation, scorer=scorer)
    return GenerationFamily(name=name, tasks=(task,))


LIKELIHOOD = LikelihoodFamily(
    name="order",
    tasks=(
        LanguageTask(
            name="order",
            language="eng",
            form="choices",
            items=tuple(Item(id=f"i{n}", cluster=f"i{n}", texts=(f"He has {n} hats.", f"Hats {n} has he.")) for n in range(4)),
        ),
    ),
)
TALK = generated(question("a", "How old are you?", "And how tall?"), question("b", "Where do you live?"))


def suite(*families: Any, **more: Any) -> Suite:
    def aggregate(scores: Sequence[Score]) -> tuple[Aggregate, ...]:
        value = math.fsum(score.value for score in scores)
        return (Aggregate(level="suite", name="sum", language="", value=value, stderr=0.0, members=("all",)),)

    return Suite(name="toy", profile="toy", families=families, aggregate=aggregate, **more)


Evaluate = Callable[..., tuple[Artifact, Scorecard]]


@pytest.fixture
def evaluate(world: World, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    monkeypatch.setitem(recipe_module.OPENERS, "toy", "nowhere:open")

    def run(name: str, opened: Suite, **changes: Any) -> tuple[Artifact, Scorecard]:
        monkeypatch.setattr(evaluate_module, "open_suite", lambda job: opened)
        base: Any = {"model": "checkpoint/chat@1", "suite": "toy", "suite_files": (), "heldout": ""}
        recipe = replace(world.recipe, name=f"scorecard/{name}", **(base | changes))
        artifact = world.store.make(recipe, world.base, evaluate_model, Options())
        assert isinstance(artifact.body, Scorecard)
        return artifact, artifact.body

    return run


def rows(world: World, artifact: Artifact, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(world.folder(str(artifact.ref)) / artifact.tables[table]).to_pylist()
    return found


def test_a_scorecard_of_answers(world: World, evaluate: Evaluate) -> None:
    artifact, card = evaluate("answers", suite(LIKELIHOOD, TALK, missing=("more: not here",), warnings=("odd data",)))
    assert [(score.task, score.metric) for score in card.scores] == [
        ("order", "acc"),
        ("order", "margin"),
        ("talk", "characters"),
    ]
    assert card.warnings == ("odd data", "talk counts characters") and card.incomplete == ("more: not here",)
    assert card.settings["backend"] == "hf" and card.settings["prompts"] == "bare" and card.settings["max_length"] == "256"
    answers = rows(world, artifact, "answers")
    talk = [row for row in answers if row["task"] == "talk"]
    assert [(row["item"], row["turn"]) for row in talk] == [("a", 0), ("a", 1), ("b", 0)]
    assert talk[0]["target"] == '{"right":"a"}' and talk[0]["extracted"] == talk[1]["text"]
    assert sum(row["truncated"] for row in talk) == card.scores[2].truncated
    assert all(len(row["loglikelihoods"]) == 2 for row in answers if row["task"] == "order")
    items = [row for row in rows(world, artifact, "items") if row["task"] == "talk"]
    assert [(row["stratum"], row["filter"], row["value"]) for row in items] == [
        ("c", "none", float(len(talk[0]["text"] + talk[1]["text"]))),
        ("c", "none", float(len(talk[2]["text"]))),
    ]
    rebuild(world.store)
    sql = "SELECT count(*), sum(truncated::int) FROM answers WHERE ref = ? AND loglikelihoods IS NULL"
    assert query(world.store, sql, [str(artifact.ref)])[1] == [(3, card.scores[2].truncated)]
    sql = "SELECT members, value, profile FROM aggregates WHERE ref = ?"
    assert query(world.store, sql, [str(artifact.ref)])[1] == [('["all"]', card.aggregates[0].value, "toy")]
    assert query(world.store, "SELECT DISTINCT role, truncated FROM scores WHERE task = 'talk'")[1] == [
        ("score", card.scores[2].truncated)
    ]


def test_a_second_turn_follows_the_model_s_own_answer(
    world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = noted(monkeypatch, BudgetedHFLM, "_prompt")
    artifact, card = evaluate("turns", suite(generated(question("a", "One?", "Two?", system="Be brief."))), prompts="chat")
    first = rows(world, artifact, "answers")[0]["text"]
    begin = "<s>[system]Be brief.[/][user]One?[/]"
    assert prompts == [f"{begin}[assistant]", f"{begin}[assistant]{first}[/][user]Two?[/][assistant]"]
    assert len(card.settings["template"]) == 16 and not card.warnings[1:]


@pytest.mark.parametrize("name", ["no-system", "silent"])
def test_a_description_is_never_lost(world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    prompts = noted(monkeypatch, BudgetedHFLM, "_prompt")
    opened = suite(generated(question("a", "One?", system="Be brief.")))
    _, card = evaluate(f"folded-{name}", opened, prompts="chat", model=f"checkpoint/{name}@1")
    assert prompts == ["<s>[user]Be brief.\n\nOne?[/][assistant]"]
    assert any("takes no system message" in line for line in card.warnings)


def test_a_template_is_asked_for_where_there_is_one(evaluate: Evaluate) -> None:
    with pytest.raises(RecipeError, match=r"checkpoint/test@1: prompts: is 'chat', and its tokenizer has no chat template"):
        evaluate("bare", suite(TALK), prompts="chat", model="checkpoint/test@1")
    with pytest.raises(RecipeError, match="has no template for base models"):
        evaluate("bare", suite(TALK), prompts="base")


def test_a_benchmark_s_plain_template(world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = noted(monkeypatch, BudgetedHFLM, "_prompt")
    opened = suite(TALK, render=lambda messages, bos: bos + "|".join(message.content for message in messages) + "|")
    evaluate("plain", opened, prompts="base")
    assert prompts[:2] == ["<s>How old are you?|", "<s>Where do you live?|"]


def test_families_that_are_done_are_not_asked_again(world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    ask_family, breaks = runner.ask_family, [True]

    def noted(asking: Any, family: Any) -> Any:
        begun.append(family.name)
        if family.name == "talk" and breaks:
            breaks.pop()
            raise KeyboardInterrupt
        return ask_family(asking, family)

    monkeypatch.setattr(runner, "ask_family", noted)
    opened = suite(LIKELIHOOD, TALK)
    with pytest.raises(KeyboardInterrupt):
        evaluate("resumed", opened)
    resumed, card = evaluate("resumed", opened)
    assert begun == ["order", "talk", "talk"]
    monkeypatch.setattr(runner, "ask_family", ask_family)
    whole, expected = evaluate("whole", opened)
    assert card == expected and [file.sha256 for file in resumed.files] == [file.sha256 for file in whole.files]


def test_a_damaged_result_is_asked_again(tmp_path: Path) -> None:
    result = runner.FamilyResult(
        items=ITEMS_SCHEMA.empty_table(), answers=ANSWERS_SCHEMA.empty_table(), scores=(), warnings=("w",)
    )
    done = runner.Done(tmp_path, "x")
    done.keep("a", "digest", result)
    found = done.find("a", "digest")
    assert found is not None and found.warnings == ("w",)
    assert done.find("a", "other") is None and runner.Done(tmp_path, "y").find("a", "digest") is None
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-1])
    assert done.find("a", "digest") is None
    done.keep("a", "digest", replace(result, incomplete=("a: no judge",)))
    assert done.find("a", "digest") is None


def test_a_judge_that_is_down_leaves_the_run_unfinished_and_the_same_run_goes_on(
    world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        missing = TaskScores(items=(), scores=(), incomplete="judge j: no connection; run again", is_open=is_down)
        return score_lengths(task, answers) if is_up else missing

    opened = suite(generated(question("a", "Who waits?"), name="debate", scorer=judged), TALK)
    is_up, is_down = False, True
    with pytest.raises(Unfinished, match=r"scorecard/judged@1: debate/eng: judge j: no connection; run again"):
        evaluate("judged", opened)
    assert world.store.get(ArtifactRef(name="scorecard/judged", version="1")) is None
    is_up, asked = True, noted(monkeypatch, BudgetedHFLM, "_prompt")
    _, card = evaluate("judged", opened)
    assert {score.task for score in card.scores} == {"debate", "talk"} and card.incomplete == () and asked == []
    is_up, is_down = False, False  # nothing that waiting mends: the scorecard says so
    _, card = evaluate("unjudged", opened)
    assert card.incomplete == ("debate/eng: judge j: no connection; run again",)


def test_a_second_model_gets_none_of_the_first_one_s_answers(world: World, evaluate: Evaluate) -> None:
    opened = suite(LIKELIHOOD, TALK)
    first, _ = evaluate("first", opened)
    world.checkpoint("checkpoint/second", template(TEMPLATE + " "))
    weights = world.folder("checkpoint/second@1")
    assert (weights / "model.safetensors").read_bytes() == (
        world.folder("checkpoint/chat@1") / "model.safetensors"
    ).read_bytes()
    other = world.variant_of("checkpoint/other", "checkpoint/chat@1", seed=7)
    second, _ = evaluate("second", opened, model=other)
    caches = world.store.root / ".cache"
    caches.rename(caches.with_name(".cache-before"))
    alone, _ = evaluate("second-alone", opened, model=other)
    assert rows(world, second, "answers") == rows(world, alone, "answers")
    values = [
        [row["loglikelihoods"] or row["text"] for row in rows(world, artifact, "answers")] for artifact in (first, second)
    ]
    assert all(one != two for one, two in zip(*values, strict=True))


def test_what_else_decides_on_an_answer_has_a_cache_of_its_own(world: World) -> None:
    chat = world.store.require("checkpoint/chat@1")
    settings = {"backend": "hf", "dtype": "float32", "torch": "2", "template": "t", "prompts": "chat", "batch_size": "1"}
    identity = evaluate_module.response_identity(chat, settings)
    for key in ("backend", "dtype", "torch", "template"):
        changed = settings | {key: "endpoint" if key == "x" else "other"}
        assert evaluate_module.response_identity(chat, changed) != identity
    assert evaluate_module.response_identity(chat, settings | {"batch_size": "2"}) == identity
    assert evaluate_module.response_identity(world.store.require("checkpoint/silent@1"), settings) != identity


def test_stored_answers_are_scored_anew_without_the_model(world: World, evaluate: Evaluate) -> None:
    opened = suite(LIKELIHOOD, TALK)
    artifact, card = evaluate("stored", opened, model="checkpoint/chat@1")
    weights = world.folder("checkpoint/chat@1") / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    try:
        again, same = evaluate("again", opened, answers=str(artifact.ref))
        assert same.scores == card.scores and same.suite_fingerprint == card.suite_fingerprint
        assert rows(world, again, "items") == rows(world, artifact, "items")

        def other_scores(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
            scored = score_lengths(task, answers)
            return replace(scored, items=tuple(replace(item, value=item.value + 1) for item in scored.items))

        _, other = evaluate(
            "new", suite(LIKELIHOOD, generated(*TALK.tasks[0].questions, scorer=other_scores)), answers=str(artifact.ref)
        )
        assert other.settings == card.settings and other.suite_fingerprint == card.suite_fingerprint
        asked_else = suite(generated(question("a", "How old is he?", "And how tall?")))
        with pytest.raises(CorruptInput, match="talk/eng/a: is another question now than the one answered"):
            evaluate("else", asked_else, answers=str(artifact.ref))
        with pytest.raises(CorruptInput, match="has no stored answer to this item"):
            evaluate("more", suite(generated(question("z", "New?"))), answers=str(artifact.ref))
        with pytest.raises(RecipeError, match=r"holds answers of checkpoint/chat@1, not of checkpoint/silent@1"):
            evaluate("whose", opened, answers=str(artifact.ref), model="checkpoint/silent@1")
    finally:
        weights.write_bytes(kept)


def test_a_limit_takes_the_same_few_items(world: World, evaluate: Evaluate) -> None:
    _, card = evaluate("limited", suite(LIKELIHOOD), limit=2)
    assert card.limit == 2 and {score.items for score in card.scores} == {2}
    assert runner.limited(LIKELIHOOD, 2) == runner.limited(runner.limited(LIKELIHOOD, 3), 2)
    assert runner.limited(LIKELIHOOD, 9) == LIKELIHOOD


def test_prompts_that_do_not_fit_are_counted(world: World, evaluate: Evaluate) -> None:
    long = "word " * 400
    _, card = evaluate("long", suite(generated(question("a", long), question("b", "Short?"))))
    assert any("talk: 1 prompt was longer than the model's 256 tokens" in line for line in card.warnings)
    _, again = evaluate("long-again", suite(generated(question("a", long), question("b", "Short?"))))
    assert again.warnings == card.warnings


# -- lm-eval's own tasks -----------------------------------------------------------------------------------------------------


def harness_family() -> HarnessFamily:
    import datasets

    docs = [{"question": f"{n} and {n}?", "answer": n % 2} for n in range(3)]

    def build() -> dict[str, Any]:
        shared = {
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(docs)},
            "test_split": "test",
            "description": "Add up. ",
            "doc_to_text": "{{question}}",
        }
        letters = {"task": "letters", "output_type": "multiple_choice", "doc_to_choice": ["A", "B"], "doc_to_target": "answer"}
        free = {"task": "free", "output_type": "generate_until", "doc_to_target": "{{answer}}"}
        kwargs = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}}
        return {"letters": ConfigurableTask(config=shared | letters), "free": ConfigurableTask(config=shared | free | kwargs)}

    def read(samples: Any) -> dict[tuple[str, str], TaskScores]:
        found = {}
        for task, metric in (("letters", "acc"), ("free", "exact_match")):
            items = tuple(
                ItemScore(item=str(sample["doc_id"]), metric=metric, value=float(sample[metric])) for sample in samples[task]
            )
            value = math.fsum(item.value for item in items) / len(items)
            fixed: Any = {"stderr": 0.0, "items": len(items), "higher_is_better": True}
            found[task, "eng"] = TaskScores(
                items=items, scores=(Score(task=task, language="eng", metric=metric, value=value, **fixed),)
            )
        return found

    return HarnessFamily(name="lm-eval", build=build, read=read)


def test_lm_eval_s_own_tasks(world: World, evaluate: Evaluate) -> None:
    artifact, card = evaluate("harness", suite(harness_family()))
    assert [(score.task, score.items) for score in card.scores] == [("letters", 3), ("free", 3)]
    answers = rows(world, artifact, "answers")
    assert [len(row["loglikelihoods"] or ()) for row in answers] == [2, 2, 2, 0, 0, 0]
    assert all(row["doc_hash"] and row["prompt_hash"] for row in rows(world, artifact, "items"))
    assert card.scores[1].truncated == sum(row["truncated"] for row in answers)
    again, same = evaluate("harness-again", suite(harness_family()), answers=str(artifact.ref))
    assert same.scores == card.scores and rows(world, again, "items") == rows(world, artifact, "items")


def test_lm_eval_s_own_tasks_keep_their_description_in_chat(
    world: World, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = noted(monkeypatch, ChatTemplate, "_render")
    _, card = evaluate("harness-chat", suite(harness_family()), prompts="chat", model="checkpoint/no-system@1")
    assert any("Add up." in message["content"] and message["role"] == "user" for history in histories for message in history)
    assert any("takes no system message" in line for line in card.warnings)
    other, _ = evaluate("harness-chat-other", suite(harness_family()), prompts="chat", model="checkpoint/chat@1")
    assert isinstance(other.body, Scorecard) and other.body.suite_fingerprint == card.suite_fingerprint
    assert other.body.settings["template"] != card.settings["template"]
