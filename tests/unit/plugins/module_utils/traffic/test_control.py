# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders by file and annotation, the lock, whether a process lives, the slow questions in the background; progress lines."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time
import typing as t

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _control, _progress
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    Control,
    Order,
    Poller,
    only_one,
    process_lives,
    process_token,
    read_order,
    strongest,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import Progress, human, iso


class Answer:
    def __init__(self, order: Order | None) -> None:
        self.order = order

    def latest(self) -> Order | None:
        return self.order

    def problem(self) -> str:
        return "away"

    def stop(self) -> None:
        self.order = None


# -- orders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "resume"),
        ("", "resume"),
        (" \n", "resume"),
        ("pause", "pause"),
        (" Rollback\n", "rollback"),
        ("ABORT", "abort"),
        ("resume", "resume"),
        ("puase", "pause"),
        ("abort now", "pause"),
    ],
)
def test_words(text: str | None, word: str) -> None:
    order = read_order(text, "here")
    assert (order.word, order.origin) == (word, "here")
    assert bool(order.note) is (str(text).strip().lower() not in ("none", "", "pause", "rollback", "abort", "resume"))


@pytest.mark.parametrize(
    ("file", "annotation", "word"),
    [
        (None, None, "resume"),
        ("pause", None, "pause"),
        (None, "pause", "pause"),
        ("resume", "pause", "pause"),  # both must let go
        ("pause", "abort", "abort"),
        ("rollback", "abort", "rollback"),
        ("abort", "rollback", "rollback"),
    ],
)
def test_the_stronger_word_wins(tmp_path: pathlib.Path, file: str | None, annotation: str | None, word: str) -> None:
    path = tmp_path / "control"
    if file is not None:
        path.write_text(file + "\n")
    answer = Answer(read_order(annotation, "the annotation") if annotation else None)
    assert Control(path, answer).order().word == word
    assert strongest([]) == Order()


def test_a_control_file_that_cannot_be_read_pauses(tmp_path: pathlib.Path) -> None:
    (tmp_path / "control").mkdir()
    order = Control(tmp_path / "control").order()
    assert order.word == "pause"
    assert "cannot be read" in order.note


def test_the_file_is_read_each_time(tmp_path: pathlib.Path) -> None:
    control = Control(tmp_path / "control")
    assert control.order().word == "resume"
    control.path.write_bytes(b"\xff\xfe not text")
    assert control.order().word == "pause"
    control.path.write_text("abort")
    assert control.order().word == "abort"
    control.path.unlink()
    assert control.order().word == "resume"


# -- the poller --------------------------------------------------------------------------------------------------


def test_the_poller_asks_in_the_background_and_keeps_the_last_answer() -> None:
    answers: list[t.Any] = [1, MigrationError("away"), 3]
    asked = threading.Event()

    def call() -> int:
        answer = answers.pop(0) if answers else 4
        if not answers:
            asked.set()
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    poller = Poller(call, 0.02, initial=0)
    assert poller.latest() == 0
    seen = set()
    until = time.monotonic() + 5
    while time.monotonic() < until and not asked.is_set():
        seen.add((poller.latest(), bool(poller.problem())))
        time.sleep(0.001)
    poller.stop()
    assert (1, True) in seen  # the problem is told, the last answer stands
    time.sleep(0.05)
    assert poller.latest() in (3, 4)
    assert poller.problem() == ""


def test_a_poller_that_hangs_delays_nobody() -> None:
    asked, hang = threading.Event(), threading.Event()
    poller = Poller(lambda: asked.set() or hang.wait(60), 0.01)
    assert asked.wait(30)
    assert poller.latest() is None
    poller.stop()
    assert poller._thread.is_alive()  # it hangs still: neither of the two has waited for it
    hang.set()


# -- lock --------------------------------------------------------------------------------------------------------


