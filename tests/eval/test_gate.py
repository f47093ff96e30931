"""The gate: verdicts on synthetic scorecards, what makes scores incomparable, and properties that must always hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Artifact, Checkpoint, GateDecision, Score, Scorecard
from sea_lion.catalog.store import Made, Options, Store, write_rows
from sea_lion.eval.gate import Compared, compare, decide
from sea_lion.eval.pairing import Items
from sea_lion.eval.policy import Bounds, Floor, Policy, Rule, read_policy
from sea_lion.eval.recipe import GateRecipe

POLICIES = Path(__file__).parents[2] / "eval" / "policies"
LANGUAGES = ("cmn", "eng", "fil", "ind", "khm", "lao", "mya", "tam", "tha", "vie", "zsm")
DIRECTIONS = {"bits_per_byte": False, "acc": True, "margin": True}
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """A recipe for whatever a test needs in the store."""

    seed: int


def suite_rows(seed: int, languages: tuple[str, ...] = LANGUAGES, documents: int = 6, items: int = 44) -> Rows:
    """A smoke scorecard's items: bits per byte about 2, half of the choices right."""
    generator = np.random.default_rng(seed)
    rows = []
    for language in languages:
        for metric, count in (("bits_per_byte", documents), ("acc", items), ("margin", items)):
            for i in range(count):
                value = {
                    "bits_per_byte": float(generator.normal(2, 0.2)),
                    "acc": float(generator.random() < 0.5),
                    "margin": float(-generator.exponential(0.9)),
                }[metric]
                rows.append(item_row(metric, language, i, value))
    return rows


def item_row(metric: str, language: str, number: int, value: float, task: str = "") -> dict[str, Any]:
    item = f"{language}-{number:03d}"
    return {
        "task": task or ("heldout" if metric == "bits_per_byte" else "word-order"), "language": language, "metric": metric,
        "item": item, "cluster": item, "value": value, "doc_hash": f"d{item}", "prompt_hash": f"p{item}",
        "target_hash": f"t{item}",
    }  # fmt: skip


def changed(rows: Rows, seed: int, *, churn: float = 0.1, spread: float = 0.03, nats: float = 0.3, **shift: float) -> Rows:
    """Another model's items: `churn` of the choices flip, the graded values move; `shift` per metric or `metric_language`."""
    generator = np.random.default_rng(seed)
    out = []
    for row in rows:
        metric, value = row["metric"], row["value"]
        move = shift.get(metric, 0.0) + shift.get(f"{metric}_{row['language']}", 0.0)
        if metric == "acc":
            lost, won = (churn - move) / 2, (churn + move) / 2  # of all items; half of them are right
            value = 1 - value if generator.random() < 2 * (lost if value == 1 else won) else value
        else:
            value += float(generator.normal(move, spread if metric == "bits_per_byte" else nats))
        out.append(row | {"value": value})
    return out


def scorecard(model: str, rows: Rows, suite_fingerprint: str = "f" * 64) -> Scorecard:
    cells = sorted({(row["task"], row["language"], row["metric"]) for row in rows})
    scores = tuple(
        Score(task=t, language=x, metric=m, value=0, stderr=0, items=1, higher_is_better=DIRECTIONS[m]) for t, x, m in cells
    )
    return Scorecard(model=model, suite="smoke", suite_fingerprint=suite_fingerprint, harness="lm-eval 0.4.13", scores=scores)


def items(model: str, rows: Rows) -> Items:
    ordered = sorted(rows, key=lambda row: (row["metric"], row["language"], row["task"], row["item"]))
    keyed = {(row["metric"], row["language"], row["task"], row["item"]): row for row in ordered}
    return Items(ref=f"scorecard/{model}@1", card=scorecard(f"checkpoint/{model}@1", rows), rows=keyed)


def gate(policy: str | Policy, candidate: Rows, baseline: Rows) -> Compared:
    read = read_policy(POLICIES / f"{policy}.toml") if isinstance(policy, str) else policy
    return compare(read, items("new", candidate), [items("old", baseline)], "checkpoint/old@1")


