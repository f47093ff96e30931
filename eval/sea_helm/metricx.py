"""MetricX-24, the metric of SEA-HELM's translations, behind one interface: a model in a folder, an endpoint, recorded scores.

MetricX-24 (https://aclanthology.org/2024.wmt-1.35/) is an mT5 whose first decoder step says how bad a translation is: the
logit of one unused token, clipped to 0 (best) to 25. SEA-HELM uses the hybrid XXL model in bfloat16, which needs a GPU. Where
there is no scorer the task is incomplete: chrF++ is reported beside it under its own name and never stands in for it, the two
live on different scales.

One translation is scored at a time. SEA-HELM's batches cut the last token off the longest text alone, so that its scores
depend a little on what else was in the batch; with one text, its end-of-text token always goes, as the model was trained.

An endpoint is sent `{"model": …, "rows": [{"source": …, "candidate": …, "reference": …}, …]}` and answers `{"scores": [1.25,
…]}`, raw scores in the same order. Recorded scores are JSON lines or Parquet with `source`, `candidate`, `reference` and
`score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ...catalog.errors import CorruptInput
from ...catalog.fingerprint import file_digest, fingerprint
from ...catalog.recipes import read_table, read_toml
from ...catalog.records import STRICT, Score
from ..endpoint import Access, Unanswered, address_problem, ask
from ..family import GenerationTask, ItemScore, Scorer, TaskScores
from ..judge import folder_digest
from ..judgements import Judgements, recorded_rows
from ..metrics import stratified_stderr
from .extraction import text_2025, text_2026
from .mt_bench import SOURCE
from .normalise import METRICX_WORST
from .profile import profile_of, short_code
from .translation import chrf, metricx

METRIC, RAW, CHRF = "normalized_metricx_wmt24_scores", "metricx_wmt24_scores", "chrf_plus_plus"
MODEL = "metricx-24-hybrid-xxl-v2p6-bfloat16"
"""The model that SEA-HELM scores with."""
SCORE_TOKEN = 250_089
"""`<extra_id_10>` of mT5, whose logit is the score."""
HEAD = "lm_head.weight"
"""The tensor whose rows give the tokens' logits."""
MAX_TOKENS = 1536
"""Longer texts are cut."""
ROWS_AT_A_TIME = 16
"""Rows of one request to an endpoint."""
NEEDED = {"endpoint": "url", "local": "path", "recorded": "path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One translation to be scored."""

    source: str
    candidate: str
    reference: str


class MetricX(Protocol):
    """Scores translations."""

    @property
    def name(self) -> str:
        """The model's name, for people."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its scores depend on besides the texts: JSON."""
        ...

    def score(self, rows: Sequence[Translation], keep: Callable[[int, float], None]) -> None:
        """Hand each raw score, 0 (best) to 25, to `keep` with its position as soon as it is there; raises Unanswered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricXSettings:
    """A `[metricx]` table."""

    __pydantic_config__ = STRICT
    kind: Literal["endpoint", "local", "recorded"]
    """An HTTP endpoint, an mT5 in a folder, or recorded scores."""
    model: str = MODEL
    """Its public name: part of its identity."""
    url: str = ""
    """Of an endpoint: the whole address that rows are posted to."""
    path: str = ""
    """Folder of the local model, or file of the recorded scores."""
    tokenizer: str = ""
    """Folder of the local model's tokenizer (mT5-XL's); empty: it is in the model's own."""
    device: str = "cpu"
    """Of a local model."""
    timeout: float = 300.0
    """For one request, in seconds."""
    concurrency: int = 4
    """Requests at a time."""
    tries: int = 6
    """Times a request is made before it is given up."""
    longest_pause: float = 60.0
    """Between two tries, in seconds."""
    api_key_env: str = ""
    """Name of the environment variable that holds the endpoint's key."""

    def __post_init__(self) -> None:
        needed = NEEDED[self.kind]
        if not self.model or not getattr(self, needed):
            raise ValueError(f"a MetricX of kind {self.kind} needs model and {needed}")
        if self.kind == "endpoint" and (problem := address_problem(self.url)):
            raise ValueError(problem)
        if self.timeout <= 0 or self.concurrency < 1 or self.tries < 1 or self.longest_pause < 0:
            raise ValueError("timeout must be above 0, concurrency and tries at least 1, longest_pause at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class _MetricXFile:
    __pydantic_config__ = STRICT
    metricx: MetricXSettings


def read_metricx(path: Path) -> MetricX:
    """The scorer of a TOML file with the one table `[metricx]`; raises RecipeError for settings that cannot be."""
    return open_metricx(read_table(read_toml(path), _MetricXFile, path).metricx, path.parent)


def open_metricx(settings: MetricXSettings, beside: Path = Path()) -> MetricX:
    """The scorer that the settings describe; paths are relative to `beside`. Raises CorruptInput."""
    if settings.kind == "endpoint":
        return EndpointMetricX(settings)
    if settings.kind == "local":
        folder = beside / settings.path
        return LocalMetricX(
            settings.model, folder, beside / settings.tokenizer if settings.tokenizer else folder, settings.device
        )
    return RecordedMetricX(settings.model, beside / settings.path)


def raw_scores(scorer: MetricX, rows: Sequence[Translation], kept: Judgements) -> list[float]:
    """The raw score of each row, out of `kept` where it is there, else asked for and kept; raises Unanswered.

    Recorded scores are their own record: kept again, a file that was mended would not be looked at.
    """
    kept = Judgements() if isinstance(scorer, RecordedMetricX) else kept
    identity = dict(scorer.identity)
    keys = [fingerprint({"metricx": identity, "row": [row.source, row.candidate, row.reference]}) for row in rows]
    scores = {key: float(text) for key, text in kept.found(dict.fromkeys(keys)).items()}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in scores}
    wanted = list(missing)

    def keep(position: int, score: float) -> None:
        if not 0 <= score <= METRICX_WORST:
            raise CorruptInput(f"MetricX {scorer.name}", "", f"gives {score}, which is not from 0 to {METRICX_WORST:g}")
        scores[wanted[position]] = float(kept.keep(wanted[position], scorer.name, repr(score)))

    problem, is_final = "it left rows out", True
    try:
        if wanted:
            scorer.score(list(missing.values()), keep)
    except Unanswered as error:
        problem, is_final = error.problem, error.is_final
    if lacking := sum(key not in scores for key in wanted):
        raise Unanswered(f"MetricX {scorer.name}", lacking, len(scores) + lacking, problem, is_final=is_final)
    return [scores[key] for key in keys]


