"""Encoding with seeded BPE-dropout, for tokenizers built like Llama 3's and like Gemma's, on the sample articles."""

import json
import random
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.encoder import WHOLE, Encoder, Ends, document_ends, gaps

LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ODD = [
    "",
    " ",
    "\n",
    "  \n\t x   y\r\n\n\n",
    "🦭 123456 don't",
    "ที่นี่",
    "a<|end_of_text|>b<eos>c<0x41>▁▁d",
    "\u3000全角\u00a0\u2028é\x00",
]


@dataclass
class Family:
    """A tokenizer's file, and the library's own encoding of it."""

    path: Path
    encoder: Encoder
    fast: Tokenizer

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens."""
        text: str = self.fast.decode(tokens, skip_special_tokens=False)
        return text


def articles() -> dict[str, list[str]]:
    """The sample articles by language."""
    folder = files("sea_lion").joinpath("data/sample/articles")
    read = {language: folder.joinpath(f"{language}.jsonl").read_text("utf-8").splitlines() for language in LANGUAGES}
    return {language: ["\n".join(json.loads(line)["paragraphs"]) for line in lines] for language, lines in read.items()}


def llama_like(texts: list[str], size: int = 3000) -> dict[str, Any]:
    """Byte-level, words by a pattern, whole words of the vocabulary taken as they are."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    content["model"]["vocab"]["Ġunreachable"] = len(content["model"]["vocab"])  # by no merge: only as a whole word
    return content


def gemma_like(texts: list[str], size: int = 4000) -> dict[str, Any]:
    """A sign for the space, bytes for unknown characters, no words, runs of line ends as added tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁*[^▁\s]+|▁+|\s+"), "isolated")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, limit_alphabet=1500, show_progress=False,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
    )  # fmt: skip
    tokenizer.train_from_iterator([text.replace("\n", "\n\n") for text in texts], trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    vocab = content["model"]["vocab"]
    for run in ("\n\n\n", "\n\n"):
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        content["added_tokens"].append({"id": vocab.setdefault(run, len(vocab)), "content": run, **plain})
    content["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    content["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return content


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return articles()


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[str]]) -> dict[str, Family]:
    together = [text for some in texts.values() for text in some]
    made = {}
    for name, content in (("llama", llama_like(together)), ("gemma", gemma_like(together))):
        path = tmp_path_factory.mktemp(name) / "tokenizer.json"
        path.write_text(json.dumps(content), "utf-8")
        fast = Tokenizer.from_file(str(path))
        fast.encode_special_tokens = True
        made[name] = Family(path, Encoder(path), fast)
    return made


@pytest.fixture(scope="module", params=["llama", "gemma"])
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


def documents(texts: dict[str, list[str]]) -> list[str]:
    """More than 500 documents of several paragraphs, and what text can be at its worst."""
    draw = random.Random(5)
    paragraphs = {language: "\n".join(some).split("\n") for language, some in texts.items()}
    ends = ("\n", "\n\n", "  ", "\n\n\n\n")
    made = [draw.choice(ends).join(draw.choices(some, k=4)) for some in paragraphs.values() for _ in range(46)]
    return [*made, *ODD, " unreachable words"]


def test_without_dropout_it_equals_the_fast_tokenizer(family: Family, texts: dict[str, list[str]]) -> None:
    found = documents(texts)
    assert len(found) > 500
    expected = [encoding.ids for encoding in family.fast.encode_batch(found, add_special_tokens=False)]
    assert family.encoder.plain(found) == expected
    assert [family.encoder.encode(text) for text in found] == expected


def test_words_and_merges_are_the_tokenizers_own(family: Family, texts: dict[str, list[str]]) -> None:
    """At a rate at which nothing is skipped the merges made here give what the library's give."""
    for i, text in enumerate(documents(texts)):
        if "unreachable" not in text:
            assert family.encoder.encode(text, 1e-16, (i,)) == family.fast.encode(text, add_special_tokens=False).ids


def test_dropout_uses_merges_where_a_whole_word_is_in_the_vocabulary(families: dict[str, Family]) -> None:
    encoder = families["llama"].encoder
    assert len(encoder.encode(" unreachable")) == 1
    assert len(encoder.encode(" unreachable", 1e-16)) > 1


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_fertility_rises_in_every_language(family: Family, texts: dict[str, list[str]], language: str) -> None:
    plain = sum(map(len, family.encoder.plain(texts[language])))
    dropped = sum(len(family.encoder.encode(text, 0.1, (3, i, 0))) for i, text in enumerate(texts[language]))
    few_merges = language == "cmn" and family.path.parent.name.startswith("gemma")  # a token is a character or two
    assert (1.01 if few_merges else 1.1) < dropped / plain < 1.6


@given(text=st.text(max_size=60), dropout=st.sampled_from([0.0, 0.1, 0.5, 0.95]))
def test_any_text_comes_back(families: dict[str, Family], text: str, dropout: float) -> None:
    llama, gemma = families["llama"], families["gemma"]
    assert llama.decode(llama.encoder.encode(text, dropout, (1, text))) == text
    assert gemma.decode(gemma.encoder.encode(text, dropout, (1, text))) == text.replace("▁", " ")


