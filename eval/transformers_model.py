"""transformers behind lm-eval: `HFLM` with batches that are planned before anything is asked.

Which requests share a forward pass follows from all the requests of a call, whether or not some are answered already, so that
a run that was killed goes on with the very batches it would have had: numbers on a GPU, and the last bits on a CPU, depend on
them. How many share it follows from a memory budget, batch by batch. Generation is written anew: lm-eval's stops a batch only
when all of it has met the same stop text, forgets why an answer ended, applies whatever penalties a model's
`generation_config` asks for, and samples from one generator for the whole batch. Here a sampled token is the largest of the
logits plus Gumbel noise that is drawn for this item alone: exactly a sample, and the same in every batch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval import utils
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from .response_cache import Answer

LOGITS_BUDGET = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Logits of one forward pass: 64 MiB in single precision on a CPU, 1 GiB on a GPU, and as much again for their log-softmax."""
TOKENS_BUDGET = 1 << 16
"""Tokens, prompts and answers, that are kept in memory while a batch of answers is generated."""
MOST_ROWS = 128
"""Answers generated at a time."""
REMEMBERED = 4
"""Texts whose tokens are remembered: a context comes by turns with what follows it."""

logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)  # warns that a loaded model was given: it is meant

Config: Any = GenerationConfig
Harness: Any = HFLM  # untyped, and its registering decorator hides its class from type checkers
Request = tuple[Any, list[int], list[int]]


class BudgetedHFLM(Harness):  # type: ignore[misc]
    """`HFLM` whose batches keep to a budget, or hold `rows` requests where that is not 0; its cache hook says what is there."""

    plans_batches = True

    def __init__(self, *args: Any, rows: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows = rows
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As lm-eval's, but that the context of ten choices is encoded once."""
        if kwargs:
            return list(super().tok_encode(string, add_special_tokens, **kwargs))
        key = string, add_special_tokens
        if key not in self._encoded:
            while len(self._encoded) >= REMEMBERED:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[key] = list(super().tok_encode(string, add_special_tokens))
        return self._encoded[key]

    # -- likelihood ------------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs: Any) -> list[Any]:
        """Answers in the order of the requests; None for those that the hook has."""
        answers: list[Any] = [None] * len(requests)
        is_known = [request[0] is not None and self._has("loglikelihood", request[0]) for request in requests]
        for batch in self._likelihood_batches(requests):
            asked = [i for group in batch for i in group if not is_known[i]]
            if not asked:
                continue
            for i in asked:
                if requests[i][0] is not None and len(requests[i][1]) + len(requests[i][2]) > self.max_length + 1:
                    self._told("mark_cut", "loglikelihood", requests[i][0])
            self.batch_size_per_gpu = len(batch)
            found = super()._loglikelihood_tokens([requests[i] for i in asked], disable_tqdm=True)
            for i, answer in zip(asked, found, strict=True):
                answers[i] = answer
            if requests[asked[0]][0] is not None:
                self._told("commit")
        return answers

    def _likelihood_batches(self, requests: Sequence[Request]) -> Iterator[list[list[int]]]:
        """Batches of groups of positions, longest first; the requests of a group differ in their last token only, and lm-eval
        reads them all out of one row of a forward pass."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, text) in enumerate(requests):
            groups.setdefault((*context, *text[:-1]), []).append(i)
        batch: list[list[int]] = []
        size = 0
        for tokens in sorted(groups, key=lambda tokens: (-len(tokens), tokens)):
            if not batch:
                size = self._likelihood_rows(len(tokens))
            batch.append(groups[tokens])
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _likelihood_rows(self, length: int) -> int:
        budget = LOGITS_BUDGET["cuda" if self.device.type == "cuda" else "cpu"]
        return self.rows or max(1, budget // (min(max(length, 1), self.max_length) * int(self.model.config.vocab_size)))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As lm-eval's, but that a few texts at a time are finished."""
        answers: list[Any] = [None] * len(requests)
        most = self._likelihood_rows(self.max_length)
        portion: list[tuple[int, list[Request]]] = []
        for i, request in enumerate(requests):
            portion.append((i, self._windows(request.args[0])))
            if i + 1 == len(requests) or sum(len(windows) for _, windows in portion) >= most:
                if not all(self._has("loglikelihood_rolling", requests[i].args) for i, _ in portion):
                    for (i, _), answer in zip(portion, self._rolled([windows for _, windows in portion]), strict=True):
                        answers[i] = answer
                        self.cache_hook.add_partial("loglikelihood_rolling", requests[i].args, answers[i])
                    self._told("commit")
                portion = []
        return answers

    def _rolled(self, texts: list[list[Request]]) -> list[float]:
        """Log-likelihoods of texts in windows."""
        found = iter(self._loglikelihood_tokens([window for windows in texts for window in windows]))
        return [sum(next(found)[0] for _ in windows) for windows in texts]

    def _windows(self, text: str) -> list[Request]:
        """The text in windows, each token in one; the first is scored given the prefix token, which the tokenizer would put
        there a second time."""
        tokens = self.tok_encode(text, add_special_tokens=False)
        windows = utils.get_rolling_token_windows(
            token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
        )
        return [(None, *utils.make_disjoint_window(window)) for window in windows]

    # -- generation ------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """Texts up to the first stop text; None for those that the hook has."""
        answers: list[Any] = [None] * len(requests)
        prompts = [self._prompt(str(request.args[0])) for request in requests]
        for batch in self._generation_batches(requests, prompts):
            asked = [i for i in batch if not self._has("generate_until", requests[i].args)]
            if asked:
                settings = [requests[i].args[1] for i in asked]
                for i, answer in zip(asked, self._generate([prompts[i] for i in asked], settings), strict=True):
                    answers[i] = answer
                    self.cache_hook.add_partial("generate_until", requests[i].args, answer)
                self._told("commit")
        return answers

    def _prompt(self, text: str) -> list[int]:
        """The prompt's tokens: one token for the beginning where the tokenizer wants one, whether or not the text has it, and
        none for an end."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
        if bos and tokens[:2] == [self.tokenizer.bos_token_id] * 2:
            tokens = tokens[1:]
        if eos and tokens[-1:] == [self.tokenizer.eos_token_id] and not text.endswith(eos):
            tokens = tokens[:-1]
        return tokens or [self.prefix_token_id]

    def _generation_batches(self, requests: list[Any], prompts: list[list[int]]) -> Iterator[list[int]]:
        """Positions of requests with the same settings, longest prompts first."""

        def settings(i: int) -> str:
            return json.dumps({**requests[i].args[1], "seed": 0}, sort_keys=True)

        def order(i: int) -> tuple[str, int, list[int], str]:
            return settings(i), -len(prompts[i]), prompts[i], json.dumps(requests[i].args[1], sort_keys=True)

        for _, same in groupby(sorted(range(len(requests)), key=order), settings):
            waiting = list(same)
            while waiting:
                room, limit = self._room(requests[waiting[0]].args[1])
                longest = min(len(prompts[waiting[0]]), room) + limit
                rows = self.rows or max(1, min(MOST_ROWS, TOKENS_BUDGET // longest))
                yield waiting[:rows]
                waiting = waiting[rows:]

    def _room(self, settings: dict[str, Any]) -> tuple[int, int]:
        """Most tokens of a prompt and of its answer: an answer gets no more than half of the model's context."""
        limit = min(int(settings.get("max_gen_toks") or self.max_gen_toks), self.max_length // 2)
        return self.max_length - limit, max(1, limit)

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], settings: list[dict[str, Any]]) -> list[Answer]:
        """One batch; what the rows' settings may differ in is the seed."""
        room, limit = self._room(settings[0])
        kept = [prompt[-room:] for prompt in prompts]
        width = max(map(len, kept))
        pad = self.tokenizer.pad_token_id
        rows = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in kept], device=self.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in kept], device=self.device)
        ends, stops = self._ends(), _stops(settings[0])
        processors = LogitsProcessorList()
        if float(settings[0].get("temperature", 0.0)) > 0 and settings[0].get("do_sample", True):
            processors.append(SeededSampling(settings))
        criteria = StoppingCriteriaList([StopTexts(self.tokenizer, stops, width)] if stops else [])
        config = Config(max_new_tokens=limit, do_sample=False, eos_token_id=sorted(ends), pad_token_id=pad)
        made = self.model.generate(
            input_ids=rows,
            attention_mask=mask,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=criteria,
        )
        return [
            self._answer(tokens, ends, stops, limit, is_cut=len(prompt) > room)
            for tokens, prompt in zip(made[:, width:].tolist(), prompts, strict=True)
        ]

    def _ends(self) -> set[int]:
        """Tokens that end an answer: the model's own and the tokenizer's."""
        own = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return {int(end) for end in ends if end is not None}

    def _answer(self, tokens: list[int], ends: set[int], stops: list[str], limit: int, is_cut: bool) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        cut = cut_at(text, stops)
        return Answer(cut, is_truncated=end is None and cut == text and len(tokens) >= limit, is_cut=is_cut)

    # -- the hook --------------------------------------------------------------------------------------------------------

    def _has(self, method: str, arguments: Any) -> bool:
        has = getattr(self.cache_hook, "has", None)  # lm-eval's own hook has none
        return bool(has and has(method, arguments))

    def _told(self, what: str, *arguments: Any) -> None:
        tell = getattr(self.cache_hook, what, None)
        if tell:
            tell(*arguments)