class Shelf:
    """A store with checkpoints and scorecards made on demand."""

    def __init__(self, root: Path) -> None:
        self.store, self.root, self.seed = Store(root), root, 0

    def put(self, name: str, made: Any, version: str = "1") -> Artifact:
        self.seed += 1
        recipe = Thing(kind="thing", name=name, version=version, seed=self.seed)
        return self.store.make(recipe, self.root, made, Options())

    def model(self, name: str, rows: Rows, suite_fingerprint: str = "f" * 64) -> None:
        """Put `checkpoint/NAME@1` and its scorecard, `scorecard/NAME@1`."""
        body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
        checkpoint = self.put(f"checkpoint/{name}", lambda job: Made(body=body))

        def score(job: Any) -> Made:
            text = ("task", "language", "metric", "item", "cluster", "doc_hash", "prompt_hash", "target_hash")
            schema = pa.schema([(column, pa.string()) for column in text] + [("value", pa.float64())])
            write_rows(job.folder / "items.parquet", rows, schema)
            return Made(body=scorecard(str(checkpoint.ref), rows, suite_fingerprint), tables={"items": "items.parquet"})

        self.put(f"scorecard/{name}", score)

    def recipe(self, policy: str = "instruct", **fields: Any) -> GateRecipe:
        given = {"candidate": "scorecard/new@1", "baselines": ("scorecard/old@1",), "parent": "checkpoint/old@1"} | fields
        path = (f"package:eval/policies/{policy}.toml",)
        return GateRecipe(kind="gate", name="decision/t", version="dev", stage="t/instruct", policy=path, **given)

    def decide(self, policy: str = "instruct", **fields: Any) -> GateDecision:
        artifact = self.store.make(self.recipe(policy, **fields), self.root, decide, Options())
        assert isinstance(artifact.body, GateDecision)
        return artifact.body


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts")


BASE = suite_rows(0)


def test_a_real_improvement_passes_the_policy_of_continued_pre_training() -> None:
    better = changed(BASE, 1, bits_per_byte=-0.3, acc=0.05, margin=0.1)
    answer = gate("cpt", better, BASE)
    assert answer.verdict == "pass", answer.reason
    assert "all" in answer.reason and "passed" in answer.reason
    worst = min((o for o in answer.outcomes if o.metric == "bits_per_byte" and o.baseline), key=lambda o: o.lower)
    assert worst.lower > 0 and worst.delta == pytest.approx(worst.baseline_value - worst.candidate_value)


def test_continued_pre_training_that_improves_all_but_one_language_is_not_promoted() -> None:
    answer = gate("cpt", changed(BASE, 1, bits_per_byte=-0.3, bits_per_byte_khm=0.3), BASE)
    held = {outcome.node for outcome in answer.outcomes if outcome.verdict != "pass"}
    assert answer.verdict == "hold" and held == {"bits_per_byte/khm"}
    assert "bits_per_byte/khm" in answer.reason


@pytest.mark.parametrize("policy", ["instruct", "merge", "align", "final"])
def test_identical_models_pass_every_policy_without_a_claim(policy: str) -> None:
    assert gate(policy, BASE, BASE).verdict == "pass"


def test_identical_models_do_not_pass_a_claim_of_improvement() -> None:
    assert gate("cpt", BASE, BASE).verdict == "hold"


@pytest.mark.parametrize(
    "shift,node",
    [
        ({"acc": -0.12}, "acc"),
        ({"acc_tam": -0.45, "churn": 0.5}, "acc/tam"),
        ({"margin": -0.3}, "margin"),
        ({"margin_tam": -1.5}, "margin/tam"),
        ({"bits_per_byte": 0.4}, "bits_per_byte"),
        ({"bits_per_byte_tam": 0.6}, "bits_per_byte/tam"),
    ],
)
def test_a_real_drop_fails_where_it_is(shift: dict[str, float], node: str) -> None:
    answer = gate("merge", changed(BASE, 2, **shift), BASE)
    assert answer.verdict == "fail"
    assert node in {outcome.node for outcome in answer.outcomes if outcome.verdict == "fail"}
    assert node in answer.reason and "p " in answer.reason


