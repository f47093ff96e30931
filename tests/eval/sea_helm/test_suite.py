"""SEA-HELM opened: tasks and languages as the benchmark lists them, clusters, and what the mirror lacks by name."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError, SeaLionError
from sea_lion.catalog.records import Score
from sea_lion.eval.family import GenerationFamily, GenerationTask, Suite
from sea_lion.eval.sea_helm.mirror import source_files, write_mirror
from sea_lion.eval.sea_helm.questions import questions
from sea_lion.eval.sea_helm.suite import hub_config, open_suite
from sea_lion.eval.sea_helm.templates import TaskTexts
from sea_lion.eval.suites_index import open_sea_helm

SHARED = Path(__file__).parents[4] / "shared"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILE = "sea_helm_2025"
ITEMS = {
    "sentiment": {"ind": 400, "tha": 1000, "tam": 1000, "fil": 600},
    "qa": {"ind": 100, "vie": 100, "tha": 100, "tam": 100},
    "metaphor": {"ind": 295},
    "translation-en-xx": {"ind": 1012, "vie": 1012, "tha": 1012, "tam": 1012, "fil": 600},
    "translation-xx-en": {"ind": 1012, "vie": 1012, "tha": 1012, "tam": 1012, "fil": 600},
    "causal": {"ind": 500, "vie": 500, "tha": 500, "tam": 500, "fil": 400},
    "nli": {"ind": 1000, "tam": 1000},
    "mp-r": {"ind": 380, "tam": 470},
    "pragmatic-single": {"ind": 100, "tam": 80},
    "pragmatic-pair": {"ind": 84, "tam": 84},
    "if-eval": {"ind": 105, "vie": 105, "tha": 105, "fil": 105},
    "belebele-qa-mc": {"fil": 100},
    "kalahi-mc": {"fil": 150},
}
"""What is asked of the files that are here: the table of the facts page, without those that are not."""

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the benchmark's data are not here: they lie in ../shared")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mirror")
    write_mirror([DATA / name for name in source_files(DATA, PROFILE)], target, PROFILE)
    return target


@pytest.fixture(scope="module")
def whole(mirror: Path) -> Suite:
    return open_suite(PROFILE, mirror)


def tasks_of(suite: Suite) -> dict[tuple[str, str], GenerationTask]:
    families = [family for family in suite.families if isinstance(family, GenerationFamily)]
    assert len(families) == len(suite.families)
    return {(task.name, task.language): task for family in families for task in family.tasks}


@needs_data
def test_the_suite_asks_what_the_release_asks(whole: Suite) -> None:
    found: dict[str, dict[str, int]] = {}
    for (name, language), task in tasks_of(whole).items():
        found.setdefault(name, {})[language] = len(task.questions)
    for name, counts in ITEMS.items():
        assert counts.items() <= found[name].items(), name
    for language in ("ind", "vie", "tha", "fil"):
        assert language in found.get("toxicity", {}) or any(line.startswith(f"toxicity/{language}: ") for line in whole.missing)
    assert len(tasks_of(whole)) + len(whole.missing) == 55


@needs_data
def test_base_models_get_five_examples_and_fewer_tasks(mirror: Path) -> None:
    suite = open_suite(PROFILE, mirror, languages=("vie", "fil"), is_base=True)
    asked = tasks_of(suite)
    assert not {"kalahi-mc", "mt-bench"} & {name for name, _ in asked}
    assert not [line for line in suite.missing if line.startswith(("kalahi-mc", "mt-bench"))]
    assert all(task.generation.stop == ("\n\n",) for task in asked.values())
    plain = tasks_of(open_suite(PROFILE, mirror, languages=("vie", "fil"), tasks=("qa",)))["qa", "vie"]
    shot = asked["qa", "vie"].questions[0].messages[0].content
    assert len(shot) > len(plain.questions[0].messages[0].content) + 1000
    assert "qa/vie: 5 of 5 few-shot examples share their passage with items" in suite.warnings
    assert any(warning.startswith("if-eval/fil: 0 few-shot examples instead of 5") for warning in suite.warnings)


@needs_data
def test_other_suites_languages_and_tasks_are_the_benchmarks_own(mirror: Path) -> None:
    islands = open_suite(PROFILE, mirror, languages=("jav",))
    assert {name for name, _ in tasks_of(islands)} >= {"sentiment", "metaphor", "if-eval"}
    assert {line.split(":")[0] for line in islands.missing} <= {
        f"{name}/jav" for name in ("qa-mc", "translation-id-xx", "translation-xx-id", "mt-bench")
    }
    everything = open_suite(PROFILE, mirror, languages=("ind",), selection="all_tasks", limit=3)
    assert ("belebele-qa-mc", "ind") in tasks_of(everything)
    assert {len(task.questions) for task in tasks_of(everything).values()} == {3}
    assert "only the first 3 items of each task were asked" in everything.warnings
    with pytest.raises(SeaLionError, match="no tasks for 'mya'"):
        open_suite(PROFILE, mirror, languages=("mya",))
    with pytest.raises(SeaLionError, match="no language 'xyz'"):
        open_suite(PROFILE, mirror, languages=("xyz",))
    with pytest.raises(SeaLionError, match="'sums' is no task"):
        open_suite(PROFILE, mirror, tasks=("sums",))
    with pytest.raises(SeaLionError, match="'mine' is no suite"):
        open_suite(PROFILE, mirror, selection="mine")
    with pytest.raises(CorruptInput, match="is a mirror of sea_helm_2025, not of sea_helm_2026"):
        open_suite("sea_helm_2026", mirror)


@needs_data
def test_items_of_one_source_share_a_cluster_over_languages(whole: Suite) -> None:
    asked = tasks_of(whole)

    def clusters(name: str, language: str) -> set[str]:
        return {question.cluster for question in asked[name, language].questions}

    for name in ("translation-en-xx", "translation-xx-en"):
        assert clusters(name, "ind") == clusters(name, "tha") == clusters("translation-en-xx", "tam")
        assert len(clusters(name, "fil") & clusters(name, "ind")) == 303
    assert clusters("causal", "ind") == clusters("causal", "tam")
    assert not clusters("causal", "ind") & clusters("causal", "fil")
    assert clusters("if-eval", "vie") == clusters("if-eval", "fil")
    assert len(clusters("metaphor", "ind")) == 150 and len(clusters("nli", "tam")) == 334
    assert len(clusters("qa", "vie")) == 83


@needs_data
def test_ids_tell_items_apart_and_details_carry_what_scorers_read(whole: Suite) -> None:
    asked = tasks_of(whole)
    for task in asked.values():
        assert len({question.id for question in task.questions}) == len(task.questions)
    single = asked["pragmatic-single", "ind"].questions
    assert Counter(question.target for question in single) == {"False": 50, "True": 30, "Yes": 10, "No": 10}
    assert all({"linguistic_phenomenon", "choices_translated"} <= question.details.keys() for question in single)
    forward, back = (asked[name, "ind"].questions[7] for name in ("translation-en-xx", "translation-xx-en"))
    assert forward.details["source"] == back.target and forward.target == back.details["source"]
    instruction = asked["if-eval", "tha"].questions[0].details
    assert instruction["instruction"] == "combination:repeat_prompt" and list(instruction["kwargs"]) == ["prompt_to_repeat"]


@needs_data
def test_averages_name_what_they_lack(mirror: Path) -> None:
    suite = open_suite(PROFILE, mirror, languages=("tam",), tasks=("sentiment", "mp-r", "abssum"))
    scores: list[Score] = []
    for task in tasks_of(suite).values():
        scores += task.scorer(task, [[""] for _ in task.questions]).scores
    found = {(entry.level, entry.name): entry for entry in suite.aggregate(scores)}
    assert found["language", "tam"].members == ("nlu", "linguistic-diagnostics")
    assert "abssum" in found["language", "tam"].missing
    assert found["competency", "nlu"].missing == ("qa",), "a task that was not asked leaves no average in silence"


CONFIG_2026 = """
causal:
  metadata: {version: 1.1}
  competency: nlr
  metric: normalized_accuracy
  fewshot_num_examples: {instruct: 0, base: 2}
  languages:
    id:
      filepath: org/Causal
      example_filepath: org/Causal
      max_tokens: 8
      prompt_template: {preamble: "Reply with {answer_tag}", task_template: "{text}", answer_template: "{answer_tag} {label}",
                        answer_tag: "Jawaban:"}
