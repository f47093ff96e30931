"""A store with a made-up but complete lineage: a corpus, a mixture, trained and merged models, scores, gates, promotions."""

from __future__ import annotations

import math
import random
import runpy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.recipes import Recipe, read_table
from sea_lion.catalog.records import (
    Checkpoint,
    Conversations,
    Corpus,
    GateDecision,
    Mixture,
    MixturePart,
    Outcome,
    Promotion,
    Score,
    Scorecard,
    Shard,
    TokenCounts,
    TokenizerBody,
    Verdict,
)
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.recipe import CorpusRecipe, MixtureRecipe, TokensRecipe
from sea_lion.eval.recipe import EvaluationRecipe, GateRecipe, PromotionRecipe
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe, TrainRecipe

Rows = list[dict[str, Any]]
FIGURES: Any = runpy.run_path(str(Path(__file__).with_name("merge_figures.py")))["figures"]
CODES = list(LANGUAGES)
STEPS = {
    "read": {"not-a-response": 31, "status": 6, "truncated-record": 1}, "gate": {"annotation": 44},
    "decode": {}, "extract": {"empty": 12}, "identify": {"language-mismatch": 21, "low-score": 9},
    "quality": {"too-short": 18, "repetition": 14, "spam": 5}, "exact": {"duplicate": 22}, "near": {"near-duplicate": 17},
    "write": {},
}  # fmt: skip

BITS = {
    "init": 8.0, "base": 3.4, "cpt": 2.2, "sft-1": 2.18, "sft-2": 2.21, "merge-1": 2.19, "peer-v21": 2.25, "peer-nova": 3.1,
    "merge-2": 2.17, "align": 2.2, "it": 2.15,
}  # fmt: skip
"""Model to its bits per byte."""


def conversations(folder: Path, text: str = "a") -> ConversationsRecipe:
    """A recipe over a file of `text`, which is written."""
    (folder / "x.jsonl").write_text(text)
    return ConversationsRecipe(
        kind="conversations", name="conversations/x", version="1", form="messages", files=("x.jsonl",), licence="Apache-2.0"
    )


def make_conversations(job: Job[ConversationsRecipe]) -> Made:
    """One file that holds what the recipe's file holds."""
    text = job.files["files"][0].read_text()
    (job.folder / "conversations.txt").write_text(text)
    return Made(body=Conversations(form=job.recipe.form, rows=len(text), languages={"tha": len(text)}))