def test_a_drop_hidden_in_a_better_mean_is_found() -> None:
    answer = gate("merge", changed(BASE, 3, bits_per_byte=-0.1, bits_per_byte_tam=0.6), BASE)
    by_node = {outcome.node: outcome.verdict for outcome in answer.outcomes if outcome.baseline}
    assert answer.verdict == "fail" and by_node["bits_per_byte"] == "pass" and by_node["bits_per_byte/tam"] == "fail"


def test_the_tax_of_an_instruction_stage_is_not_a_merge_s() -> None:
    dearer, much_dearer = changed(BASE, 4, bits_per_byte=0.09), changed(BASE, 4, bits_per_byte=0.18)
    assert gate("merge", dearer, BASE).verdict == "fail"
    assert gate("instruct", dearer, BASE).verdict == "pass"
    assert gate("instruct", much_dearer, BASE).verdict == "fail"
    assert gate("align", much_dearer, BASE).verdict == "pass"


def test_too_much_change_without_direction_is_held() -> None:
    answer = gate("merge", changed(BASE, 5, churn=0.5, nats=2.5), BASE)
    assert answer.verdict == "hold" and "not enough evidence" in answer.reason


def test_floors_speak_of_the_candidate_alone() -> None:
    unknowing = [row | {"value": 8.6 if row["metric"] == "bits_per_byte" else row["value"]} for row in changed(BASE, 6)]
    answer = compare(read_policy(POLICIES / "base.toml"), items("new", unknowing), [], "")
    assert answer.verdict == "fail"
    outcome = answer.outcomes[0]
    assert (outcome.level, outcome.baseline, outcome.node, outcome.baseline_value) == ("floor", "", "bits_per_byte", 8.0)
    assert "8.600 for a floor of 8" in answer.reason
    assert compare(read_policy(POLICIES / "base.toml"), items("new", BASE), [], "").verdict == "pass"


def test_a_floor_missed_within_the_error_holds() -> None:
    floor = Policy(name="x", floors=(Floor(metric="acc", level="suite", value=0.25),))
    rows = [row for row in BASE if row["metric"] == "acc"]
    just_below = [row | {"value": float(i % 4 == 0 and i > 4)} for i, row in enumerate(rows)]
    assert compare(floor, items("new", just_below), [], "").verdict == "hold"


def test_a_language_with_one_task_is_one_test_and_one_with_two_is_three() -> None:
    rows = [item_row("acc", "tha", i, float(i % 2), "a") for i in range(20)]
    rows += [item_row("acc", "tha", i, float(i % 3 == 0), "b") for i in range(20, 50)]
    rows += [item_row("acc", "lao", i, float(i % 2), "a") for i in range(20)]
    bounds = Bounds(tolerance=0.1, margin=0.5)
    policy = Policy(name="x", rules=(Rule(metric="acc", suite=bounds, language=bounds, task=bounds),))
    answer = gate(policy, rows, rows)
    assert [o.node for o in answer.outcomes] == ["acc", "acc/lao", "acc/tha", "acc/tha/a", "acc/tha/b"]
    suite, tha = answer.outcomes[0], answer.outcomes[2]
    assert tha.candidate_value == pytest.approx((0.5 + 1 / 3) / 2)  # plain mean of tasks, not of items
    assert suite.candidate_value == pytest.approx((0.5 + tha.candidate_value) / 2)
    alone = [row for row in rows if row["language"] == "lao"]
    assert [o.node for o in gate(policy, alone, alone).outcomes] == ["acc"]


