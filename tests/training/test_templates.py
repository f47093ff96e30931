"""Our chat templates: the text of each family to the letter, and the loss on the assistant's tokens and their end alone."""

from importlib.resources import files
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from sea_lion.catalog.errors import RecipeError
from sea_lion.training.rendering import IN_LOSS, TEMPLATES, Renderer, conversations_of, template_text
from sea_lion.training.vocabulary import trained_bpe

TEXT = ["Halo dunia, apa kabar? What is one plus one? It is two. สวัสดีครับ நன்றி\n\n" * 3]
OWN = files("sea_lion.training").joinpath("chat_template.jinja").read_text("utf-8")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


PLAIN = [message("user", "What is 1+1?\n"), message("assistant", " Two. ")]
LONG = [
    message("system", "Be brief."),
    message("user", "สวัสดี"),
    message("assistant", "สวัสดีครับ\n\n  นะ 🙂"),
    message("user", "Apa kabar?"),
    message("assistant", "Baik. ខ្មែរ"),
]
BEGIN, HEAD, HEAD_END, TURN_END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
GOLDEN = {
    ("llama-3.1", "plain"): (
        f"{BEGIN}{HEAD}user{HEAD_END}\n\nWhat is 1+1?{TURN_END}{HEAD}assistant{HEAD_END}\n\n",
        f"Two.{TURN_END}",
    ),
    ("llama-3.1", "long"): (
        f"{BEGIN}{HEAD}system{HEAD_END}\n\nBe brief.{TURN_END}{HEAD}user{HEAD_END}\n\nสวัสดี{TURN_END}"
        f"{HEAD}assistant{HEAD_END}\n\n",
        f"สวัสดีครับ\n\n  นะ 🙂{TURN_END}",
        f"{HEAD}user{HEAD_END}\n\nApa kabar?{TURN_END}{HEAD}assistant{HEAD_END}\n\n",
        f"Baik. ខ្មែរ{TURN_END}",
    ),
    ("gemma-2", "plain"): (
        "<bos><start_of_turn>user\nWhat is 1+1?<end_of_turn>\n<start_of_turn>model\n",
        "Two.<end_of_turn>",
        "\n",
    ),
    ("gemma-2", "long"): (
        "<bos><start_of_turn>user\nBe brief.\n\nสวัสดี<end_of_turn>\n<start_of_turn>model\n",
        "สวัสดีครับ\n\n  นะ 🙂<end_of_turn>",
        "\n<start_of_turn>user\nApa kabar?<end_of_turn>\n<start_of_turn>model\n",
        "Baik. ខ្មែរ<end_of_turn>",
        "\n",
    ),
}
"""Template and conversation to the text, cut where the assistant begins and ends to speak: every second is in the loss."""
CONVERSATIONS = {"plain": PLAIN, "long": LONG}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """One as Llama 3's, of bytes and words; one as Gemma's, whose documents are one word, with single bytes where it must."""
    load: Any = PreTrainedTokenizerFast
    gemma = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    gemma.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    return {
        "llama-3.1": load(
            tokenizer_object=trained_bpe(iter(TEXT), 330), bos_token=BEGIN, eos_token="<|end_of_text|>",
            additional_special_tokens=list(TEMPLATES["llama-3.1"]),
        ),
        "gemma-2": load(
            tokenizer_object=gemma, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
            additional_special_tokens=list(TEMPLATES["gemma-2"]),
        ),
    }  # fmt: skip


