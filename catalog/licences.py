"""What the licences of an artifact's inputs come to.

A derivative cannot claim more than its parents give: the result is the SPDX `AND` of all of them, sorted, each once. A recipe's
own `licence` is added, never put in their place.
"""

from __future__ import annotations


def combined_licence(own: str, inputs: list[str]) -> str:
    """SPDX expression over the recipe's own licence and its inputs' ones.

    >>> combined_licence("", ["Apache-2.0", "CC-BY-4.0 AND Apache-2.0"])
    'Apache-2.0 AND CC-BY-4.0'
    """
    parts = {part.strip() for text in (own, *inputs) for part in text.split(" AND ") if part.strip()}
    return " AND ".join(sorted(parts)) or "NOASSERTION"
