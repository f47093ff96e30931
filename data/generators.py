"""What writes the text of a synthetic set: an endpoint that speaks OpenAI's interface, or a model in a folder.

An endpoint is asked again, with exponential pauses, when it is busy, stalls, breaks off or answers nonsense; what it refuses
for good (a wrong key, an unknown model) ends the run with one line. vLLM, SGLang and llama.cpp speak `/completions`, which
Magpie needs: it takes a prompt as it is, where `/chat/completions` writes the chat template itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import tenacity

from ..catalog.errors import CorruptInput, SeaLionError
from .sampling import Sampling

MAX_ANSWER_BYTES = 8 << 20
"""Of one answer of an endpoint."""
TRIES = 6
"""Times an endpoint is asked before an attempt is given up."""
BUSY = (408, 409, 425, 429)
"""Statuses besides 5xx that a later try may mend."""


@dataclass(frozen=True, slots=True)
class Template:
    """The chat template of a family of models, in the pieces that Magpie needs; the tokenizer adds the first token."""

    system: str
    """The system text's turn, `{}` is the text; empty: the family has none."""
    user: str
    """Header of the user's turn: all that the model is given to write a user's message."""
    answer: str
    """From the end of the user's message to the header of the answer."""
    stop: tuple[str, ...]
    """What ends a turn."""

    def question_prompt(self, system: str, opening: str) -> str:
        """What the model continues with a user's message; without a system turn, the opening is its first words."""
        return (self.system.format(system) if self.system else "") + self.user + opening

    def answer_prompt(self, system: str, question: str) -> str:
        """What the model continues with the answer."""
        return self.question_prompt(system, question) + self.answer