def test_every_baseline_counts_and_a_rule_may_be_the_parent_s_alone() -> None:
    worse, policy = changed(BASE, 7, margin=-0.5), read_policy(POLICIES / "merge.toml")
    answer = compare(policy, items("new", worse), [items("same", worse), items("old", BASE)], "checkpoint/same@1")
    assert answer.verdict == "fail"
    assert {o.baseline for o in answer.outcomes if o.verdict == "fail"} == {"checkpoint/old@1"}
    parent_only = replace(policy, rules=tuple(replace(rule, against="parent") for rule in policy.rules))
    answer = compare(parent_only, items("new", worse), [items("same", worse), items("old", BASE)], "checkpoint/same@1")
    assert answer.verdict == "pass" and {o.baseline for o in answer.outcomes} == {"checkpoint/same@1", ""}


def broken(column: str, value: object) -> Rows:
    return [row | {column: value} if i == 100 else row for i, row in enumerate(BASE)]


@pytest.mark.parametrize(
    "rows,what",
    [
        (broken("doc_hash", "other"), "differ in doc_hash"),
        (broken("target_hash", "other"), "differ in target_hash"),
        (broken("prompt_hash", "other"), "differ in prompt_hash"),
        (broken("cluster", "other"), "differ in cluster"),
        (broken("value", float("nan")), "the value nan"),
        (broken("value", float("-inf")), "the value -inf"),
        (broken("value", None), "the value None"),
        (broken("item", "other"), "lacks 1 of the items"),
        (BASE[1:], "lacks 1 of the items"),
        ([*BASE, BASE[5]], "more than once"),
        ([row for row in BASE if row["metric"] != "margin"], "lacks 484"),
        ([], "has no items"),
        ([row | {"cluster": "one"} if row["language"] == "tha" else row for row in BASE], "differ in cluster"),
    ],
)
@pytest.mark.parametrize("is_candidate", [True, False])
def test_what_cannot_be_compared_is_an_error(shelf: Shelf, rows: Rows, what: str, is_candidate: bool) -> None:
    shelf.model("new", rows if is_candidate else BASE)
    shelf.model("old", BASE if is_candidate else rows)
    decision = shelf.decide()
    assert decision.verdict == "error" and what in decision.reason
    assert decision.outcomes == () and decision.kept == "checkpoint/old@1"
    cases = ElementTree.parse(shelf.root / "decision/t/dev/junit.xml").getroot()
    assert cases.attrib["errors"] == "1" and len(cases.findall("testcase/error")) == 1


def test_another_suite_or_harness_is_an_error(shelf: Shelf) -> None:
    shelf.model("new", BASE, suite_fingerprint="a" * 64)
    shelf.model("old", BASE)
    decision = shelf.decide()
    assert decision.verdict == "error" and "suite_fingerprint" in decision.reason
    old = items("old", BASE)
    other = replace(old, card=replace(old.card, harness="lm-eval 0.4.14"))
    answer = compare(read_policy(POLICIES / "merge.toml"), items("new", BASE), [other], "")
    assert answer.verdict == "error" and "harness" in answer.reason


def test_prompts_may_differ_only_where_the_policy_says_so() -> None:
    policy = read_policy(POLICIES / "merge.toml")
    other = items("old", [row | {"prompt_hash": "chat"} for row in BASE])
    assert compare(policy, items("new", BASE), [other], "").verdict == "error"
    other = replace(other, card=replace(other.card, suite_fingerprint="chat"))
    assert compare(replace(policy, same_prompts=False), items("new", BASE), [other], "").verdict == "pass"


def test_a_metric_that_nobody_measured_or_a_single_cluster_is_an_error() -> None:
    bounds = Bounds(tolerance=0.1, margin=0.5)
    policy = Policy(name="x", rules=(Rule(metric="chrf", suite=bounds),))
    assert "'chrf'" in gate(policy, BASE, BASE).reason
    one = [row | {"cluster": "one"} for row in BASE if row["metric"] == "acc"]
    answer = gate(Policy(name="x", rules=(Rule(metric="acc", suite=bounds),)), one, one)
    assert answer.verdict == "error" and "one cluster" in answer.reason


