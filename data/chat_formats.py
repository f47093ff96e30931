"""The common formats of chat and preference data, each read into one of two rows: messages, or prompt, chosen, rejected.

| format | a row |
|---|---|
| `exact` | `{"messages": [{"role", "content"}]}` or `{"prompt", "chosen", "rejected"}`, these keys and no others |
| `messages` | OpenAI's: `messages` of `role` and `content`, a text or a list of text parts |
| `sharegpt` | `conversations` of `from` and `value`, a `system` beside them or within |
| `alpaca` | `instruction`, `output`, optionally `input`, `system` and `history`, a list of pairs |
| `pairs` | `prompt`, `chosen`, `rejected`: texts or messages; without `prompt`, what the two answers have in common |
| `ultrafeedback` | `instruction` and scored `completions`: the best against the worst |
| `auto` | whichever of them the row's keys say |

Nothing is repaired but what means the same: a conversation that does not alternate, calls tools or ends with the user is a bad
row. The refused alternative, cutting such rows down to what alternates, trains answers to questions that nobody asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

Form = Literal["messages", "preference"]
Messages = list[dict[str, str]]

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "bing": "assistant",
    "bard": "assistant",
}  # fmt: skip
"""What the formats call the speakers."""


class BadRow(ValueError):
    """A row that is not what its format says."""

    def __init__(self, reason: str, problem: str) -> None:
        self.reason = reason
        """A key of the ledger."""
        super().__init__(problem)


def canonical(row: Any, form: Form, layout: str) -> dict[str, Any]:
    """`{"messages"}` or `{"prompt", "chosen", "rejected"}` of a row in one of `LAYOUTS`; raises BadRow.

    A prompt or an answer that is more than one message is a JSON text, as the trainer reads it.
    """
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"a row must be an object, not {type(row).__name__}")
    name = _layout_of(row, form) if layout == "auto" else layout
    try:
        read = LAYOUTS[form][name]
    except KeyError:
        raise BadRow("unknown_format", f"format {name!r} holds no {form}") from None
    return read(row)


def turns(row: dict[str, Any]) -> Messages:
    """All the messages of a canonical row in order; of a pair the prompt's, then the chosen and the rejected answer."""
    if "messages" in row:
        return list(row["messages"])
    return [
        *_prompt_messages(row["prompt"]), {"role": "assistant", "content": row["chosen"]},
        {"role": "assistant", "content": row["rejected"]},
    ]  # fmt: skip


def _layout_of(row: dict[str, Any], form: Form) -> str:
    if form == "preference":
        return "pairs" if "chosen" in row else "ultrafeedback" if "completions" in row else _unknown(row)
    if "messages" in row:
        return "messages"
    if "conversations" in row or "conversation" in row:
        return "sharegpt"
    return "alpaca" if "instruction" in row else _unknown(row)


def _unknown(row: dict[str, Any]) -> str:
    raise BadRow("unknown_format", f"the keys {', '.join(map(str, row)) or 'none'} are those of no format")


# -- conversations -------------------------------------------------------------------------------------------------------------


def _exact_messages(row: dict[str, Any]) -> dict[str, Any]:
    _require_keys(row, ("messages",), "a row")
    if not isinstance(row["messages"], list):
        raise BadRow("not_a_list", f"messages must be a list, not {type(row['messages']).__name__}")
    for message in row["messages"]:
        _require_keys(message, ("role", "content"), "a message")
        _require_text(message["content"], "content")
    return {"messages": _alternating(row["messages"])}


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": _alternating(_message_list(row.get("messages"), "role", "content"))}


def _sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    said = row.get("conversations", row.get("conversation"))
    uses_roles = isinstance(said, list) and any(isinstance(turn, dict) and "role" in turn for turn in said)
    messages = _message_list(said, *(("role", "content") if uses_roles else ("from", "value")))
    system = row.get("system", row.get("system_prompt"))
    if system and messages[:1] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _require_text(system, "system")})
    return {"messages": _alternating(messages)}


def _alpaca(row: dict[str, Any]) -> dict[str, Any]:
    messages = []
    if row.get("system"):
        messages.append({"role": "system", "content": _require_text(row["system"], "system")})
    for turn in row.get("history") or ():
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise BadRow("bad_roles", f"history must be pairs of a question and an answer, not {turn!r}")
        messages += _exchange(*turn)
    question = _require_text(row.get("instruction"), "instruction")
    if row.get("input"):
        question += "\n\n" + _require_text(row["input"], "input")
    return {"messages": [*messages, *_exchange(question, row.get("output", row.get("response")))]}


def _exchange(question: Any, answer: Any) -> Messages:
    return [
        {"role": "user", "content": _require_text(question, "instruction")},
        {"role": "assistant", "content": _require_text(answer, "output")},
    ]