"""


def test_a_mirror_of_2026_is_asked_from_data_sets_of_the_hub(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "mirror"
    target.mkdir()
    split = "org/Causal/id/{}.jsonl"
    rows = [{"id": i, "label": "AB"[i % 2], "prompts": [{"text": f"question {i}"}]} for i in range(6)]
    files = {
        "seahelm_tasks/task_config.yaml": "seahelm: {id: [causal, qa]}",
        "seahelm_tasks/nlr/causal/config.yaml": CONFIG_2026,
        split.format("eval"): "".join(json.dumps(row) + "\n" for row in rows),
        split.format("examples"): "".join(json.dumps(row) + "\n" for row in rows[:4]),
    }
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, "utf-8")
    write_mirror([source / name for name in files], target, "sea_helm_2026")
    suite = open_suite("sea_helm_2026", target, languages=("ind",), is_base=True, is_reasoning=True, seed=25008113)
    task = tasks_of(suite)["causal", "ind"]
    assert [message.role for message in task.questions[0].messages] == ["user", "assistant"] * 2 + ["user"]
    assert (task.generation.max_tokens, task.generation.seed, task.version) == (20_008, 25008113, "v1.2.1/1.1")
    assert suite.missing == ("qa/ind: the mirror has no settings of this task: take them from a checkout of the benchmark",)
    assert any("averages eight runs" in warning for warning in suite.warnings)
    made = task.scorer(task, [[f"Jawaban: {row['label']}"] for row in rows])
    assert [score.value for score in made.scores if score.role == "score"] == [100.0]


TEXTS = TaskTexts(source="own.yaml", file="f", example_file="", max_tokens=4, parts={"template": "{text}"})


def test_rows_without_ids_of_their_own_are_numbered() -> None:
    rows: list[dict[str, Any]] = [{"id": 4, "prompts": [{"text": "a"}]}, {"id": 4, "prompts": [{"text": "b"}]}]
    assert [question.id for question in questions(PROFILE, "toxicity", "ind", TEXTS, rows)] == ["0", "1"]
    rows[1]["id"] = "x"
    assert [question.id for question in questions(PROFILE, "toxicity", "ind", TEXTS, rows)] == ["4", "x"]


def test_turns_follow_and_the_thai_conversations_are_a_set_of_their_own() -> None:
    row = {
        "question_id": 81,
        "prompts": [{"text": "one"}, {"text": "two"}],
        "metadata": {"language": "id", "category": "math"},
        "baselines": {"b": ["x", "y"]},
        "references": ["r", "s"],
    }
    (asked,) = questions(PROFILE, "mt-bench", "ind", TEXTS, [row])
    assert (asked.messages[0].content, asked.follow_ups, asked.cluster) == ("one", ("two",), "mtbench-81")
    assert asked.details == {
        "language": "id", "category": "math", "baselines": {"b": ["x", "y"]}, "references": ["r", "s"]
    }  # fmt: skip
    (thai,) = questions(PROFILE, "mt-bench", "tha", TEXTS, [row])
    assert thai.cluster == "mtbench-tha-81"


def test_passages_of_a_parallel_set_share_clusters_by_their_first_question() -> None:
    rows = [{"id": i, "prompts": [{"text": f"passage {i // 2}"}], "label": 0} for i in range(895)]
    found = [question.cluster for question in questions(PROFILE, "belebele-qa-mc", "tha", TEXTS, rows)]
    assert found[:4] == ["belebele-0", "belebele-0", "belebele-2", "belebele-2"]
    few = questions(PROFILE, "belebele-qa-mc", "fil", TEXTS, rows[:10])
    assert few[1].cluster == "belebele-fil-0"


def test_a_row_that_its_scorer_cannot_read_is_named() -> None:
    row = {"id": 7, "prompts": [{"text": "x"}], "metadata": {"subcategory": "keywords:existence"}, "kwargs": [{}, {}]}
    with pytest.raises(CorruptInput, match="of row 7 do not belong to one instruction"):
        questions(PROFILE, "if-eval", "ind", TEXTS, [row])
    with pytest.raises(CorruptInput, match="asks for 'text', which the row has not"):
        questions(PROFILE, "toxicity", "ind", TEXTS, [{"prompts": [{"phrase": "x"}]}])


def test_hub_configurations() -> None:
    assert hub_config("translation-en-xx", "th") == "en_to_th" and hub_config("translation-xx-id", "jv") == "jv_to_id"
    assert hub_config("pragmatic-pair", "ta") == "ta_pair" and hub_config("thai_exam_onet", "th") == "onet"
    assert hub_config("sentiment", "ms") == "ms"


def test_a_file_of_records_must_be_named_in_the_recipe(tmp_path: Path) -> None:
    records, settings = tmp_path / "scores.jsonl", tmp_path / "metricx.toml"
    records.write_text("", "utf-8")
    settings.write_text('[metricx]\nkind = "recorded"\npath = "scores.jsonl"\n', "utf-8")
    ref = "scorecard/x@1"
    recipe = SimpleNamespace(ref=ref, suite=PROFILE, heldout="", mirror="", languages=(), tasks=(), limit=0, prompts="chat")
    job: Any = SimpleNamespace(recipe=recipe, files={"metricx": [settings]})
    with pytest.raises(RecipeError, match=r"metricx: must also name scores.jsonl"):
        open_sea_helm(job)
    job.files["metricx"] = [settings, records]
    with pytest.raises(RecipeError, match="mirror: is required"):  # past it
        open_sea_helm(job)
    job.files["metricx"] = [records]
    with pytest.raises(RecipeError, match="metricx: names 0 TOML files"):
        open_sea_helm(job)
    recipe.heldout = "corpus/a@1"
    with pytest.raises(RecipeError, match="heldout: says nothing to suite 'sea_helm_2025'"):
        open_sea_helm(job)