def _stops(settings: dict[str, Any]) -> list[str]:
    stops = settings.get("until") or []
    return [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text


class StopTexts(StoppingCriteria):
    """Ends each row of a batch where one of the texts has appeared in its answer."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        self.looked_at = max(len(stop.encode()) for stop in stops) + 2
        """Tokens, the last ones: no token of a text is shorter than a byte."""
        self.done: list[bool] = []

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, scores: Any, **kwargs: Any
    ) -> torch.Tensor:
        self.done = self.done or [False] * len(input_ids)
        ends = input_ids[:, self.start :][:, -self.looked_at :].tolist()
        for row, tokens in enumerate(ends):
            if not self.done[row]:
                text = self.tokenizer.decode(tokens)
                self.done[row] = any(stop in text for stop in self.stops)
        return torch.tensor(self.done, device=input_ids.device)


class SeededSampling(LogitsProcessor):
    """Logits whose largest is a sample at the settings' temperature and top-k, drawn with each row's own seed."""

    def __init__(self, settings: Sequence[dict[str, Any]]) -> None:
        self.temperature = float(settings[0]["temperature"])
        self.top_k = int(settings[0].get("top_k", 0))
        self.generators = [torch.Generator().manual_seed(int(row.get("seed", 0))) for row in settings]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        even = torch.stack([torch.rand(scores.shape[-1], generator=generator) for generator in self.generators])
        noise = -torch.log(-torch.log(even.clamp(2**-25, 1 - 2**-24)))
        return scores + noise.to(scores.device)
