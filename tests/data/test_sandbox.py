"""Extraction in a process of its own: no page costs more than itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from sea_lion.data.extract import article
from sea_lion.data.sandbox import Sandbox

SENTENCE = "Nelayan di pantai timur pulang membawa tangkapan yang lebih baik daripada bulan lalu. "


def page(number: int) -> str:
    """An ordinary page."""
    return f"<html><body><article><p>Halaman {number}. {SENTENCE * 6}</p><p>{SENTENCE * 4}</p></article></body></html>"


# a quoted bracket hides the attributes from the linear scan
HANG = f"""<html><body><p title=">" {" ".join(f"a{n}=1" for n in range(300_000))}>{SENTENCE}</p></body></html>"""
BOMBS = {
    "attributes": (f"<p {' '.join(f'a{n}=1' for n in range(300_000))}>{SENTENCE}</p>", "too_complex"),
    "links": ("<a href='/'>a link</a> " * 300_000, "too_complex"),
    "nested": ("<div>" * 100_000 + SENTENCE + "</div>" * 100_000, "too_complex"),
    "nested inline": ("<i>" * 10_000 + SENTENCE + "</i>" * 10_000, "too_complex"),
    "100 MB": ("<p>" + "x" * 100_000_000, "too_complex"),
    "cells": ("<html><body><table>" + "<tr><td>a cell</td></tr>" * 200_000, "too_complex"),
    "brackets": ("<" * 5_000_000, "too_complex"),
    "comments": ("<html><body>" + "<!-- a comment " * 90_000, "too_complex"),
    "empty": ("", "no_article"),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One with a short limit."""
    with Sandbox(cpu_seconds=1) as shared:
        yield shared


def is_gone(pid: int) -> bool:
    """True once a process has ended; waits for it."""
    for _ in range(2_000):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_counted_and_pages_round_it_are_kept(sandbox: Sandbox, name: str) -> None:
    bomb, fault = BOMBS[name]
    assert sandbox.article(page(1)) == (article(page(1)), "")
    assert sandbox.article(bomb) == ("", fault)
    assert sandbox.article(page(2)) == (article(page(2)), "")


def test_a_page_that_a_parser_hangs_on_costs_its_time_limit(sandbox: Sandbox) -> None:
    sandbox.article(page(1))
    hung = sandbox.pid
    assert sandbox.article(HANG) == ("", "timeout")
    assert sandbox.article(page(2)) == (article(page(2)), "")
    assert hung is not None and is_gone(hung)


def test_many_slow_pages_share_no_limit(sandbox: Sandbox) -> None:
    slow = "<html><body>" + "<div><a href='/'>a link</a></div>" * 1_000
    answers = {sandbox.article(slow)}
    assert sandbox.pid is not None
    process = psutil.Process(sandbox.pid)
    start = process.cpu_times().user
    while process.cpu_times().user < start + 1.5:
        answers.add(sandbox.article(slow))
    assert process.pid == sandbox.pid
    assert len(answers) == 1
    assert not answers.pop()[1]


def test_memory_is_limited() -> None:
    large = "<html><body>" + f"<div><p>{SENTENCE}</p></div>" * 16_000
    with Sandbox(memory_bytes=96 << 20) as small:
        assert small.article(page(1))[1] == ""
        text, fault = small.article(large)
        assert (text, fault in ("out_of_memory", "extraction_crash", "extraction_error")) == ("", True)
        assert small.article(page(2)) == (article(page(2)), "")
    with Sandbox() as ordinary:
        assert ordinary.article(large)[1] == ""


def test_a_process_that_has_grown_is_replaced_between_pages() -> None:
    with Sandbox(recycle_bytes=1) as eager:
        assert [eager.article(page(number)) for number in range(3)] == [(article(page(number)), "") for number in range(3)]
        assert eager.pid is None


def test_a_kill_from_outside_costs_the_page_at_work_alone() -> None:
    with Sandbox(cpu_seconds=60) as patient:
        patient.article(page(1))
        assert patient.pid is not None
        timer = threading.Timer(0.3, os.kill, (patient.pid, signal.SIGKILL))
        timer.start()
        assert patient.article(HANG) == ("", "extraction_crash")
        timer.join()
        assert patient.article(page(2)) == (article(page(2)), "")


def test_a_kill_while_it_waits_costs_no_page(sandbox: Sandbox) -> None:
    sandbox.article(page(1))
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGKILL)
    assert is_gone(sandbox.pid)
    assert sandbox.article(page(2)) == (article(page(2)), "")


def test_a_process_that_stands_still_is_replaced() -> None:
    with Sandbox(wall_seconds=3) as sandbox:
        sandbox.article(page(1))
        assert sandbox.pid is not None
        stopped = sandbox.pid
        os.kill(stopped, signal.SIGSTOP)
        assert sandbox.article(page(2)) == ("", "timeout")
        assert sandbox.article(page(3)) == (article(page(3)), "")
        assert is_gone(stopped)


def test_an_interrupt_does_not_mix_up_answers(sandbox: Sandbox) -> None:
    sandbox.article(page(1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupted)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:
                sandbox.article(HANG)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert sandbox.article(page(2)) == (article(page(2)), "")


def test_text_comes_back_as_it_is() -> None:
    thai = "ชาวประมงกลับมาพร้อมปลา 🐟 และ\u200dน้ำ " * 20
    with Sandbox("resiliparse") as sandbox:
        text, fault = sandbox.article(f"<html><body><p>{thai}\ud800</p></body></html>")
        assert not fault
        assert text.startswith(thai.strip())


def test_nothing_is_left_behind() -> None:
    here = psutil.Process()
    before = set(here.children(recursive=True))
    files = here.num_fds()
    with Sandbox() as sandbox:
        sandbox.article(page(1))
        assert len(set(here.children(recursive=True)) - before) == 1
    assert set(here.children(recursive=True)) == before
    assert here.num_fds() == files


def test_the_process_ends_with_a_parent_that_is_killed() -> None:
    code = """
import os, signal
from sea_lion.data.sandbox import Sandbox
sandbox = Sandbox()
sandbox.article("<p>a")
print(sandbox.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert is_gone(int(done.stdout))


def test_a_mode_that_does_not_exist_is_one_error_and_no_hang() -> None:
    with pytest.raises(ValueError, match="trafilatura-precision"):
        Sandbox("boilerpipe")


def test_a_process_that_cannot_start_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Sandbox() as sandbox, pytest.raises(RuntimeError, match="did not start"):
        sandbox.article(page(1))
