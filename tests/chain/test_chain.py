"""A whole lineage in seconds, with the real components: order, gates, refusals, reruns, kills and bad input."""

import random
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sea_lion import chain, cli
from sea_lion.catalog import index
from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.records import GateDecision
from sea_lion.catalog.store import Options, Store
from sea_lion.training import processes

MICRO = Path(__file__).parent / "micro"
KILL_DEMO: dict[str, Any] = runpy.run_path(str(Path(__file__).parent.parent / "kill_demo.py"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, chain.RunOutcome]]:
    """The micro lineage, made once: (folder of the catalog, what the run came to)."""
    root = tmp_path_factory.mktemp("micro") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "THREADS", 1)  # as in `forked.py`: each number of threads gives its own bits
        outcome = chain.run(MICRO, Store(root), Options())
    yield root, outcome


@pytest.fixture
def copied(finished: tuple[Path, chain.RunOutcome], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the finished catalog and of the recipes, to spoil: (recipes, catalog)."""
    shutil.copytree(finished[0], tmp_path / "artifacts")
    shutil.copytree(MICRO, tmp_path / "recipes")
    return tmp_path / "recipes", tmp_path / "artifacts"


def test_every_node_comes_after_what_it_needs() -> None:
    for folder in (MICRO, chain.recipe_folder("tiny"), chain.recipe_folder("tiny-gemma")):
        nodes = chain.plan(folder)
        keys = [node.key for node in nodes]
        assert len(set(keys)) == len(keys)
        for i, node in enumerate(nodes):
            assert node.needs <= set(keys[:i]), f"{node.key} needs {node.needs - set(keys[:i])}"


def test_a_circle_and_a_double_are_refused(tmp_path: Path) -> None:
    shutil.copytree(MICRO, tmp_path / "r")
    init = tmp_path / "r" / "tokenizer.toml"
    init.write_text(init.read_text().replace("corpus/micro@1", "tokens/micro@1"))
    with pytest.raises(RecipeError, match="wait for each other"):
        chain.plan(tmp_path / "r")
    shutil.copy(MICRO / "sft.toml", tmp_path / "r" / "again.toml")
    with pytest.raises(RecipeError, match="made by another file"):
        chain.plan(tmp_path / "r")


def test_verdicts_move_aliases_keep_parents_and_stop(finished: tuple[Path, chain.RunOutcome]) -> None:
    root, outcome = finished
    store = Store(root)
    assert store.stages() == {"micro/cpt": "checkpoint/micro-cpt@1"}
    assert store.stage_model("micro/sft")[0].ref.name == "checkpoint/micro-cpt"
    merge = store.require("checkpoint/micro-merge@1")
    assert [given.ref for given in merge.inputs if given.role.startswith("parents")] == ["checkpoint/micro-cpt@1"] * 2
    assert "the policy keeps" in merge.inputs[2].via
    assert [decision.stage for decision in outcome.refused] == ["micro/final"]
    assert outcome.stopped == []
    verdicts = dict(index.query(store, "SELECT stage, verdict FROM decisions")[1])
    assert verdicts == {"micro/cpt": "pass", "micro/sft": "fail", "micro/final": "fail"}


def test_a_second_run_makes_nothing(finished: tuple[Path, chain.RunOutcome]) -> None:
    assert chain.run(MICRO, Store(finished[0]), Options()).made == []


def test_documents_and_mixture_add_up(finished: tuple[Path, chain.RunOutcome]) -> None:
    store = Store(finished[0])
    rows = index.query(store, "SELECT count(*), bool_and(balances), count(DISTINCT stage) FROM balance")[1]
    assert rows[0][0] > 50 and rows[0][1:] == (True, 13)
    ends = index.query(
        store,
        """SELECT (SELECT sum(documents) FROM flow WHERE step = 0 AND outcome = 'in')
            - (SELECT sum(documents) FROM ledger), (SELECT sum(documents) FROM shards), (SELECT count(*) FROM documents)""",
    )[1][0]
    assert ends[0] == ends[1] == ends[2]
    kept = index.query(store, "SELECT part, weight, share, off_by_sequences FROM mixture_kept")[1]
    assert {row[0]: row[1] for row in kept} == pytest.approx({"sea": 0.55, "english": 0.25, "code": 0.2}, rel=1e-12)
    assert all(row[3] < 1 for row in kept) and abs(sum(row[2] for row in kept) - 1) < 1e-9


def test_cpt_lowers_bits_per_byte_of_every_language(finished: tuple[Path, chain.RunOutcome]) -> None:
    sql = """SELECT child.language, child.value, parent.value
        FROM scores child JOIN scores parent USING (task, language, metric)
        WHERE metric = 'bits_per_byte' AND child.model LIKE '%micro-cpt%' AND parent.model LIKE '%micro-init%'"""
    rows = index.query(Store(finished[0]), sql)[1]
    assert len(rows) == 11
    assert all(after < before for _, after, before in rows)


def test_kills_change_nothing(finished: tuple[Path, chain.RunOutcome], tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    KILL_DEMO["killed_at_random"](str(MICRO), killed, 4, 7.0, random.Random(3))
    KILL_DEMO["finished"](str(MICRO), killed)
    calm, content = KILL_DEMO["content"](finished[0]), KILL_DEMO["content"](killed)
    assert KILL_DEMO["differences"](calm, content) == []
    assert len(content["artifacts"]) == len(calm["artifacts"]) == 18


def test_a_changed_lr_needs_a_new_version(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipes, catalog = copied
    path = recipes / "cpt.toml"
    path.write_text(path.read_text().replace("lr = 1e-2", "lr = 2e-2"))
    assert cli.main(["run", str(recipes), "--catalog", str(catalog)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint/micro-cpt@1" in error and "lr: 0.01 -> 0.02" in error and "raise the version" in error


def test_a_stop_blocks_what_needs_the_stage(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipes, catalog = copied
    (recipes / "strict.policy").write_text((recipes / "stop.policy").read_text())
    lineage = recipes / "lineage.toml"
    lineage.write_text(lineage.read_text().replace('version = "1"', 'version = "2"'))
    merge = recipes / "merge.toml"
    merge.write_text(merge.read_text().replace('version = "1"', 'version = "2"'))
    lineage.write_text(lineage.read_text().replace("micro-merge@1", "micro-merge@2"))
    assert cli.main(["run", str(recipes), "--catalog", str(catalog)]) == 2
    captured = capsys.readouterr()
    assert "micro/sft: fail" in captured.out
    assert "3 steps were not made" in captured.err


def test_a_signed_waiver_promotes_a_refused_model(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipes, catalog = copied
    key = Ed25519PrivateKey.generate()
    pem = recipes / "key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    policy, lineage = recipes / "stop.policy", recipes / "lineage.toml"
    policy.write_text(policy.read_text().replace("waivers = []", f'waivers = ["{key.public_key().public_bytes_raw().hex()}"]'))
    lineage.write_text(lineage.read_text().replace('version = "1"', 'version = "2"'))
    base = ["--catalog", str(catalog)]
    assert cli.main(["run", str(recipes), *base]) == 0
    assert "is not promoted" in capsys.readouterr().out
    words = ["--key", str(pem), "--person", "A. Tan", "--reason", "a rehearsal", "--expires", "2099-12-31"]
    assert cli.main(["waive", "decision/micro/final@2", *words, "--output", str(recipes / "final.waiver"), *base]) == 0
    lineage.write_text(lineage.read_text() + 'waiver = ["final.waiver"]\n')
    assert cli.main(["run", str(recipes), *base]) == 0
    assert Store(catalog).stages()["micro/final"] == "checkpoint/micro-merge@1"
    decision = Store(catalog).require("decision/micro/final@2").body
    assert isinstance(decision, GateDecision) and decision.verdict == "fail"


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sea_lion", *arguments], capture_output=True, text=True)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def in_the_catalog(root: Path) -> list[Path]:
    """Everything but the files that say what is being made, or that it failed."""
    return [path for path in sorted(root.rglob("*")) if ".progress" not in path.parts]


def test_a_corrupted_shard_is_one_line_and_nothing_is_written(copied: tuple[Path, Path]) -> None:
    recipes, catalog = copied
    flipped(catalog / "corpus" / "micro" / "1" / "shards" / "language=tha" / "source=web" / "train-00000-of-00001.parquet")
    path = recipes / "tokens.toml"
    path.write_text(path.read_text().replace('version = "1"', 'version = "2"'))
    before = in_the_catalog(catalog)
    run = run_cli("build", str(path), "--catalog", str(catalog))
    assert run.returncode == 2
    assert "language=tha" in run.stderr and run.stderr.count("\n") == 1
    assert in_the_catalog(catalog) == before


def run_forked(forked: Any, says: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code and standard error of a command."""
    code = forked.exit_codes([forked.started("sea_lion.cli", *arguments, says=says)], 100)[0]
    return code, (says / "stderr").read_text()


@pytest.mark.parametrize("case", ["truncated", "empty", "folder", "not-a-warc"])
def test_bad_warc_files_are_one_line_and_nothing_is_written(tmp_path: Path, forked: Any, case: str) -> None:
    sample = next(iter(sorted((chain.recipe_folder("tiny").parent.parent / "data" / "sample" / "crawl").glob("*.warc.gz"))))
    target = tmp_path / "x.warc.gz"
    if case == "folder":
        target.mkdir()
    else:
        data = sample.read_bytes()
        target.write_bytes({"truncated": data[:-200], "empty": b"", "not-a-warc": b"hello\n" * 100}[case])
    recipe = (MICRO / "corpus.toml").read_text().replace("package:data/sample/crawl/*-0000[01].warc.gz", "x.warc.gz")
    (tmp_path / "corpus.toml").write_text(recipe)
    code, said = run_forked(forked, tmp_path, "build", str(tmp_path / "corpus.toml"), "--catalog", str(tmp_path / "artifacts"))
    assert code == 2
    assert "x.warc.gz" in said and said.strip().splitlines()[-1].startswith("sea-lion: ")
    assert len(said.splitlines()) == 1
    assert [path for path in in_the_catalog(tmp_path / "artifacts") if path.is_file()] == []


def test_the_lineage_recipe_is_read_strictly(tmp_path: Path) -> None:
    shutil.copytree(MICRO, tmp_path / "r")
    lineage = tmp_path / "r" / "lineage.toml"
    lineage.write_text(lineage.read_text().replace("baselines", "baseline", 1))
    with pytest.raises(RecipeError, match="baseline: unknown key; did you mean 'baselines'"):
        chain.read_folder(tmp_path / "r")


def test_every_kind_has_a_maker() -> None:
    assert all(callable(chain.maker(kind)) for kind in chain.KINDS)