HOLDER = """
import pathlib, sys, time
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import only_one
with only_one(pathlib.Path(sys.argv[1]), wait=0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> t.Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-c", HOLDER, str(tmp_path / "m" / "lock")]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_told_who_holds(tmp_path: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    slept: list[float] = []
    with pytest.raises(MigrationError) as caught, only_one(tmp_path / "m" / "lock", wait=0, sleep=slept.append):
        pytest.fail("two at a time")
    assert f'"pid": {holder.pid}' in caught.value.message
    assert slept == []


def test_the_lock_of_a_killed_run_is_free(tmp_path: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    with only_one(tmp_path / "m" / "lock", wait=10):
        assert json.loads((tmp_path / "m" / "lock").read_text())["pid"] == os.getpid()
    assert stat.S_IMODE((tmp_path / "m" / "lock").stat().st_mode) == 0o600
    with only_one(tmp_path / "m" / "lock", wait=0):
        pass


def test_a_state_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MigrationError, match="The state folder cannot be used"), only_one(tmp_path / "file" / "lock", wait=0):
        pass


# -- processes ---------------------------------------------------------------------------------------------------


def test_whether_a_process_lives() -> None:
    assert process_lives(process_token(os.getpid()))
    with subprocess.Popen(["sleep", "60"]) as child:
        token = process_token(child.pid)
        assert process_lives(token)
        # The same number with another start time is another process.
        assert not process_lives(f"{child.pid}:1")
        child.kill()
        until = time.monotonic() + 5
        while process_lives(token) and time.monotonic() < until:
            time.sleep(0.01)
        assert not process_lives(token)  # a zombie already counts as gone
    assert not process_lives(token)
    assert process_lives("no number")


# -- progress ----------------------------------------------------------------------------------------------------


def read(path: pathlib.Path) -> list[dict[str, t.Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_at_most_one_a_second_plus_events(tmp_path: pathlib.Path) -> None:
    now = [1_700_000_000.0]
    progress = Progress(tmp_path / "m", "abc", clock=lambda: now[0])
    progress.event("start", text="go", of=None)
    for _tick in range(100):
        progress.event("hold", step=1, observed=None)
        now[0] += 0.05
    progress.event("verdict", text="pass")
    progress.event("verdict", text="fail")
    progress.close()
    progress.event("hold")
    lines = read(progress.path)
    assert [line["event"] for line in lines] == ["start", *["hold"] * 4, "verdict", "verdict"]
    assert lines[0] == {"time": iso(1_700_000_000), "run": "abc", "event": "start", "text": "go"}
    assert stat.S_IMODE(progress.path.stat().st_mode) == 0o600
    assert [path.name for path in progress.path.parent.iterdir()] == ["progress.jsonl"]


def test_a_new_run_begins_a_new_file(tmp_path: pathlib.Path) -> None:
    first = Progress(tmp_path, "one")
    first.event("start")
    inode = first.path.stat().st_ino
    second = Progress(tmp_path, "two")
    second.event("start")
    first.event("end")  # of an old run that is still ending: does not get in between
    assert [line["run"] for line in read(second.path)] == ["two"]
    assert second.path.stat().st_ino != inode


def test_no_progress_is_no_reason_to_fail(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    progress = Progress(tmp_path / "file", "abc")
    progress.event("start")
    assert "there are no progress lines" in progress.problem
    full = Progress(tmp_path, "abc")

    class Full:
        def write(self, _text: str) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(full, "_file", Full())
    full.event("start")
    full.event("hold")
    full.close()
    assert "No space left" in full.problem
    off = Progress(tmp_path / "off", "abc", enabled=False)
    off.event("start")
    assert not (tmp_path / "off").exists()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"event": "start", "text": "from 0 % by 1 %, 5 %"}, "12:00:07 start: from 0 % by 1 %, 5 %"),
        (
            {
                "event": "hold",
                "step": 2,
                "of": 5,
                "asked": 5.0,
                "planned": 4.762,
                "observed": 4.762,
                "until": "2026-11-21T12:00:19.000+00:00",
                "gates": {"web": {"state": "pass", "reason": "99 of 100 requests"}},
            },
            "12:00:07 step 2/5 hold: 5 % asked, 4.762 % planned, 4.762 % observed, 12 s left | web pass: 99 of 100 requests",
        ),
        ({"event": "hold", "until": "2020-01-01T00:00:00+00:00"}, "12:00:07 hold: 0 s left"),
        ({"event": "end", "until": "rubbish", "gates": 7}, "12:00:07 end"),
        ({}, "12:00:07"),
    ],
)
def test_a_line_for_people(line: dict[str, t.Any], text: str) -> None:
    assert human({"time": "2026-11-21T12:00:07.000+00:00", **line}) == text


def test_times_are_utc() -> None:
    assert iso(0) == "1970-01-01T00:00:00.000+00:00"
    assert datetime.datetime.fromisoformat(iso(1.5)).timestamp() == 1.5
    assert _progress.NAME == "progress.jsonl"


def test_a_file_system_without_locks_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_fd: int, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(_control.fcntl, "flock", none)
    with pytest.raises(MigrationError, match=r"cannot be locked.*No locks available"), only_one(tmp_path / "m" / "lock", wait=0):
        raise AssertionError("two could be in here")


def test_a_full_disk_does_not_keep_the_lock_from_a_way_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_control.os, "pwrite", full)
    with only_one(tmp_path / "m" / "lock", wait=0):
        pass
