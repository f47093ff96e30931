"""`sea-lion catalog …`: keeping the index and the files in order."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import index
from .commands import NOT_IN_ORDER, ask, existing
from .errors import SeaLionError
from .remote import RemoteStore, push, store_at
from .tables import write


def add_care(asks: Any) -> None:
    """Add the commands of this module."""
    refresh = ask(asks, "refresh", "bring the index up to date", "sea-lion catalog refresh", _refresh, tabular=False)
    rebuild = ask(asks, "rebuild", "make the index anew from the records", "sea-lion catalog rebuild", _rebuild, tabular=False)
    for made in (refresh, rebuild):
        made.add_argument(
            "--index",
            default=os.environ.get("SEA_LION_INDEX", ""),
            metavar="URL",
            help="a PostgreSQL index instead of the catalog's own file (default: $SEA_LION_INDEX)",
        )
    push = ask(
        asks, "push", "send a catalog to an object store", "sea-lion catalog push s3://bucket/pile", _push, tabular=False
    )
    push.add_argument("address", help="s3://bucket/prefix; server and keys come from the AWS_* variables")
    fsck = ask(asks, "fsck", "check records, references, digests and completeness", "sea-lion catalog fsck --deep", _fsck)
    fsck.add_argument("--deep", action="store_true", help="read every file and compare its digest")


def _refresh(arguments: argparse.Namespace) -> int:
    store = existing(arguments.catalog)
    if arguments.index:
        from . import postgres

        done = postgres.refresh(store, arguments.index)
    else:
        done = index.refresh(store)
    print(f"{done.artifacts} artifacts and {done.slots} slots read, {done.gone} gone, {len(done.problems)} cannot be read")
    return 0


def _rebuild(arguments: argparse.Namespace) -> int:
    store = existing(arguments.catalog)
    if arguments.index:
        from . import postgres

        print(f"index: {postgres.rebuild(store, arguments.index).artifacts} artifacts")
    else:
        print(f"index: {index.rebuild(store)}")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    target = store_at(arguments.address)
    if not isinstance(target, RemoteStore):
        raise SeaLionError(f"{arguments.address}: is no address of an object store, like s3://bucket/prefix")
    sent = push(existing(arguments.catalog), target)
    index.refresh(target)
    print(f"{arguments.address}: {len(sent)} artifacts sent")
    return 0


def _fsck(arguments: argparse.Namespace) -> int:
    from .fsck import fsck

    findings = fsck(existing(arguments.catalog), deep=arguments.deep, shows_progress=sys.stderr.isatty())
    rows = [(finding.severity, finding.path, finding.problem) for finding in findings]
    write(["severity", "path", "problem"], rows, arguments.format, arguments.output)
    return NOT_IN_ORDER if any(finding.severity == "error" for finding in findings) else 0
