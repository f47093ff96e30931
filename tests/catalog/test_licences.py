"""Licences as data: the table, expressions over it, what a lineage inherits and what a claim may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from license_expression import get_spdx_licensing

from sea_lion.catalog.inheritance import (
    Inherited,
    LicenceRefused,
    check_claim,
    claim_problems,
    inherited,
    inherited_licence,
    inherited_rows,
    naming_problems,
    own_licences,
)
from sea_lion.catalog.licences import combined_licence, explained, keys, licences, missing_terms, normalised
from sea_lion.catalog.recipes import Recipe, Reference
from sea_lion.catalog.records import Checkpoint, Conversations, Corpus, Ngrams, Synthesis
from sea_lion.catalog.store import Made, Options, Store

LLAMA, GEMMA = "LicenseRef-Llama-3.1-Community", "LicenseRef-Gemma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """Anything that a lineage can be built of."""

    parents: tuple[Reference, ...] = ()
    evaluation_ngrams: Reference = ""
    files: tuple[str, ...] = ()


Put = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def put(store: Store) -> Put:
    """Makes an artifact: name, its own licence, its parents, the licences of its documents."""

    def make(name: str, licence: str = "", *parents: str, brought: tuple[str, ...] = (), **fields: Any) -> str:
        bodies: dict[str, Any] = {
            "checkpoint": Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=1),
            "corpus": Corpus(shards=(), documents_in=0, documents_out=0),
            "conversations": Conversations(form="messages", rows=1, languages={"tha": 1}),
            "synthesis": Synthesis(generator="google/gemma-2-27b-it", attempts=1, languages={"tha": 1}),
            "ngrams": Ngrams(texts=1, too_short=0, ngrams=1),
        }
        body = bodies[name.partition("/")[0]]
        recipe = Thing(kind="thing", name=name, version="1", licence=licence, parents=parents, **fields)
        made = store.make(recipe, Path("/"), lambda job: Made(body=body, licences=brought), Options())
        return str(made.ref)

    return make


def test_the_table_is_sound() -> None:
    spdx = get_spdx_licensing().known_symbols
    for key, licence in licences().items():
        assert key in spdx or key.startswith("LicenseRef-") or key == "NOASSERTION"
        assert all(explained(term) for term in (*licence.terms, *licence.satisfies))
        assert keys(key) == keys(licence.name if licence.name in licence.aliases else key) == [key]
        assert [keys(alias) for alias in licence.aliases] == [[key]] * len(licence.aliases)
        assert licence.url.startswith("https://") or key in ("NOASSERTION", "LicenseRef-Proprietary")


@pytest.mark.parametrize(
    ("claim", "parent", "missing"),
    [
        ("MIT", "MIT", []),
        ("BSD-2-Clause", "MIT", []),
        ("Apache-2.0", "MIT", []),
        ("MIT", "Apache-2.0", ["changes", "patent"]),
        ("CC0-1.0", "MIT", ["notice"]),
        ("MIT", "CC0-1.0", []),
        ("MIT", "public domain", []),
        ("CC-BY-4.0", "ODC-By-1.0", []),
        ("CC-BY-SA-4.0", "CC-BY-SA-3.0", []),
        ("CC-BY-SA-3.0", "CC-BY-SA-4.0", ["share-alike:CC-BY-SA-4.0"]),
        ("CC-BY-4.0", "CC-BY-NC-4.0", ["non-commercial"]),
        ("CC-BY-NC-4.0", "CC-BY-4.0", []),
        ("Apache-2.0 AND CC-BY-4.0", "CC BY-ND 4.0", ["no-derivatives:CC-BY-ND-4.0"]),
        ("MIT OR Apache-2.0", "Apache-2.0", ["changes", "patent"]),
        ("MIT AND Apache-2.0", "Apache-2.0", []),
        ("Apache-2.0", "GPL-3.0-only OR MIT", []),
        ("GPL-3.0-only", "GPL-2.0-or-later", []),
        ("llama3.2", "llama3.1", ["use-policy:Llama 3.1"]),
        ("Llama 3.1 Community License Agreement", "llama3.1", []),
        ("MIT", "with permission of Seithi", ["permission:seithi"]),
        ("MIT AND used with permission of Seithi", "LicenseRef-permission-seithi", []),
        ("MIT", "NOASSERTION", ["unknown:NOASSERTION"]),
        ("MIT", "Our own terms", ["unknown:LicenseRef-Our-own-terms"]),
        ("MIT AND our own terms", "our own terms", []),
        ("", "MIT", ["notice"]),
        ("MIT", "", []),
    ],
)
def test_a_claim_covers_term_by_term(claim: str, parent: str, missing: list[str]) -> None:
    assert missing_terms(claim, parent) == missing


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("apache 2.0", "Apache-2.0"),
        ("gemma", GEMMA),
        ("LLAMA3.1", LLAMA),
        ("zpl-2.1", "ZPL-2.1"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("MIT and (apache-2.0 or gemma)", f"MIT AND (Apache-2.0 OR {GEMMA})"),
        ("", "NOASSERTION"),
    ],
)
def test_names_become_keys(text: str, key: str) -> None:
    assert normalised(text) == key


def test_what_is_no_expression_is_a_name_of_its_own() -> None:
    texts = ["MIT/Apache-2.0", "MIT, Apache-2.0", "(MIT", "MIT)", "MIT AND", "สงวนลิขสิทธิ์", "((" * 9_000]
    found = [normalised(text) for text in texts]
    assert len(set(found)) == len(texts) and all(name.startswith("LicenseRef-") for name in found)
    assert missing_terms("MIT AND Apache-2.0", texts[0]) == [f"unknown:{found[0]}"]


@given(st.text(max_size=80))
def test_any_text_is_a_licence_on_one_plain_line(text: str) -> None:
    found = normalised(text)
    assert found.isascii() and found.isprintable() and "<" not in found and "|" not in found
    assert missing_terms(text, text) == []


@given(st.lists(st.sampled_from(sorted(licences())), min_size=1, max_size=5), st.sampled_from(sorted(licences())))
def test_all_of_them_cover_each_and_more_never_covers_less(given_keys: list[str], more: str) -> None:
    whole = combined_licence("", given_keys)
    assert all(missing_terms(whole, key) == [] for key in given_keys)
    for key in licences():
        assert set(missing_terms(f"{whole} AND {more}", key)) <= set(missing_terms(whole, key))


def test_combining_keeps_alternatives_together() -> None:
    assert combined_licence("", ["Apache-2.0", "CC-BY-4.0 AND Apache-2.0"]) == "Apache-2.0 AND CC-BY-4.0"
    assert combined_licence("MIT OR Apache-2.0", ["GPL-2.0-only"]) == "(MIT OR Apache-2.0) AND GPL-2.0-only"
    assert combined_licence("", []) == "NOASSERTION"
    assert combined_licence("", ["A licence, of sorts"]) == "A licence, of sorts"


def test_a_merge_inherits_from_both_sides_by_the_nearest_way(store: Store, put: Put) -> None:
    corpus = put("corpus/web", "", brought=("CC-BY-4.0", "ODC-By-1.0"))
    llama, gemma = put("checkpoint/llama", "llama3.1"), put("checkpoint/gemma", "Gemma")
    tuned = put("checkpoint/llama-tuned", "", llama, corpus)
    merge = put("checkpoint/llama-gemma", "", tuned, gemma, llama)
    found = {(each.licence, each.given_by): each for each in inherited(store, merge)}
    assert set(found) == {
        (LLAMA, llama), (GEMMA, gemma), ("CC-BY-4.0", f"documents of {corpus}"), ("ODC-By-1.0", f"documents of {corpus}"),
    }  # fmt: skip
    assert (found[LLAMA, llama].path, found[LLAMA, llama].role) == ((llama, merge), "parents.2")
    assert found["CC-BY-4.0", f"documents of {corpus}"].path == (corpus, tuned, merge)
    assert found["CC-BY-4.0", f"documents of {corpus}"].role == "parents.0"
    assert claim_problems(inherited_licence(found.values()), found.values()) == []
    columns, rows = inherited_rows(found.values())
    assert ("ODC-By-1.0", f"documents of {corpus}", "parents.0", "attribution, notice", f"{corpus} > {tuned} > {merge}") in rows
    assert len(columns) == len(rows[0]) and len(rows) == 4
    with pytest.raises(LicenceRefused) as caught:
        check_claim(store, merge, "MIT")
    said = str(caught.value)
    assert f"{llama} is under {LLAMA}" in said and "naming:Llama (a model's name begins with Llama)" in said
    assert f"{gemma} is under {GEMMA}" in said and "use-policy:Gemma" in said and "\n" not in said
    check_claim(store, merge, "llama3.1 AND gemma AND CC-BY-4.0 AND ODC-By-1.0")


def test_what_is_only_looked_up_passes_nothing_on(store: Store, put: Put) -> None:
    suites = put("ngrams/suites", "CC-BY-NC-4.0")
    corpus = put("corpus/web", "MIT", evaluation_ngrams=suites)
    assert [each.licence for each in inherited(store, corpus)] == ["MIT"]


def test_a_generator_gives_its_terms_to_what_is_trained_on_its_outputs(store: Store, put: Put) -> None:
    written = put("synthesis/magpie", "Gemma")
    rows = put("conversations/all", "Apache-2.0", written, brought=("CC-BY-4.0",), files=("a.jsonl",))
    model = put("checkpoint/apache", "", rows)
    found = {(each.licence, each.given_by) for each in inherited(store, model)}
    assert found == {(GEMMA, "google/gemma-2-27b-it"), ("Apache-2.0", rows), ("CC-BY-4.0", f"rows of {rows}")}
    problems = claim_problems("Apache-2.0 AND CC-BY-4.0", inherited(store, model))
    assert len(problems) == 1 and problems[0].startswith(f"google/gemma-2-27b-it ({written}) is under {GEMMA}")
    assert "outputs:Gemma (models trained on its outputs stay under Gemma)" in problems[0]


def test_what_nobody_licensed_stays_unknown(store: Store, put: Put) -> None:
    bare, written = put("corpus/bare"), put("synthesis/own", "MIT")
    mixed = put("conversations/mixed", "", written, files=("a.jsonl",))
    model = put("checkpoint/all", "", bare, mixed)
    unknown = {each.given_by for each in inherited(store, model) if each.licence == "NOASSERTION"}
    assert unknown == {f"documents of {bare}", mixed}
    with pytest.raises(LicenceRefused, match="nobody here knows the terms of NOASSERTION"):
        check_claim(store, model, "MIT")
    check_claim(store, model, "MIT AND NOASSERTION")  # says openly that it is not known
    assert own_licences(store.require(bare)) == [("NOASSERTION", f"documents of {bare}")]
    assert own_licences(store.require(model)) == []


def test_a_llama_is_called_a_llama(store: Store, put: Put) -> None:
    llama = put("checkpoint/llama-base", "llama3.1")
    wrong, right = put("checkpoint/sea", "", llama), put("checkpoint/llama-sea-lion", "", llama)
    with pytest.raises(LicenceRefused, match=r"the name must begin with 'Llama', not 'sea'"):
        check_claim(store, wrong, "llama3.1")
    check_claim(store, right, "llama3.1")
    third = [Inherited(licence="LicenseRef-Llama-3-Community", given_by="x", path=("x",), role="")]
    artifact = store.require(right)
    assert naming_problems(artifact, third, "Llama3-8B") == naming_problems(artifact, third, "Llama 3 sea") == []
    assert naming_problems(artifact, third, "Llama-SEA-LION") != []