TEMPLATES = {
    "chatml": Template(
        "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", ("<|im_end|>",)
    ),
    "llama3": Template(
        "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", ("<|eot_id|>",),
    ),
    "gemma": Template("", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", ("<end_of_turn>",)),
}  # fmt: skip
"""Name to template: ChatML (Qwen, our own models), Llama 3, Gemma 2 and 3."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generator wrote."""

    text: str
    is_whole: bool
    """Whether it came to an end by itself."""


class NoAnswer(Exception):
    """An endpoint gave no usable answer to one prompt, however often it was asked."""


class Generator(Protocol):
    """Something that writes text, within `async with`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def complete(self, prompt: str, sampling: Sampling, seed: int, stop: Sequence[str]) -> Completion:
        """Continue a prompt; raises NoAnswer."""
        ...

    async def reply(self, messages: Sequence[dict[str, str]], sampling: Sampling, seed: int) -> Completion:
        """Answer a conversation by the model's own chat template; raises NoAnswer."""
        ...


class _Retry(Exception):
    def __init__(self, problem: str, pause: float = 0.0) -> None:
        self.pause = pause
        super().__init__(problem)


class Endpoint:
    """An OpenAI-compatible endpoint, `http://…/v1`; neither address nor key is recorded anywhere."""

    def __init__(self, address: str, model: str, key: str = "", timeout: float = 600.0, longest_pause: float = 60.0) -> None:
        """`timeout` is for one answer, `longest_pause` between two tries, both in seconds."""
        self.address, self.model, self.longest_pause = address.rstrip("/"), model, longest_pause
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(30.0, timeout))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)  # the run itself bounds what is asked at a time
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def complete(self, prompt: str, sampling: Sampling, seed: int, stop: Sequence[str]) -> Completion:
        """Ask `/completions`."""
        return await self._asked("completions", {"prompt": prompt, "stop": list(stop), "seed": seed, **asdict(sampling)})

    async def reply(self, messages: Sequence[dict[str, str]], sampling: Sampling, seed: int) -> Completion:
        """Ask `/chat/completions`."""
        return await self._asked("chat/completions", {"messages": list(messages), "seed": seed, **asdict(sampling)})

    async def _asked(self, path: str, body: dict[str, Any]) -> Completion:
        backoff = tenacity.wait_random_exponential(multiplier=0.5, max=self.longest_pause)

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.pause if isinstance(error, _Retry) else 0.0
            return min(max(asked_for, backoff(state)), self.longest_pause)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Retry), stop=tenacity.stop_after_attempt(TRIES), wait=pause, reraise=True
        )
        try:
            return await retrying(self._once, path, body)
        except _Retry as error:
            raise NoAnswer(str(error)) from error

    async def _once(self, path: str, body: dict[str, Any]) -> Completion:
        assert self._session is not None, "an endpoint is used within `async with`"
        try:
            async with self._session.post(f"{self.address}/{path}", json={"model": self.model, **body}) as response:
                content = await response.content.read(MAX_ANSWER_BYTES)
                while len(content) < MAX_ANSWER_BYTES and (
                    more := await response.content.read(MAX_ANSWER_BYTES - len(content))
                ):
                    content += more
                if response.status >= 500 or response.status in BUSY:
                    raise _Retry(f"http_{response.status}", _seconds(response.headers.get("Retry-After", "")))
                if response.status != 200:
                    said = " ".join(content[:300].decode("utf-8", "replace").split())
                    raise SeaLionError(f"the endpoint refuses {path} for model {self.model}: status {response.status}: {said}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Retry("timeout" if isinstance(error, TimeoutError) else "connection") from error
        return _completion(content)


def _seconds(text: str) -> float:
    """The pause that a server asks for, 0 when it gives a date or nothing."""
    return float(text) if text.strip().isdigit() else 0.0


def _completion(content: bytes) -> Completion:
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError
        text.encode()
    except (ValueError, LookupError, TypeError) as error:
        raise _Retry("malformed") from error
    return Completion(text, choice.get("finish_reason") != "length")


class LocalModel:
    """A causal language model in a folder, on one device: for small runs; serve the model for large ones.

    It writes one text at a time and in no thread of its own, so that the seed decides each.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load it; raises CorruptInput when the folder holds no such model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModelForCausalLM.from_pretrained(folder)
            self._model = model.to(device).eval()
        except (OSError, ValueError) as error:
            raise CorruptInput(folder, "", f"is no causal language model: {str(error).splitlines()[0]}") from error
        self._device = device

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def complete(self, prompt: str, sampling: Sampling, seed: int, stop: Sequence[str]) -> Completion:
        """Continue a prompt; the same seed gives the same text on the same machine."""
        tokens = self._tokenizer(prompt, return_tensors="pt")["input_ids"]
        return self._generated(tokens, sampling, seed, stop)

    async def reply(self, messages: Sequence[dict[str, str]], sampling: Sampling, seed: int) -> Completion:
        """Answer a conversation by the tokenizer's chat template."""
        tokens = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        return self._generated(tokens, sampling, seed, ())

    def _generated(self, tokens: Any, sampling: Sampling, seed: int, stop: Sequence[str]) -> Completion:
        import torch

        unknown = (None, self._tokenizer.unk_token_id)
        ids = dict(zip(stop, self._tokenizer.convert_tokens_to_ids(list(stop)), strict=True))
        ends = sorted({id for id in (self._tokenizer.eos_token_id, *ids.values()) if id not in unknown})
        drawn: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if strings := [text for text, id in ids.items() if id in unknown]:
            drawn |= {"stop_strings": strings, "tokenizer": self._tokenizer}
        torch.manual_seed(seed)
        with torch.inference_mode():
            written = self._model.generate(
                input_ids=tokens.to(self._device), attention_mask=torch.ones_like(tokens).to(self._device),
                max_new_tokens=sampling.max_tokens, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **drawn,
            )[0, tokens.shape[1] :]  # fmt: skip
        is_whole = len(written) < sampling.max_tokens
        text = self._tokenizer.decode(written, skip_special_tokens=False)
        for end in (*stop, self._tokenizer.eos_token or ""):
            is_whole |= bool(end) and end in text
            text = text.split(end)[0] if end else text
        return Completion(text, is_whole)
