"""The workflow of `docs/ci` as GitHub would run it: every step but the installation, in a repository of a few recipes.

The steps are run by bash as they stand. `sea-lion` on their path is a few lines that hand their arguments, folder and
environment to this process, where the real command answers: a process of its own would import torch for every step.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import Any
from unittest import mock

import pytest
import yaml

from sea_lion.catalog.records import Promotion
from sea_lion.catalog.store import Store
from sea_lion.cli import main

from .small_world import World

WORKFLOW = Path(__file__).parents[2] / "docs" / "ci" / "gate-checkpoint.yml"
CONDITIONS = {"always()": ("pull_request", "push"), "github.event_name == 'push'": ("push",)}
"""Every condition of a step, and the events under which it holds."""
SHIM = """#!{python} -SI
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    link.sendall(json.dumps(asked).encode() + b"\\n")
    answer = json.loads(link.makefile().read())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""
RECIPES = {
    "scorecard.toml": """
kind = "evaluation"
name = "scorecard/{name}"
version = "1"
model = "{model}"
suite = "small"
suite_files = ["suite/small.toml", "suite/sentences/*.jsonl"]
heldout = "corpus/test@1"
""",
    "gate.toml": """
kind = "gate"
name = "decision/{name}"
version = "1"
stage = "my-model/release"
candidate = "scorecard/{name}@1"
baselines = ["scorecard/old@1"]
parent = "checkpoint/test@1"
policy = ["release.policy"]
""",
    "promotion.toml": """
kind = "promotion"
name = "promotion/{name}"
version = "1"
decision = "decision/{name}@1"
""",
    "release.policy": """
name = "release"
[[rules]]
metric = "bits_per_byte"
suite = {{ tolerance = 1.0, margin = 9.0 }}
[[floors]]
metric = "bits_per_byte"
level = "suite"
value = {floor}
""",
}


class Command(StreamRequestHandler):
    """One call of `sea-lion`."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        out, err, here = io.StringIO(), io.StringIO(), Path.cwd()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, asked["environment"]),
        ):
            os.chdir(asked["folder"])
            try:
                code: Any = main(asked["arguments"])
            except SystemExit as ended:
                code = ended.code
            finally:
                os.chdir(here)
        self.wfile.write(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}).encode())


@dataclass(kw_only=True)
class Repository:
    """A repository whose models are gated, on a machine with a catalog."""

    root: Path
    world: World
    path: str
    codes: dict[str, int] = field(default_factory=dict)
    """Exit code of each step that ran."""
    out: dict[str, str] = field(default_factory=dict)
    summary: str = ""

    def runs(self, event: str, **recipe: str) -> Repository:
        """Write the recipes, and take the workflow's steps as GitHub does: after a failure only those that always run."""
        models = self.root / "models"
        models.mkdir(exist_ok=True)
        for name, text in RECIPES.items():
            (models / name).write_text(text.format(**recipe), "utf-8")
        summary, self.codes, self.out = self.root / "summary.md", {}, {}
        summary.unlink(missing_ok=True)
        shutil.rmtree(self.root / "decision", ignore_errors=True)
        environment = {
            "PATH": self.path, "HOME": str(self.root), "CATALOG": str(self.world.store.root), "DEVICE": "cpu",
            "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_EVENT_NAME": event,
        }  # fmt: skip
        for step in steps():
            condition = step.get("if")
            is_due = event in CONDITIONS[condition] if condition else True
            if not is_due or (condition != "always()" and any(self.codes.values())):
                continue
            script = step["run"].replace("my-model@1", f"{recipe['name']}@1")
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
                cwd=self.root, env=environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            self.codes[step["name"]], self.out[step["name"]] = done.returncode, done.stdout + done.stderr
        self.summary = summary.read_text("utf-8") if summary.exists() else ""
        return self


def workflow() -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return found


def steps() -> list[dict[str, Any]]:
    """The steps that are commands of this platform."""
    return [step for step in workflow()["jobs"]["gate"]["steps"] if "run" in step and step["name"] != "Install"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    root = tmp_path_factory.mktemp("ci")
    world = World(root / "world")
    repo = root / "repo"
    shutil.copytree(world.base / "sentences", repo / "models" / "suite" / "sentences")
    shutil.copy(world.base / "small.toml", repo / "models" / "suite")
    world.evaluate(name="scorecard/old")
    world.variant_of("checkpoint/new", "checkpoint/test@1", 1)
    commands, address = root / "bin", str(root / "sea-lion.socket")
    commands.mkdir()
    (commands / "sea-lion").write_text(SHIM.format(python=sys.executable, address=address), "utf-8")
    (commands / "sea-lion").chmod(0o755)
    with ThreadingUnixStreamServer(address, Command) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Repository(root=repo, world=world, path=f"{commands}:{os.environ['PATH']}")
        server.shutdown()


def test_a_good_model_on_the_main_branch_goes_green_and_is_promoted(repository: Repository) -> None:
    done = repository.runs("push", name="good", model="checkpoint/new@1", floor="30.0")
    assert done.codes == {step["name"]: 0 for step in steps()}, done.out
    assert "scorecard/good@1" in done.out["Plan"] and "to make" in done.out["Plan"]
    assert "::error" not in done.out["Gate"]
    assert done.summary.startswith("## PASS: checkpoint/new@1 for my-model/release")
    assert "as the promotion saw them" in done.out["Promote"]
    store = Store(repository.world.store.root)
    (made,) = store.promotions("my-model/release")
    assert isinstance(made.body, Promotion) and made.body.model == "checkpoint/new@1"


def test_a_bad_model_in_a_pull_request_goes_red_and_says_where(repository: Repository) -> None:
    before = len(Store(repository.world.store.root).promotions("my-model/release"))
    done = repository.runs("pull_request", name="bad", model="checkpoint/new@1", floor="0.5")
    assert done.codes == {"Plan": 0, "Score the candidate": 0, "Gate": 1, "Keep the decision": 0}, done.out
    assert "::error title=gate my-model/release%3A bits_per_byte::against floor: difference" in done.out["Gate"]
    assert done.summary.startswith("## FAIL: checkpoint/new@1 for my-model/release")
    kept = json.loads((repository.root / "decision" / "decisions.json").read_text("utf-8"))
    assert {row["verdict"] for row in kept if "bad" in json.dumps(row)} == {"fail"}
    assert len(Store(repository.world.store.root).promotions("my-model/release")) == before


def test_a_wrong_recipe_ends_before_anything_is_made(repository: Repository) -> None:
    done = repository.runs("pull_request", name="typo", model='checkpoint/new@1"\nmodl = "x', floor="0.5")
    assert done.codes == {"Plan": 2, "Keep the decision": 0}, done.out
    assert done.out["Plan"].strip() == "sea-lion: models/scorecard.toml: modl: unknown key; did you mean 'model'?"


def test_the_workflow_runs_where_its_conditions_can_hold() -> None:
    found = workflow()
    events = found[True]  # YAML 1.1 reads `on` as a truth value
    conditions = {step["if"] for step in found["jobs"]["gate"]["steps"] if "if" in step}
    assert conditions == set(CONDITIONS)
    assert events.keys() == {"pull_request", "push"}
    assert found["permissions"] == {"contents": "read"}
