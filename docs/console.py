"""The console blocks of the documentation, run again: `python docs/console.py` writes down what the commands print now.

A block shows commands after `$ ` and what they print. They run one after the other on a copy of the recorded demo catalog
(`tests/golden/demo`), so what a page shows is what a reader of the demo sees; a test holds page and program together. No shell
is started: understood are `echo '…' |` before and `| head -N` behind a command, `# exit N` for a code that is not 0, and
`sed -i 's/one text/another/' FILE`, whose first text must occur just once.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from sea_lion import cli

DOCS = Path(__file__).parent
DEMO = DOCS.parent / "tests" / "golden" / "demo"
PAGES = ("catalog.md", "questions.md")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"^\$ (?:echo '(?P<given>[^']*)' \| )?sea-lion (?P<words>.*?)(?: \| head -(?P<head>\d+))?(?:\s+# exit (?P<code>\d+))?$"
)
EDIT = re.compile(r"^\$ sed -i 's/(?P<old>[\w ,|:-]+)/(?P<new>[\w ,|:-]+)/' (?P<file>[\w-]+\.md)$")
SETTINGS = {"SEA_LION_CATALOG": None, "SEA_LION_INDEX": None, "TZ": "UTC"}
"""What a page does not depend on."""


@contextlib.contextmanager
def demo_folder() -> Iterator[Path]:
    """A working folder with a copy of the demo catalog as `artifacts`, as after `make demo`."""
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(DEMO, Path(folder, "artifacts"))
        os.chdir(folder)
        for name, value in SETTINGS.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


def printed(words: str, given: str = "") -> tuple[str, int]:
    """What a command prints on standard output, and on standard error when it is refused, and its exit code."""
    out, problems = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(problems),
        mock.patch.object(sys, "stdin", io.StringIO(given)),
    ):
        try:
            code = cli.main(shlex.split(words))
        except SystemExit as stop:
            code = int(str(stop.code or 0))
    return out.getvalue() + (problems.getvalue() if code else ""), code


def run_again(block: str) -> str:
    """The block with what its commands print now."""
    lines = []
    for line in block.splitlines():
        if not line.startswith("$ "):
            continue
        if edit := EDIT.match(line):
            _edit(Path(edit["file"]), edit["old"], edit["new"])
            lines.append(line)
            continue
        match = COMMAND.match(line)
        if match is None:
            raise ValueError(f"not a command of ours: {line}")
        text, code = printed(match["words"], f"{match['given'] or ''}\n")
        if code != int(match["code"] or 0):
            raise ValueError(f"{line}: ended with {code}\n{text}")
        shown = text.rstrip("\n").split("\n")
        shown = shown[: int(match["head"])] if match["head"] else shown
        lines += [line, *(part.rstrip() for part in shown)] if text else [line]
    return "\n".join(lines) + "\n"


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{old!r} occurs {text.count(old)} times in {path}")
    path.write_text(text.replace(old, new), "utf-8")


def answered(page: str) -> str:
    """A page with all its console blocks run again, in order, in the folder where we are."""
    return BLOCK.sub(lambda match: f"```console\n{run_again(match[1])}```", page)


def rewritten(page: str) -> str:
    """The same on a fresh copy of the demo catalog."""
    with demo_folder():
        return answered(page)


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        path = DOCS / name
        path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