@pytest.mark.parametrize(("template", "name"), list(GOLDEN))
def test_text_is_the_familys(template: str, name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[template]
    tokenizer.chat_template = template_text(template, tokenizer)
    assert tokenizer.apply_chat_template(CONVERSATIONS[name], tokenize=False) == "".join(GOLDEN[template, name])


@pytest.mark.parametrize(("template", "name"), list(GOLDEN))
def test_an_answer_begins_where_the_prompt_for_it_ends(template: str, name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[template]
    tokenizer.chat_template = template_text(template, tokenizer)
    prompt = tokenizer.apply_chat_template(CONVERSATIONS[name][:-1], tokenize=False, add_generation_prompt=True)
    pieces = GOLDEN[template, name]
    before = pieces[: len(pieces) - (1 if template == "llama-3.1" else 2)]
    assert prompt == "".join(before)


@pytest.mark.parametrize(("template", "name"), list(GOLDEN))
def test_loss_is_on_the_answers_and_their_ends_alone(template: str, name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, pieces = tokenizers[template], GOLDEN[template, name]
    (rows,) = Renderer(tokenizer, template_text(template, tokenizer), 10_000).rendered([[CONVERSATIONS[name]]])
    assert not isinstance(rows, str)
    marked = rows[0]
    runs: list[list[int]] = [[]]
    for token, is_in_loss in zip((marked & ~IN_LOSS).tolist(), (marked >= IN_LOSS).tolist(), strict=True):
        if is_in_loss != (len(runs) % 2 == 0):
            runs.append([])
        runs[-1].append(token)
    assert tuple(tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs) == pieces
    assert runs[0].count(tokenizer.bos_token_id) == 1 and runs[0][0] == tokenizer.bos_token_id
    assert all(run[-1] == tokenizer.convert_tokens_to_ids(TEMPLATES[template][-1]) for run in runs[1::2])


@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_masks_are_those_of_transformers_for_our_own_template(name: str, tokenizers: dict[str, Any]) -> None:
    for tokenizer in tokenizers.values():
        tokenizer.chat_template = OWN
        expected = tokenizer.apply_chat_template(CONVERSATIONS[name], return_dict=True, return_assistant_tokens_mask=True)
        (rows,) = Renderer(tokenizer, template_text("", tokenizer), 10_000).rendered([[CONVERSATIONS[name]]])
        assert not isinstance(rows, str)
        assert (rows[0] & ~IN_LOSS).tolist() == expected["input_ids"]
        assert (rows[0] >= IN_LOSS).astype(int).tolist() == expected["assistant_masks"]


def test_missing_special_tokens_are_named(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"gemma-2 needs special tokens .* <start_of_turn>, <end_of_turn>$"):
        template_text("gemma-2", tokenizers["llama-3.1"])
    with pytest.raises(RecipeError, match=r"<\|start_header_id\|>, <\|end_header_id\|>, <\|eot_id\|>$"):
        template_text("llama-3.1", tokenizers["gemma-2"])


@pytest.mark.parametrize("own", [None, "{{ messages }}{% if add_generation_prompt %}>{% endif %}"])
def test_a_model_whose_template_marks_nothing_is_refused(own: str | None, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["llama-3.1"]
    tokenizer.chat_template = own
    with pytest.raises(RecipeError, match=r"name one of llama-3.1, gemma-2"):
        template_text("", tokenizer)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        ([message("user", "a"), message("assistant", " \n")], "empty"),
        ([message("user", "a")], "no_assistant_turn"),
        ([message("user", "a <end_of_turn>"), message("assistant", "b")], "special_token_in_text"),
        ([message("user", "a"), message("assistant", "b<eos>")], "special_token_in_text"),
        ([message("tool", "a"), message("assistant", "b")], "refused_by_template"),
        ([message("system", "a"), message("assistant", "b")], "refused_by_template"),
        ([message("user", "a"), message("assistant", "b" * 60)], "too_long"),
    ],
)
def test_what_cannot_be_trained_on_has_a_reason(messages: Any, reason: str, tokenizers: dict[str, Any]) -> None:
    renderer = Renderer(tokenizers["gemma-2"], template_text("gemma-2", tokenizers["gemma-2"]), 40)
    pair = [[message("user", "a"), message("assistant", "b")], messages]
    assert renderer.rendered([[messages], pair]) == [reason, reason]


def test_a_template_that_gives_the_assistant_nothing_leaves_no_token(tokenizers: dict[str, Any]) -> None:
    silent = "{% for message in messages %}{{ message.content }}{% generation %}{% endgeneration %}{% endfor %}"
    assert Renderer(tokenizers["gemma-2"], silent, 40).rendered([[PLAIN]]) == ["no_assistant_token"]


def test_dropout_is_off(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["llama-3.1"]
    tokenizer.backend_tokenizer.model.dropout = 0.9
    renderer = Renderer(tokenizer, OWN, 10_000)
    first, *others = [renderer.rendered([[LONG]])[0][0].tolist() for _ in range(4)]  # type: ignore[union-attr]
    assert all(other == first for other in others)


def test_prompts_and_answers_are_texts_or_lists_of_messages() -> None:
    prompt = '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]'
    record = {"prompt": prompt, "chosen": "c", "rejected": '[{"role" is no list'}
    before = [message("system", "s"), message("user", "u")]
    assert conversations_of(record, "preference") == [
        [*before, message("assistant", "c")],
        [*before, message("assistant", '[{"role" is no list')],
    ]


def test_a_system_message_that_is_not_the_first_is_refused_by_gemma() -> None:
    from jinja2 import TemplateError

    template = files("sea_lion.training").joinpath("templates/gemma-2.jinja").read_text("utf-8")
    with pytest.raises(TemplateError, match="must be the first"):
        render_jinja_template([[*PLAIN, message("system", "s")]], chat_template=template, bos_token="<bos>")