class EndpointMetricX:
    """A MetricX behind an HTTP endpoint."""

    def __init__(self, settings: MetricXSettings) -> None:
        self._settings, self.name = settings, settings.model
        self.identity = {"model": settings.model}

    def score(self, rows: Sequence[Translation], keep: Callable[[int, float], None]) -> None:
        """Send the rows, some at a time; raises Unanswered."""
        settings, size = self._settings, ROWS_AT_A_TIME
        access = Access(
            url=settings.url, api_key_env=settings.api_key_env, timeout=settings.timeout, concurrency=settings.concurrency,
            tries=settings.tries, longest_pause=settings.longest_pause,
        )  # fmt: skip
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        bodies = [{"model": self.name, "rows": [_fields(row) for row in part]} for part in parts]

        def keep_part(number: int, scores: list[float]) -> None:
            for position, score in enumerate(scores, number * size):
                keep(position, score)

        def read_part(number: int, answer: Any) -> list[float]:
            scores = answer["scores"]
            if not isinstance(scores, list) or len(scores) != len(parts[number]) or not all(map(_is_score, scores)):
                raise ValueError("not a number from 0 to 25 for each row")
            return [float(score) for score in scores]

        ask(access, f"MetricX {self.name}", "", bodies, read_part, keep_part)


def _fields(row: Translation) -> dict[str, str]:
    return {"source": row.source, "candidate": row.candidate, "reference": row.reference}


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= METRICX_WORST


