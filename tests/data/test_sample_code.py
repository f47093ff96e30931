"""The code sample: enough of it, in the languages promised, and what an interpreter can check is right."""

import ast
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from sea_lion.data.sample_crawl import SAMPLE

FILES = sorted((SAMPLE / "code").iterdir())


def test_size_and_languages() -> None:
    assert 60_000 < sum(path.stat().st_size for path in FILES) < 90_000
    assert all(path.suffix == ".txt" for path in FILES), "no tool may take a sample for a part of the project"
    languages = Counter(path.suffixes[0] for path in FILES)
    assert languages.keys() == {".py", ".js", ".cpp", ".java", ".go", ".rs", ".sql", ".sh"}
    assert min(languages.values()) >= 3 and languages.total() >= 40


@pytest.mark.parametrize("path", [path for path in FILES if path.suffixes[0] == ".py"], ids=lambda path: path.stem)
def test_python_parses(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("path", [path for path in FILES if path.suffixes[0] == ".sh"], ids=lambda path: path.stem)
def test_shell_parses(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_no_file_repeats_another() -> None:
    lines = Counter(
        line for path in FILES for line in {line.strip() for line in path.read_text("utf-8").splitlines()} if len(line) > 45
    )
    repeated = {line for line, count in lines.items() if count > 1}
    assert not repeated
