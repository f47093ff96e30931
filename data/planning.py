"""Crawl plans as artifacts: made from a columnar index by a recipe, from a corpus when it is published, and back to a corpus.

A plan file carries the recipe of the corpus that it is for, so that the file alone, and a mirror of the crawl, is enough to
build the same shards: what a team publishes that may not give the texts away.
"""

from __future__ import annotations

import logging
from glob import escape
from pathlib import Path
from typing import Any

from ..catalog.errors import CorruptInput, RecipeError, SeaLionError
from ..catalog.fingerprint import plain
from ..catalog.languages import LANGUAGES
from ..catalog.recipes import FILES, REFERENCE, marked, read_table
from ..catalog.records import Artifact, CrawlPlan
from ..catalog.store import Job, Made
from .plan import Plan, Selection, plan_of_records, plan_rows, read_plan
from .recipe import CorpusRecipe, PlanRecipe

log = logging.getLogger(__name__)

FILE = "plan.parquet"
CRAWLED = ("warc", "plan")
"""Forms of source whose documents a plan can name."""


def make_plan(job: Job[PlanRecipe]) -> Made:
    """Select the records of the wanted languages from a columnar index, as `plan.parquet`.

    Raises CorruptInput for an index that is none, RecipeError for an unknown language, SeaLionError when nothing is selected.
    """
    recipe = job.recipe
    for language in recipe.languages:
        if language not in LANGUAGES:
            raise RecipeError(str(recipe.ref), "languages", f"{language!r} is not one of {', '.join(LANGUAGES)}")
    index = [str(path) for path in job.files.get("index", ())]
    index += [f"{job.options.mirror.rstrip('/')}/{place}" for place in recipe.index_places]
    selection = Selection(languages=recipe.languages, match=recipe.match, once=recipe.once)
    made = plan_rows(index, job.folder / FILE, selection)
    if not made.records:
        raise SeaLionError(f"{recipe.ref}: the index has no page in {', '.join(recipe.languages)}")
    log.info("%s: %d records, %d bytes, in %d files", recipe.ref, made.records, made.bytes, made.files)
    return Made(body=_body(made))


def _body(plan: Plan) -> CrawlPlan:
    return CrawlPlan(records=plan.records, bytes=plan.bytes, files=plan.files, languages=plan.languages)


def planned_recipe(path: Path) -> CorpusRecipe:
    """The recipe of the corpus that a plan file was published for, with that file as its source.

    Raises CorruptInput for a file that is no plan, or was published without a recipe.
    """
    plan = read_plan(path)
    if not plan.recipe:
        raise CorruptInput(path, "", "holds no recipe: it selects pages; name it in a corpus recipe (form = 'plan')")
    table = dict(plan.recipe)
    sources = table.get("source") or [{}]
    name = str(sources[0].get("name", "web")) if isinstance(sources[0], dict) else "web"
    table["source"] = [{"name": name, "form": "plan", "files": [str(path.absolute())]}]
    return read_table(table, CorpusRecipe, path)


def write_corpus_plan(artifact: Artifact, folder: Path, target: Path) -> bool:
    """Write the plan of a corpus: every record that got through its gate, kept in the end or not; False when it has none.

    Duplicates and what the rules dropped are in it as well, so that the ledger, too, comes out the same from there on. A corpus
    that a plan alone cannot rebuild has none, and a warning says why.
    """
    names = sorted({source["name"] for source in artifact.recipe["source"] if source["form"] in CRAWLED})
    if not names:
        return False
    paths = [*sorted(folder.glob("documents/*/*/*.parquet")), folder / "removals.parquet"]
    try:
        _require_complete(artifact, names)
        made = plan_of_records([escape(str(path)) for path in paths], target, recipe=_published(artifact, names[0]))
    except (CorruptInput, RecipeError) as error:
        log.warning("no plan is written: %s", error)
        return False
    if not made.records:
        target.unlink()
    return bool(made.records)


def _require_complete(artifact: Artifact, names: list[str]) -> None:
    """Raise RecipeError for what keeps a stranger who has only the plan from rebuilding the corpus."""
    place = str(artifact.ref)
    if len(names) > 1:
        raise RecipeError(place, "source", f"the crawl sources have several names: {', '.join(names)}")
    recipe = read_table(artifact.recipe, CorpusRecipe, place)
    for key, patterns in marked(recipe, FILES):
        own = [pattern for pattern in patterns if not pattern.startswith("package:")]
        if own and not key.startswith("source."):
            raise RecipeError(place, key, f"a plan cannot carry the files {', '.join(own)}")
    for key, reference in marked(recipe, REFERENCE):
        if not key.startswith("source."):
            raise RecipeError(place, key, f"a plan cannot carry {reference}")


def _published(artifact: Artifact, name: str) -> dict[str, Any]:
    """The corpus' recipe with the plan as its one source: where the maker's files lie is not published."""
    return {**plain(artifact.recipe), "source": [{"name": name, "form": "plan"}]}
