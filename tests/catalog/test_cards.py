"""Cards from the catalog: what they say is what the queries answer, and one edited number is found."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard

from sea_lion.catalog.card_check import check_card
from sea_lion.catalog.card_tables import Table, prose, sums, tables
from sea_lion.catalog.cards import card
from sea_lion.catalog.errors import CorruptInput, MissingArtifact, SeaLionError
from sea_lion.catalog.inheritance import LicenceRefused, inherited
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Checkpoint, Corpus, Promotion, Shard, TokenizerBody
from sea_lion.catalog.store import Store
from sea_lion.data.recipe import CorpusRecipe
from sea_lion.eval.recipe import PromotionRecipe
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe

FINAL = "checkpoint/tiny-llama-it@1"
HOSTILE = "a|b\n`x` <script>alert(1)</script> \x1b[31m \u202e [y](http://z) \\| ```sql"


@pytest.fixture(scope="module")
def model_card(filled: Store) -> str:
    return card(filled, FINAL, "Apache-2.0 AND NOASSERTION")


def section(text: str, heading: str) -> Table:
    return next(table for table in tables(text) if table.heading == heading)


def edited(text: str, heading: str, old: str, new: str) -> str:
    """The card with one text changed in one table."""
    before, after = text.split(f"## {heading}\n", 1)
    assert old in after.partition("```")[0]
    return f"{before}## {heading}\n{after.replace(old, new, 1)}"


def test_a_model_card_answers_where_it_comes_from(model_card: str) -> None:
    stages = section(model_card, "Stages")
    assert {FINAL, "checkpoint/tiny-llama-init@1"} < {row[0] for row in stages.rows} and len(stages.rows) == 11
    merges = section(model_card, "Merges")
    assert {row[1] for row in merges.rows} == {"dare_ties", "consensus_ta", "della_linear"}
    assert ("parents.0.model", "1") in {(row[2], row[5]) for row in merges.rows}
    planned = section(model_card, "Training tokens by run")
    assert [row[0] for row in planned.rows][-1] == "total" and len(planned.rows) == 3
    decided = section(model_card, "Gate decisions")
    waived = [row for row in decided.rows if row[6]]
    assert [(row[3], row[6]) for row in waived] == [("fail", "A. Tan")] and "repaid by the final merge" in waived[0][8]
    assert {row[1] for row in section(model_card, "Scores").rows} == set(LANGUAGES)
    completeness = section(model_card, "Completeness")
    assert all(row[2] == row[3] and row[4] == "0" for row in completeness.rows) and len(completeness.rows) > 10


def test_every_table_is_the_answer_to_its_query(filled: Store, model_card: str) -> None:
    found = tables(model_card)
    assert len(found) >= 10 and all(table.sql for table in found)
    for ref in ("corpus/tiny@1", "mixture/tiny@1"):
        assert check_card(filled, card(filled, ref), ref) == []
    assert check_card(filled, model_card, FINAL) == []
    for table in found:
        assert sums(table) == []


def test_the_table_of_licences_is_what_the_records_give(filled: Store, model_card: str) -> None:
    rows = section(model_card, "Licences of what it was made from").rows
    given = {(each.licence, each.given_by) for each in inherited(filled, FINAL)}
    assert {(row[0], row[1]) for row in rows} == given and len(given) == 4


def test_the_hub_reads_the_headers(filled: Store, model_card: str) -> None:
    data: Any = ModelCard(model_card).data
    assert data.base_model == ["tiny-llama-base", "tiny-llama-merge-2", "tiny-llama-align"]
    assert (data.license, data.get("license_name"), data.get("base_model_relation")) == (
        "other", "Apache-2.0 AND NOASSERTION", "merge",
    )  # fmt: skip
    assert data.eval_results is not None and len(data.eval_results) == 2 * len(LANGUAGES)
    assert data.eval_results[0].metric_args == {"stderr": 0.02, "items": 40} and "th" in (data.language or [])
    corpus: Any = DatasetCard(card(filled, "corpus/tiny@1")).data
    assert corpus.license == "apache-2.0" and corpus.size_categories == ["n<1K"]


@pytest.mark.parametrize(
    ("heading", "column"), [("Training tokens by language", 1), ("Scores", 4), ("Gate decisions", 3), ("Completeness", 3)]
)
def test_one_edited_cell_is_found_and_named(filled: Store, model_card: str, heading: str, column: int) -> None:
    table = section(model_card, heading)
    row = table.rows[1]
    changed = "4,321" if row[column] != "4,321" else "1"
    line = f"| {' | '.join(row)} |"
    other = f"| {' | '.join([*row[:column], changed, *row[column + 1 :]])} |"
    problems = check_card(filled, edited(model_card, heading, line, other))
    said = (
        f"table {heading!r}, row 2 ({row[0]}), column {table.columns[column]!r}: says {changed}, the catalog says {row[column]}"
    )
    assert said in problems


def test_what_else_can_be_edited_is_found(filled: Store, model_card: str) -> None:
    row = next(line for line in model_card.splitlines() if line.startswith("| smoke | tha "))
    text = model_card
    for old, new in (
        ("value: 0.", "value: 1."),
        ("license_name: Apache-2.0 AND NOASSERTION", "license_name: Apache-2.0"),
        (f"AS BIGINT) AS parameters, bytes FROM artifacts WHERE ref = '{FINAL}'", "AS BIGINT) AS parameters, 1 AS bytes"),
        (f"{row}\n", ""),
        ("| checkpoint | method |", "| model | method |"),
        ("\n## Recipe", "\n## Mine\n\n| n |\n| --- |\n| 1 |\n\n## Recipe"),
        ("\n## Recipe", "\n<table><tr><td>9</td></tr></table>\n\n## Recipe"),
        ("## Licence\n\nApache-2.0 AND NOASSERTION\n", "## Licence\n\nMIT\n"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    problems = "\n".join(check_card(filled, text))
    assert "header model-index.0.results.0.metrics.0.value: says 1." in problems
    assert "header license: 'Apache-2.0'" in problems and "is under NOASSERTION" in problems
    assert "table 'What it is': is not in the card, or with another query than the catalog's" in problems
    assert "table 'What it is': its query has no answer" in problems
    number = 2 * len(LANGUAGES)
    assert f"table 'Scores': has {number - 1} rows, the catalog has {number}; row " in problems
    assert "table 'Merges': has the columns model, method" in problems
    assert "section Licence: says MIT" in problems
    assert "table 'Mine': no query stands below it" in problems and "a table in HTML" in problems


def test_a_foreign_query_is_answered_where_it_can_do_no_harm(filled: Store, model_card: str) -> None:
    def added(heading: str, value: str, sql: str) -> str:
        return f"\n## {heading}\n\n| n |\n| --- |\n| {value} |\n\n```sql\n{sql}\n```\n"

    sound = added("Right", "10", "SELECT 10 AS n")
    problems = check_card(
        filled,
        model_card + sound + added("Wrong", "11", "SELECT 10 AS n") + added("Evil", "1", "FROM read_csv('/etc/passwd')"),
    )
    assert problems[0] == "table 'Wrong', row 1 (10), column 'n': says 11, the catalog says 10" and len(problems) == 2
    assert problems[1].startswith("table 'Evil': its query has no answer") and "root:" not in problems[1]


def test_a_card_of_something_else_is_refused(filled: Store, model_card: str) -> None:
    assert check_card(filled, model_card, "checkpoint/tiny-llama-cpt@1") == [
        f"header catalog_ref: the card is of {FINAL}, not of checkpoint/tiny-llama-cpt@1"
    ]
    for text, problem in (
        ("# A title", "no YAML header"), ("---\n[\n---\n", "is not YAML"), ("---\na: 1\n---\n", "no catalog_ref"),
        ("---\na: &x [1]\nb: *x\n---\n", "aliases"),
    ):  # fmt: skip
        with pytest.raises(CorruptInput, match=problem):
            check_card(filled, text)
    with pytest.raises(MissingArtifact):
        check_card(filled, model_card.replace(f"catalog_ref: {FINAL}", "catalog_ref: checkpoint/gone@1"))
    with pytest.raises(SeaLionError, match="there are cards of a corpus"):
        card(filled, "tokenizer/tiny@1")


def test_sums_look_at_whole_numbers_and_percentages() -> None:
    table = Table(
        heading="T", columns=("language", "n", "share_percent", "ratio"), sql="",
        rows=(("tha", "1,200", "66.67", "0.5"), ("khm", "600", "33.33", "0.1"), ("total", "1,800", "100", "0.3")),
    )  # fmt: skip
    assert sums(table) == []
    wrong = replace(table, rows=(("tha", "1,201", "66.67", "0.5"), *table.rows[1:]))
    assert sums(wrong) == ["table 'T', column 'n': the rows add up to 1,801, not 1,800"]
    shares = replace(table, rows=(("tha", "1,200", "60", "0.5"), *table.rows[1:]))
    assert sums(shares) == ["table 'T', column 'share_percent': the rows make 93.33 percent, not 100"]
    assert sums(replace(table, rows=table.rows[:2])) == []


def test_hostile_names_stay_in_their_cells(filler: Any) -> None:
    shards = tuple(
        Shard(
            path=f"{i}.parquet", language="tha", source=source, split="train", documents=i + 1, characters=1, bytes=1,
            sha256="0" * 64,
        )
        for i, source in enumerate((HOSTILE, "total", "| 9 |", ""))
    )  # fmt: skip
    fields: dict[str, Any] = {"kind": "corpus", "name": "corpus/evil", "languages": ["tha", "khm"], "licence": "MIT"}
    fields["description"] = HOSTILE
    fields |= {"source": [{"name": "web", "form": "warc", "files": [filler.file("a.warc.gz")]}]}
    fields["thresholds"] = [filler.file("web.toml")]
    ref = filler.put(CorpusRecipe, fields, Corpus(shards=shards, documents_in=10, documents_out=10))
    text = card(filler.store, ref)
    assert check_card(filler.store, text) == []
    assert not re.search(r"(?<!\\)<script", text.partition("## Recipe")[0]) and "\x1b" not in text and "\u202e" not in text
    rows = section(text, "Documents by language").rows
    assert len(rows) == 5 and rows[-1][3] == "10"
    assert "Wanted, and nothing was kept: khm." in text


def put_model(filler: Any, name: str, licence: str) -> str:
    tokenizer = filler.put(
        TokenizerRecipe, {"kind": "tokenizer", "name": f"tokenizer/{name}", "corpora": [], "vocabulary": 300},
        TokenizerBody(algorithm="byte-level-bpe", vocabulary=300),
    )  # fmt: skip
    sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
    fields = {"kind": "init", "name": f"checkpoint/{name}", "tokenizer": tokenizer, "architecture": "llama", "licence": licence}
    body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
    made: str = filler.put(InitRecipe, fields | dict.fromkeys(sizes, 8), body)
    return made


def merged(filler: Any, name: str, *parents: str) -> str:
    fields = {"kind": "merge", "name": f"checkpoint/{name}", "method": "linear", "base": parents[0], "normalize": True}
    body = Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=1, parents=tuple(parents), method="linear")
    made: str = filler.put(MergeRecipe, fields | {"parents": [{"model": parent} for parent in parents]}, body)
    return made


def test_a_card_that_claims_more_than_the_parents_give_is_refused(filler: Any) -> None:
    llama, gemma = put_model(filler, "llama-base", "llama3.1"), put_model(filler, "gemma-base", "gemma")
    merge = merged(filler, "llama-gemma", llama, gemma)
    with pytest.raises(LicenceRefused, match=rf"{llama} is under .*use-policy:Llama 3.1.*{gemma} is under .*outputs:Gemma"):
        card(filler.store, merge, "MIT")
    text = card(filler.store, merge, "gemma AND llama3.1")
    assert "**Built with Llama**" in text and "license: other" in text
    assert check_card(filler.store, text) == []
    assert "the notice 'Built with Llama' is missing" in check_card(filler.store, text.replace("**Built with Llama**", ""))
    renamed = check_card(filler.store, text.replace("# llama-gemma 1", "# sea-gemma 1"))
    assert len(renamed) == 1 and "must begin with 'Llama', not 'sea-gemma'" in renamed[0]
    as_mit = text.replace("license: other", "license: mit")
    assert any(line.startswith("header license: 'mit': ") and gemma in line for line in check_card(filler.store, as_mit))


def test_without_a_claim_a_card_is_under_all_that_it_inherits(filler: Any) -> None:
    llama, mit = put_model(filler, "llama-base", "llama3.1"), put_model(filler, "llama-mit", "MIT")
    merge = merged(filler, "sea", llama, mit)
    text = card(filler.store, merge)
    assert "license_name: LicenseRef-Llama-3.1-Community AND MIT" in text
    assert "> checkpoint/llama-base@1 is under" in text and check_card(filler.store, text) == []
    one = card(filler.store, llama)
    assert "license: llama3.1" in one and check_card(filler.store, one) == []
    claim = {"kind": "promotion", "name": "promotion/llama", "decision": mit, "licence": "llama3.1 AND gemma"}
    body = Promotion(stage="s", model=llama, decision=mit, verdict="pass", sequence=1)
    filler.put(PromotionRecipe, claim, body)
    assert "license_name: LicenseRef-Llama-3.1-Community AND LicenseRef-Gemma" in card(filler.store, llama)


def test_prose_is_escaped_like_a_cell() -> None:
    assert prose("a | b") == "a \\| b" and "\n" not in prose("a\nb")
