"""Held-out losses: those of transformers' own model on each document alone, on any number of processes."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM as Auto
from transformers import LlamaConfig

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.records import Artifact, ArtifactRef, FileDigest, TokenCounts, TokenFiles
from sea_lion.training.attention import register
from sea_lion.training.heads import LogProbabilities
from sea_lion.training.heldout import Heldout, heldout_losses, heldout_text
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import TrainRecipe

AutoModelForCausalLM: Any = Auto
LENGTH, VOCABULARY, END = 16, 40, 1
DOCUMENTS = {
    ("corpus/a@1", "tha", "web"): [[0, 5, 6, 7, 1], [0, *range(2, 37), 1], [0, 9, 1]],
    ("corpus/a@1", "eng", "web"): [[0, *range(20, 36), 1], [7]],
    ("corpus/b@1", "eng", "code"): [[12, 13, 14, 1]],
}
"""Documents below, at and above the length of a window; one of a single token; one without a token that begins it."""
LENGTHS = torch.tensor([0, 0, *([3] * (VOCABULARY - 2))])
RECIPE = TrainRecipe(
    kind="train", name="model/x", version="1", objective="cpt", model="model/llama@1", mixture="mixture/t@1", lr=1e-3,
    batch_sequences=4, heldout="token-files/heldout@1",
)  # fmt: skip
BODY = TokenFiles(
    tokenizer="tokenizer/t@1", tokenizer_sha256="t" * 64, vocabulary=VOCABULARY, token_bytes=2, split="heldout", dropout=0.0,
    rule="", seed=0, variants={"tha": 1, "eng": 1}, documents=6, tokens=0, tokens_plain=0,
)  # fmt: skip


def tiny_llama() -> LogProbabilities:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LENGTH,
    )  # fmt: skip
    torch.manual_seed(5)
    return LogProbabilities(AutoModelForCausalLM.from_config(config, attn_implementation=register()))


def artifact(folder: Path, body: Any = BODY) -> Artifact:
    """Token files of `DOCUMENTS`, as `data` writes them, a second variant among them that is not to be read."""
    rows = []
    for number, ((corpus, language, source), documents) in enumerate(DOCUMENTS.items()):
        path = folder / f"{number}.ds"
        np.concatenate(documents).astype("<u2").tofile(path)
        np.cumsum([len(document) for document in documents], dtype="<u8").tofile(folder / f"{number}.ds.index")
        counts = {"documents": len(documents), "tokens": sum(map(len, documents))}
        size = sum(3 for document in documents for token in document if token > END)
        row = {"corpus": corpus, "language": language, "source": source, "split": "heldout", "variant": 0, "shard": "s"}
        rows += [row | counts | {"path": path.name, "bytes": size}, row | counts | {"path": "none", "variant": 1, "bytes": 0}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "token_files.parquet")
    files = tuple(
        FileDigest(path=path.name, bytes=path.stat().st_size, sha256=file_digest(path)) for path in sorted(folder.glob("*.*"))
    )
    known: dict[str, Any] = dict.fromkeys(Artifact.__dataclass_fields__, "")
    known |= {"ref": ArtifactRef(name="token-files/heldout", version="1"), "kind": "token-files", "files": files, "inputs": ()}
    return Artifact(**known | {"tables": {"token_files": "token_files.parquet"}, "body": body, "recipe": {}})


def prepared(folder: Path) -> Heldout:
    place = folder / "files"
    place.mkdir(exist_ok=True)
    return heldout_text(RECIPE, artifact(place), place, tokenizer_sha256="t" * 64, length=LENGTH, byte_length_V=LENGTHS)


def by_hand(model: Any, documents: list[list[int]]) -> tuple[int, float]:
    """Labels and negative log-likelihood of documents, window after window, each on its own."""
    tokens, nll = 0, 0.0
    for document in documents:
        for start in range(0, len(document) - 1, LENGTH):
            piece = torch.tensor([document[start : start + LENGTH + 1]])
            logp = model(input_ids=piece[:, :-1]).logits.log_softmax(-1)
            nll -= float(logp.gather(2, piece[:, 1:, None]).sum())
            tokens += piece.shape[1] - 1
    return tokens, nll


def check(rows: list[dict[str, Any]]) -> None:
    model = AutoModelForCausalLM.from_config(tiny_llama().model.config, attn_implementation="eager")
    model.load_state_dict(tiny_llama().model.state_dict())
    assert [(row["corpus"], row["language"], row["source"]) for row in rows] == sorted(DOCUMENTS)
    for row in rows:
        documents = DOCUMENTS[row["corpus"], row["language"], row["source"]]
        with torch.no_grad():
            tokens, nll = by_hand(model, documents)
        size = sum(3 for document in documents for token in document[1:] if token > END)
        assert (row["split"], row["step"], row["part"], row["tokens"], row["bytes"]) == ("heldout", 7, "", tokens, size)
        assert row["loss"] == pytest.approx(nll / tokens, rel=1e-6)
        assert row["bits_per_byte"] == pytest.approx(nll / math.log(2) / size, rel=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_losses_are_those_of_each_document_alone(tmp_path: Path, micro_batch: int) -> None:
    module = tiny_llama()
    module.train()
    rows = heldout_losses(module, prepared(tmp_path), Processes(rank=0, world=1, device="cpu"), 7, micro_batch)
    check(rows)
    assert module.training and all(parameter.grad is None for parameter in module.parameters())


def test_rows_are_full(tmp_path: Path) -> None:
    heldout = prepared(tmp_path)
    held = [sum(len(window.tokens) - 1 for window in row) for row in heldout.rows]
    assert sum(held) == sum(max(0, len(document) - 1) for each in DOCUMENTS.values() for document in each)
    assert max(held) <= LENGTH and len(held) <= -(-sum(held) // LENGTH) + 1


def test_two_processes_measure_the_same(tmp_path: Path, forked: Any) -> None:
    workers = forked.together(2, Path(__file__).with_name("meter_worker.py"), str(tmp_path), says=tmp_path)
    said = [tmp_path / rank / "stderr" for rank in ("0", "1")]
    assert forked.exit_codes(workers, 120) == [0, 0], [path.read_text()[-3000:] for path in said]
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["state"] == two["state"] and one["rows"] == two["rows"] and one["losses"] == two["losses"]
    check(one["heldout"])
    check(two["heldout"])
    meter: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_meters.py"))))
    steps = [10 * step + rank for step in range(1, 5) for rank in (0, 1)]
    for number, row in enumerate(one["losses"]):
        sums = [meter.expected(range(step, step + 1), number) for step in steps]
        assert row["tokens"] == sum(tokens for tokens, _, _ in sums) and row["bytes"] == sum(size for _, size, _ in sums)
        assert row["loss"] == pytest.approx(sum(nll for *_, nll in sums) / row["tokens"])
    assert [row["tokens"] for row in one["rows"]] == [
        sum(meter.batch(10 * step + rank)[0].trained_N.numel() for rank in (0, 1)) for step in range(1, 5)
    ]
    first, last = one["pace"]
    assert (first["tokens"], first["processes"], first["data_wait"], last["steps"]) == (96, 2, 1.5, 1)
    assert first["slowest_over_fastest"] >= 1 and len((tmp_path / "log/log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("body", "tokenizer", "problem"),
    [
        (replace(BODY, split="train"), "t", "is token files of split 'train', not token files of split 'heldout'"),
        (TokenCounts(tokenizer="t", documents=1, tokens=1), "t", "is a token-files, not token files of split 'heldout'"),
        (BODY, "u", "was made with tokenizer/t@1, which is not the tokenizer of model/llama@1"),
    ],
    ids=["split", "kind", "tokenizer"],
)
def test_other_text_is_refused(tmp_path: Path, body: Any, tokenizer: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as refused:
        heldout_text(
            RECIPE, artifact(tmp_path, body), tmp_path, tokenizer_sha256=tokenizer * 64, length=LENGTH, byte_length_V=LENGTHS
        )
    assert refused.value.key == "heldout"


def test_files_that_are_not_what_they_say_are_refused(tmp_path: Path) -> None:
    changed = artifact(tmp_path)
    (tmp_path / "0.ds").write_bytes(b"\1\0")
    with pytest.raises(CorruptInput, match="sha256 differs"):
        heldout_text(RECIPE, changed, tmp_path, tokenizer_sha256="t" * 64, length=LENGTH, byte_length_V=LENGTHS)
    small = artifact(tmp_path, replace(BODY, vocabulary=30))
    with pytest.raises(CorruptInput, match="holds token 36, the tokenizer has 30"):
        heldout_text(RECIPE, small, tmp_path, tokenizer_sha256="t" * 64, length=LENGTH, byte_length_V=LENGTHS)
