"""Checkpoints: whole or not there, bound to a plan, written behind the training, resumed from to the bit."""

import json
import logging
import runpy
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_saver import save

from sea_lion.catalog.errors import CorruptInput, Unfinished
from sea_lion.training.checkpoint import Checkpoints, delete, read_seal
from sea_lion.training.optimizer import adamw
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import Optimizer

LOOP: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_loop.py"))))
KILLED = -signal.SIGKILL


class Run:
    """A model and an optimizer in this process, and the checkpoints of a plan."""

    def __init__(self, root: Path, digest: Callable[[int], str] = str, seed: int = 0, **optimizer: Any) -> None:
        self.root = root
        self.model = LOOP.model_of("gemma2", seed)
        self.optimizer = adamw(self.model, Optimizer(**optimizer), 1e-2)
        processes = Processes(rank=0, world=1, device="cpu")
        self.checkpoints = Checkpoints(root / "resume", root / "permanent", digest, processes)

    def train(self, *steps: int, permanent: int = 0) -> list[dict[str, torch.Tensor]]:
        """Take steps and save after each; returns the states that were saved."""
        states = []
        for step in steps:
            self.step(step)
            states.append(self.state())
            state = {"log": [{"step": step, "loss": float("nan")}], "sums": torch.full((3,), step)}
            assert self.checkpoints.save(step, state, self.model, self.optimizer, permanent=step == permanent) > 0
        self.checkpoints.wait()
        return states

    def step(self, step: int) -> None:
        LOOP.loss_of(self.model, step, 0, 1, 0.0).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = LOOP.whole_state(self.model, self.optimizer)
        return state

    def restore(self) -> int | None:
        progress = self.checkpoints.restore(self.model, self.optimizer)
        return progress.step if progress else None

    def there(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob("*/step-*"))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# -- one process -----------------------------------------------------------------------------------------------------------


def test_weights_moments_random_state_and_the_rest_come_back(tmp_path: Path) -> None:
    torch.manual_seed(5)
    saved = Run(tmp_path).train(1, 2)[-1]
    run = Run(tmp_path, seed=1, beta2=0.5)
    torch.manual_seed(5)
    LOOP.model_of("gemma2", 0)  # draws as the first run's model did
    expected = torch.rand(4)
    progress = run.checkpoints.restore(run.model, run.optimizer)
    assert progress is not None and progress.step == 2
    assert torch.equal(torch.rand(4), expected)
    assert progress.state["sums"].tolist() == [2, 2, 2] and progress.state["log"][0]["step"] == 2
    assert_same(run.state(), saved)
    stored = FileSystemReader(tmp_path / "resume/step-000000002").read_metadata().state_dict_metadata
    assert "model.model.embed_tokens.weight" in stored and "model.lm_head.weight" not in stored  # one tensor, written once
    assert {group["betas"] for group in run.optimizer.param_groups} == {(0.9, 0.5)}  # the recipe's, not the checkpoint's


def test_the_training_goes_on_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, may_write = Run(tmp_path), threading.Event()

    def late(*arguments: Any, **settings: Any) -> Any:
        assert may_write.wait(20)
        return save(*arguments, **settings)

    monkeypatch.setattr("sea_lion.training.checkpoint.save", late)
    run.step(1)
    saved = run.state()
    run.checkpoints.save(1, {}, run.model, run.optimizer, permanent=False)
    run.step(2)  # changes weights and moments in place before a byte is written
    changed = run.state()
    may_write.set()
    run.checkpoints.wait()
    other = Run(tmp_path, seed=1)
    assert other.restore() == 1
    assert_same(other.state(), saved)
    assert not torch.equal(saved["weight model.norm.weight"], changed["weight model.norm.weight"])


