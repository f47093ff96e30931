"""The endless stream: every token is in its place, across documents, files and epochs."""

import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.training import streams
from sea_lion.training.streams import Read, TokenStream

WRITER: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("token_writer.py"))))
FILES = st.lists(
    st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=9), min_size=1, max_size=6), min_size=1, max_size=4
)  # fmt: skip


def laid_out(files: list[list[list[int]]], count: int) -> tuple[list[int], list[bool]]:
    """The first tokens of the stream and where documents start, the slow way."""
    tokens = [token for file in files for document in file for token in document]
    starts = [i == 0 for file in files for document in file for i in range(len(document))]
    rounds = count // len(tokens) + 1
    return (tokens * rounds)[:count], (starts * rounds)[:count]


def window(stream: TokenStream, number: int, length: int) -> tuple[Any, Any]:
    """The `length + 1` tokens from `number * length` on, and where documents start."""
    tokens, starts = np.empty(length + 1, np.int64), np.zeros(length + 1, np.bool_)
    stream.read(number * length, tokens, starts)
    return tokens, starts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(files=FILES, length=st.integers(1, 12), token_bytes=st.sampled_from([2, 4]))
def test_windows_end_to_end_are_the_documents_end_to_end(
    tmp_path: Path, files: list[list[list[int]]], length: int, token_bytes: int
) -> None:
    stream: TokenStream = WRITER.stream(tmp_path, files, token_bytes)
    windows = 2 * stream.tokens // length + 2
    tokens, starts = laid_out(files, windows * length + 1)
    for j in range(windows):
        found, found_starts = window(stream, j, length)
        assert found.tolist() == tokens[j * length : (j + 1) * length + 1]
        assert found_starts.tolist() == starts[j * length : (j + 1) * length + 1]
    places = np.arange(len(starts))
    assert stream.starts_before(places).tolist() == [sum(starts[:place]) for place in places]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(files=FILES, data=st.data())
def test_the_ledger_adds_up(tmp_path: Path, files: list[list[list[int]]], data: st.DataObject) -> None:
    crawls = [[data.draw(st.sampled_from(["", "a", "b"])) for _ in file] for file in files]
    written = [WRITER.write_file(tmp_path / f"{i}.ds", *each) for i, each in enumerate(zip(files, crawls, strict=True))]
    stream = TokenStream(written, 2)
    end = 3 * stream.tokens
    cuts = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=4))})
    spans = list(pairwise(cuts))
    documents = [
        (crawl, len(d)) for each, names in zip(files, crawls, strict=True) for crawl, d in zip(names, each, strict=True)
    ]
    whole = {
        name: Read(
            3 * sum(crawl == name for crawl, _ in documents),
            3 * sum(size for crawl, size in documents if crawl == name),
            3 * sum((size + 1) // 2 for crawl, size in documents if crawl == name),
        )
        for name, _ in documents
    }
    assert stream.ledger(spans) == stream.ledger([(0, end)]) == whole
    single = [stream.ledger([span]) for span in spans]
    assert {
        name: Read(*(sum(values) for values in zip(*(each[name] for each in single if name in each), strict=True)))
        for name in whole
    } == whole
    for (low, high), found in zip(spans, single, strict=True):
        assert sum(read.tokens for read in found.values()) == high - low
        begun = stream.starts_before(np.array([low, high]))
        assert sum(read.documents for read in found.values()) == begun[1] - begun[0]


@pytest.mark.parametrize("name", ["0.ds", "0.ds.index"])
@pytest.mark.parametrize("harm", ["shorter", "longer", "missing"])
def test_files_of_another_size_are_refused(tmp_path: Path, name: str, harm: str) -> None:
    file = WRITER.write_file(tmp_path / "0.ds", [[1, 2, 3], [4]])
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"shorter": content[:-1], "longer": content + b"\0", "missing": content}[harm])
    if harm == "missing":
        path.unlink()
    with pytest.raises(CorruptInput, match="is missing" if harm == "missing" else "bytes, not") as caught:
        TokenStream([file], 2)
    assert caught.value.source == str(path)
    assert "\n" not in str(caught.value)


def test_an_index_of_other_tokens_is_refused(tmp_path: Path) -> None:
    file = WRITER.write_file(tmp_path / "0.ds", [[1, 2, 3], [4]])
    np.array([3, 5], "<u8").tofile(tmp_path / "0.ds.index")
    with pytest.raises(CorruptInput, match="does not end at the 4 tokens"):
        window(TokenStream([file], 2), 0, 2)


def test_a_list_of_other_documents_is_refused(tmp_path: Path) -> None:
    file = WRITER.write_file(tmp_path / "0.ds", [[1, 2, 3], [4]])
    stream = TokenStream([file], 2)
    WRITER.write_file(tmp_path / "1.ds", [[1]])
    (tmp_path / "1.ds.documents").replace(tmp_path / "0.ds.documents")
    with pytest.raises(CorruptInput, match="lists 1 documents, not 2"):
        stream.ledger([(0, 2)])
    (tmp_path / "0.ds.documents").write_bytes(b"no parquet")
    with pytest.raises(CorruptInput, match="cannot be read as documents"):
        stream.ledger([(0, 2)])


def test_more_files_than_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAPPED", 2)
    stream: TokenStream = WRITER.stream(tmp_path, [[[i, i]] for i in range(6)])
    assert window(stream, 0, 14)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0, 1]
