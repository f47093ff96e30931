"""The house rules that no linter can hold: which area may import which, and how; sizes; what the wheel carries."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "catalog": set[str](),
    "data": {"catalog"},
    "merging": {"catalog"},
    "training": {"catalog", "data"},
    "eval": {"catalog"},
}
AT_ROOT = {"__init__.py", "__main__.py", "cli.py", "chain.py"}


def area_files() -> Iterator[tuple[str, Path]]:
    for area in MAY_IMPORT:
        for path in sorted((ROOT / area).rglob("*.py")):
            if "sample" not in path.relative_to(ROOT).parts:
                yield area, path


def own_files() -> list[Path]:
    return [ROOT / name for name in sorted(AT_ROOT)] + [path for _, path in area_files()]


def test_areas_import_only_what_they_may() -> None:
    for area, path in area_files():
        depth = len(path.relative_to(ROOT).parts) - 1
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert all(name.name.split(".")[0] != "sea_lion" for name in node.names), f"{path}: import relatively"
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "sea_lion", f"{path}: import relatively inside the package"
                if node.level == depth + 1:
                    target = (node.module or "").split(".")[0]
                    assert target in MAY_IMPORT[area] | {area}, f"{path}: {area} may not import {target}"


def test_only_the_entry_points_stand_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == AT_ROOT


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = (path.parent.relative_to(ROOT) for _, path in area_files() if path.name == "__init__.py")
    found = {".".join(("sea_lion", *package.parts)) for package in packages}
    assert set(listed) == found | {"sea_lion"}


def test_links_for_the_type_checkers_name_every_entry() -> None:
    links = {path.name for path in (ROOT / ".link" / "sea_lion").iterdir()}
    assert links == AT_ROOT | set(MAY_IMPORT) | {"recipes", "py.typed"}


@pytest.mark.parametrize("path", own_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_say_what_they_are_for_and_stay_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert path.name == "__main__.py" or ast.get_docstring(tree), "a module begins with what it is for"
    assert text.count("\n") < 400, "a module ends before 400 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{node.name} is over 80 lines"
            if not node.name.startswith("_") and node in tree.body:
                assert ast.get_docstring(node), f"{node.name} is public and has no docstring"