def test_the_latest_two_and_all_permanent_ones_stay(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(1, 2, 3, 4, permanent=1)
    assert run.there() == ["permanent/step-000000001", "resume/step-000000003", "resume/step-000000004"]
    seal = json.loads((tmp_path / "permanent/step-000000001/progress.json").read_text())
    assert {key: seal[key] for key in ("format", "step", "processes", "digest")} == {
        "format": 1, "step": 1, "processes": 1, "digest": "1",
    }  # fmt: skip
    delete(tmp_path / "resume")
    assert Run(tmp_path).restore() == 1
    assert run.checkpoints.keep_permanent(tmp_path / "made") == (1,)
    assert (tmp_path / "made/step-000000001/progress.pt").samefile(tmp_path / "permanent/step-000000001/progress.pt")
    assert Run(tmp_path, lambda step: "other").checkpoints.keep_permanent(tmp_path / "made") == ()
    assert not (tmp_path / "made").exists()


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _flip(folder: Path) -> None:
    content = bytearray((folder / "__0_0.distcp").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "__0_0.distcp").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights cut": _cut("__0_0.distcp"),
    "a bit flipped": _flip,
    "progress cut": _cut("progress.pt"),
    "seal cut": _cut("progress.json"),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "no seal": lambda folder: (folder / "progress.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    before, _ = Run(tmp_path).train(1, 2)
    DAMAGES[damage](tmp_path / "resume/step-000000002")
    run = Run(tmp_path, seed=1)
    assert run.restore() == 1
    assert_same(run.state(), before)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1 and warned[0].startswith("step-000000002: ")
    run.train(2)
    assert Run(tmp_path).restore() == 2 and len(run.there()) == 2
    DAMAGES[damage](tmp_path / "resume/step-000000001")
    DAMAGES[damage](tmp_path / "resume/step-000000002")
    untouched = Run(tmp_path, seed=1)
    weights = untouched.state()
    assert untouched.restore() is None
    assert_same(untouched.state(), weights)  # no moments either


def test_another_plan_begins_where_they_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path).train(1, 2, 3, 4, permanent=1)
    before = Run(tmp_path).there()
    edited = Run(tmp_path, lambda step: str(step) if step < 4 else f"skips {step}")
    assert edited.restore() == 3 and "step-000000004: belongs to another plan" in caplog.text
    assert edited.there() == before  # an edit may be taken back
    edited.train(5)
    assert edited.there() == ["permanent/step-000000001", "resume/step-000000003", "resume/step-000000005"]
    assert Run(tmp_path, lambda step: "none").restore() is None


def test_what_a_killed_save_left_is_cleared_away(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(1)
    for name in ("resume/step-000000002.partial", "permanent/step-000000002.partial"):
        (tmp_path / name).mkdir(parents=True)
    assert run.restore() == 1
    assert run.there() == ["resume/step-000000001"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (saved,) = run.train(1)
    partial = tmp_path / "resume/step-000000002.partial"
    partial.mkdir()
    (partial / "__0_0.distcp").symlink_to("/dev/full")
    run.step(2)
    run.checkpoints.save(2, {}, run.model, run.optimizer, permanent=False)
    with pytest.raises(
        Unfinished, match=r"checkpoint of step 2 could not be written \(no space left on the device\)"
    ) as raised:
        run.checkpoints.save(3, {}, run.model, run.optimizer, permanent=False)
    assert "\n" not in str(raised.value)
    assert run.there() == ["resume/step-000000001"]
    assert run.restore() == 1
    assert_same(run.state(), saved)
    run.train(2, 3)
    assert run.there() == ["resume/step-000000002", "resume/step-000000003"]


def test_another_runs_checkpoint_is_a_start_whatever_its_plan(tmp_path: Path) -> None:
    (saved,) = Run(tmp_path / "a").train(7, permanent=7)
    run = Run(tmp_path / "b", lambda step: "other", seed=1)
    path = tmp_path / "a/permanent/step-000000007"
    assert run.checkpoints.restore_from(path, run.model, run.optimizer).step == 7
    assert_same(run.state(), saved)
    _flip(path)
    with pytest.raises(CorruptInput, match=r"__0_0\.distcp is damaged"):
        run.checkpoints.restore_from(path, run.model, run.optimizer)
    with pytest.raises(CorruptInput, match="is no whole checkpoint"):
        run.checkpoints.restore_from(tmp_path / "a/permanent/step-000000008", run.model, run.optimizer)


def test_a_model_of_another_shape_is_one_clear_line(tmp_path: Path) -> None:
    Run(tmp_path).train(1, permanent=1)
    run = Run(tmp_path)
    run.model = LOOP.model_of("llama")
    run.optimizer = adamw(run.model, Optimizer(), 1e-2)
    with pytest.raises(CorruptInput, match="does not fit the model"):
        run.checkpoints.restore_from(tmp_path / "permanent/step-000000001", run.model, run.optimizer)


def test_saving_before_the_first_step_changes_no_counter(tmp_path: Path) -> None:
    run = Run(tmp_path)
    weights = run.state()
    run.checkpoints.save(0, {}, run.model, run.optimizer, permanent=False)
    run.checkpoints.wait()
    after = run.state()
    assert_same({name: after[name] for name in weights}, weights)
    assert {float(value) for name, value in after.items() if name.startswith("step ")} == {0.0}


# -- several processes -----------------------------------------------------------------------------------------------------


def ended(folder: Path, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / f"{name}-0.json").read_text())
    return told


@pytest.mark.parametrize(("architecture", "world"), [("llama", 1), ("llama", 2), ("gemma2", 2)])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, architecture: str, world: int) -> None:
    """Killed between checkpoints, while one is written by the last process, and while it is sealed; it draws random numbers."""
    given = {"architecture": architecture, "steps": 9, "noise": 0.1}
    assert LOOP.run(tmp_path / "undisturbed", world, name="all", every=100, **given) == [0] * world
    assert KILLED in LOOP.run(tmp_path, world, name="one", at={"kill": 4}, **given)
    assert KILLED in LOOP.run(tmp_path, world, name="two", at={"kill in write": [world - 1, 6]}, **given)
    assert (tmp_path / "resume/step-000000006.partial").is_dir()
    assert KILLED in LOOP.run(tmp_path, world, name="three", at={"kill in seal": [0, 8]}, **given)
    assert LOOP.run(tmp_path, world, name="end", **given) == [0] * world
    assert ended(tmp_path, "end")["resumed"] in (4, 6)
    one, other = (torch.load(path) for path in (tmp_path / "undisturbed/all.pt", tmp_path / "end.pt"))
    assert one["losses"] == other["losses"] and len(one["losses"]) == 9
    assert_same(one["tensors"], other["tensors"])


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on(tmp_path: Path, first: int, then: int) -> None:
    assert LOOP.run(tmp_path / "undisturbed", first, name="all", steps=8) == [0] * first
    assert KILLED in LOOP.run(tmp_path, first, name="one", steps=8, at={"kill": 4})
    assert LOOP.run(tmp_path, then, name="end", steps=8) == [0] * then
    assert ended(tmp_path, "end")["resumed"] == 4
    one, other = (torch.load(path) for path in (tmp_path / "undisturbed/all.pt", tmp_path / "end.pt"))
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
    for name, tensor in one["tensors"].items():
        torch.testing.assert_close(tensor, other["tensors"][name], atol=1e-4, rtol=1e-3)
    seal = read_seal(tmp_path / "resume/step-000000008")
    assert seal is not None and sorted(seal.files) == sorted(
        [".metadata", "progress.pt", *(f"__{rank}_0.distcp" for rank in range(then))]
    )


@pytest.mark.parametrize(("rank", "name"), [(1, "__1_0.distcp"), (0, "progress.pt")])
def test_a_full_disk_on_one_process_stops_both(tmp_path: Path, rank: int, name: str) -> None:
    assert LOOP.run(tmp_path, 2, name="full", steps=9, at={"full": [rank, 4, name]}) == [0, 0]
    told = [json.loads((tmp_path / f"full-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] and told[0]["step"] == 5  # the next save is that of step 6
    assert told[0]["end"].startswith("Unfinished: the checkpoint of step 4 could not be written (no space left on the device)")
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["step-000000002"]
