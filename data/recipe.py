"""Recipes of the data area: a crawl plan, a corpus, its tokens, a mixture, an n-gram index of evaluation suites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..catalog.fingerprint import plain
from ..catalog.recipes import Files, Recipe, Reference
from ..catalog.records import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a source of form `rows` changes of its preset; an empty field keeps the preset's value."""

    __pydantic_config__ = STRICT

    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: `{ text = "body", language = "meta.lang?" }`."""
    trust: Literal["", "believed", "verified", "ignored"] = ""
    """What a row's own word for its language is worth."""
    language_pattern: str = ""
    """Regular expression whose group is the language's code in what the source says."""
    language_map: dict[str, str] = field(default_factory=dict)
    """The source's codes to ISO 639-3."""
    licence: str = ""
    """Of the rows that do not say."""
    hub: str = ""
    """Read this data set of the Hugging Face hub instead of files."""
    config: str = ""
    """Configuration of the data set on the hub."""
    split: str = ""
    """Split of the data set on the hub."""
    revision: str = ""
    """Revision of the data set on the hub."""

    def changes(self) -> dict[str, Any]:
        """The fields that are set."""
        given = {name: value for name, value in plain(self).items() if value}
        return given | ({"form": "hub"} if self.hub else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of input of a corpus."""

    __pydantic_config__ = STRICT

    name: str
    """`web`, `text`, `code`: the `source` of its documents."""
    form: Literal["warc", "plan", "rows", "jsonl", "files"]
    """`warc`: Common Crawl WARC files; `plan`: the records of a crawl plan, fetched by range; `rows`: a published data set,
    read by a preset; `jsonl`: lines with `id` and `text`; `files`: one document a file."""
    files: Files = ()
    """Glob patterns, relative to the recipe's file or `package:…`; of form `plan`, one plan."""
    listing: str = ""
    """Form `warc` instead of `files`: a list of WARC files, one a line (`crawl-data/CC-MAIN-2024-18/warc.paths.gz`); it and
    they are read below `--mirror`. Its name is part of the identity: what a crawl has published does not change."""
    first: int = 0
    """Of a listing: the first of its files to take, counted from 0."""
    count: int = 0
    """Of a listing: how many to take; 0: all that follow."""
    plan: Reference = ""
    """Form `plan` instead of `files`: a crawl plan of the catalog."""
    preset: str = ""
    """Form `rows`: one of `data/presets/`, e.g. `fineweb-edu`."""
    reading: Reading = field(default_factory=Reading)
    """Form `rows`: what is different from the preset."""
    language: str = ""
    """The documents' language where it is known; empty: identify it."""
    crawl: str = ""
    """Name of the crawl, `CC-MAIN-2024-18`; form `plan` has it from the plan."""

    def __post_init__(self) -> None:
        given = [name for name in ("files", "listing", "plan") if getattr(self, name)]
        allowed = {"warc": ("files", "listing"), "plan": ("files", "plan")}.get(self.form, ("files",))
        if self.reading.hub and not given:
            given = ["files"]
        if len(given) != 1 or given[0] not in allowed:
            raise ValueError(f"form {self.form!r} needs exactly one of {', '.join(allowed)}, not {', '.join(given) or 'none'}")
        if bool(self.preset) != (self.form == "rows"):
            raise ValueError("a preset belongs to form 'rows', and that form needs one")
        if self.first < 0 or self.count < 0 or ((self.first or self.count) and not self.listing):
            raise ValueError("first and count choose from a listing, and are at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplication:
    """Exact (digest of the normalised text) and near (MinHash) de-duplication, within a language."""

    __pydantic_config__ = STRICT

    exact: bool = True
    near: bool = True
    ngram: int = 5
    """Words a shingle; for languages written without spaces as many characters as so many words have: 4 a word, Chinese 2."""
    buckets: int = 14
    """Bands of the MinHash."""
    hashes_per_bucket: int = 8
    """Rows of a band; similarity at which a pair is found half the time is about `(1/buckets)**(1/hashes_per_bucket)`."""

    def __post_init__(self) -> None:
        if min(self.ngram, self.buckets, self.hashes_per_bucket) < 1:
            raise ValueError("ngram, buckets and hashes_per_bucket must be at least 1")
        if self.ngram > 100 or self.buckets > 256 or self.hashes_per_bucket > 64:
            raise ValueError("ngram must be at most 100, buckets at most 256 and hashes_per_bucket at most 64")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRecipe(Recipe):
    """A corpus: sources through the gates, filters and de-duplication to Parquet shards by language."""

    kind: Literal["corpus"]
    languages: tuple[str, ...]
    """Wanted languages, ISO 639-3."""
    source: tuple[Source, ...]
    """What goes in."""
    thresholds: Files = ("package:data/thresholds/web.toml",)
    """Per-language thresholds of the language gate and the quality rules."""
    metadata_gate: Literal["cld2", "fasttext", "off"] = "cld2"
    """What the paper's "language code reported in its metadata" is read as. `cld2`: the crawl's own annotation, and for pages
    without one a classification of their raw text; `fasttext`: that classification for all; `off`: every page is extracted."""
    language_model: Files = ()
    """A fastText model of your own (GlotLID, lid.176.bin); empty: lid.176.ftz."""
    traditional_chinese: Literal["keep", "convert", "drop"] = "keep"
    """What becomes of Chinese in traditional characters; the paper's corpus names simplified Chinese only."""
    zawgyi: Literal["convert", "drop"] = "convert"
    """What becomes of Burmese in the Zawgyi encoding: Unicode, or nothing."""
    extractor: Literal["trafilatura", "trafilatura-precision", "resiliparse"] = "trafilatura"
    """How a page becomes text. `trafilatura`: its fast mode, F1 as good as the precise mode's at two thirds of the cost."""
    url_lists: Files = ()
    """Files of domains, pages and words of addresses to leave out, one a line."""
    bundled_url_lists: tuple[Literal["datatrove:domains", "datatrove:urls"], ...] = ()
    """Lists that the datatrove package carries: 4.6 million domains and 20,000 pages, mostly adult."""
    evaluation_ngrams: Reference = ""
    """The n-gram index of the evaluation suites, to leave out documents that hold their items."""
    deduplication: Deduplication = field(default_factory=Deduplication)
    mask_personal_data: bool = True
    """Replace e-mail and IP addresses, telephone, identity and card numbers."""
    heldout_documents: int = 0
    """Documents per language of source `web` kept out of training, chosen by the hash of their text."""
    shard_megabytes: int = 256
    """Size of a shard that is aimed at."""
    bad_files: Literal["refuse", "count"] = "refuse"
    """A file that is cut short or not what its form says: `refuse` the corpus, or `count` it (table `failures`) and go on."""

    def __post_init__(self) -> None:
        super(CorpusRecipe, self).__post_init__()
        if not 1 <= self.shard_megabytes <= 1 << 20 or self.heldout_documents < 0:
            raise ValueError("shard_megabytes must be at least 1 (and below a million), heldout_documents at least 0")

    def beside(self) -> dict[str, Any]:
        """What a preset says, and the lists inside datatrove, decide on the documents as well."""
        from .presets import preset_of
        from .urls import bundled_digest

        presets = [plain(preset_of(source.preset, source.reading.changes())) for source in self.source if source.preset]
        lists = {"bundled": bundled_digest()} if self.bundled_url_lists else {}
        return ({"presets": presets} if presets else {}) | lists


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecipe(Recipe):
    """A crawl plan: the records of the wanted languages, by Common Crawl's columnar index, before anything is fetched."""

    kind: Literal["plan"]
    languages: tuple[str, ...]
    """Wanted languages, ISO 639-3."""
    index: Files = ()
    """Parquet files of the columnar index."""
    index_places: tuple[str, ...] = ()
    """Or their places below `--mirror`, `cc-index/table/cc-main/warc/crawl=…/subset=warc/part-….gz.parquet`."""
    match: Literal["primary", "any"] = "primary"
    """`primary`: the page's first language is wanted; `any`: one of its up to three, which adds a third more records."""
    once: bool = False
    """Whether a payload that was captured several times is taken once, from the first crawl and file."""

    def __post_init__(self) -> None:
        super(PlanRecipe, self).__post_init__()
        if not (self.index or self.index_places) or not self.languages:
            raise ValueError("a plan needs an index (index or index_places) and a language")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensRecipe(Recipe):
    """Tokens of every document of some corpora under one tokenizer, BPE-dropout off."""

    kind: Literal["tokens"]
    corpora: tuple[Reference, ...]
    """The corpora whose documents are counted."""
    tokenizer: Reference = ""
    """A tokenizer artifact."""
    tokenizer_file: Files = ()
    """Or a file of your own, any Hugging Face `tokenizer.json`."""

    def __post_init__(self) -> None:
        super(TokensRecipe, self).__post_init__()
        if bool(self.tokenizer) == bool(self.tokenizer_file):
            raise ValueError("name either tokenizer or tokenizer_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFilesRecipe(Recipe):
    """Corpora encoded into files that training reads, BPE-dropout frozen in, one variant for each planned epoch."""

    kind: Literal["token-files"]
    corpora: tuple[Reference, ...]
    tokenizer: Reference = ""
    """A tokenizer artifact."""
    tokenizer_file: Files = ()
    """Or a file of your own, any Hugging Face `tokenizer.json`."""
    split: Literal["train", "heldout"] = "train"
    """Which documents of the corpora."""
    dropout: float = 0.0
    """Probability with which a merge is skipped, by the rule of https://arxiv.org/abs/1910.13267."""
    variants: int = 1
    """Times that each document is encoded, each with other skipped merges: as many as epochs are planned."""
    variants_of: dict[str, int] = field(default_factory=dict)
    """The same for some languages: ISO 639-3 code (or `code`) to times."""
    seed: int = 0
    """Of dropout and of the order of the documents."""

    def __post_init__(self) -> None:
        super(TokenFilesRecipe, self).__post_init__()
        if bool(self.tokenizer) == bool(self.tokenizer_file):
            raise ValueError("name either tokenizer or tokenizer_file")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")
        if min([self.variants, *self.variants_of.values()]) < 1:
            raise ValueError("variants must be at least 1")
        if self.split == "heldout" and self.dropout:
            raise ValueError("held-out text is encoded without dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a mixture: a share of the budget, and where it comes from."""

    __pydantic_config__ = STRICT

    name: str
    """`sea`, `english`, `code`."""
    weight: float
    """Share of the token budget, 0 to 1; the parts' weights sum to 1."""
    languages: tuple[str, ...]
    """ISO 639-3 codes, or `code`."""
    sources: tuple[str, ...] = ()
    """Sources of the corpora to draw on; empty: all."""
    smoothing: float = 1.0
    """Exponent on the available tokens when the share is divided among languages: 1 proportional, 0 equal."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must be above 0 and at most 1, not {self.weight}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must be between 0 and 1, not {self.smoothing}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRecipe(Recipe):
    """Tokens to take from each source and language; refuses a budget that the corpus cannot meet within the epoch cap."""

    kind: Literal["mixture"]
    tokens: Reference
    """What to plan with: token files, on which a run can train, or token counts."""
    token_budget: int
    """Tokens to train on, rounded down to whole sequences."""
    sequence_length: int
    """Tokens of a packed sequence."""
    part: tuple[Part, ...]
    max_epochs: float = 4.0
    """No document is planned more often than this."""

    def __post_init__(self) -> None:
        super(MixtureRecipe, self).__post_init__()
        if abs(sum(part.weight for part in self.part) - 1) > 1e-9:
            raise ValueError(f"the parts' weights sum to {sum(part.weight for part in self.part):g}, not 1")
        if self.sequence_length < 2 or self.token_budget < self.sequence_length:
            raise ValueError("token_budget must be at least one sequence, sequence_length at least 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteItems:
    """The items of one evaluation suite."""

    __pydantic_config__ = STRICT

    name: str
    """The suite; documents are dropped as `contaminated_<name>`."""
    files: Files = ()
    """JSON Lines of items; or else:"""
    questions: Reference = ""
    """The questions of a suite, an artifact of kind `questions`: its `fields`, `id` and `language` are known."""
    fields: tuple[str, ...] = ()
    """Key paths of their texts: `question`, `prompts.*.text` (`*`: every element or value)."""
    id: str = ""
    """Key path of an item's id; empty: file and line."""
    language: str = "und"
    """ISO 639-3, or the key path that says it (with a dot)."""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.questions) or bool(self.files) != bool(self.fields):
            raise ValueError("a suite has files and fields, or questions")
        if self.questions:
            for name, value in (("fields", ("texts.*",)), ("id", "id"), ("language", "spoken.language")):
                object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapRecipe(Recipe):
    """Which items of evaluation suites some corpora hold: what a scorecard says about contamination."""

    kind: Literal["overlap"]
    ngrams: Reference
    """The index of the suites' items."""
    corpora: tuple[Reference, ...]
    """The corpora to look through, all their splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramsRecipe(Recipe):
    """The n-gram index of evaluation suites, for `evaluation_ngrams` of corpora and conversations."""

    kind: Literal["ngrams"]
    suite: tuple[SuiteItems, ...]
    min_share: float = 0.3
    """Share of a text's n-grams that contaminates a document."""
    max_texts: int = 10
    """n-grams in more texts than this are template and left out."""

    def __post_init__(self) -> None:
        super(NgramsRecipe, self).__post_init__()
        if not self.suite or not 0 < self.min_share <= 1 or self.max_texts < 1:
            raise ValueError("ngrams needs a suite, min_share above 0 and at most 1, max_texts at least 1")
