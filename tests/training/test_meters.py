"""The meter: what it counts is what the loss saw, nothing waits for the device, and a resumed run tells the same story."""

import json
import logging
import math
import runpy
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Gemma2Config, LlamaConfig

from sea_lion.catalog.errors import MissingDependency, SeaLionError
from sea_lion.training.batches import IGNORED, Batch, Part, batch_of
from sea_lion.training.flops import flops_per_token, matrix_weights, peak_flops
from sea_lion.training.meters import MOST_SKIPPED, SHORTEST, Meter
from sea_lion.training.processes import Processes
from sea_lion.training.system import System
from sea_lion.training.token_bytes import byte_lengths
from sea_lion.training.vocabulary import SPECIAL, trained_bpe

host_syncs: Any = runpy.run_path(str(Path(__file__).with_name("host_syncs.py")))["host_syncs"]
PARTS = (Part("sea", "corpus/a@1", "tha", "web"), Part("english", "corpus/a@1", "eng", "web"))
ALONE = Processes(rank=0, world=1, device="cpu")
VOCABULARY = 50
LENGTHS = torch.arange(VOCABULARY) % 4


def batch(step: int) -> tuple[Batch, torch.Tensor]:
    """Two rows of eight tokens, one a part, some labels left out; and log-probabilities."""
    draw = np.random.default_rng(step)
    labels = draw.integers(0, VOCABULARY, (2, 8))
    labels[draw.random((2, 8)) < 0.3] = IGNORED
    parts = np.repeat([[0], [1]], 8, 1)
    made = batch_of(draw.integers(0, VOCABULARY, (2, 8)), labels, parts, np.zeros((2, 8), bool))
    logp = torch.from_numpy(-draw.random((2, 8)).astype(np.float32) * 4)
    return made, torch.where(made.labels_RT == IGNORED, 0.0, logp)


def meter(folder: Path, steps: int, **changes: Any) -> Meter:
    given: dict[str, Any] = {"parts": PARTS, "processes": ALONE, "system": System(log_steps=4), "byte_length_V": LENGTHS}
    return Meter(steps=steps, title="model/x@1", folder=folder, **(given | changes))


def run(measured: Meter, steps: Iterator[int] | range, skipped: frozenset[int] = frozenset()) -> None:
    """Steps whose loss is the mean of their labels', or nothing where they are skipped."""
    for step in steps:
        measured.begin_step(step, 0.25)
        made, logp = batch(step)
        if step in skipped:
            logp = torch.full_like(logp, math.nan)
        measured.add_batch(made, logp)
        loss = -logp.sum() / made.trained_N.numel()
        measured.end_step(1e-3 / step, torch.stack([loss, torch.tensor(2.0), torch.tensor(float(step in skipped))]))


def expected(steps: range, part: int) -> tuple[int, int, float]:
    """Labels, bytes and negative log-likelihood of a part, counted by hand."""
    tokens, size, nll = 0, 0, 0.0
    for step in steps:
        made, logp = batch(step)
        for label, value in zip(made.labels_RT[part].tolist(), logp[part].tolist(), strict=True):
            if label != IGNORED:
                tokens, size, nll = tokens + 1, size + int(LENGTHS[label]), nll - value
    return tokens, size, nll


def test_parts_are_counted_as_by_hand(tmp_path: Path) -> None:
    measured = meter(tmp_path, 2 * SHORTEST)
    run(measured, range(1, 2 * SHORTEST + 1))
    rows = {(row["step"], row["language"]): row for row in measured.loss_rows}
    assert len(rows) == 4 and {row["split"] for row in rows.values()} == {"train"}
    for last in (SHORTEST, 2 * SHORTEST):
        for number, part in enumerate(PARTS):
            tokens, size, nll = expected(range(last - SHORTEST + 1, last + 1), number)
            row = rows[last, part.language]
            assert (row["part"], row["corpus"], row["tokens"], row["bytes"]) == (part.part, part.corpus, tokens, size)
            assert row["loss"] == pytest.approx(nll / tokens, rel=1e-12)
            assert row["bits_per_byte"] == pytest.approx(nll / math.log(2) / size, rel=1e-12)
    assert [row["tokens"] for row in measured.rows] == [batch(step)[0].trained_N.numel() for step in range(1, 2 * SHORTEST + 1)]
    assert measured.labels_P == [expected(range(1, 2 * SHORTEST + 1), number)[0] for number in range(2)]


def test_nothing_waits_for_the_device_between_two_lines(tmp_path: Path) -> None:
    measured = meter(tmp_path, 40)
    run(measured, range(1, 5))
    with host_syncs() as found:
        run(measured, range(5, 8))
    assert found == [] and len(measured.rows) == 4
    made, logp = batch(8)
    measured.begin_step(8)
    measured.add_batch(made, logp)
    figures = torch.tensor([1.0, 1.0, 0.0])
    with host_syncs() as found:
        measured.end_step(1e-3, figures)
    assert len(found) == 1 and len(measured.rows) == 8


