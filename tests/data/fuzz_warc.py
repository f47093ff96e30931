"""Fuzzes the WARC reader and the reader of annotations: `python -m tests.data.fuzz_warc --minutes 10 --seed 1`.

Each case is a file of `hostile.py`, or two joined, changed at random, with whole pages put behind the damage: nothing but the
records' faults may come of it, the members must cover the file, a second reading in other pieces must give the same, and the
pages behind must be found. A case that takes longer than LIMIT, or memory that grows beyond a bound, is a failure too; each
failing case is written to a file.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import FrameType

from sea_lion.data.members import members
from sea_lion.data.warc import conversions, payload, read_claim, responses

from .hostile import CASES, address, cld2, member, note, packed, page

LIMIT = 10
"""Seconds a case may take."""
GROWTH = 200 << 10
"""KiB that the process may grow by."""
TAIL = b"".join(map(page, "vwxyz"))
TAIL_ADDRESSES = [address(name) for name in "vwxyz"]
SPICES = (
    b"\r\n\r\n", b"WARC/1.0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999\r\n", b"WARC-Type: metadata\r\n",
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\xff\xff", b"\0" * 9, b"\xff" * 9, b"\xe0\xb8",
    b"Transfer-Encoding: chunked\r\n", b"ffffffff\r\n", b"Content-Encoding: deflate\r\n", b"HTTP/1.1 200 OK\r\n",
    b"languages-cld2: ", b'{"a":' * 99,
)  # fmt: skip
"""What is put in, at random."""


class Pieces:
    """A stream that gives pieces of random sizes."""

    def __init__(self, content: bytes, chance: random.Random) -> None:
        self.file, self.chance = BytesIO(content), chance

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        return self.file.read(min(size, self.chance.choice((1, 50, 4096, 70_000))))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with a few changes of bytes and of order."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, size = chance.randrange(len(data) + 1), int(2 ** chance.uniform(0, 11))
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = chance.choice(SPICES)
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at : at + size] = chance.randbytes(min(size, max(0, len(data) - at)))
        else:
            data[:] = data[at:] + data[:at]
    return bytes(data)


def inside(content: bytes, chance: random.Random) -> bytes:
    """The content with its members changed inside and packed again, so that checksums hold and the parsers meet the damage."""
    return b"".join(
        packed(mutated(found.data, chance)) if chance.random() < 0.5 and not found.fault else packed(found.data)
        for found in members(BytesIO(content), 1 << 20)
    )


def file_case(seeds: list[bytes], chance: random.Random) -> bytes:
    """A damaged file."""
    content = b"".join(chance.choice(seeds) for _ in range(chance.choice((1, 1, 2))))
    change = chance.random()
    content = inside(content, chance) if change < 0.6 else content
    return mutated(content, chance) if change > 0.4 else content


def check_file(content: bytes, chance: random.Random) -> None:
    """All that must hold for a file."""
    whole = content + TAIL
    found = list(responses(BytesIO(whole)))
    for response in found:
        if not response.fault:
            assert len(payload(response)[0]) <= 5 << 20 and response.digest
        assert response.id and response.offset >= 0 and response.offset + response.length <= len(whole)
    if not whole.startswith(b"WARC/"):
        assert [response.url for response in found][-5:] == TAIL_ADDRESSES, "pages behind the damage are lost"
        assert not any(response.fault for response in found[-5:])
    split = list(members(BytesIO(whole), 99))
    assert sum(one.length for one in split) == len(whole), "members do not cover the file"
    assert list(responses(Pieces(whole, chance))) == found, "read otherwise in other pieces"
    for text in conversions(BytesIO(content)):
        assert text.id


def claim_case(seeds: list[bytes], chance: random.Random) -> bytes:
    """A damaged annotation."""
    text = json.loads(cld2(("tha", 0.7), ("eng", 0.3)))
    odds: tuple[object, ...] = (
        None, 1e999, float("nan"), -1, 10**400, "x" * chance.choice((3, 99_999)), [], {}, [[[]]], True, "\ud800",
    )  # fmt: skip
    place = chance.choice((text, text["languages"][0], text["languages"][1]))
    place[chance.choice(list(place))] = chance.choice(odds)
    content = json.dumps(text, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return mutated(content, chance) if chance.random() < 0.7 else content


def check_claim(content: bytes, chance: random.Random) -> None:
    """An annotation is a claim or none, alone and within its record."""
    text = content.decode("utf-8", chance.choice(("replace", "surrogateescape", "ignore")))
    claim = read_claim(text)
    assert claim is None or all(0 <= share <= 1 and isinstance(code, str) for code, share in claim.shares)
    record = member("metadata", {"WARC-Concurrent-To": "<urn:v>"}, b"languages-cld2: " + content)
    assert [found.url for found in responses(BytesIO(page("v") + record))] == [address("v")]


def run(case: bytes, check: Callable[[bytes, random.Random], None], chance: random.Random) -> str:
    """What went wrong with a case."""
    signal.alarm(LIMIT)
    try:
        check(case, chance)
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return ""


def too_slow(number: int, frame: FrameType | None) -> None:
    """Ends a case that takes too long."""
    raise TimeoutError(f"more than {LIMIT} s")


def main() -> int:
    """Fuzz for some minutes; 1 when a case failed."""
    options = argparse.ArgumentParser(description="Fuzzes the WARC reader.")
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    seeds = [build().content for build in CASES.values()] + [page("a") + note("a", cld2(("tha", 1.0)))]
    seeds = [content for content in seeds if len(content) < 50_000 and len(zlib.compress(content)) < 50_000]
    signal.signal(signal.SIGALRM, too_slow)
    start, base, cases, failures = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    while time.monotonic() - start < 60 * given.minutes and failures < 20:
        chance = random.Random(f"{given.seed}/{cases}")
        make, check = ((file_case, check_file), (file_case, check_file), (claim_case, check_claim))[cases % 3]
        case = make(seeds, chance)
        problem = run(case, check, chance)
        if problem:
            failures += 1
            path = Path(tempfile.gettempdir(), f"fuzz-warc-{given.seed}-{cases}")
            path.write_bytes(case)
            print(f"case {cases} ({path}):\n{problem}", flush=True)
        cases += 1
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    print(f"seed {given.seed}: {cases:,} cases, {failures} failures, {growth >> 10} MiB more memory")
    return int(bool(failures) or growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
