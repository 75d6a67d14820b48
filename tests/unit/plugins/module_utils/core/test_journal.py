# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what is on the disk after a kill, a full disk, many writers, an undo; and what must never be on it."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
import sys
import threading
import time
import typing as t

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal, News
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK

CHANGE = Change("set_weight", "clb/lb-1/x", 100, 50, "half")


class Memory:
    """A mirror in memory."""

    def __init__(self, originals: dict[str, t.Any] | None = None) -> None:
        self.originals = originals or {}
        self.times: dict[str, str] = {}
        self.tail: list[dict[str, t.Any]] = []
        self.saves = 0

    def load(self) -> dict[str, t.Any]:
        return {"originals": dict(self.originals), "times": dict(self.times)} if self.originals else {}

    def save(self, news: News) -> None:
        made = news.onto({"originals": self.originals, "times": self.times} if self.saves or self.originals else None)
        self.originals, self.times, self.tail = made["originals"], made["times"], news.tail
        self.saves += 1


def lines(journal: Journal) -> list[str]:
    return journal.path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "a/b", "..", "-a", "a-", "a" * 64, "a_b", "ä", "a\n"])
def test_names_that_could_leave_the_folder_or_be_no_configmap(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        Journal(str(tmp_path), name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "ack-to-asm", "7", "a" * 63])
def test_names_that_are_fine(tmp_path: pathlib.Path, name: str) -> None:
    assert Journal(str(tmp_path), name).path == tmp_path / name / "journal.jsonl"


