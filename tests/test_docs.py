"""The documentation is true: the reference is current, every command it shows parses, every file it names exists."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from sea_lion import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))
COMMAND = re.compile(r"^(?:\.venv/bin/)?sea-lion (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_the_recipe_reference_is_current() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "reference.py"))["reference"]()
    assert (ROOT / "docs" / "recipes.md").read_text("utf-8") == written, "run python docs/reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for line in COMMAND.findall(text):
        words = shlex.split(line, comments=True)
        if words and "--help" not in words:
            cli._parser().parse_args(words)
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_docs_show_commands_at_all() -> None:
    assert sum(len(COMMAND.findall(page.read_text("utf-8"))) for page in PAGES) > 15
