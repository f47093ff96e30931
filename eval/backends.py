"""The model behind lm-eval: transformers in this process, vLLM where it is installed, or an OpenAI-compatible endpoint.

Which of them, and in which precision, is the recipe's: numbers of two backends differ by more than many an improvement. Where
an endpoint is, is not: `SEA_LION_ENDPOINT` holds its full address (`…/v1/completions` or `…/v1/chat/completions`),
`SEA_LION_ENDPOINT_MODEL` the name it serves the model under, and `OPENAI_API_KEY` its key. That it serves the recipe's
checkpoint nobody can check from outside; the scorecard says `endpoint`, and is compared with others of that kind only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..catalog.errors import CorruptInput, MissingDependency, RecipeError, Unfinished

Backend = Literal["hf", "vllm", "endpoint"]
Dtype = Literal["float32", "bfloat16"]

ADDRESS, SERVED, PARALLEL = "SEA_LION_ENDPOINT", "SEA_LION_ENDPOINT_MODEL", "SEA_LION_ENDPOINT_PARALLEL"
CONCURRENT = 8
"""Requests under way at an endpoint, unless the environment says otherwise."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """How a model is to be run."""

    folder: Path
    """The checkpoint."""
    owner: str
    """Its reference, for messages."""
    backend: Backend = "hf"
    dtype: Dtype = "float32"
    device: str = "cpu"
    rows: int = 0
    """Requests of a forward pass; 0: by budget."""
    max_length: int = 0
    """Longest context, 0: the model's own; a window longer than that is the model's own too."""

    def longest(self) -> int:
        """Tokens that the model looks at."""
        own = self.own_length()
        if not own and not self.max_length:
            raise RecipeError(
                self.owner, "max_length", "is needed: the model's configuration does not say how long a text may be"
            )
        return min(self.max_length or own, own or self.max_length)

    def own_length(self) -> int:
        """Tokens of the longest text that the model was made for, 0 where its configuration does not say."""
        try:
            config: Any = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:
            problem = f"is not a checkpoint that transformers can load: {_first_line(error)}"
            raise CorruptInput(self.folder, "", problem) from error
        return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)


def tokenizer_of(folder: Path) -> Any:
    """The checkpoint's tokenizer; raises CorruptInput when transformers cannot load it, or when it has neither a token for the
    beginning nor one for the end of a text: the first token of a text is scored given one of them."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        problem = f"is not a checkpoint that transformers can load: {_first_line(error)}"
        raise CorruptInput(folder, "", problem) from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise CorruptInput(folder, "", "its tokenizer has neither a token for the beginning nor one for the end of a text")
    return tokenizer


def check_backend(backing: Backing, *, needs_likelihood: bool, is_chat: bool) -> None:
    """Raise for what would fail only after the model is loaded: a package, an address, answers that a backend cannot give."""
    if backing.backend == "vllm" and find_spec("vllm") is None:
        raise MissingDependency("vllm", "to evaluate with backend = 'vllm'")
    if backing.backend != "endpoint":
        return
    address = os.environ.get(ADDRESS, "")
    if not address.endswith(("/chat/completions", "/completions")) or not address.startswith(("http://", "https://")):
        problem = f"is 'endpoint': set {ADDRESS} to its full address, http://host:port/v1/completions or …/v1/chat/completions"
        raise RecipeError(backing.owner, "backend", problem)
    if address.endswith("/chat/completions"):
        if needs_likelihood:
            problem = (
                "is a chat endpoint, and the suite needs log-likelihoods, which none gives; use one for completions, or 'hf'"
            )
            raise RecipeError(backing.owner, "backend", problem)
        if not is_chat:
            raise RecipeError(
                backing.owner, "prompts", "must be 'chat' for a chat endpoint: it lays its own template over them"
            )


def load_model(backing: Backing, tokenizer: Any) -> Any:
    """The model as lm-eval calls it, from local files; raises CorruptInput for a checkpoint that transformers cannot load."""
    return {"hf": _transformers, "vllm": _vllm, "endpoint": _endpoint}[backing.backend](backing, tokenizer)


def _transformers(backing: Backing, tokenizer: Any) -> Any:
    from .transformers_model import BudgetedHFLM

    folder = backing.folder
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=getattr(torch, backing.dtype), output_loading_info=True
        )
    except Exception as error:
        problem = f"is not a checkpoint that transformers can load: {_first_line(error)}"
        raise CorruptInput(folder, "", problem) from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:  # transformers fills them with random numbers and goes on
        raise CorruptInput(folder, "", f"lacks {len(missing)} of the model's tensors, {missing[0]} first")
    return BudgetedHFLM(
        pretrained=model.to(backing.device),
        tokenizer=tokenizer,
        backend="causal",
        max_length=backing.longest(),
        softmax_dtype="float32",
        rows=backing.rows,
    )


def _vllm(backing: Backing, tokenizer: Any) -> Any:
    from lm_eval.models.vllm_causallms import VLLM

    model: Any = VLLM
    return model(
        pretrained=str(backing.folder),
        dtype=backing.dtype,
        max_model_len=backing.longest(),
        batch_size=backing.rows or "auto",
    )


def _endpoint(backing: Backing, tokenizer: Any) -> Any:
    from .endpoint_model import ChatEndpoint, CompletionsEndpoint

    address = os.environ[ADDRESS]
    kind: Any = ChatEndpoint if address.endswith("/chat/completions") else CompletionsEndpoint
    return kind(
        base_url=address,
        model=served_name(),
        tokenizer=str(backing.folder),
        max_length=backing.longest() + 1,  # lm-eval keeps one token back
        window=min(backing.longest(), (backing.own_length() or backing.longest() + 2) - 2),
        num_concurrent=int(os.environ.get(PARALLEL, CONCURRENT)),
    )


def served_name() -> str:
    """The name an endpoint serves the model under; the only one it has, unless the environment says which."""
    if os.environ.get(SERVED):
        return os.environ[SERVED]
    import requests

    address = os.environ[ADDRESS].rpartition("/completions")[0].removesuffix("/chat") + "/models"
    key = os.environ.get("OPENAI_API_KEY", "")
    try:
        answer = requests.get(address, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=30)
        answer.raise_for_status()
        names = [str(model["id"]) for model in answer.json()["data"]]
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        raise Unfinished(f"{address}: does not say what it serves ({_first_line(error)}); set {SERVED}") from error
    if len(names) != 1:
        raise Unfinished(f"{address}: serves {', '.join(names) or 'nothing'}; set {SERVED} to one of them")
    return names[0]


def endpoint_identity() -> list[str]:
    """What tells the answers of one endpoint from those of another."""
    return [os.environ[ADDRESS], served_name()]


@contextmanager
def answering(backing: Backing) -> Iterator[None]:
    """What an endpoint's failures come to: one line, with the answers so far kept."""
    if backing.backend != "endpoint":
        yield
        return
    import aiohttp
    import requests
    import tenacity

    try:
        yield
    except (aiohttp.ClientError, requests.RequestException, tenacity.RetryError, TimeoutError) as error:
        problem = f"the endpoint does not answer ({_first_line(error)}); its answers so far are kept, run it again"
        raise Unfinished(f"{backing.owner}: {problem}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