def test_a_decision_is_recorded_with_its_reports(shelf: Shelf) -> None:
    shelf.model("new", changed(BASE, 8, bits_per_byte_tam=0.6))
    shelf.model("old", BASE)
    decision = shelf.decide()
    assert (decision.model, decision.scorecard) == ("checkpoint/new@1", "scorecard/new@1")
    assert decision.baselines == ("checkpoint/old@1",) and decision.policy == "instruct"
    assert decision.verdict == "fail" and decision.kept == "checkpoint/old@1"
    folder = shelf.root / "decision/t/dev"
    cases = ElementTree.parse(folder / "junit.xml").getroot()
    assert len(cases.findall("testcase")) == len(decision.outcomes) + 1 == int(cases.attrib["tests"])
    assert [case.attrib["name"] for case in cases.findall("testcase[failure]")] == [
        "bits_per_byte/tam against checkpoint/old@1"
    ]
    assert cases.attrib["failures"] == "1"
    lines = (folder / "decision.md").read_text("utf-8").splitlines()
    assert lines[0] == "## FAIL: checkpoint/new@1 for t/instruct"
    assert next(line for line in lines if line.startswith("| fail")).startswith(
        "| fail | bits_per_byte/tam | checkpoint/old@1 |"
    )


def test_a_pass_keeps_no_parent_and_a_stop_keeps_none_either(shelf: Shelf) -> None:
    shelf.model("new", changed(BASE, 9, margin=-1))
    shelf.model("old", BASE)
    assert shelf.decide("final").kept == "" and shelf.decide("final").on_refusal == "stop"
    assert shelf.decide(candidate="scorecard/old@1", baselines=("scorecard/new@1",), parent="checkpoint/new@1").kept == ""


def test_the_same_scorecards_give_the_same_bytes_in_any_order(shelf: Shelf, tmp_path: Path) -> None:
    candidate = changed(BASE, 10, margin=-0.05)
    shuffled = Shelf(tmp_path / "shuffled")
    generator = random.Random(0)
    for target in (shelf, shuffled):
        for name, rows in (("new", candidate), ("old", BASE)):
            order = list(rows)
            if target is shuffled:
                generator.shuffle(order)
            target.model(name, order)
    assert shelf.decide() == shuffled.decide()
    for file in ("decision.md", "junit.xml"):
        assert (shelf.root / "decision/t/dev" / file).read_bytes() == (shuffled.root / "decision/t/dev" / file).read_bytes()


@pytest.mark.parametrize(
    "policy,fields,key",
    [
        ("merge", {"baselines": ()}, "baselines"),
        ("merge", {"baselines": ("scorecard/old@1", "scorecard/twin@1")}, "baselines"),
        ("merge", {"parent": ""}, "parent"),
        ("merge", {"parent": "scorecard/old@1"}, "parent"),
        ("cpt", {"parent": ""}, "parent"),
        ("cpt", {"parent": "checkpoint/new@1"}, "parent"),
    ],
)
def test_a_gate_without_what_its_policy_needs_is_refused(shelf: Shelf, policy: str, fields: dict[str, Any], key: str) -> None:
    shelf.model("new", BASE)
    shelf.model("old", BASE)
    table = {"items": "items.parquet"}
    source = shelf.root / "scorecard/old/1/items.parquet"

    def twin(job: Any) -> Made:
        (job.folder / "items.parquet").write_bytes(source.read_bytes())
        return Made(body=scorecard("checkpoint/old@1", BASE), tables=table)

    shelf.put("scorecard/twin", twin)
    with pytest.raises(RecipeError) as caught:
        shelf.decide(policy, **fields)
    assert caught.value.key == key
    assert not (shelf.root / "decision").exists()


