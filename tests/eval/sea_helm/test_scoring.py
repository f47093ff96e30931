"""What SEA-HELM's scorers promise: the extremes, the strata, what they warn of, and that a better answer never scores worse."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.records import Score
from sea_lion.eval.family import Generation, GenerationTask, Question, TaskScores
from sea_lion.eval.sea_helm import averages, criteria, extraction, replicates, summaries
from sea_lion.eval.sea_helm.classification import measured
from sea_lion.eval.sea_helm.labels import TAGS, options_2025, tag_of
from sea_lion.eval.sea_helm.profile import SHORT
from sea_lion.eval.sea_helm.scorers import KNOWLEDGE, SCORERS, scorer
from sea_lion.eval.sea_helm.segmentation import burmese_syllables, thai_words
from sea_lion.eval.sea_helm.translation import chrf, metricx

Pair = tuple[str, str]


def scored(
    name: str, language: str, targets: Sequence[Any], answers: Sequence[str], profile: str = "sea_helm_2025", **details: Any
) -> TaskScores:
    """The scorer's word on one task."""
    score = scorer(name, profile, language)
    questions = tuple(
        Question(id=f"q{i}", cluster=f"c{i}", messages=(), target=target, details={k: v[i] for k, v in details.items()})
        for i, target in enumerate(targets)
    )
    task = GenerationTask(name=name, language=language, questions=questions, generation=Generation(max_tokens=8), scorer=score)
    return score(task, [[answer] for answer in answers])


def value(result: TaskScores, metric: str) -> float:
    """One score's value."""
    return next(score.value for score in result.scores if score.metric == metric)


def mean_over_strata(result: TaskScores) -> float:
    """What a gate makes of the items."""
    strata = defaultdict(list)
    for item in result.items:
        strata[item.stratum].append(item.value)
    return math.fsum(math.fsum(values) / len(values) for values in strata.values()) / len(strata)


LABELLED = [
    (task, code)
    for task in SCORERS
    if task not in ("qa", "abssum", "pragmatic-single", "pragmatic-pair", "mp-r", *KNOWLEDGE)
    for code, short in SHORT.items()
    if short in TAGS["sea_helm_2025"]["answer"]
    and (task not in ("sentiment", "toxicity") or (task, short) in {
        *(("sentiment", s) for s in ("id", "vi", "th", "ta", "tl", "jv", "su")),
        *(("toxicity", s) for s in ("id", "vi", "th", "tl")),
    })
]  # fmt: skip


@pytest.mark.parametrize(("task", "language"), LABELLED)
def test_right_options_score_100_and_wrong_ones_0_in_every_language(task: str, language: str) -> None:
    short = SHORT[language]
    options = options_2025(task, short)
    tag = tag_of("sea_helm_2025", "answer", short)
    words, golds = list(options), list(options.values())
    right = scored(task, language, golds, [f"{tag} {word.capitalize()}" for word in words])
    assert right.scores[0].metric == "normalized_accuracy" and right.scores[0].role == "score"
    assert right.scores[0].value == pytest.approx(100) and not right.warnings
    wrong = scored(task, language, golds, [f"{tag} {word}" for word in words[1:] + words[:1]])
    assert wrong.scores[0].value == 0 and value(wrong, "accuracy") == 0
    none = scored(task, language, golds, [""] * len(golds))
    assert none.scores[0].value == 0 and none.scores[0].nulls == len(golds) and all(item.is_null for item in none.items)


