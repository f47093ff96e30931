"""Which languages and tasks a part of a policy is about: names, or with `!` before them all but those.

`["if-eval"]` is that one, `["!if-eval", "!mt-bench"]` every other one, and nothing is all. A pattern language was refused: a
policy is read by people who must see at once what it is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

NOT = "!"
"""Before a name: all but this."""


def selects(wanted: Sequence[str], *names: str) -> bool:
    """Whether something called by any of `names` is among what is wanted."""
    refused = {name[1:] for name in wanted if name.startswith(NOT)}
    taken = {name for name in wanted if not name.startswith(NOT)}
    return not refused.intersection(names) and (not taken or bool(taken.intersection(names)))


def named(wanted: Iterable[str]) -> list[str]:
    """The names in a selection, without their marks."""
    return [name.removeprefix(NOT) for name in wanted]


def node_name(metric: str, tasks: Sequence[str] = (), language: str = "", task: str = "", languages: Sequence[str] = ()) -> str:
    """Name of a node: `metric`, `metric/tha`, `metric/tha/qa`; a choice of tasks or languages stands in brackets.

    >>> node_name("points", ["!if-eval"], "tam")
    'points(!if-eval)/tam'
    """
    about = ",".join((*([] if language else languages), *([] if task else tasks)))
    return "/".join(part for part in (f"{metric}({about})" if about else metric, language, task) if part)


def selection_of(node: str, languages: Collection[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The inverse of `node_name`: metric, languages and tasks of a node; `languages` tells the two apart in the brackets.

    >>> selection_of("points(!if-eval)/tam", {"tam"})
    ('points', ('tam',), ('!if-eval',))
    """
    head, _, rest = node.partition(")") if "(" in node else (node.partition("/")[0], "", f"/{node.partition('/')[2]}")
    metric, _, about = head.partition("(")
    language, _, task = rest.removeprefix("/").partition("/")
    chosen = [name for name in about.split(",") if name]
    by_language = tuple(name for name in chosen if name.removeprefix(NOT) in languages)
    by_task = tuple(name for name in chosen if name.removeprefix(NOT) not in languages)
    return metric, (language,) if language else by_language, (task,) if task else by_task