def _message_list(value: Any, role_key: str, text_key: str) -> Messages:
    """Messages with our names of the speakers."""
    if not isinstance(value, list):
        raise BadRow("not_a_list", f"messages must be a list, not {type(value).__name__}")
    messages = []
    for message in value:
        if not isinstance(message, dict) or role_key not in message:
            raise BadRow("wrong_keys", f"a message must be an object with {role_key} and {text_key}, not {message!r:.80}")
        role = ROLES.get(str(message[role_key]).lower())
        if role is None or message.get("tool_calls") or message.get("function_call"):
            raise BadRow(
                "bad_roles", f"speaks as {message[role_key]!r} or calls tools; only system, user and assistant are known"
            )
        messages.append({"role": role, "content": _require_text(_text_of(message.get(text_key)), text_key)})
    return messages


def _text_of(content: Any) -> Any:
    """The text of a list of parts; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
        raise BadRow("not_text", "content has parts that are no text")
    return "".join(part["text"] for part in content)


def _alternating(messages: Messages) -> Messages:
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BadRow(
            "bad_roles", f"roles must alternate user, assistant after an optional system and end with assistant, not {roles}"
        )
    return list(messages)


# -- preference pairs ----------------------------------------------------------------------------------------------------------


def _exact_pair(row: dict[str, Any]) -> dict[str, Any]:
    _require_keys(row, ("prompt", "chosen", "rejected"), "a row")
    return _pair([_require_text(row[key], key) for key in ("prompt", "chosen", "rejected")])


def _pairs(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row.get("prompt", row.get("question", row.get("instruction")))
    if prompt is None:
        before: Messages = []
    elif isinstance(prompt, list):
        before = _message_list(prompt, "role", "content")
    else:
        before = [{"role": "user", "content": _require_text(prompt, "prompt")}]
    chosen, rejected = (_whole(before, row.get(key), key) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("different_prompts", "chosen and rejected must answer the same prompt with one message")
    return _pair([_prompt_text(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"]])


def _whole(before: Messages, answer: Any, key: str) -> Messages:
    """The conversation that ends with an answer: a text, its message, or the conversation itself."""
    if isinstance(answer, list):
        side = _message_list(answer, "role", "content")
    else:
        side = [{"role": "assistant", "content": _require_text(answer, key)}]
    return _alternating(side if len(side) > 1 else [*before, *side])


def _ultrafeedback(row: dict[str, Any]) -> dict[str, Any]:
    scored = []
    completions = row.get("completions")
    for completion in completions if isinstance(completions, list) else ():
        score = completion.get("overall_score", completion.get("score")) if isinstance(completion, dict) else None
        if isinstance(score, bool) or not isinstance(score, (int, float)) or score != score:
            raise BadRow("no_preference", f"a completion must have an overall_score, not {score!r}")
        scored.append((score, _require_text(completion.get("response"), "response")))
    if len({score for score, _ in scored}) < 2:
        raise BadRow("no_preference", "completions must have at least two different scores")
    best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
    return _pair([_require_text(row.get("instruction", row.get("prompt")), "instruction"), best[1], worst[1]])


def _pair(texts: list[str]) -> dict[str, Any]:
    prompt, chosen, rejected = texts
    if chosen == rejected:
        raise BadRow("same_answers", "chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _prompt_text(said: Messages) -> str:
    """One user message as its text, more as JSON; a text that looks like such JSON is made into it."""
    if len(said) == 1 and said[0]["role"] == "user" and not said[0]["content"].lstrip().startswith('[{"'):
        return said[0]["content"]
    return json.dumps(said, ensure_ascii=False)


def _prompt_messages(prompt: str) -> Messages:
    if prompt.startswith('[{"role"'):
        try:
            return [{"role": str(message["role"]), "content": str(message["content"])} for message in json.loads(prompt)]
        except (ValueError, TypeError, KeyError):
            pass
    return [{"role": "user", "content": prompt}]


# -- what all need -------------------------------------------------------------------------------------------------------------


def _require_keys(value: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise BadRow("not_an_object", f"{what} must be an object, not {type(value).__name__}")
    if set(value) != set(keys):
        raise BadRow("wrong_keys", f"{what} must have exactly the keys {', '.join(keys)}, not {', '.join(value) or 'none'}")


def _require_text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow("empty_text", f"{key} must be text that is not empty, not {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow("half_surrogate", f"{key} holds half a surrogate pair at character {error.start + 1}") from error
    return value


LAYOUTS: dict[str, dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "messages": {"exact": _exact_messages, "messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca},
    "preference": {"exact": _exact_pair, "pairs": _pairs, "ultrafeedback": _ultrafeedback},
}
"""Form to the formats that hold it, and what reads a row of each."""