def test_changed_or_missing_items_are_refused(shelf: Shelf) -> None:
    shelf.model("new", BASE)
    shelf.model("old", BASE)
    path = shelf.root / "scorecard/new/1/items.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptInput, match=r"items\.parquet"):
        shelf.decide()
    with pytest.raises(CorruptInput, match="not a scorecard"):
        shelf.decide(candidate="checkpoint/new@1")


SMALL = Policy(
    name="small",
    rules=(
        Rule(metric="margin", suite=Bounds(tolerance=0.1, margin=4.0), language=Bounds(tolerance=0.2, margin=6.0)),
        Rule(metric="acc", suite=Bounds(tolerance=0.05, margin=0.8), language=Bounds(tolerance=0.05, margin=0.9)),
    ),
    floors=(Floor(metric="acc", level="suite", value=0.2), Floor(metric="margin", level="language", value=-3.0)),
)
ITEM_COUNT = 8
GRADED = st.lists(st.sampled_from((-6.0, -3.0, -2.0, -1.5, -1.3, -1.2, -1.1, -1.0)), min_size=16, max_size=16)
CHOICES = st.lists(st.booleans(), min_size=16, max_size=16)


def small_rows(graded: list[float], choices: list[bool]) -> Rows:
    places = [(language, i) for language in ("lao", "tha") for i in range(ITEM_COUNT)]
    rows = [item_row("margin", *place, value) for place, value in zip(places, graded, strict=True)]
    return rows + [item_row("acc", *place, float(value)) for place, value in zip(places, choices, strict=True)]


@given(graded=GRADED, choices=CHOICES, was=CHOICES, raised=CHOICES, lifts=st.lists(st.floats(0, 6), min_size=16, max_size=16))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_raising_a_score_never_turns_a_pass_into_a_fail(
    graded: list[float], choices: list[bool], was: list[bool], raised: list[bool], lifts: list[float]
) -> None:
    baseline = small_rows([-1.0] * 16, was)
    before = gate(SMALL, small_rows(graded, choices), baseline)
    lifted = [value + lift for value, lift in zip(graded, lifts, strict=True)]
    after = gate(SMALL, small_rows(lifted, [a or b for a, b in zip(choices, raised, strict=True)]), baseline)
    assert (before.verdict, after.verdict) != ("pass", "fail")


@given(lift_to=st.floats(-1.6, -1.0), outlier=st.floats(-9, -1.5), drop=st.floats(-1.5, -1.1))
@settings(max_examples=100, deadline=None)
def test_lifting_a_low_outlier_never_turns_a_pass_into_a_fail(lift_to: float, outlier: float, drop: float) -> None:
    """The case that defeats a t test by itself."""
    baseline, choices = small_rows([-1.0] * 16, [True] * 16), [True] * 16
    low = [drop] * 7 + [outlier] + [drop] * 7 + [outlier]
    lifted = [max(value, lift_to) for value in low]
    before, after = gate(SMALL, small_rows(low, choices), baseline), gate(SMALL, small_rows(lifted, choices), baseline)
    assert (before.verdict, after.verdict) != ("pass", "fail")


@given(graded=GRADED, choices=CHOICES, tolerance=st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_identical_models_never_fail_against_each_other(graded: list[float], choices: list[bool], tolerance: float) -> None:
    rows = small_rows(graded, choices)
    bounds = Bounds(tolerance=tolerance, margin=0.5)
    policy = Policy(name="x", rules=tuple(Rule(metric=m, suite=bounds, language=bounds) for m in ("margin", "acc")))
    answer = gate(policy, rows, rows)
    assert answer.verdict in ("pass", "hold") and all(outcome.delta == 0 for outcome in answer.outcomes)


@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_the_verdict_is_deterministic_and_blind_to_the_order_of_items(seed: int, order: random.Random) -> None:
    candidate = changed(BASE, seed, margin=-0.1, bits_per_byte=0.05)
    shuffled = list(candidate)
    order.shuffle(shuffled)
    assert gate("merge", candidate, BASE) == gate("merge", shuffled, BASE)