class Filler:
    """Makes artifacts of given bodies and tables, as the areas would."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "artifacts")
        self.base = root
        self.random = random.Random(7)

    def put(
        self, kind: type[Recipe], fields: dict[str, Any], body: Any, tables: dict[str, list[dict[str, Any]]] | None = None
    ) -> str:
        """Store one artifact; `tables` become its Parquet side tables."""

        def maker(job: Job[Any]) -> Made:
            import pyarrow.parquet as pq

            for name, rows in (tables or {}).items():
                pq.write_table(pa.Table.from_pylist(rows), job.folder / f"{name}.parquet")
            return Made(body=body, tables={name: f"{name}.parquet" for name in tables or {}})

        recipe = read_table({"version": "1"} | fields, kind, "test")
        return str(self.store.make(recipe, self.base, maker, Options()).ref)

    def file(self, name: str) -> str:
        """Make sure a file for a recipe's pattern is there."""
        (self.base / name).write_text(name)
        return name

    def corpus(self, name: str = "corpus/tiny", lost: int = 0) -> str:
        """A corpus whose ledger adds up, but for the documents `lost` without a word."""
        flow: list[tuple[Any, ...]] = []
        left = dict.fromkeys(CODES, 38)
        for step, (stage, reasons) in enumerate(STEPS.items()):
            for i, code in enumerate(CODES):
                entered = left[code]
                for reason, number in reasons.items():
                    gone = min(left[code], number // len(CODES) + (i < number % len(CODES)))
                    left[code] -= gone
                    if gone:
                        flow.append((step, stage, code, "removed", reason, gone))
                flow += [(step, stage, code, "in", "", entered), (step, stage, code, "out", "", left[code])]
        flow[-1] = (*flow[-1][:-1], flow[-1][-1] - lost)
        names = ("step", "stage", "language", "outcome", "reason", "documents")
        rows = [dict(zip(names, row, strict=True)) | {"source": "web", "bytes": row[-1] * 900} for row in flow]
        shards = tuple(
            Shard(
                path=f"{code}.parquet", language=code, source="web", split="train", documents=left[code],
                characters=9000, bytes=12000, sha256="0" * 64,
            )
            for code in CODES
        )  # fmt: skip
        body = Corpus(shards=shards, documents_in=38 * len(CODES), documents_out=sum(left.values()) - lost)
        source = {"name": "web", "form": "warc", "files": [self.file("a.warc.gz")]}
        fields: dict[str, Any] = {
            "kind": "corpus",
            "name": name,
            "languages": CODES,
            "source": [source],
            "licence": "Apache-2.0",
        }
        fields["thresholds"] = [self.file("web.toml")]
        return self.put(CorpusRecipe, fields, body, {"flow": rows})

    def data(self) -> None:
        """Corpus, tokenizer, tokens, mixtures and conversations."""
        self.corpus()
        fields: dict[str, Any] = {
            "kind": "tokenizer",
            "name": "tokenizer/tiny",
            "corpora": ["corpus/tiny@1"],
            "vocabulary": 4096,
        }
        self.put(TokenizerRecipe, fields, TokenizerBody(algorithm="byte-level-bpe", vocabulary=4096))
        sizes = [(code, "web", self.random.randint(9_000, 40_000)) for code in CODES] + [
            ("eng", "text", 70_000),
            ("code", "code", 81_000),
        ]
        counts: Rows = [
            {
                "corpus": "corpus/tiny@1", "shard": f"{code}-{source}", "tokenizer": "tokenizer/tiny@1", "language": code,
                "source": source, "split": "train", "documents": size // 700, "bytes": int(size * 3.3), "tokens": size,
            }
            for code, source, size in sizes
        ]  # fmt: skip
        total = sum(row["tokens"] for row in counts)
        body = TokenCounts(tokenizer="tokenizer/tiny@1", documents=sum(r["documents"] for r in counts), tokens=total)
        fields = {"kind": "tokens", "name": "tokens/tiny", "corpora": ["corpus/tiny@1"], "tokenizer": "tokenizer/tiny@1"}
        self.put(TokensRecipe, fields, body, {"token_counts": counts})
        for name, parts in (
            ("tiny", (("sea", 0.55), ("english", 0.25), ("code", 0.2))),
            ("tiny-base", (("english", 0.7), ("code", 0.3))),
        ):
            self.mixture(f"mixture/{name}", parts)
        for name, form in (("instruct-1", "messages"), ("instruct-2", "messages"), ("preference", "preference")):
            fields = {
                "kind": "conversations",
                "name": f"conversations/tiny-{name}",
                "form": form,
                "files": [self.file(f"{name}.jsonl")],
            }
            self.put(ConversationsRecipe, fields, Conversations(form=form, rows=420, languages={"tha": 420}))  # type: ignore[arg-type]

    def mixture(self, name: str, shares: tuple[tuple[str, float], ...]) -> None:
        """A mixture of parts with weights."""
        parts = []
        for part, weight in shares:
            codes = [c for c in CODES if c != "eng"] if part == "sea" else ["eng"] if part == "english" else ["code"]
            for code in codes:
                share = weight / len(codes)
                parts.append(
                    MixturePart(
                        part=part, corpus="corpus/tiny@1", language=code, source="web", weight=share, tokens_available=30_000,
                        tokens_planned=int(400_000 * share), sequences=int(1600 * share), epochs=400_000 * share / 30_000,
                    )
                )  # fmt: skip
        body = Mixture(tokenizer="tokenizer/tiny@1", sequence_length=256, sequences=1600, tokens=409_600, parts=tuple(parts))
        fields: dict[str, Any] = {
            "kind": "mixture",
            "name": name,
            "tokens": "tokens/tiny@1",
            "token_budget": 409_600,
            "sequence_length": 256,
        }
        fields["part"] = [{"name": part, "weight": weight, "languages": ["eng"]} for part, weight in shares]
        self.put(MixtureRecipe, fields, body)

    def trained(self, name: str, parent: str, objective: str, data: str, loss: tuple[float, float], steps: int = 180) -> str:
        """A trained checkpoint with its log."""
        first, last = loss
        log = [
            {
                "step": i + 1, "loss": last + (first - last) * (math.exp(-4 * i / steps) + self.random.gauss(0, 0.03)),
                "lr": 1e-3, "grad_norm": 1.0, "tokens": 2048, "skipped": False,
            }
            for i in range(steps)
        ]  # fmt: skip
        fields: dict[str, Any] = {
            "kind": "train",
            "name": f"checkpoint/{name}",
            "objective": objective,
            "model": parent,
            "lr": 1e-3,
            "batch_sequences": 8,
        }
        tables: dict[str, Rows] = {"training_log": log}
        tables["training_pace"] = [
            {
                "step": step, "steps": 10, "tokens": 20_480, "seconds": 4.0, "tokens_per_second": 5120.0, "mfu": 0.42,
                "mfu_causal": None, "peak_memory": 61_000_000_000, "data_wait": 0.2, "slowest_over_fastest": 1 + step / 1000,
                "processes": 8,
            }
            for step in range(10, steps + 1, 10)
        ]  # fmt: skip
        if objective == "cpt":
            fields["mixture"] = data
            tables["language_losses"] = self.losses(loss, steps)
            shares = {"sea": 880, "english": 400, "code": 320} if data == "mixture/tiny@1" else {"english": 1120, "code": 480}
            tables["training_parts"] = [
                {"part": part, "language": "eng", "source": "web", "sequences": n, "tokens": n * 256, "documents": n}
                for part, n in shares.items()
            ]
        else:
            fields |= {"conversations": data, "epochs": 1.0, "sequence_length": 256}
            fields |= {"beta": 2.0, "gamma": 1.0} if objective == "simpo" else {}
        body = Checkpoint(
            stage=objective, architecture="LlamaForCausalLM", parameters=1_180_000, parents=(parent,), step=steps, loss=last
        )
        return self.scored(self.put(TrainRecipe, fields, body, tables))

    def losses(self, loss: tuple[float, float], steps: int) -> Rows:
        """The losses of all languages: of the training, each ten steps, and of held-out text at the end."""
        first, last = loss
        rows: Rows = []
        for i, code in enumerate(CODES):
            for step in range(10, steps + 1, 10):
                value = last + 0.1 * i + (first - last) * math.exp(-4 * step / steps)
                fixed = {
                    "part": "sea",
                    "corpus": "corpus/tiny@1",
                    "language": code,
                    "source": "web",
                    "tokens": 900,
                    "bytes": 3600,
                }
                rows.append({"split": "train", "step": step} | fixed | {"loss": value, "bits_per_byte": value * 0.36})
            rows.append(
                rows[-1] | {"split": "heldout", "part": "", "loss": last + 0.2, "bits_per_byte": (last + 0.1 * i) / 2.5}
            )
        return rows

    def merged(self, name: str, method: str, base: str, parents: list[str]) -> str:
        """A merged checkpoint; the streaming engine's have figures, DELLA's are as of before there were any."""
        fields: dict[str, Any] = {
            "kind": "merge",
            "name": f"checkpoint/{name}",
            "method": method,
            "base": base,
            "normalize": True,
        }
        fields["parents"] = [{"model": ref} for ref in parents]
        body = Checkpoint(
            stage="merge", architecture="LlamaForCausalLM", parameters=1_180_000, parents=(base, *parents), method=method
        )
        return self.scored(self.put(MergeRecipe, fields, body, FIGURES(parents) if method != "della_linear" else None))

    def scored(self, model: str) -> str:
        """Score a model in every language; returns the model."""
        bits = BITS[model.removeprefix("checkpoint/tiny-llama-").split("@")[0]]
        accuracy = 0.72 - 0.06 * bits
        scores = []
        for code in CODES:
            shift = self.random.gauss(0, 0.05)
            fixed: dict[str, Any] = {"language": code, "stderr": 0.02}
            scores += [
                Score(task="heldout", metric="bits_per_byte", value=bits + shift, items=6, higher_is_better=False, **fixed),
                Score(task="word-order", metric="acc", value=accuracy + shift / 2, items=40, higher_is_better=True, **fixed),
            ]
        name = model.removeprefix("checkpoint/").split("@")[0]
        fields: dict[str, Any] = {
            "kind": "evaluation",
            "name": f"scorecard/{name}",
            "model": model,
            "suite": "smoke",
            "heldout": "corpus/tiny@1",
        }
        fields["suite_files"] = [self.file("suite.toml")]
        body = Scorecard(model=model, suite="smoke", suite_fingerprint="f", harness="lm-eval", scores=tuple(scores))
        self.put(EvaluationRecipe, fields, body)
        return model

    def gated(
        self, stage: str, model: str, baseline: str, verdict: Verdict, *, shift: float, reason: str = "", waiver: str = "",
        stop: bool = False,
    ) -> None:  # fmt: skip
        """A decision, and a promotion where the verdict or a waiver allows it."""
        outcomes = []
        for metric, size in (("bits_per_byte", 0.1), ("acc", 0.05)) if baseline else ():
            for place in ("", *CODES):
                delta = shift * size + self.random.gauss(0, size / 3)
                half = size * (0.4 if not place else 1.1)
                own: Verdict = "fail" if delta + half < -0.5 * size else "pass" if delta - half > -2 * size else "hold"
                outcomes.append(
                    Outcome(
                        baseline=baseline, level="language" if place else "suite", node=f"{metric}/{place}".rstrip("/"),
                        metric=metric, candidate_value=0.5 + delta, baseline_value=0.5, delta=delta, lower=delta - half,
                        upper=delta + half,
                        tolerance=0.5 * size, margin=2 * size, p_value=0.4, items=440, clusters=440, verdict=own,
                    )
                )  # fmt: skip
        refused = verdict != "pass"
        scorecard = model.replace("checkpoint/", "scorecard/")
        kept = baseline if refused and not stop and not waiver else ""
        body = GateDecision(
            stage=stage, model=model, scorecard=scorecard, baselines=(baseline,) if baseline else (),
            policy="no-regression", policy_fingerprint="p", verdict=verdict, reason=reason or f"{len(outcomes)} tests",
            on_refusal="stop" if stop else "keep-parent", kept=kept, outcomes=tuple(outcomes),
        )  # fmt: skip
        fields: dict[str, Any] = {"kind": "gate", "name": f"decision/{stage}", "stage": stage, "candidate": scorecard}
        fields |= {"policy": [self.file("policy.toml")]} | ({"parent": baseline} if baseline else {})
        decision = self.put(GateRecipe, fields, body)
        if verdict == "pass" or waiver:
            promotion = Promotion(
                stage=stage, model=model, decision=decision, verdict=verdict, sequence=1, waiver_by=waiver,
                waiver_reason="the loss in Tamil is repaid by the final merge" if waiver else "",
            )  # fmt: skip
            self.put(PromotionRecipe, {"kind": "promotion", "name": f"promotion/{stage}", "decision": decision}, promotion)

    def models(self) -> None:
        """The paper's Llama lineage in small, with a verdict of every kind."""
        fields: dict[str, Any] = {
            "kind": "init",
            "name": "checkpoint/tiny-llama-init",
            "tokenizer": "tokenizer/tiny@1",
            "architecture": "llama",
        }
        sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
        fields |= dict.fromkeys(sizes, 8)
        body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1_180_000)
        init = self.scored(self.put(InitRecipe, fields, body))
        first, second, pairs = (f"conversations/tiny-{name}@1" for name in ("instruct-1", "instruct-2", "preference"))
        base = self.trained("tiny-llama-base", init, "cpt", "mixture/tiny-base@1", (8.3, 4.9), 60)
        self.gated("tiny-llama/base", base, "", "pass", shift=0, reason="no rule asks anything of the first model")
        cpt = self.trained("tiny-llama-cpt", "stage:tiny-llama/base", "cpt", "mixture/tiny@1", (6.8, 3.2), 200)
        self.gated("tiny-llama/cpt", cpt, base, "pass", shift=8, reason="all 24 tests passed; the closest: acc/lao +0.010")
        sft = self.trained("tiny-llama-sft-1", "stage:tiny-llama/cpt", "sft", first, (3.4, 2.1))
        self.gated("tiny-llama/instruct-1", sft, cpt, "pass", shift=1)
        sft_2 = self.trained("tiny-llama-sft-2", "stage:tiny-llama/instruct-1", "sft", second, (2.9, 1.7))
        reason = "not enough evidence at 3 of 24 tests: acc/tam -0.041 (lower bound -0.132, needed above -0.100)"
        self.gated("tiny-llama/instruct-2", sft_2, sft, "hold", shift=-1, reason=reason)
        merge = self.merged("tiny-llama-merge-1", "dare_ties", "stage:tiny-llama/cpt", ["stage:tiny-llama/instruct-1", sft_2])
        self.gated(
            "tiny-llama/merge-1", merge, sft, "fail", shift=-3, reason="shown to be worse at 2 of 24 tests", waiver="A. Tan"
        )
        peer = self.trained("tiny-llama-peer-v21", "stage:tiny-llama/cpt", "sft", second, (3.3, 2.0), 90)
        nova = self.trained("tiny-llama-peer-nova", "stage:tiny-llama/base", "sft", first, (4.4, 2.8), 90)
        merge_2 = self.merged(
            "tiny-llama-merge-2", "consensus_ta", "stage:tiny-llama/merge-1", ["stage:tiny-llama/base", peer, nova]
        )
        self.gated("tiny-llama/merge-2", merge_2, merge, "pass", shift=2)
        aligned = self.trained("tiny-llama-align", "stage:tiny-llama/merge-2", "simpo", pairs, (1.2, 0.6), 50)
        self.gated(
            "tiny-llama/align", aligned, merge_2, "error", shift=0, reason="the scores cannot be compared: suites differ"
        )
        final = self.merged("tiny-llama-it", "della_linear", "stage:tiny-llama/base", ["stage:tiny-llama/merge-2", aligned])
        self.gated("tiny-llama/final", final, merge_2, "pass", shift=2)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the whole lineage; for reading only."""
    filler = Filler(tmp_path_factory.mktemp("filled"))
    filler.data()
    filler.models()
    return filler.store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "artifacts")


@pytest.fixture
def filler(tmp_path: Path) -> Filler:
    """An empty store and the means to fill it."""
    return Filler(tmp_path)
