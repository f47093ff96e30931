"""Recipes: TOML files read strictly into frozen dataclasses, and what identifies them.

TOML, because YAML reads `1e-5` as a string, `no` as False and `1.10` as 1.1. Reading is pydantic's (strict, unknown keys
forbidden) over plain dataclasses, so that a recipe is also an ordinary Python value: `replace(recipe, lr=x)`.

Two kinds of field are marked in the annotations of a recipe:
* `Reference`: names another artifact, `corpus/tiny@1`, or the model of a stage, `stage:tiny-llama/cpt`. In the identity it is
  replaced by that artifact's fingerprint.
* `Files`: names files outside the catalog by glob patterns relative to the recipe's file (or `package:…`, relative to the
  installed package). In the identity it is replaced by the files' digests, so that no path enters a fingerprint.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from glob import escape, glob, has_magic
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .errors import CorruptInput, RecipeError
from .fingerprint import canonical_json, file_digest, fingerprint, plain
from .records import STRICT, Artifact, ArtifactRef

R = TypeVar("R")

REFERENCE = "sea-lion:reference"
FILES = "sea-lion:files"
Reference = Annotated[str, REFERENCE]
"""A reference to another artifact."""
Files = Annotated[tuple[str, ...], FILES]
"""Glob patterns of files outside the catalog."""

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
STAGE_PREFIX = "stage:"
UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
NOT_IDENTITY = ("kind", "name", "version", "description", "assumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What every recipe has. The subclasses add what is fingerprinted."""

    __pydantic_config__ = STRICT

    kind: str
    """Which recipe this is: a key of `chain.KINDS`."""
    name: str
    """Name of the artifact it makes, `corpus/tiny`."""
    version: str
    """Its version; raise it when the recipe changes. `dev` may be rebuilt freely and is never promotable."""
    description: str = ""
    """For people; not part of the identity."""
    licence: str = ""
    """SPDX expression of what the recipe itself adds to its inputs' licences."""
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)
    """Fields (`normalize`, `parents.0.weight`) whose values no source gives, with the reasons; not part of the identity."""

    def __post_init__(self) -> None:
        ArtifactRef.parse(f"{self.name}@{self.version}")
        for key in self.assumed:
            _check_path(self, key)

    def beside(self) -> dict[str, Any]:
        """What else decides on the result, and is therefore part of the identity: content that the fields only name."""
        return {}

    @property
    def ref(self) -> ArtifactRef:
        """Name and version of the artifact it makes."""
        return ArtifactRef(name=self.name, version=self.version)


def _check_path(recipe: Any, key: str) -> None:
    """Raise ValueError when a key path leads to no field of a recipe."""
    value = recipe
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
        except (AttributeError, IndexError, ValueError, TypeError):
            raise ValueError(f"assumed names {key!r}, which is no field of this recipe") from None


def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Pydantic's reader of a dataclass, built once."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read_toml(path: Path) -> dict[str, Any]:
    """The file's table; raises RecipeError when it is not TOML or not a file."""
    if path.is_dir():
        raise RecipeError(path, "", "is a folder, a recipe is a TOML file")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(path, "", "no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(path, "", f"is not TOML: {error}") from error


def read_table(table: Mapping[str, Any], into: type[R], file: Path | str) -> R:
    """Read a table strictly into a dataclass; raises RecipeError naming file and key, for an unknown key also the nearest."""
    try:
        value: R = adapter(into).validate_json(canonical_json(dict(table)))
    except ValidationError as error:
        first = min(error.errors(), key=lambda problem: problem["type"] not in UNKNOWN_KEY)
        loc = [str(part) for part in first["loc"]]
        raise RecipeError(file, ".".join(loc) or "(file)", _problem(first, loc, into)) from error
    except TypeError as error:
        raise RecipeError(file, "(file)", str(error)) from error
    return value


def _problem(error: Mapping[str, Any], loc: list[str], into: type[Any]) -> str:
    if error["type"] in UNKNOWN_KEY:
        valid = [field.name for field in dataclasses.fields(_table_type(into, loc[:-1]))]
        near = get_close_matches(loc[-1], valid, n=1, cutoff=0.0)
        return f"unknown key; did you mean {near[0]!r}?" if near else "unknown key"
    if error["type"] == "missing":
        return "is required"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message}, not {error['input']!r}" if error["type"] != "value_error" else message


def _table_type(into: Any, loc: list[str]) -> Any:
    """The dataclass that a key path of the file leads to."""
    for part in loc:
        if dataclasses.is_dataclass(into) and part in (hints := get_type_hints(into)):
            into = hints[part]
        while not dataclasses.is_dataclass(into) and get_args(into):
            into = next((arg for arg in get_args(into) if dataclasses.is_dataclass(arg) or get_args(arg)), get_args(into)[0])
    return into