def test_every_way_to_wait_is_seen() -> None:
    x = torch.arange(4.0)
    ways: list[Any] = [
        lambda: x.sum().item(), lambda: bool(x[0] > 1), lambda: int(x[0]), lambda: float(x[1]), lambda: x.tolist(),
        lambda: x.numpy(), lambda: x.cpu(), lambda: (x > 1).nonzero(), lambda: x[x > 1], lambda: torch.equal(x, x),
        lambda: torch.unique(x), lambda: np.asarray(x), lambda: 1 if x[0] else 0,
    ]  # fmt: skip
    for number, way in enumerate(ways):
        with host_syncs() as found:
            way()
        assert found and "test_meters.py" in found[0], number
    with host_syncs() as found:
        torch.where(x > 1, x, 0.0).sum()[None].add_(x[torch.tensor([1])])
    assert not found and torch.Tensor.item is not None and x.tolist() == [0, 1, 2, 3]


def test_a_step_that_was_skipped_poisons_nothing(tmp_path: Path) -> None:
    measured = meter(tmp_path, 20)
    run(measured, range(1, 21), frozenset({3, 14}))
    for row in measured.loss_rows:
        steps = [step for step in range(row["step"] - SHORTEST + 1, row["step"] + 1) if step not in (3, 14)]
        sums = [expected(range(step, step + 1), int(row["language"] == "eng")) for step in steps]
        assert row["tokens"] == sum(tokens for tokens, _, _ in sums)
        assert row["loss"] == pytest.approx(sum(nll for *_, nll in sums) / row["tokens"])
    assert [row["step"] for row in measured.rows if row["skipped"]] == [3, 14]
    assert measured.labels_P[0] == expected(range(1, 21), 0)[0], "the plan gave these, and the loss saw them"


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    bad = frozenset(range(3, 3 + MOST_SKIPPED))
    with pytest.raises(SeaLionError, match=f"not finite in {MOST_SKIPPED} steps in a row up to step 12; lower lr"):
        run(meter(tmp_path, 40), range(1, 41), bad)
    for log_steps in (1, 40):
        run(meter(tmp_path, 40, system=System(log_steps=log_steps)), range(1, 41), bad - {7})


@pytest.mark.parametrize("stopped", [4, 6, 10, 13, 19, 20])
def test_a_resumed_run_has_the_same_rows(tmp_path: Path, stopped: int) -> None:
    whole, first = meter(tmp_path / "a", 20), meter(tmp_path / "b", 20)
    run(whole, range(1, 21), frozenset({5}))
    run(first, range(1, stopped + 1), frozenset({5}))
    state = first.state()
    run(first, range(stopped + 1, 18), frozenset({5}))  # what was not saved is lost
    first.close()
    planned = [expected(range(1, 21), number)[0] for number in range(2)]
    again = meter(tmp_path / "b", 20, state=state, planned_P=planned, system=System(log_steps=3))
    run(again, range(stopped + 1, 21), frozenset({5}))
    again.check_ledger()
    assert repr(again.rows) == repr(whole.rows) and again.labels_P == whole.labels_P
    for ours, theirs in zip(again.loss_rows, whole.loss_rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs.pop("loss"), rel=1e-12)
        assert ours["bits_per_byte"] == pytest.approx(theirs.pop("bits_per_byte"), rel=1e-12)
        assert ours.items() >= theirs.items()
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "b/log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == 20