def test_nobody_else_may_read_it(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(str(tmp_path / "state"), "m")
        journal.write("note", text="x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(journal.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_a_line_is_on_the_disk_when_write_returns(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(str(tmp_path), "m", run="abc")
    entry = journal.write("note", text="héllo 網關", number=1.5)
    assert synced == [journal.path.stat().st_size]
    (line,) = lines(journal)
    assert json.loads(line) == entry
    assert (entry["run"], entry["event"], entry["text"]) == ("abc", "note", "héllo 網關")
    assert entry["time"].endswith("+00:00")


@pytest.mark.parametrize("rest", ['{"time": "2026-01-01", "event": "origi', '{"a": "b', "\x00\x00", "[1]", "7"])
def test_a_half_line_at_the_end_is_left_out_and_not_continued(tmp_path: pathlib.Path, rest: str) -> None:
    """The process was killed in the middle of a write; the next one starts on a line of its own."""
    first = Journal(str(tmp_path), "m")
    first.write("original", key="a", value=1)
    with open(first.path, "a", encoding="utf-8") as file:
        file.write(rest)
    second = Journal(str(tmp_path), "m")
    assert second.original("a") == 1
    second.keep_original("b", 2)
    third = Journal(str(tmp_path), "m")
    assert third.originals() == {"a": 1, "b": 2}
    assert [entry["event"] for entry in third.entries()] == ["original", "original"]


def test_bytes_cut_in_the_middle_of_a_character_are_no_end(tmp_path: pathlib.Path) -> None:
    first = Journal(str(tmp_path), "m")
    first.write("original", key="a", value=1)
    with open(first.path, "ab") as file:
        file.write('{"text": "網'.encode()[:-1])
    second = Journal(str(tmp_path), "m")
    assert second.original("a") == 1
    second.write("note", text="after")
    assert [entry["event"] for entry in Journal(str(tmp_path), "m").entries()] == ["original", "note"]


def test_line_separators_of_unicode_do_not_split_a_line(tmp_path: pathlib.Path) -> None:
    value = "a\u2028b\u2029c\x85d\x0be\nf"
    Journal(str(tmp_path), "m").keep_original("k", value)
    assert Journal(str(tmp_path), "m").original("k") == value


def test_a_disk_that_takes_only_a_part_at_a_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(_journal.os, "write", lambda fd, data: real(fd, data[:7]))
    journal = Journal(str(tmp_path), "m")
    journal.write("note", text="whole")
    monkeypatch.undo()
    assert [entry["text"] for entry in journal.entries()] == ["whole"]


def test_the_first_value_ever_kept_is_the_original(tmp_path: pathlib.Path) -> None:
    journal = Journal(str(tmp_path), "m")
    assert journal.keep_original("k", {"weight": 100}) == {"weight": 100}
    assert journal.keep_original("k", {"weight": 0}) == {"weight": 100}
    again = Journal(str(tmp_path), "m")
    assert again.keep_original("k", {"weight": 50}) == {"weight": 100}
    assert len(lines(again)) == 1
    assert again.original("none", "default") == "default"


def test_none_is_an_original_too(tmp_path: pathlib.Path) -> None:
    """The annotation was not there: the way back is to take it away, not to leave what came later."""
    Journal(str(tmp_path), "m").keep_original("k", None)
    again = Journal(str(tmp_path), "m")
    assert again.keep_original("k", "later") is None
    assert again.originals("k") == {"k": None}


def test_forget_only_what_was_put_back(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    journal.keep_originals({"clb/lb-1/a": 1, "clb/lb-1/b": 2, "clb/lb-2/a": 3})
    journal.forget("clb/lb-1/")
    assert journal.originals() == mirror.originals == {"clb/lb-2/a": 3}
    again = Journal(str(tmp_path), "m")
    assert again.originals() == {"clb/lb-2/a": 3}
    # The next migration of this name starts from the state of its own day.
    assert again.keep_original("clb/lb-1/a", 7) == 7
    assert Journal(str(tmp_path), "m").original("clb/lb-1/a") == 7
    saves = mirror.saves
    journal.forget("nothing/")
    assert mirror.saves == saves


def test_a_fresh_container_finds_the_originals_in_the_mirror(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    Journal(str(tmp_path / "one"), "m", mirror=mirror).keep_originals({"a": 1, "b": None})
    fresh = Journal(str(tmp_path / "two"), "m", mirror=Memory(dict(mirror.originals)))
    assert fresh.originals() == {"a": 1, "b": None}
    assert fresh.keep_original("a", 2) == 1
    assert not fresh.path.exists()


def test_runs_that_share_a_mirror_keep_what_the_others_kept(tmp_path: pathlib.Path) -> None:
    """Slices of one job: each in a container of its own, loaded before the others wrote."""
    mirror = Memory()
    one, two = (Journal(str(tmp_path / name), "m", mirror=mirror) for name in ("one", "two"))
    one.keep_originals({"a": 1, "both": "first"})
    two.keep_originals({"b": 2, "both": "second"})
    assert mirror.originals == {"a": 1, "b": 2, "both": "first"}
    assert two.original("a") is None
    two.reload()
    assert (two.original("a"), two.original("both")) == (1, "first")
    one.forget("a")
    two.keep_originals({"c": 3})
    assert mirror.originals == {"b": 2, "both": "first", "c": 3}
    one.reload()
    assert one.originals() == mirror.originals


def test_a_mirror_that_somebody_deleted_is_written_whole(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    journal.keep_originals({"a": 1})
    mirror.__init__()  # type: ignore[misc]
    journal.keep_originals({"b": 2})
    assert mirror.originals == {"a": 1, "b": 2}


def test_an_original_of_an_earlier_life_is_replaced_in_one_write(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    journal.keep_originals({"a": 1})
    journal.keep_originals({"a": 2}, anew=True)
    assert (mirror.originals, mirror.saves) == ({"a": 2}, 2)
    for place in (str(tmp_path), str(tmp_path / "fresh")):
        assert Journal(place, "m", mirror=mirror).original("a") == 2
    assert Journal(str(tmp_path), "m").original("a") == 2


def test_an_undo_that_was_killed_before_the_mirror_heard_of_it_is_done(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    journal.keep_originals({"a": 1})
    time.sleep(0.002)  # times are of milliseconds
    journal.write("forget", key="a")
    again = Journal(str(tmp_path), "m", mirror=mirror)
    assert again.original("a") is None
    again.sync()
    assert mirror.originals == {}


def test_what_another_container_kept_after_our_undo_counts(tmp_path: pathlib.Path) -> None:
    """The laptop joined and left; then AWX joined; the laptop takes that back."""
    mirror = Memory()
    laptop = Journal(str(tmp_path / "laptop"), "m", mirror=mirror)
    laptop.keep_originals({"a": 1})
    laptop.forget("a")
    time.sleep(0.002)
    Journal(str(tmp_path / "awx"), "m", mirror=mirror).keep_originals({"a": 1})
    assert Journal(str(tmp_path / "laptop"), "m", mirror=mirror).original("a") == 1


def test_mirror_is_written_once_for_many_and_never_for_nothing(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    journal.keep_originals({str(number): number for number in range(50)})
    journal.keep_originals({"3": "other"})
    journal.keep_originals({})
    assert mirror.saves == 1
    assert [entry["key"] for entry in mirror.tail] == [str(number) for number in range(50)]


def test_the_tail_is_bounded(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    for number in range(Journal.TAIL + 30):
        journal.write("note", number=number)
    journal.sync()
    assert [entry["number"] for entry in mirror.tail] == list(range(30, Journal.TAIL + 30))
    again = Journal(str(tmp_path), "m", mirror=mirror)
    again.sync()
    assert len(mirror.tail) == Journal.TAIL


def test_check_mode_reads_and_never_writes(tmp_path: pathlib.Path) -> None:
    Journal(str(tmp_path), "m").keep_original("a", 1)
    mirror = Memory()
    before = (tmp_path / "m" / "journal.jsonl").read_bytes()
    journal = Journal(str(tmp_path), "m", enabled=False, mirror=mirror)
    assert journal.original("a") == 1
    journal.write("note", text="x")
    journal.keep_originals({"b": 2})
    journal.forget("a")
    journal.sync()
    with journal.around(CHANGE):
        pass
    assert (tmp_path / "m" / "journal.jsonl").read_bytes() == before
    assert (mirror.saves, journal.originals()) == (0, {"a": 1})
    Journal(str(tmp_path), "none", enabled=False).write("note")
    assert not (tmp_path / "none").exists()


def test_secrets_are_neither_on_the_disk_nor_in_the_mirror(tmp_path: pathlib.Path) -> None:
    mirror = Memory()
    journal = Journal(str(tmp_path), "m", mirror=mirror, secrets=["s3cr3t-token", ""])
    journal.keep_originals(
        {
            "a": {"text": "with s3cr3t-token inside", "api_key": "another", "list": ["s3cr3t-token"]},
            "b": {"kind": "Secret", "data": {"tls.key": "a2V5"}, "stringData": {"p": "w"}},
        }
    )
    with pytest.raises(MigrationError), journal.around(Change("x", "y", {"password": "hunter2"}, "s3cr3t-token")):
        raise MigrationError("it failed with s3cr3t-token")
    stored = journal.path.read_text(encoding="utf-8") + json.dumps([mirror.originals, mirror.tail])
    for secret in ("s3cr3t-token", "another", "a2V5", "hunter2", '"w"'):
        assert secret not in stored
    assert MASK in stored
    assert "tls.key" in stored  # which keys there were is no secret


def test_around_says_begin_and_done_or_failed(tmp_path: pathlib.Path) -> None:
    journal = Journal(str(tmp_path), "m")
    with journal.around(CHANGE):
        # The intention is on the disk before the write to the outside.
        assert [entry["event"] for entry in journal.entries()] == ["begin"]
    with pytest.raises(MigrationError), journal.around(CHANGE):
        raise MigrationError("no", why="429")
    found = journal.entries()
    assert [entry["event"] for entry in found] == ["begin", "done", "begin", "failed"]
    assert (found[0]["before"], found[0]["after"], found[0]["reason"]) == (100, 50, "half")
    assert "429" in found[3]["error"]


def test_a_kill_in_the_middle_leaves_begin_without_an_end(tmp_path: pathlib.Path) -> None:
    journal = Journal(str(tmp_path), "m")
    with pytest.raises(KeyboardInterrupt), journal.around(CHANGE):
        raise KeyboardInterrupt
    assert [entry["event"] for entry in journal.entries()] == ["begin"]


def test_a_disk_that_is_full_stops_the_work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path), "m")
    done: list[str] = []

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_journal.os, "fsync", full)
    with pytest.raises(MigrationError) as caught, journal.around(CHANGE):
        done.append("the write to the outside")
    assert done == []
    assert "No space left on device" in caught.value.message
    assert "make room" in caught.value.message
    with journal.around(CHANGE, must=False):
        done.append("what gives traffic back")
    assert done == ["what gives traffic back"] and "No space left on device" in journal.problem
    with pytest.raises(MigrationError, match="of the body"), journal.around(CHANGE, must=False):
        raise MigrationError("of the body")


def test_threads_share_a_journal(tmp_path: pathlib.Path) -> None:
    """Several gateways are retired at once: one thread forgets and looks, while another keeps."""
    mirror = Memory({f"many/{number}": number for number in range(20_000)})
    journal = Journal(str(tmp_path), "m", mirror=mirror)
    ended = threading.Event()
    troubles: list[BaseException] = []

    def look() -> None:
        try:
            while not ended.is_set():
                journal.forget("none/")
                journal.originals("many/1")
        except RuntimeError as error:
            troubles.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(50):
        journal.keep_original(f"new/{number}", number)
    ended.set()
    thread.join()
    assert troubles == []
    assert len(mirror.originals) == 20_050


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(str(tmp_path / "other"), "m")
    journal.directory = tmp_path / "file" / "m"
    journal.path = journal.directory / "journal.jsonl"
    with pytest.raises(MigrationError, match="cannot be written"):
        journal.write("note")


def test_a_journal_that_cannot_be_read_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "m" / "journal.jsonl").mkdir(parents=True)
    with pytest.raises(MigrationError, match="The journal cannot be read"):
        Journal(str(tmp_path), "m")


def test_home_is_expanded(clean_environment: pathlib.Path) -> None:
    journal = Journal("~/state", "m")
    journal.write("note")
    assert journal.path == clean_environment / "state" / "m" / "journal.jsonl"


WRITER = """
import sys
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
journal = Journal(sys.argv[1], "m", run=sys.argv[2])
for number in range(100):
    journal.write("note", number=number, text="x" * (number * 37 % 5000))
"""


def test_concurrent_writers_never_mix_their_lines(tmp_path: pathlib.Path) -> None:
    """Two processes at once (a run that was thought dead, and the next one), and a kill -9 among them."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), f"run{number}"], env=env) for number in range(4)]
    path = tmp_path / "m" / "journal.jsonl"
    while writers[0].poll() is None and not (path.exists() and path.stat().st_size > 50_000):
        pass
    writers[0].kill()
    assert [writer.wait(60) for writer in writers[1:]] == [0, 0, 0]
    writers[0].wait(60)
    bad = []
    numbers: dict[str, list[int]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            bad.append(line)
            continue
        numbers.setdefault(entry["run"], []).append(entry["number"])
    assert len(bad) <= 1  # at most the one that was killed in the middle of its line
    for run in ("run1", "run2", "run3"):
        assert numbers[run] == list(range(100))
    assert numbers.get("run0", []) == list(range(len(numbers.get("run0", []))))
