"""Miniature downloads of the leaderboard's data sets, made up for these tests, with the columns of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sea_lion.eval.leaderboard.definition import sources
from sea_lion.eval.leaderboard.mirror import PUNKT, MirroredFiles, mirror_files

Rows = list[dict[str, Any]]
IFEVAL_PROMPTS: list[tuple[str, list[tuple[str, dict[str, Any]]], str]] = [
    (
        "Write about the river without any comma, in lower case only.",
        [("punctuation:no_comma", {}), ("change_case:english_lowercase", {})],
        "the river is long and the water of the river is brown because the rain falls on the hills",
    ),
    (
        "Write at least three sentences about boats.",
        [("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"})],
        "The boat is old. It leaks a little. We row it home.",
    ),
    (
        "Use the words mango and market, and wrap the answer in quotation marks; a few words all in capitals.",
        [
            ("keywords:existence", {"keywords": ["mango", "market"]}),
            ("startend:quotation", {}),
            ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
        ],
        '"The MANGO is from the MARKET: a mango of the market"',
    ),
]
"""Prompt, its instructions with their arguments, and an answer that follows them all."""
WORDS = ("mango", "rice", "boat", "rain", "lamp", "kite", "drum", "salt", "fish", "moon")


def ifeval_rows() -> Rows:
    names = {name for _, instructions, _ in IFEVAL_PROMPTS for _, given in instructions for name in given}
    return [
        {
            "key": 1000 + number,
            "prompt": prompt,
            "instruction_id_list": [name for name, _ in instructions],
            "kwargs": [dict.fromkeys(sorted(names)) | given for _, given in instructions],
        }
        for number, (prompt, instructions, _) in enumerate(IFEVAL_PROMPTS)
    ]


def math_rows(subject: str) -> Rows:
    """Three problems of the hardest level and an easier one, which is not asked."""
    sums = [(3 + len(subject), 4), (10, len(subject)), (7, 8)]
    rows = [
        {
            "problem": f"A basket ({subject}) holds {a} mangoes and {b} more are put in. How many are in it?",
            "level": "Level 5",
            "type": subject,
            "solution": f"We add ${a}+{b}={a + b}$, so there are $\\boxed{{{a + b}}}$ mangoes.",
        }
        for a, b in sums
    ]
    return [rows[0], {**rows[0], "problem": "An easy one", "level": "Level 2"}, *rows[1:]]


def gpqa_rows(count: int) -> Rows:
    return [
        {
            "Record ID": f"rec{number}",
            "Question": f"Which of these, in case {number}, floats on water?",
            "Correct Answer": f"A dry {WORDS[number % 10]} of cork, number {number}",
            "Incorrect Answer 1": f"A {WORDS[number % 10]} of lead",
            "Incorrect Answer 2": f"An anvil [{number}] of iron",
            "Incorrect Answer 3": f"A brick, number {number}",
        }
        for number in range(count)
    ]


def musr_rows(names: list[str]) -> Rows:
    """Two questions about each of two stories."""
    return [
        {
            "narrative": f"In story {number // 2} there were {', '.join(names)}, and it rained on all of them.",
            "question": f"Who took umbrella {number}?",
            "choices": repr(names),
            "answer_index": number % len(names),
            "answer_choice": names[number % len(names)],
        }
        for number in range(4)
    ]


def mmlu_pro_rows(count: int, first: int = 0) -> Rows:
    return [
        {
            "question_id": number,
            "question": f"Which word comes at place {number} of the list?",
            "options": list(WORDS),
            "answer": "ABCDEFGHIJ"[number % 10],
            "answer_index": number % 10,
            "cot_content": "",
            "category": "other",
        }
        for number in range(first, first + count)
    ]


def write_downloads(root: Path) -> Path:
    """Every data set in a form in which it is published, or in which people keep it, and NLTK's splitter."""
    write_jsonl(root / "wis-k/instruction-following-eval/ifeval_input_data.jsonl", ifeval_rows())
    write_card(root / "wis-k/instruction-following-eval", {"default": {"train": "ifeval_input_data.jsonl"}})
    for source in sources().values():
        if source.dataset == "SaylorTwift/bbh":
            path = root / source.dataset / source.config / "test-00000-of-00001.parquet"
            targets = [source.answers[n % len(source.answers)] for n in range(3)]
            write_parquet(
                path, [{"input": f"Case {n} of {source.config}", "target": target} for n, target in enumerate(targets)]
            )
        if source.dataset == "DigitalLearningGmbH/MATH-lighteval":
            write_parquet(root / source.dataset / source.config / "test-00000-of-00001.parquet", math_rows(source.config))
    snapshot = root / "hub/datasets--Idavidrein--gpqa/snapshots/0123abc"
    for config, count in (("gpqa_diamond", 3), ("gpqa_main", 4), ("gpqa_extended", 5)):
        blob = root / f"hub/datasets--Idavidrein--gpqa/blobs/{config}"
        write_csv(blob, gpqa_rows(count))
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / f"{config}.csv").symlink_to(blob)
    people = {
        "murder_mysteries": ("murder_mystery.csv", ["Ann", "Bo"]),
        "object_placements": ("object_placements.csv", ["attic", "bay", "cellar", "den", "elevator"]),
        "team_allocation": ("team_allocation.csv", ["Ann rows", "Bo rows", "Cy rows, not Bo"]),
    }
    for name, names in people.values():
        write_csv(root / "TAUR-Lab/MuSR" / name, musr_rows(names))
    write_card(root / "TAUR-Lab/MuSR", {"default": {split: name for split, (name, _) in people.items()}})
    write_parquet(root / "TIGER-Lab/MMLU-Pro/data/test-00000-of-00002.parquet", mmlu_pro_rows(4))
    write_parquet(root / "TIGER-Lab/MMLU-Pro/data/test-00001-of-00002.parquet", mmlu_pro_rows(2, first=4))
    write_parquet(root / "TIGER-Lab/MMLU-Pro/data/validation-00000-of-00001.parquet", mmlu_pro_rows(6, first=50))
    write_splitter(root / PUNKT / "english")
    return root


def write_jsonl(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_csv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)


def write_card(folder: Path, configs: dict[str, dict[str, str]]) -> None:
    lines = ["---", "license: cc0-1.0", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A miniature"]) + "\n", "utf-8")


def write_splitter(folder: Path) -> None:
    """A sentence splitter trained on a few lines, in NLTK's own file format."""
    from nltk.tabdata import TabEncoder
    from nltk.tokenize.punkt import PunktTrainer

    trainer: Any = PunktTrainer()
    trainer.INCLUDE_ALL_COLLOCS = True
    trainer.train("Mr. Tan came at 5 p.m. with rice. Mr. Tan left. The boat of Mr. Lim is old. It leaks.", finalize=True)
    params, encoder = trainer.get_params(), TabEncoder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "collocations.tab").write_text(encoder.tups2tab(params.collocations), "utf-8")
    (folder / "sent_starters.txt").write_text(encoder.set2txt(params.sent_starters), "utf-8")
    (folder / "abbrev_types.txt").write_text(encoder.set2txt(params.abbrev_types), "utf-8")
    (folder / "ortho_context.tab").write_text(encoder.ivdict2tab(params.ortho_context), "utf-8")


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of downloads; not to be changed."""
    return write_downloads(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="session")
def mirrored(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MirroredFiles]:
    """A mirror of them, and what was said when it was made; not to be changed."""
    folder = tmp_path_factory.mktemp("mirror")
    return folder, mirror_files(downloads, folder)