@given(st.lists(st.tuples(st.sampled_from("abcn"), st.sampled_from("abc")), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_label_metrics_are_scikit_learns(pairs: list[Pair]) -> None:
    given_, golds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    result = measured(given_, golds, "n", 3)
    f1: Any = partial(f1_score, average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    assert result.accuracy == pytest.approx(100 * balanced_accuracy_score(golds, given_))
    assert result.macro_f1 == pytest.approx(100 * f1(golds, given_))
    present = sorted(set(golds))
    reference = f1(golds, given_, labels=present)
    assert result.null_weighted_f1 == pytest.approx(100 * reference * (1 - given_.count("n") / len(given_)))


@given(st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from("abc")), min_size=1, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_righting_an_answer_never_lowers_a_label_task(pairs: list[Pair], data: st.DataObject) -> None:
    names = options_2025("nli", "id")
    answers, golds = [f"Jawaban: {pair[0]}" for pair in pairs], [pair[1] for pair in pairs]
    before = scored("nli", "ind", [names[gold] for gold in golds], answers)
    i = data.draw(st.integers(0, len(pairs) - 1))
    answers[i] = f"Jawaban: {golds[i]}"
    after = scored("nli", "ind", [names[gold] for gold in golds], answers)
    assert after.scores[0].value >= before.scores[0].value - 1e-9
    assert value(after, "accuracy") == pytest.approx(100 * mean_over_strata(after))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.data())
@settings(max_examples=15, deadline=None)
def test_raising_a_summary_never_lowers_the_bootstrap_median(values: list[float], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(values) - 1))
    raised = list(values)
    raised[i] = data.draw(st.floats(values[i], 1))
    before, after = (
        summaries.corpus([summaries.Overlap(precision=v, recall=v, f1=v) for v in these]).f1 for these in (values, raised)
    )
    assert after >= before - 1e-12
    assert min(values) - 1e-12 <= before <= max(values) + 1e-12


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
@settings(max_examples=80, deadline=None)
def test_the_longest_common_subsequence_is_the_textbooks(one: list[str], other: list[str]) -> None:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    overlap = summaries.rouge_l(" ".join(one), " ".join(other), "id", "sea_helm_2025")
    assert overlap.recall == pytest.approx(table[-1][-1] / len(other) if other else 0)


def test_lindsea_is_a_mean_over_phenomena_and_its_counts_are_pooled() -> None:
    phenomena = ["s", "s", "s", "p"]
    single = scored(
        "pragmatic-single", "ind", ["True", "False", "True", "Yes"],
        ["Jawaban: Benar", "Jawaban: Salah", "Jawaban: Ya", "Jawaban: Ya"],
        linguistic_phenomenon=phenomena, choices_translated=["Benar atau Salah"] * 3 + ["Ya atau Tidak"],
    )  # fmt: skip
    assert [item.value for item in single.items] == [1, 1, 0, 1] and single.items[2].is_null
    assert value(single, "accuracy") == pytest.approx(100 * (2 / 3 + 1) / 2) == pytest.approx(100 * mean_over_strata(single))
    pair = scored(
        "pragmatic-pair", "ind", [True, False], ["Jawaban: Benar", "Jawaban: Benar"], linguistic_phenomenon=["s", "p"]
    )
    found = {a.name: a for a in averages.aggregate([*single.scores, *pair.scores], "sea_helm_2025") if a.level == "group"}
    assert found["pragmatics"].value == pytest.approx(100 * ((3 / 4 + 1 / 2) / 2 - 0.5) / 0.5)
    assert found["pragmatics"].members == ("pragmatic-single", "pragmatic-pair") and not found["pragmatics"].missing


def test_scorers_say_what_the_benchmark_gets_wrong() -> None:
    strict = scored("causal", "ind", [0, 1], ["Jawaban: A karena hujan", "Jawaban: B"])
    assert strict.scores[0].nulls == 1 and "1 of 2 answers" in strict.warnings[0]
    lenient = scored("causal", "ind", ["A", "B"], ["Jawaban: ANSWER", "Jawaban: B"], profile="sea_helm_2026")
    assert lenient.scores[0].value == 100 and "1 of 2 answers were read by the first letters" in lenient.warnings[0]
    fused = scored("qa", "ind", [["KTM, GP Portugal"]], ["Jawaban: KTM"])
    assert "two answers fused" in fused.warnings[0] and value(fused, "normalized_f1") == pytest.approx(50)
    thai = scored("abssum", "tha", ["กขค งจฉ"], ["บทสรุป: กขค งจฉ"])
    assert thai.scores[0].value == pytest.approx(100) and any("blanks as words" in warning for warning in thai.warnings)
    absent = scored("sentiment", "ind", ["positive"], ["Jawaban: Positif"])
    assert "1 of 3 classes" in absent.warnings[0]


def test_rows_that_are_not_what_they_should_be_are_named() -> None:
    with pytest.raises(CorruptInput, match="qa: q0: label 'Hanoi' is no list"):
        scored("qa", "vie", ["Hanoi"], ["Câu trả lời: Hanoi"], profile="sea_helm_2026")
    with pytest.raises(CorruptInput, match="mp-r: q0: has no linguistic_phenomenon"):
        scored("mp-r", "ind", ["A"], ["Jawaban: A"])
    with pytest.raises(CorruptInput, match="nli: q0: label None"):
        scored("nli", "ind", [None], ["Jawaban: A"])
    with pytest.raises(CorruptInput, match="paraphrase: q0: label 1 is none of the task's"):
        scored("paraphrase", "fil", [1], ["Sagot: A"])
    with pytest.raises(SeaLionError, match="no scorer of answers alone for 'mt-bench'"):
        scorer("mt-bench", "sea_helm_2025", "ind")
    with pytest.raises(SeaLionError, match="no task 'toxicity' in 'ta'"):
        scorer("toxicity", "sea_helm_2025", "tam")
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        scored("nli", "ind", ["neutral", "neutral"], ["Jawaban: A"])


@pytest.mark.parametrize("language", sorted(TAGS["sea_helm_2026"]["answer"]))
def test_2026_reads_the_last_option_of_a_run_behind_any_languages_tag(language: str) -> None:
    tag = tag_of("sea_helm_2026", "answer", language)
    assert extraction.label_2026(f"**{tag}** b, karena", language, ["A", "B"]) == "B"
    assert extraction.label_2026(f"{tag} (A)", language, ["A", "B"]) == "null"
    assert extraction.label_2026(f"{tag} AB", language, ["A", "B"]) == "B"


def test_averages_name_their_members_and_what_is_missing() -> None:
    def score(task: str, language: str, metric: str, value: float) -> Score:
        return Score(
            task=task, language=language, metric=metric, value=value, stderr=2.0, items=10, higher_is_better=True
        )  # fmt: skip

    scores = [
        score("sentiment", "tam", "normalized_accuracy", 40), score("qa", "tam", "normalized_f1", 60),
        score("translation-en-xx", "tam", "normalized_metricx_wmt24_scores", 80),
        score("translation-en-xx", "tam", "chrf", 5),
    ]  # fmt: skip
    found = {(a.level, a.name): a for a in averages.aggregate(scores, "sea_helm_2025")}
    assert found["competency", "nlu"].value == 50 and found["competency", "nlu"].missing == ()
    assert found["competency", "nlu"].stderr == pytest.approx(math.sqrt(8) / 2)
    assert found["group", "translations"].value == 80
    assert found["group", "translations"].missing == ("translation-xx-en",)
    assert found["competency", "nlg"].members == ("translations",)
    assert found["competency", "nlg"].missing == ("translation-xx-en", "abssum")
    assert found["language", "tam"].value == 65 and found["language", "tam"].members == ("nlu", "nlg")
    assert {"mp-r", "causal", "nli"} < set(found["language", "tam"].missing)
    assert found["suite", "overall"].members == ("tam",) and "vie" in found["suite", "overall"].missing
    whole = averages.aggregate(scores[:2], "sea_helm_2025", expected={"tam": ("sentiment", "qa")})
    assert all(not a.missing for a in whole)
    with pytest.raises(SeaLionError, match="no task 'smoke'"):
        averages.aggregate([score("smoke", "tam", "acc", 1)], "sea_helm_2025")


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_the_published_score_draws_around_the_measured_one(runs: int, count: int, seed: int) -> None:
    import numpy as np

    scores = np.random.default_rng(seed).random((runs, count))
    task = replicates.Runs(scores=tuple(tuple(row) for row in scores))
    estimate = replicates.measured(task, "share")
    assert estimate.value == pytest.approx(100 * scores.mean())
    drawn = replicates.as_published(task, np.random.default_rng(seed), draws=200)
    assert abs(drawn.mean - estimate.value) <= 100 * 6 * scores.std(axis=0).max() / math.sqrt(200 * 1) + 1e-9


def test_what_the_leaderboard_gets_wrong_is_right_in_the_estimate() -> None:
    import numpy as np

    sure = replicates.Runs(scores=((99.0, 99.0, 99.0),), labels=("A", "B", "A"), is_logprob=True)
    assert replicates.as_published(sure, np.random.default_rng(0)).mean == 0
    assert replicates.measured(sure, "percent").value == pytest.approx(99)
    low = replicates.Runs(scores=((0.4, 0.9, 1.0),) * 2)
    assert replicates.as_published(low, np.random.default_rng(0)).mean == pytest.approx(230 / 3)
    assert replicates.measured(low, "percent").value == pytest.approx(2.3 / 3)
    assert replicates.measured(low, "percent").stderr == pytest.approx(np.std([0.4, 0.9, 1.0], ddof=1) / math.sqrt(3))
    assert replicates.leaderboard({"id": {"nli": replicates.Runs(scores=())}}).incomplete == (("id", "nli"),)


def test_judged_criteria_and_translations() -> None:
    both = "<classification>CLASS_UNMET</classification><classification> CLASS_SLIGHTLY_MET </classification>"
    assert criteria.judged(both, "first").value == 0 and criteria.judged(both, "last").value == 0.25
    assert criteria.judged("no tag", "last").classification is None
    assert criteria.mean_of_turns([[1, 0.5], []]) == 0.375
    with pytest.raises(ValueError, match="'fatal'"):
        criteria.syntax_item([1], ["fatal"])
    assert metricx([0, 25, 30]).items == (100, 0, 0) and metricx([0, 25]).raw == 12.5
    assert chrf(["satu dua"], ["satu dua"]) == pytest.approx(100) and chrf(["x"], ["satu dua"]) < 5


def test_segmenters_keep_every_letter() -> None:
    thai = "ในปี 2565 มีผู้ป่วย"
    assert "".join(thai_words(thai)) == thai
    burmese = "မင်္ဂလာပါ ၁၂ BBC"
    assert burmese_syllables(burmese) == ["မင်္ဂ", "လာ", "ပါ", "၁", "၂", "B", "B", "C"]
    assert burmese_syllables("") == []