def test_a_state_is_plain_and_survives_the_checkpoint(tmp_path: Path) -> None:
    measured = meter(tmp_path, 20)
    run(measured, range(1, 14), frozenset({2}))
    torch.save(measured.state(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert repr(loaded) == repr(measured.state())


def test_tokens_that_the_plan_did_not_give_are_refused(tmp_path: Path) -> None:
    planned = [expected(range(1, 9), number)[0] for number in range(2)]
    measured = meter(tmp_path, 8, planned_P=[planned[0], planned[1] + 1])
    run(measured, range(1, 9))
    with pytest.raises(SeaLionError, match=rf"saw {planned[1]} tokens of english corpus/a@1 eng web, .* gave {planned[1] + 1}"):
        measured.check_ledger()


def test_a_last_step_that_the_recipe_leaves_out_loses_nothing(tmp_path: Path) -> None:
    for last in (7, 8):  # within an interval of the log, and at the end of one
        measured = meter(tmp_path / str(last), 30, planned_P=[expected(range(1, last + 1), number)[0] for number in range(2)])
        run(measured, range(1, last + 1))
        measured.check_ledger()
        assert len(measured.rows) == last and {row["step"] for row in measured.loss_rows} == {last}


def test_every_interval_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sea_lion.training.meters.QUIET", -1.0)
    (tmp_path / "log.jsonl").write_text('{"step": 4, "loss": 1}\n{"step"')
    system = System(log_steps=4, peak_tflops=1e-6)
    measured = meter(tmp_path, 10, system=system, flops=(200.0, 100.0))
    with caplog.at_level(logging.INFO, "sea_lion.training.meters"):
        run(measured, range(1, 11), frozenset({6}))
    first, second, third = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert [first["step"], second["step"], third["step"]] == [4, 8, 10] and second["skipped"] == 1 and third["steps"] == 2
    assert first["loss"] == pytest.approx(sum(row["loss"] for row in measured.rows[:4]) / 4)
    assert first["tokens"] == 64 and first["data_wait"] == 1.0 and first["slowest_over_fastest"] == 1.0
    assert first["mfu"] == pytest.approx(200 * first["tokens_per_second"] / 1e6) == pytest.approx(2 * first["mfu_causal"])
    assert first["peak_memory"] > 1e6 and "parts" not in first
    assert [part["language"] for part in third["parts"]] == ["tha", "eng"]
    order = ("step 4 of 10", "loss", "lr", "gradient norm", "tokens/s", "MFU", "causal", "peak memory", "data wait", "slowest")
    places = [caplog.messages[0].index(word) for word in order]
    assert places == sorted(places) and "1 of 4 steps skipped" in caplog.messages[1]
    assert [row["step"] for row in measured.pace_rows] == [4, 8, 10]


def test_no_peak_no_mfu(tmp_path: Path) -> None:
    assert peak_flops("cpu") is None and peak_flops("cpu", 12.5) == 12.5e12
    measured = meter(tmp_path, 4, flops=(200.0, 100.0))
    run(measured, range(1, 5))
    assert measured.pace_rows[0]["mfu"] is None and measured.pace_rows[0]["tokens_per_second"] > 0


def test_tensorboard_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    measured = meter(tmp_path, 20, system=System(log_steps=4, tensorboard=True))
    run(measured, range(1, 21))
    measured.close()
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss", "lr", "grad_norm", "tokens_per_second", "bits_per_byte/sea/corpus/a@1/tha/web"} <= names
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12, 16, 20]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependency, match="tensorboard"):
        meter(tmp_path, 20, system=System(tensorboard=True))


# -- operations -------------------------------------------------------------------------------------------------------------

LLAMA_8B = LlamaConfig(
    vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip
LLAMA_1B = LlamaConfig(
    vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=True,
)  # fmt: skip
GEMMA_9B: dict[str, Any] = {
    "vocab_size": 256_000, "hidden_size": 3584, "intermediate_size": 14_336, "num_hidden_layers": 42, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "length", "full", "causal"),
    [
        (LLAMA_8B, 8192, 57.9, 51.5),
        (Gemma2Config(**GEMMA_9B, sliding_window=8192), 8192, 72.4, 63.9),
        (Gemma2Config(**GEMMA_9B, sliding_window=4096), 8192, 72.4, 62.8),
        (LLAMA_1B, 4096, 9.0, 8.2),
    ],
    ids=["llama-8b", "gemma-9b-no-window", "gemma-9b", "1b"],
)
def test_operations_of_a_token(config: Any, length: int, full: float, causal: float) -> None:
    assert round(flops_per_token(config, length, causal=False) / 1e9, 1) == full
    assert round(flops_per_token(config, length, causal=True) / 1e9, 1) == causal


def test_weights_in_matrices_are_all_but_norms_and_an_untied_embedding() -> None:
    norms, embedding = (2 * 32 + 1) * 4096, 128_256 * 4096
    assert matrix_weights(LLAMA_8B) == 8_030_261_248 - norms - embedding
    assert matrix_weights(Gemma2Config(**GEMMA_9B)) == 9_241_705_984 - (4 * 42 + 1) * 3584


# -- bytes of tokens --------------------------------------------------------------------------------------------------------


def articles() -> dict[str, list[str]]:
    """Some text of eleven languages."""
    found = {}
    for path in sorted(Path(str(files("sea_lion"))).joinpath("data/sample/articles").glob("*.jsonl")):
        found[path.stem] = ["\n".join(json.loads(line)["paragraphs"]) for line in path.read_text("utf-8").splitlines()[:3]]
    return found


def like_gemma(texts: list[str]) -> Tokenizer:
    """A vocabulary with ▁ for spaces, tokens for single bytes, and runs of line ends as tokens of their own."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]+|▁+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1500, special_tokens=special, limit_alphabet=300, show_progress=False)
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_tokens(["\n\n", "\n\n\n"])
    return tokenizer


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_bytes_of_a_documents_tokens_are_its_bytes(family: str) -> None:
    texts = articles()
    every = [text for several in texts.values() for text in several]
    tokenizer = trained_bpe(iter(every), 1500) if family == "llama" else like_gemma(every)
    length_V = byte_lengths(tokenizer)
    assert len(texts) == 11 and len(length_V) == tokenizer.get_vocab_size()
    for language, several in texts.items():
        for text in [*several, f"  two  spaces \n\n\n and an emoji 🦭 {several[0][:50]} ▁"]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            known = text.replace("▁", " ") if family == "gemma" else text  # there the two are the same
            assert int(length_V[ids].sum()) == len(known.encode()), language
    special = SPECIAL if family == "llama" else ("<pad>", "<eos>", "<bos>", "<unk>")
    assert all(length_V[tokenizer.token_to_id(token)] == 0 for token in special)
