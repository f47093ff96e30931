"""How many UTF-8 bytes of text each token stands for: what turns nats a token into bits per byte.

Taken from the vocabulary and not by decoding the tokens, since a token may be a part of a character. The bytes of a document's
tokens sum up to the document's exactly, unless the tokenizer changes the text first: a normalizer such as NFC or NFKC, lower
case, a space that is put before a text (Llama 2), or characters that become an unknown token. Gemma's and Llama 3's do none of
this. Shapes: V vocabulary.
"""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..data.encoder import SPACE


def byte_lengths(tokenizer: Tokenizer) -> Tensor:
    """Bytes of each token (V,) int64 of a byte-level tokenizer, or one with ▁ for spaces; special tokens have none.

    Ids without a token have none either; V is the largest id and one.
    """
    content = json.loads(tokenizer.to_str())
    parts = json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    is_byte_level = '"ByteLevel"' in parts
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    length_V = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.int64)
    for text, number in vocabulary.items():
        if number in added and added[number].special:
            continue
        if is_byte_level and number not in added:
            length_V[number] = len(text)  # each character stands for one byte
        elif not is_byte_level and _is_byte(text):
            length_V[number] = 1
        else:
            length_V[number] = len((text if is_byte_level else text.replace(SPACE, " ")).encode())
    return length_V


def _is_byte(text: str) -> bool:
    """Whether it is `<0x0A>`, the token of one byte."""
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