class LocalMetricX:
    """A MetricX in a folder, on one device."""

    def __init__(self, name: str, folder: Path, tokenizer: Path, device: str = "cpu") -> None:
        """Take the digest of its files; the model is loaded when it first scores. Raises CorruptInput when there is none."""
        self.name, self._folder, self._tokenizer, self._device = name, folder, tokenizer, device
        self._loaded: tuple[Any, Any, Any] | None = None
        self.identity = {"model": name, "weights": folder_digest(folder)}
        if tokenizer != folder:
            self.identity["tokenizer"] = _tokenizer_digest(tokenizer)

    def score(self, rows: Sequence[Translation], keep: Callable[[int, float], None]) -> None:
        """Score one row after the other."""
        for position, row in enumerate(rows):
            keep(position, self._score(row))

    def _score(self, row: Translation) -> float:
        import torch

        tokenizer, model, head = self._model()
        text = f"source: {row.source} candidate: {row.candidate} reference: {row.reference}"
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            read = model(
                input_ids=tokens["input_ids"][:, :-1],  # without the end-of-text token
                attention_mask=tokens["attention_mask"][:, :-1],
                decoder_input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device),
                use_cache=False,
            )
            logit = torch.nn.functional.linear(read.last_hidden_state[0, 0], head)
        return float(logit[0].float().clamp(0.0, METRICX_WORST))

    def _model(self) -> tuple[Any, Any, Any]:
        """Tokenizer, encoder and decoder, and the score token's row of the head.

        The row is read from the weights' file: transformers 5 ties the head of every mT5 to its embeddings, whatever its
        configuration says, and would score with the wrong weights without a word.
        """
        if self._loaded is None:
            from transformers import AutoTokenizer, MT5Model

            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(self._tokenizer, local_files_only=True)
                loaded: Any = MT5Model.from_pretrained(
                    self._folder, local_files_only=True, dtype="auto", use_safetensors=True, output_loading_info=True
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise CorruptInput(self._folder, "", f"is no MetricX model: {str(error).splitlines()[0]}") from error
            model, found = loaded
            if missing := sorted(found["missing_keys"]):  # transformers fills them with random numbers and goes on
                raise CorruptInput(self._folder, "", f"lacks {len(missing)} of the model's tensors, {missing[0]} first")
            if tokenizer.eos_token_id is None or tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
                raise CorruptInput(
                    self._tokenizer, "", "its tokenizer does not end texts with an end-of-text token, as mT5's does"
                )
            head = _score_row(self._folder).to(device=self._device, dtype=model.dtype)
            self._loaded = tokenizer, model.to(self._device).eval(), head
        return self._loaded


def _score_row(folder: Path) -> Any:
    """The score token's row of the model's head, as a matrix of one row."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                if HEAD not in set(file.keys()):
                    continue
                rows = file.get_slice(HEAD)
                if rows.get_shape()[0] <= SCORE_TOKEN:
                    raise CorruptInput(path, HEAD, f"has {rows.get_shape()[0]} rows, and none for token {SCORE_TOKEN}")
                return rows[SCORE_TOKEN : SCORE_TOKEN + 1]
        except SafetensorError as error:
            raise CorruptInput(path, "", f"is not whole: {error}") from error
    raise CorruptInput(folder, HEAD, "is not among its weights: a MetricX has a head of its own")


def _tokenizer_digest(folder: Path) -> str:
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*")) if path.suffix in (".json", ".model")}
    if not files:
        raise CorruptInput(folder, "", "holds no tokenizer")
    return fingerprint(files)


class RecordedMetricX:
    """Scores that a MetricX gave before."""

    def __init__(self, name: str, path: Path) -> None:
        """Read them; raises CorruptInput."""
        self.name, self.identity, self.path = name, {"model": name}, path
        self._scores: dict[Translation, float] = {}
        columns: dict[str, type[str] | type[float]] = {"source": str, "candidate": str, "reference": str, "score": float}
        for number, row in enumerate(recorded_rows(path, columns), 1):
            score = float(row["score"])
            if not 0 <= score <= METRICX_WORST:
                raise CorruptInput(path, f"row {number}", f"score {score} is not from 0 to {METRICX_WORST:g}")
            translation = Translation(source=row["source"], candidate=row["candidate"], reference=row["reference"])
            if self._scores.setdefault(translation, score) != score:
                raise CorruptInput(path, f"row {number}", "the same texts have another score in a row before")

    def score(self, rows: Sequence[Translation], keep: Callable[[int, float], None]) -> None:
        """Look all rows up; raises Unanswered."""
        missing = 0
        for position, row in enumerate(rows):
            if row in self._scores:
                keep(position, self._scores[row])
            else:
                missing += 1
        if missing:
            problem = "they are not among the recorded scores"
            raise Unanswered(f"MetricX {self.name}", missing, len(rows), problem, is_final=True)


def translation_scorer(
    profile: str, language: str, direction: str, metricx_model: MetricX | None, kept: Judgements | None = None
) -> Scorer:
    """Scores a translation task (`direction`: `en-xx`, `xx-en`, `id-xx` or `xx-id`) of one language (ISO 639-3).

    Questions carry `details["source"]`; their target is the reference. chrF++ is a diagnostic of every answer; without a
    scorer, or when it fails, the task is incomplete and that diagnostic is all there is.
    """
    profile_of(profile)
    code, cache = short_code(language), kept or Judgements()
    extract = text_2025 if profile == "sea_helm_2025" else text_2026

    def score(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        rows = [
            Translation(
                source=str(question.details.get("source", "")), candidate=extract(said[0] if said else "", "translation", code),
                reference=str(question.target),
            )
            for question, said in zip(task.questions, answers, strict=True)
        ]  # fmt: skip
        if not rows:
            return TaskScores(items=(), scores=(), incomplete="there are no questions")
        if metricx_model is None:
            reason = f"no MetricX is set: name one in the evaluation's settings to score translation-{direction}"
            return TaskScores(items=(), scores=(_chrf_score(task, rows),), incomplete=reason)
        try:
            raw = raw_scores(metricx_model, rows, cache)
        except Unanswered as error:
            return TaskScores(items=(), scores=(_chrf_score(task, rows),), incomplete=str(error), is_open=not error.is_final)
        return _scored(task, rows, raw, metricx_model)

    return score


def _chrf_score(task: GenerationTask, rows: Sequence[Translation]) -> Score:
    value = chrf([row.candidate for row in rows], [row.reference for row in rows])
    return _score(task, rows, CHRF, value, 0.0, "diagnostic")


def _score(
    task: GenerationTask, rows: Sequence[Translation], metric: str, value: float, stderr: float,
    role: Literal["score", "raw", "diagnostic"],
) -> Score:  # fmt: skip
    return Score(
        task=task.name, language=task.language, metric=metric, value=value, stderr=stderr, items=len(rows),
        higher_is_better=metric != RAW, role=role, source=SOURCE, nulls=sum(not row.candidate for row in rows),
    )  # fmt: skip


def _scored(task: GenerationTask, rows: Sequence[Translation], raw: Sequence[float], scorer: MetricX) -> TaskScores:
    found = metricx(raw)
    items = tuple(
        ItemScore(item=question.id, metric=METRIC, value=value / 100, is_null=not row.candidate, extracted=row.candidate)
        for question, row, value in zip(task.questions, rows, found.items, strict=True)
    )
    clusters = [question.cluster for question in task.questions]
    errors = [
        stratified_stderr([("", cluster, value) for cluster, value in zip(clusters, values, strict=True)])
        for values in (found.items, raw)
    ]
    warnings = []
    if scorer.name.rsplit("/", 1)[-1] != MODEL:
        what = f"{task.name} in {task.language}"
        warnings.append(
            f"{what}: scored by {scorer.name}, not by {MODEL} as the profile has it: not comparable to published scores"
        )
    return TaskScores(
        items=items,
        scores=(
            _score(task, rows, METRIC, found.normalised, errors[0], "score"),
            _score(task, rows, RAW, found.raw, errors[1], "raw"),
            _chrf_score(task, rows),
        ),
        warnings=tuple(warnings),
    )
