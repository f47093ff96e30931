"""Records the demo catalog that the documentation's examples run on: `python docs/record_demo.py [CATALOG]`.

It is `sea-lion run tiny` (or a catalog that this made) with a second version of the corpus, which keeps near duplicates, and
without the models' weights and tokenizers and the report.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from sea_lion import cli

DEMO = Path(__file__).parent.parent / "tests" / "golden" / "demo"
LEFT_OUT = (
    "*.safetensors",
    "report",
    "*.duckdb*",
    ".progress",
    ".cache",
    "*.npy",
    "decision.html",
    ".work",
    "*.lock",
    "tokenizer.json",
    "*.ds",
    "*.ds.*",
    "checkpoints",
)


def record(catalog: Path) -> None:
    """Make what is missing of the catalog and copy it."""
    recipe = (Path(__file__).parent.parent / "recipes" / "tiny" / "01-corpus.toml").read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        assert cli.main(["run", "tiny", "--catalog", str(catalog)]) == 0
        second = Path(folder, "corpus-2.toml")
        second.write_text(recipe.replace('version = "1"', 'version = "2"') + "\n[deduplication]\nnear = false\n", "utf-8")
        assert cli.main(["build", str(second), "--catalog", str(catalog)]) == 0
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(catalog, DEMO, ignore=shutil.ignore_patterns(*LEFT_OUT))


if __name__ == "__main__":
    if sys.argv[1:]:
        record(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder, "artifacts"))
