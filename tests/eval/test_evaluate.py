"""A suite run on a tiny Llama: against direct computation, against an oracle, and against broken inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.model import LM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.index import query, rebuild
from sea_lion.catalog.records import Aggregate, Score, Scorecard
from sea_lion.eval.answers import likelihood_rows, likelihood_scores
from sea_lion.eval.overview import overview
from sea_lion.eval.runner import ask
from sea_lion.eval.tasks import harness_name, harness_tasks

from .small_world import LANGUAGES, SUITE, WINDOW, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("evaluate"))


def value_of(scores: tuple[Score, ...], metric: str, language: str) -> float:
    (score,) = [score for score in scores if (score.metric, score.language) == (metric, language)]
    return score.value


def load(folder: Path) -> tuple[Any, Any]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def loglikelihood(model: Any, prefix: list[int], tokens: list[int]) -> float:
    """Log-probability of `tokens` after `prefix`, token by token from one forward pass."""
    log_probs = model(torch.tensor([prefix + tokens])).logits[0].log_softmax(-1)
    return math.fsum(float(log_probs[len(prefix) + i - 1, token]) for i, token in enumerate(tokens))


def rolling(model: Any, start: int, tokens: list[int], window: int) -> float:
    """Log-probability of a document: whole windows one after another, the last one filled up with what came before it."""
    total = loglikelihood(model, [start], tokens[:window])
    for begin in range(window, len(tokens), window):
        end = min(begin + window, len(tokens))
        total += loglikelihood(model, tokens[max(0, end - window - 1) : begin], tokens[begin:end])
    return total


Harness: Any = LM


class Oracle(Harness):  # type: ignore[misc]
    """Knows the right texts and spends three bits on every byte of a document."""

    def __init__(self, right: set[str]) -> None:
        super().__init__()
        self.right = right

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(0.0 if "".join(request.args) in self.right else -1.0, False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [-3 * math.log(2) * len(request.args[0].encode()) for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        raise AssertionError("no task of the suite generates")


def test_a_scorecard_has_every_score_and_the_index_reads_it(world: World) -> None:
    artifact, card, rows = world.evaluate()
    assert [(s.task, s.metric) for s in card.scores if s.language == "tha"] == [
        ("heldout", "bits_per_byte"),
        ("word-order", "acc"),
        ("word-order", "margin"),
    ]
    assert len(card.scores) == 9 and len(rows) == 3 * 3 + 3 * 6 * 2
    assert card.harness.startswith("lm-eval 0.4.") and card.model == "checkpoint/test@1"
    keys = [(row["task"], row["language"], row["metric"], row["item"]) for row in rows]
    assert len(set(keys)) == len(rows)
    assert all(len(row[key]) == 16 for row in rows for key in ("doc_hash", "prompt_hash", "target_hash"))
    rebuild(world.store)
    sql = "SELECT avg(value), count(*) FROM items WHERE ref = ? AND metric = 'acc' AND language = 'tha'"
    assert query(world.store, sql, [str(artifact.ref)])[1] == [(pytest.approx(value_of(card.scores, "acc", "tha")), 6)]


def test_bits_per_byte_equal_a_direct_computation_over_windows(world: World) -> None:
    _, card, rows = world.evaluate()
    folder = world.folder("checkpoint/test@1")
    model, tokenizer = load(folder)
    for task in world.tasks():
        if task.form != "documents":
            continue
        bits = {}
        for item in task.items:
            tokens = tokenizer.encode(item.texts[0], add_special_tokens=False)
            assert len(tokens) > WINDOW
            bits[item.id] = -rolling(model, tokenizer.bos_token_id, tokens, WINDOW) / math.log(2)
        found = {row["item"]: row["value"] for row in rows if (row["task"], row["language"]) == ("heldout", task.language)}
        sizes = {item.id: len(item.texts[0].encode()) for item in task.items}
        assert found == {key: pytest.approx(bits[key] / sizes[key], rel=1e-5) for key in bits}
        total = sum(bits.values()) / sum(sizes.values())
        assert value_of(card.scores, "bits_per_byte", task.language) == pytest.approx(total, rel=1e-5)


def test_choices_are_scored_as_whole_texts(world: World) -> None:
    _, _, rows = world.evaluate()
    folder = world.folder("checkpoint/test@1")
    model, tokenizer = load(folder)
    task = next(task for task in world.tasks() if (task.form, task.language) == ("word-order", "tha"))
    for item in task.items:
        scores = [loglikelihood(model, [tokenizer.bos_token_id], tokenizer.encode(text)) for text in item.texts]
        expected = float(torch.tensor(scores, dtype=torch.float64).log_softmax(-1)[item.gold])
        found = {row["metric"]: row["value"] for row in rows if row["item"] == item.id}
        assert found == {"margin": pytest.approx(expected, abs=1e-3), "acc": float(max(scores) == scores[item.gold])}


def test_an_oracle_is_always_right(world: World) -> None:
    tasks = world.tasks()
    samples = ask(Oracle({item.texts[item.gold] for task in tasks for item in task.items}), tasks)
    for task in tasks:
        rows, _ = likelihood_rows(task, samples[harness_name(task)], "oracle")
        for score in likelihood_scores(task, rows):
            expected = {"acc": 1.0, "margin": -math.log(1 + 3 / math.e), "bits_per_byte": 3.0}[score.metric]
            assert score.value == pytest.approx(expected) and score.stderr == pytest.approx(0, abs=1e-9)


def test_the_same_model_gives_the_same_bytes(world: World) -> None:
    first, card, _ = world.evaluate()
    second, again, _ = world.evaluate(name="scorecard/again")
    assert card == again
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]


def test_the_suite_fingerprint_follows_what_is_asked(world: World) -> None:
    _, card, _ = world.evaluate()
    other = world.variant("checkpoint/other", negate_weights)
    _, other_card, _ = world.evaluate(name="scorecard/other", model=other)
    assert other_card.suite_fingerprint == card.suite_fingerprint and other_card.scores != card.scores
    (world.base / "reseeded.toml").write_text(SUITE.replace('seed = "x"', 'seed = "y"'), "utf-8")
    _, reseeded, _ = world.evaluate(name="scorecard/reseeded", suite_files=("reseeded.toml", "sentences/*.jsonl"))
    assert reseeded.suite_fingerprint != card.suite_fingerprint


def test_tasks_live_in_memory(world: World) -> None:
    assert all(task.dataset["test"].cache_files == [] for task in harness_tasks(world.tasks()).values())


def change_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = change(weights["model.norm.weight"])
    save_file(weights, path, metadata={"format": "pt"})


def negate_weights(folder: Path) -> None:
    change_weights(folder, torch.neg)


def drop_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def forget_marks(folder: Path) -> None:
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=AutoTokenizer.from_pretrained(folder).backend_tokenizer).save_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nan", lambda folder: change_weights(folder, lambda weight: weight * math.nan), "answers with log-likelihoods"),
        ("cut", cut_weights, "is not a checkpoint that transformers can load"),
        ("partial", drop_weights, r"lacks 1 of the model's tensors, model\.norm\.weight first"),
        ("bare", forget_marks, "neither a token for the beginning nor"),
        ("gone", lambda folder: (folder / "config.json").unlink(), "is not a checkpoint that transformers can load"),
    ],
)
def test_broken_checkpoints_leave_nothing(world: World, name: str, change: Callable[[Path], None], message: str) -> None:
    model = world.variant(f"checkpoint/{name}", change)
    with pytest.raises(CorruptInput, match=message):
        world.evaluate(name=f"scorecard/{name}", model=model)
    assert not (world.store.root / "scorecard" / name).exists()
    assert not [path for path in (world.store.root / ".work").iterdir() if path.is_dir()]


def test_files_changed_since_they_were_written_are_named(world: World) -> None:
    model = world.variant("checkpoint/changed", lambda folder: None)
    negate_weights(world.folder(model))
    with pytest.raises(CorruptInput, match=r"model\.safetensors: is not what checkpoint/changed@1 wrote"):
        world.evaluate(name="scorecard/changed", model=model)
    world.corpus("corpus/changed", LANGUAGES[:2])
    (world.folder("corpus/changed@1") / "tha-heldout.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptInput, match=r"tha-heldout\.parquet: is not what corpus/changed@1 wrote"):
        world.evaluate(name="scorecard/changed", heldout="corpus/changed@1")


def test_a_language_without_heldout_documents_is_named(world: World) -> None:
    world.corpus("corpus/short", ("eng", "mya"))
    with pytest.raises(CorruptInput, match=r"corpus/short@1: tha: has no held-out documents of source 'web'"):
        world.evaluate(name="scorecard/short", heldout="corpus/short@1")


def test_inputs_of_the_wrong_kind_are_named(world: World) -> None:
    with pytest.raises(RecipeError, match=r"tokenizer/test@1 is a tokenizer, not a checkpoint"):
        world.evaluate(name="scorecard/kind", model="tokenizer/test@1")
    with pytest.raises(CorruptInput, match=r"tokenizer/test@1: is a tokenizer, not a corpus"):
        world.evaluate(name="scorecard/kind", heldout="tokenizer/test@1")


def test_tasks_and_languages_narrow_the_suite_and_what_it_does_not_know_is_named(world: World) -> None:
    _, card, _ = world.evaluate(name="scorecard/narrow", languages=("tha",), tasks=("word-order",), heldout="")
    assert {(score.task, score.language) for score in card.scores} == {("word-order", "tha")}
    with pytest.raises(RecipeError, match="tasks: 'wordorder' is no task of small; there are heldout, word-order"):
        world.evaluate(name="scorecard/no-task", tasks=("wordorder",))
    with pytest.raises(RecipeError, match="languages: 'khm' is no language of small; there are eng, tha, mya"):
        world.evaluate(name="scorecard/no-language", languages=("khm",))
    with pytest.raises(RecipeError, match="metricx: says nothing to suite 'small'"):
        world.evaluate(name="scorecard/no-translation", metricx=("small.toml",))


def test_an_overview_tells_what_an_average_is_over_and_lacks() -> None:
    fixed: dict[str, Any] = {"stderr": 0.0, "higher_is_better": True, "language": "ind"}
    scores = (
        Score(task="qa", metric="f1", value=40.0, items=30, nulls=3, truncated=6, **fixed),
        Score(task="nli", metric="accuracy", value=60.0, items=10, nulls=1, **fixed),
        Score(task="nli", metric="macro_f1", value=9.0, items=10, nulls=1, role="diagnostic", **fixed),
    )
    averages = (
        Aggregate(level="competency", name="nlu", language="ind", value=40.0, stderr=0.0, members=("qa",)),
        Aggregate(
            level="language", name="ind", language="ind", value=50.0, stderr=1.5, members=("nlu", "nlr"), missing=("mt-bench",)
        ),
        Aggregate(
            level="suite", name="overall", language="", value=50.0, stderr=0.0, members=("ind",), missing=tuple("abcdefghij")
        ),
    )
    card = Scorecard(model="checkpoint/a@1", suite="s", suite_fingerprint="", harness="", scores=scores, aggregates=averages)
    assert list(overview(card)) == [
        "ind 50.00 ± 1.50 over nlu, nlr; without mt-bench; 10.0% of 40 answers unreadable, 15.0% truncated",
        "overall 50.00 over ind; without a, b, c, d, e, f, g, h, i, 1 more; 10.0% of 40 answers unreadable, 15.0% truncated",
    ]
