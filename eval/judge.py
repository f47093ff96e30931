"""Judges: whoever reads answers and says which is better, behind one interface.

Three kinds: an endpoint that speaks OpenAI's chat interface, a model in a folder, and judgements that were recorded before. A
judge has an identity, all that its words depend on: the model, how its text is drawn, for a model in a folder also the digest
of its weights. Where it runs, how long it is waited for and its key are no part of it, so that judgements made through one
server are found again through another, and what an endpoint said can be replayed as recorded judgements.

`judged` is the way to ask: judgements on record first, then the judge, each new one put on record as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from ..catalog.errors import CorruptInput
from ..catalog.fingerprint import file_digest, fingerprint
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT
from .endpoint import Access, Unanswered, address_problem, ask
from .family import Message
from .judgements import Judgements, recorded_judgements

Conversation = Sequence[Message]

NEEDED = {"endpoint": "url", "local": "path", "recorded": "path"}
"""What each kind of judge must be told besides its model's name."""


class Judge(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """The model's name, for people."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on besides the conversation: JSON."""
        ...

    def judge(self, conversations: Sequence[Conversation], keep: Callable[[int, str], None]) -> None:
        """Answer each and hand the text to `keep` with its position as soon as it is there; raises Unanswered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """A `[judge]` table."""

    __pydantic_config__ = STRICT
    kind: Literal["endpoint", "local", "recorded"]
    """An OpenAI-compatible endpoint, a transformers model in a folder, or recorded judgements."""
    model: str
    """The judge's public name: part of its identity; of recorded judgements, the name of the judge that made them."""
    url: str = ""
    """Of an endpoint, up to and with `/v1`."""
    path: str = ""
    """Folder of the local model, or file of the recorded judgements."""
    temperature: float = 0.0
    """0: the most probable token always; a local model draws in no other way."""
    max_tokens: int = 2048
    """Longest judgement."""
    seed: int = 1234
    """Sent with every question."""
    reasoning_effort: Literal["", "low", "medium", "high"] = ""
    """For judges that take one (gpt-oss)."""
    timeout: float = 120.0
    """For one judgement, in seconds."""
    concurrency: int = 8
    """Judgements asked for at a time."""
    tries: int = 6
    """Times a judgement is asked for before it is given up."""
    longest_pause: float = 60.0
    """Between two tries, in seconds."""
    api_key_env: str = ""
    """Name of the environment variable that holds the endpoint's key; the key itself is written nowhere."""
    device: str = "cpu"
    """Of a local model."""
    weights: str = ""
    """Of recorded judgements that a local model made: the digest of its files."""

    def __post_init__(self) -> None:
        needed = NEEDED[self.kind]
        if not self.model or not getattr(self, needed):
            raise ValueError(f"a judge of kind {self.kind} needs model and {needed}")
        if self.kind == "endpoint" and (problem := address_problem(self.url)):
            raise ValueError(problem)
        if self.temperature < 0 or self.max_tokens < 1:
            raise ValueError("temperature must be at least 0, max_tokens at least 1")
        if self.kind == "local" and self.temperature > 0:
            raise ValueError("a local judge is greedy: temperature must be 0")
        if self.weights and self.kind != "recorded":
            raise ValueError("weights are named for recorded judgements only: a local model's are read")
        if self.timeout <= 0 or self.concurrency < 1 or self.tries < 1 or self.longest_pause < 0:
            raise ValueError("timeout must be above 0, concurrency and tries at least 1, longest_pause at least 0")

    @property
    def identity(self) -> dict[str, Any]:
        """What judgements depend on, of all this."""
        drawn = {"temperature": float(self.temperature), "max_tokens": self.max_tokens, "seed": self.seed}
        named = {"reasoning_effort": self.reasoning_effort, "weights": self.weights}
        return {"model": self.model, **drawn, **{name: value for name, value in named.items() if value}}


def read_judge(path: Path) -> Judge:
    """The judge of a TOML file with the one table `[judge]`; raises RecipeError for settings that cannot be."""
    table = read_toml(path)
    return open_judge(read_table(table, _JudgeFile, path).judge, path.parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class _JudgeFile:
    __pydantic_config__ = STRICT
    judge: JudgeSettings


def open_judge(settings: JudgeSettings, beside: Path = Path()) -> Judge:
    """The judge that the settings describe; its `path` is relative to `beside`.

    Raises CorruptInput when the folder holds no model or the file no judgements; an endpoint is not asked anything yet.
    """
    if settings.kind == "endpoint":
        return EndpointJudge(settings)
    if settings.kind == "local":
        return LocalJudge(settings, beside / settings.path)
    return RecordedJudge(settings, beside / settings.path)


def judgement_key(judge: Mapping[str, Any], conversation: Conversation) -> str:
    """The digest of a judge's identity and all that it is shown."""
    return fingerprint({"judge": dict(judge), "messages": [[message.role, message.content] for message in conversation]})


def judged(judge: Judge, conversations: Sequence[Conversation], judgements: Judgements) -> list[str]:
    """The judge's text on each conversation, out of `judgements` where it is there, else asked for and kept there.

    Raises Unanswered when some could not be had; those that could be are on record. Recorded judgements are their own record:
    kept again, a file that was mended would not be looked at.
    """
    identity = judge.identity
    judgements = Judgements() if isinstance(judge, RecordedJudge) else judgements
    keys = [judgement_key(identity, conversation) for conversation in conversations]
    texts = judgements.found(dict.fromkeys(keys))
    missing = {key: conversation for key, conversation in zip(keys, conversations, strict=True) if key not in texts}
    wanted = list(missing)

    def keep(position: int, text: str) -> None:
        texts[wanted[position]] = judgements.keep(wanted[position], judge.name, text)

    problem, is_final = "it left questions out", True
    try:
        if wanted:
            judge.judge(list(missing.values()), keep)
    except Unanswered as error:
        problem, is_final = error.problem, error.is_final
    if lacking := sum(key not in texts for key in wanted):
        raise Unanswered(f"judge {judge.name}", lacking, len(texts) + lacking, problem, is_final=is_final)
    return [texts[key] for key in keys]


class EndpointJudge:
    """A judge behind an OpenAI-compatible endpoint, asked through `/chat/completions`."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self.name, self.identity = settings.model, settings.identity

    def judge(self, conversations: Sequence[Conversation], keep: Callable[[int, str], None]) -> None:
        """Ask for all judgements, several at a time; raises Unanswered."""
        settings = self._settings
        access = Access(
            url=settings.url, api_key_env=settings.api_key_env, timeout=settings.timeout, concurrency=settings.concurrency,
            tries=settings.tries, longest_pause=settings.longest_pause,
        )  # fmt: skip
        bodies = [{**self.identity, "messages": _plain(conversation)} for conversation in conversations]
        ask(access, f"judge {self.name}", "chat/completions", bodies, _said, keep)


def _plain(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in conversation]


def _said(position: int, answer: Any) -> str:
    """The text of an answer; empty where the judge thought up to its limit and said nothing."""
    text = answer["choices"][0]["message"]["content"]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError
    return text


class LocalJudge:
    """A judge in a folder, on one device, greedy: each text by itself, so that no batch decides what it says."""

    def __init__(self, settings: JudgeSettings, folder: Path) -> None:
        """Take its weights' digest; the model is loaded when it is first asked. Raises CorruptInput when there is none."""
        self._settings, self._folder = settings, folder
        self._loaded: tuple[Any, Any] | None = None
        self.name = settings.model
        self.identity = {**settings.identity, "weights": folder_digest(folder)}

    def judge(self, conversations: Sequence[Conversation], keep: Callable[[int, str], None]) -> None:
        """Answer one conversation after the other by the tokenizer's chat template."""
        for position, conversation in enumerate(conversations):
            keep(position, self._answer(conversation))

    def _answer(self, conversation: Conversation) -> str:
        import torch

        tokenizer, model = self._model()
        shown = tokenizer.apply_chat_template(
            _folded(conversation, tokenizer), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        with torch.inference_mode():
            written = model.generate(
                **shown, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=self._settings.max_tokens,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )[0, shown["input_ids"].shape[1] :]  # fmt: skip
        return str(tokenizer.decode(written, skip_special_tokens=True))

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer: Any = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                model: Any = AutoModelForCausalLM.from_pretrained(self._folder, local_files_only=True, dtype="auto")
            except (OSError, ValueError) as error:
                raise CorruptInput(self._folder, "", f"is no causal language model: {str(error).splitlines()[0]}") from error
            if not tokenizer.chat_template:
                raise CorruptInput(self._folder, "", "its tokenizer has no chat template, which a judge needs")
            self._loaded = tokenizer, model.to(self._settings.device).eval()
        return self._loaded


def _folded(conversation: Conversation, tokenizer: Any) -> list[dict[str, str]]:
    """The messages, the system text put before the first user's one where the template knows no system role."""
    messages = _plain(conversation)
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise
        system, first, *rest = messages
        return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    return messages


def folder_digest(folder: Path) -> str:
    """The digest of a model's files (weights, settings, tokenizer), by name; raises CorruptInput when there are none."""
    suffixes = (".safetensors", ".json", ".jinja", ".model")
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*")) if path.suffix in suffixes and path.is_file()}
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise CorruptInput(folder, "", "is not a folder of a model: it needs config.json and weights in safetensors")
    return fingerprint(files)


class RecordedJudge:
    """Judgements that another judge made: what is not among them has no answer."""

    def __init__(self, settings: JudgeSettings, path: Path) -> None:
        """Read them; raises CorruptInput."""
        self.name, self.identity, self.path = settings.model, settings.identity, path
        self._texts = recorded_judgements(path)

    def judge(self, conversations: Sequence[Conversation], keep: Callable[[int, str], None]) -> None:
        """Look all conversations up; raises Unanswered."""
        missing = 0
        for position, conversation in enumerate(conversations):
            text = self._texts.get(judgement_key(self.identity, conversation))
            if text is None:
                missing += 1
            else:
                keep(position, text)
        if missing:
            problem = "it is not among the recorded judgements"
            raise Unanswered(f"judge {self.name}", missing, len(conversations), problem, is_final=True)
