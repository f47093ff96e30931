"""MetricX-24: a tiny random mT5 in a folder, a real server, recorded scores, and what SEA-HELM makes of raw scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MT5Config, MT5Model, PreTrainedTokenizerFast

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.eval.endpoint import Unanswered
from sea_lion.eval.family import Generation, GenerationTask, Message, Question, TaskScores
from sea_lion.eval.judgements import Judgements
from sea_lion.eval.sea_helm.metricx import (
    MODEL,
    SCORE_TOKEN,
    MetricX,
    MetricXSettings,
    Translation,
    open_metricx,
    raw_scores,
    read_metricx,
    translation_scorer,
)
from sea_lion.eval.sea_helm.profile import LONG

from ..chat_server import ChatServer, chat_server

ORACLES = Path(__file__).parents[4] / "shared" / "oracles" / "sea_helm_vectors.json"


def rows(number: int) -> list[Translation]:
    return [Translation(source=f"source {i}", candidate="b" * (1 + i % 5), reference=f"reference {i}") for i in range(number)]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        started.score = lambda row: float(len(row["candidate"]))
        yield started


def settings(server: ChatServer, **changes: Any) -> MetricXSettings:
    usual: dict[str, Any] = {"kind": "endpoint", "url": f"{server.url}/score", "tries": 2, "longest_pause": 0.01}
    return MetricXSettings(**usual | {"timeout": 5.0, "concurrency": 1} | changes)


def recorded(folder: Path, scored: Sequence[tuple[Translation, float]]) -> MetricX:
    lines = [
        json.dumps({"source": row.source, "candidate": row.candidate, "reference": row.reference, "score": score}) + "\n"
        for row, score in scored
    ]
    (folder / "scores.jsonl").write_text("".join(lines), "utf-8")
    return open_metricx(MetricXSettings(kind="recorded", path="scores.jsonl"), folder)


def translated(
    scorer: MetricX | None, responses: Sequence[str], labels: Sequence[str], language: str, *, profile: str = "sea_helm_2025",
    direction: str = "en-xx", kept: Judgements | None = None,
) -> TaskScores:  # fmt: skip
    questions = tuple(
        Question(
            id=str(i), cluster=f"flores-{i}", messages=(Message(role="user", content="x"),), target=label,
            details={"source": f"source {i}"},
        )
        for i, label in enumerate(labels)
    )  # fmt: skip
    score = translation_scorer(profile, language, direction, scorer, kept)
    task = GenerationTask(
        name=f"translation-{direction}",
        language=language,
        questions=questions,
        generation=Generation(max_tokens=256),
        scorer=score,
    )
    return score(task, [(response,) for response in responses])


VECTORS = (
    [vector for vector in json.loads(ORACLES.read_text("utf-8"))["vectors"] if vector["group"] == "translation"]
    if ORACLES.exists()
    else []
)


@pytest.mark.skipif(not VECTORS, reason="shared/oracles is not here")
def test_recorded_outputs_of_sea_helm(tmp_path: Path) -> None:
    for vector in VECTORS:
        given, expected = vector["input"], vector["output"]
        direction = vector["task"].removeprefix("translation-")
        profile = {"v1.0.0": "sea_helm_2025", "v1.2.1": "sea_helm_2026"}[vector["version"]]
        language = LONG[vector["lang"]]
        cleaned = expected.get("cleaned") or ["a", "b"]
        texts = [
            Translation(source=f"source {i}", candidate=candidate, reference=label)
            for i, (candidate, label) in enumerate(zip(cleaned, given["labels"], strict=True))
        ]
        scorer = recorded(tmp_path, list(zip(texts, given["raw_metricx"], strict=True)))
        scores = translated(scorer, given["responses"], given["labels"], language, profile=profile, direction=direction)
        assert not scores.incomplete, vector["id"]
        found = {score.metric: score.value for score in scores.scores}
        for ours, theirs in (
            ("normalized_metricx_wmt24_scores", "normalized_metricx_wmt24_scores"),
            ("metricx_wmt24_scores", "metricx_wmt24_scores"),
            ("chrf_plus_plus", "chrf_score"),
        ):
            if theirs in expected["metrics"]:
                assert found[ours] == pytest.approx(expected["metrics"][theirs], abs=1e-9), (vector["id"], ours)
        items = [100 * item.value for item in scores.items]
        assert items == pytest.approx(
            [one["normalized_metricx_wmt24_scores"] for one in expected["individual_scores"]], abs=1e-9
        )
        assert scores.scores[0].nulls == expected["metrics"]["null_count"]


def test_without_metricx_the_task_is_incomplete_and_chrf_stands_beside_it() -> None:
    scores = translated(None, ["Terjemahan: satu dua", ""], ["satu dua", "tiga"], "ind")
    assert scores.incomplete.startswith("no MetricX is set") and scores.items == ()
    [chrf] = scores.scores
    assert (chrf.metric, chrf.role, chrf.nulls) == ("chrf_plus_plus", "diagnostic", 1) and 0 < chrf.value < 100


def test_a_score_counts_first_and_another_model_is_named(server: ChatServer) -> None:
    scorer = open_metricx(settings(server))
    scores = translated(scorer, ["Terjemahan: bb", "Terjemahan: bbbb"], ["x", "y"], "ind")
    assert [(score.metric, score.role, score.value, score.higher_is_better) for score in scores.scores[:2]] == [
        ("normalized_metricx_wmt24_scores", "score", 88.0, True),
        ("metricx_wmt24_scores", "raw", 3.0, False),
    ]
    assert scores.scores[0].stderr == pytest.approx(4.0) and scores.warnings == ()
    assert server.requests[0]["rows"][1] == {"source": "source 1", "candidate": "bbbb", "reference": "y"}
    other = translated(open_metricx(settings(server, model="metricx-24-hybrid-large-v2p6")), ["a"], ["b"], "ind")
    assert f"scored by metricx-24-hybrid-large-v2p6, not by {MODEL}" in other.warnings[0]


@pytest.mark.parametrize(
    ("mode", "said"), [("500", "status 500"), ("garbage", "not what was asked for"), ("timeout", "no answer in time")]
)
def test_an_endpoint_that_fails_is_one_line_and_what_it_scored_stays(
    server: ChatServer, tmp_path: Path, mode: Any, said: str
) -> None:
    kept = Judgements(tmp_path / "scores.sqlite")
    server.mode, server.fails_from = mode, 2
    scorer = open_metricx(settings(server, timeout=0.3))
    labels, responses = [f"label {i}" for i in range(40)], [f"Salin: {'b' * (1 + i % 5)}" for i in range(40)]
    scores = translated(scorer, responses, labels, "fil", kept=kept)
    assert said in scores.incomplete and "8 of 40 questions" in scores.incomplete and "\n" not in scores.incomplete
    assert [score.metric for score in scores.scores] == ["chrf_plus_plus"]
    server.mode = "good"
    server.requests.clear()
    scores = translated(scorer, responses, labels, "fil", kept=kept)
    assert [len(body["rows"]) for body in server.requests] == [8]
    assert [item.value for item in scores.items[:3]] == pytest.approx([0.96, 0.92, 0.88])


def test_scores_that_are_none_are_not_taken(server: ChatServer) -> None:
    for nonsense in (26.0, -1.0, float("nan"), "good", True, None):
        server.score = lambda row, nonsense=nonsense: nonsense  # type: ignore[misc]
        with pytest.raises(Unanswered, match="not what was asked for"):
            raw_scores(open_metricx(settings(server)), rows(2), Judgements())


def test_recorded_scores_that_lack_a_row_or_are_none(tmp_path: Path) -> None:
    scorer = recorded(tmp_path, [(row, 1.5) for row in rows(3)])
    assert raw_scores(scorer, rows(3), Judgements()) == [1.5] * 3
    with pytest.raises(Unanswered, match="1 of 4 questions"):
        raw_scores(scorer, rows(4), Judgements())
    with pytest.raises(CorruptInput, match=r"row 2: score 26\.0 is not from 0 to 25"):
        recorded(tmp_path, [(rows(2)[0], 1.0), (rows(2)[1], 26.0)])
    with pytest.raises(CorruptInput, match="row 2: the same texts have another score"):
        recorded(tmp_path, [(rows(1)[0], 1.0), (rows(1)[0], 2.0)])
    (tmp_path / "scores.jsonl").write_text('{"source": "a", "candidate": "b", "score": 1}\n')
    with pytest.raises(CorruptInput, match="row 1: reference must be a text"):
        open_metricx(MetricXSettings(kind="recorded", path="scores.jsonl"), tmp_path)


def test_settings_are_read_from_a_file_and_refused_when_they_cannot_be(tmp_path: Path) -> None:
    recorded(tmp_path, [(row, 2.5) for row in rows(1)])
    file = tmp_path / "metricx.toml"
    file.write_text('[metricx]\nkind = "recorded"\npath = "scores.jsonl"\n')
    assert raw_scores(read_metricx(file), rows(1), Judgements()) == [2.5]
    for table, said in (
        ('kind = "local"', "a MetricX of kind local needs model and path"),
        ('kind = "endpoint"\nurl = "host:80"', "url must begin with http"),
        ('kind = "chrf"', "metricx.kind"),
        ('kind = "recorded"\npath = "x"\ntries = 0', "tries at least 1"),
        ('kind = "recorded"\nfile = "x"', "metricx.file: unknown key"),
    ):
        file.write_text(f"[metricx]\n{table}\n")
        with pytest.raises(RecipeError, match=said):
            read_metricx(file)


SIZES: dict[str, Any] = {"d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random mT5 with the real one's vocabulary and a head of its own, of which the score token's row is not zero."""
    folder = tmp_path_factory.mktemp("metricx")
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789:"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    model: Any = MT5Model(MT5Config(vocab_size=250_112, **SIZES))
    model.eval()
    model.save_pretrained(folder)
    with torch.inference_mode():
        state = model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    head = torch.zeros(250_112, SIZES["d_model"])
    head[SCORE_TOKEN] = 3 * state.last_hidden_state[0, 0]
    save_file(
        load_file(folder / "model.safetensors") | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def by_hand(folder: Path, row: Translation) -> float:
    """The score from the decoder's first state, without the language model's head."""
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    text = f"source: {row.source} candidate: {row.candidate} reference: {row.reference}"
    tokens = torch.tensor([[words.get(character, 2) for character in text][:1535]])
    with torch.inference_mode():
        read = MT5Model.from_pretrained(folder)(input_ids=tokens, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
    weights = load_file(folder / "model.safetensors")["lm_head.weight"][SCORE_TOKEN]
    return min(max(float(read.last_hidden_state[0, 0] @ weights), 0.0), 25.0)


def test_a_local_metricx_reads_the_score_tokens_logit(folder: Path) -> None:
    local = MetricXSettings(kind="local", model="tiny", path=folder.name)
    scorer = open_metricx(local, folder.parent)
    texts = [*rows(3), Translation(source="s" * 2000, candidate="", reference="r")]
    scores = raw_scores(scorer, texts, Judgements())
    assert scores == pytest.approx([by_hand(folder, row) for row in texts], abs=1e-5)
    assert len({round(score, 6) for score in scores}) > 1 and all(0 <= score <= 25 for score in scores)
    assert raw_scores(scorer, texts[1:2], Judgements()) == scores[1:2], "what else is scored changes nothing"
    named = open_metricx(MetricXSettings(kind="local", model="tiny", path=str(folder), tokenizer=str(folder)))
    assert named.identity == scorer.identity


def test_a_folder_that_holds_no_metricx(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="is not a folder of a model"):
        open_metricx(MetricXSettings(kind="local", path=str(tmp_path)))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(CorruptInput, match=r"lacks .* of the model's tensors, encoder.block.1"):
        raw_scores(open_metricx(MetricXSettings(kind="local", path=str(tmp_path))), rows(1), Judgements())
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for head, said in (
        (weights["lm_head.weight"][:60], "has 60 rows, and none for token 250089"),
        (None, "is not among its weights"),
    ):
        kept = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
        (tmp_path / "model.safetensors").unlink()
        save_file(
            kept | ({} if head is None else {"lm_head.weight": head.clone()}), tmp_path / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(CorruptInput, match=f"lm_head.weight: {said}"):
            raw_scores(open_metricx(MetricXSettings(kind="local", path=str(tmp_path))), rows(1), Judgements())


def test_recorded_scores_that_were_mended_are_the_ones_that_count(tmp_path: Path) -> None:
    row = {"source": "s", "candidate": "c", "reference": "r"}
    asked, kept = [Translation(**row)], Judgements(tmp_path / "kept.sqlite")
    for score in (4.0, 1.5):
        (tmp_path / "scores.jsonl").write_text(json.dumps({**row, "score": score}), "utf-8")
        recorded = open_metricx(MetricXSettings(kind="recorded", model="m", path="scores.jsonl"), tmp_path)
        assert raw_scores(recorded, asked, kept) == [score]
    assert not list(kept.rows()), "what a file says is not put on record as what the model said"