def read_recipe(path: Path, kinds: Mapping[str, type[Recipe]]) -> Recipe:
    """Read one recipe file; `kinds` maps its `kind` to the dataclass."""
    table = read_toml(path)
    if "kind" not in table:
        raise RecipeError(path, "kind", f"is required: one of {', '.join(kinds)}")
    kind = str(table["kind"])
    if kind not in kinds:
        near = get_close_matches(kind, list(kinds), n=1, cutoff=0.0)
        raise RecipeError(path, "kind", f"{kind!r} is not a kind of recipe; did you mean {near[0]!r}?")
    return read_table(table, kinds[kind], path)


def marked(recipe: Any, mark: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a recipe annotated with `mark`, with its key path, in the order of the fields."""
    for name, hint in get_type_hints(type(recipe), include_extras=True).items():
        if name.startswith("__"):
            continue
        yield from _marked_in(getattr(recipe, name), hint, mark, f"{prefix}{name}")


def _marked_in(value: Any, hint: Any, mark: str, key: str) -> Iterator[tuple[str, Any]]:
    if get_origin(hint) is Annotated and mark in get_args(hint)[1:]:
        if value:
            yield key, value
    elif dataclasses.is_dataclass(value):
        yield from marked(value, mark, f"{key}.")
    elif isinstance(value, tuple) and get_args(hint):
        for i, item in enumerate(value):
            yield from _marked_in(item, get_args(hint)[0], mark, f"{key}.{i}")


def references(recipe: Recipe) -> list[tuple[str, str]]:
    """The artifacts (and `stage:` aliases) a recipe names, with their key paths."""
    return list(marked(recipe, REFERENCE))


def external_files(recipe: Recipe, base: Path) -> dict[str, list[Path]]:
    """Key path to the files its patterns match, sorted; raises CorruptInput for a folder, nothing found or an empty file."""
    found: dict[str, list[Path]] = {}
    for key, patterns in marked(recipe, FILES):
        paths = [path for pattern in patterns for path in _matches(pattern, base)]
        found[key] = sorted(set(paths))
    return found


def _matches(pattern: str, base: Path) -> list[Path]:
    root, rest = base, pattern
    if pattern.startswith("package:"):
        root, rest = Path(str(package_files("sea_lion"))), pattern.removeprefix("package:")
    paths = sorted(Path(path) for path in glob(str(Path(escape(str(root))) / rest))) if has_magic(rest) else [root / rest]
    if not paths:
        raise CorruptInput(pattern, "", "no file matches this pattern")
    for path in paths:
        if path.is_dir():
            raise CorruptInput(path, "", "is a folder, not a file; name its files, for example with a pattern ending in /*")
        if not path.is_file():
            raise CorruptInput(path, "", "no such file")
        if any("\ud800" <= character <= "\udfff" for character in str(path)):
            raise CorruptInput(ascii(path.name), "", "its name is not UTF-8; rename it")
        if path.stat().st_size == 0:
            raise CorruptInput(path, "", "is empty")
    return paths


def identity(recipe: Recipe, inputs: Mapping[str, Artifact], files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """The recipe as content: no name, version or description, references as fingerprints, files as digests.

    `inputs` maps each reference, as the recipe writes it, to the artifact.
    """
    table = {key: value for key, value in plain(recipe).items() if key not in NOT_IDENTITY}
    for key, ref in references(recipe):
        _put(table, key, inputs[ref].fingerprint)
    for key, paths in files.items():
        package = Path(str(package_files("sea_lion")))
        shipped = [path for path in paths if path.is_relative_to(package)]
        _put(table, key, sorted(_named(shipped) + _named([path for path in paths if path not in shipped])))
    beside = recipe.beside()
    return {"kind": recipe.kind, **table} | ({"beside": beside} if beside else {})


def _named(paths: list[Path]) -> list[list[str]]:
    """Place below the common folder, and digest, of each file: the common folder itself stays out of the identity."""
    common = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [[path.relative_to(common).as_posix(), _digest(path, *_state(path))] for path in paths]


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, modified: int, inode: int) -> str:
    """A recipe is planned several times in a run; a file that has not changed since is read once."""
    return file_digest(path)


def _put(table: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        table = table[int(part)] if isinstance(table, list) else table[part]
    table[int(last) if isinstance(table, list) else last] = value


def recipe_fingerprint(content: Mapping[str, Any]) -> str:
    """Hex sha256 of an identity."""
    return fingerprint(dict(content))