def test_dropout_depends_on_its_key_only(family: Family, texts: dict[str, list[str]]) -> None:
    first, second = Encoder(family.path), Encoder(family.path)
    inputs = [(i, some[0]) for i, some in enumerate(texts.values())]
    there = {i: first.encode(text, 0.1, (7, i, 0)) for i, text in inputs}
    assert there == {i: second.encode(text, 0.1, (7, i, 0)) for i, text in reversed(inputs)}
    assert all(there[i] != first.encode(text, 0.1, (7, i, 1)) for i, text in inputs)


def test_text_that_spells_a_special_token_stays_text(family: Family) -> None:
    special = {family.fast.token_to_id(token) for token in ("<|end_of_text|>", "<eos>", "<0x41>")} - {None}
    for dropout in (0.0, 0.3):
        assert special.isdisjoint(family.encoder.encode("a<|end_of_text|><eos><0x41>b", dropout, (1,)))


def papers_rule(symbols: list[str], ranks: dict[tuple[str, str], int], dropout: float, draw: random.Random) -> list[str]:
    """Algorithm 1 of Provilkov et al., word for word."""
    while True:
        pairs = [(ranks.get(pair), i) for i, pair in enumerate(pairwise(symbols))]
        kept = [(rank, i) for rank, i in pairs if rank is not None and draw.random() >= dropout]
        if not kept:
            return symbols
        _, i = min(kept)
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_follows_the_papers_rule(families: dict[str, Family], texts: dict[str, list[str]], dropout: float) -> None:
    """The same distribution of segmentations of a word of two tokens, by total variation over many draws."""
    llama = families["llama"]
    content = json.loads(llama.path.read_text("utf-8"))["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(content["merges"])}
    names = {number: token for token, number in content["vocab"].items()}
    words = {word for text in texts["eng"] for word in text.split() if word.isalpha() and word.isascii()}
    word = max((word for word in words if len(llama.encoder.encode(word)) == WHOLE), key=lambda word: (len(word), word))
    draws, ours, theirs = 4000, dict[str, int](), dict[str, int]()
    for i in range(draws):
        mine = " ".join(names[number] for number in llama.encoder.encode(word, dropout, (i,)))
        other = " ".join(papers_rule(list(word), ranks, dropout, random.Random(i)))
        ours[mine], theirs[other] = ours.get(mine, 0) + 1, theirs.get(other, 0) + 1
    assert len(theirs) > 2
    distance = sum(abs(ours.get(key, 0) - theirs.get(key, 0)) for key in ours | theirs) / 2 / draws
    assert distance < 0.06


def test_a_long_word_is_not_spared(family: Family, texts: dict[str, list[str]]) -> None:
    """Text glued to one word still has its merges skipped: the rule does not fade with the length."""
    for language, least in (("tha", 1.1), ("eng", 1.05)):
        text = texts[language][0].replace(" ", "")
        dropped = sum(len(family.encoder.encode(text, 0.1, (i,))) for i in range(9)) / 9
        assert dropped / len(family.encoder.encode(text)) > least


def test_gaps_are_geometric() -> None:
    draw = gaps(0.25, ("a",))
    found = [draw() for _ in range(20000)]
    assert sum(found) / len(found) == pytest.approx(3.0, rel=0.05)
    assert found.count(0) / len(found) == pytest.approx(0.25, abs=0.02)
    with pytest.raises(ValueError, match="below 1"):
        gaps(1.0, ())


def test_a_rate_in_the_file_is_off(family: Family, tmp_path: Path, texts: dict[str, list[str]]) -> None:
    content = json.loads(family.path.read_text("utf-8"))
    content["model"]["dropout"] = 0.5
    (tmp_path / "t.json").write_text(json.dumps(content), "utf-8")
    assert Encoder(tmp_path / "t.json").plain(texts["eng"]) == family.encoder.plain(texts["eng"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.Unigram([("a", -1.0)]), "model: is Unigram: only BPE"),
        (models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), "model: is WordPiece: only BPE"),
        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "only BPE without marks"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(tmp_path: Path, model: Any, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(model).save(str(path))
    with pytest.raises(CorruptInput, match=message):
        Encoder(path)


def test_an_added_token_that_takes_more_than_its_text_is_refused(families: dict[str, Family], tmp_path: Path) -> None:
    content = json.loads(families["gemma"].path.read_text("utf-8"))
    content["added_tokens"][-1]["lstrip"] = True
    (tmp_path / "t.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CorruptInput, match=r"added_tokens: '\\n\\n' is matched by more than its text"):
        Encoder(tmp_path / "t.json")


def test_the_ends_of_a_document(families: dict[str, Family], tmp_path: Path) -> None:
    llama, gemma = families["llama"].path, families["gemma"].path
    assert document_ends(llama) == Ends(begin=0, end=1)
    assert document_ends(gemma) == Ends(begin=2, end=1)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": None, "eos_token": {"content": "<|begin_of_text|>"}}))
    assert document_ends(llama, tmp_path) == Ends(begin=None, end=0)
    config.write_text(json.dumps({"eos_token": "<none>"}))
    with pytest.raises(CorruptInput, match="has no token <none>"):
        document_ends(llama, tmp_path)
    config.write_text(json.dumps({"model_max_length": 1}))
    with pytest.raises(CorruptInput, match="does not say which token ends a document"):
        document_ends(llama, tmp_path)
