"""Item values and clustered standard errors, against formulas written out."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.eval.metrics import (
    ItemValue,
    accuracy,
    bits_per_byte,
    choice_values,
    margin,
    mean_over_strata,
    stratified_stderr,
    weighted_score,
)
from sea_lion.eval.suite import Item

VALUES = st.lists(st.floats(-50, 50), min_size=2, max_size=30)


def items(values: list[float], weights: list[float] | None = None, clusters: list[str] | None = None) -> list[ItemValue]:
    weights = weights or [1.0] * len(values)
    clusters = clusters or [str(i) for i in range(len(values))]
    return [ItemValue(value=v, weight=w, cluster=c) for v, w, c in zip(values, weights, clusters, strict=True)]


@given(VALUES)
def test_a_mean_of_single_items_has_the_textbook_error(values: list[float]) -> None:
    value, stderr = weighted_score(items(values))
    assert value == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert stderr == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)


@given(VALUES)
def test_doubled_items_in_their_clusters_add_no_certainty(values: list[float]) -> None:
    clusters = [str(i) for i in range(len(values))]
    assert weighted_score(items(values * 2, clusters=clusters * 2)) == pytest.approx(weighted_score(items(values)), abs=1e-9)


def test_bytes_as_weights_give_total_bits_by_total_bytes() -> None:
    value, stderr = weighted_score(items([2.0, 4.0], [300.0, 100.0]))
    assert value == pytest.approx((600 + 400) / 400)
    assert stderr == pytest.approx(math.sqrt(2 * (150**2 + 150**2)) / 400)


def test_one_cluster_has_no_error_and_no_items_no_score() -> None:
    assert weighted_score(items([1.0, 3.0], clusters=["a", "a"])) == (2.0, 0.0)
    with pytest.raises(ValueError, match="no items"):
        weighted_score([])


def test_a_uniform_model_needs_eight_bits_a_byte() -> None:
    assert bits_per_byte(-10 * math.log(256), 10) == pytest.approx(8)
    with pytest.raises(ValueError, match="without bytes"):
        bits_per_byte(-1.0, 0)


def test_a_tie_is_no_answer_and_has_the_margin_of_chance() -> None:
    assert accuracy([-5.0] * 4, 0) == 0.0
    assert margin([-5.0] * 4, 0) == pytest.approx(math.log(1 / 4))


@given(st.lists(st.floats(-900, 0), min_size=4, max_size=4), st.integers(0, 3))
def test_margin_is_a_log_probability_that_agrees_with_accuracy(values: list[float], gold: int) -> None:
    assert math.fsum(math.exp(margin(values, i)) for i in range(4)) == pytest.approx(1)
    if margin(values, gold) > math.log(0.5):
        assert accuracy(values, gold) == 1.0


def test_whole_texts_are_compared_by_their_sums() -> None:
    item = Item(id="a", cluster="a", texts=("ab", "abcd"), gold=1)
    assert choice_values(item, [-2.0, -3.0]) == {"acc": 0.0, "margin": pytest.approx(math.log(1 / (1 + math.e)))}


def test_with_a_context_the_ends_are_compared_per_byte() -> None:
    item = Item(id="a", cluster="a", texts=("Q: no", "Q: never!"), gold=1, context="Q: ")
    # no: -2 nats over 2 bytes; never!: -3 over 6; the mean end has 4 bytes
    values = choice_values(item, [-12.0, -13.0, -10.0])
    assert values["acc"] == 1.0
    assert values["margin"] == pytest.approx(margin([-2 / 2 * 4, -3 / 6 * 4], 1))


@given(st.lists(st.floats(-90, -1), min_size=3, max_size=3), st.floats(-500, 0))
def test_the_contexts_own_likelihood_is_no_evidence(ends: list[float], context: float) -> None:
    item = Item(id="a", cluster="a", texts=("Q\na", "Q\nbb", "Q\nccc"), gold=2, context="Q\n")
    shifted = choice_values(item, [*(end + context for end in ends), context])
    assert shifted["margin"] == pytest.approx(choice_values(item, [*ends, 0.0])["margin"], abs=1e-6)


def test_a_log_likelihood_too_few_is_refused() -> None:
    item = Item(id="a", cluster="a", texts=("Qa", "Qb"), context="Q")
    with pytest.raises(ValueError, match="a needs 3 log-likelihoods, not 2"):
        choice_values(item, [-1.0, -2.0])


def test_the_error_of_a_mean_over_strata_is_over_clusters() -> None:
    values = [("a", "q1", 1.0), ("a", "q1", 0.0), ("a", "q2", 0.0), ("a", "q2", 0.0), ("b", "q3", 1.0), ("b", "q4", 1.0)]
    # stratum a: mean 1/4, residuals of its clusters +1/2 and -1/2 over 2 strata of 4 items; b: none; 4 clusters
    assert stratified_stderr(values) == pytest.approx((4 / 3 * 2 * (1 / 16) ** 2) ** 0.5)
    assert mean_over_strata((stratum, value) for stratum, _, value in values) == pytest.approx((1 / 4 + 1) / 2)
    assert stratified_stderr([("a", "q1", 1.0), ("a", "q1", 0.0)]) == 0.0
    with pytest.raises(ValueError, match="no items"):
        mean_over_strata([])


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 1)), min_size=2, max_size=20))
def test_one_stratum_has_the_error_of_a_plain_mean(items: list[tuple[str, float]]) -> None:
    plain = weighted_score(ItemValue(value=value, weight=1, cluster=cluster) for cluster, value in items)
    assert mean_over_strata(("", value) for _, value in items) == pytest.approx(plain[0])
    assert stratified_stderr([("", cluster, value) for cluster, value in items]) == pytest.approx(plain[1], abs=1e-12)
