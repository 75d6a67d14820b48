# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Who may stop a running shift, and how it hears of it: a file, an annotation, the end of its controller, another run."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import threading
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import Interrupt
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import make_private
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease

T = t.TypeVar("T")
A_co = t.TypeVar("A_co", covariant=True)

ANNOTATION = "servicemesh.migration/control"
# Set by the action plugin: the process of the ansible-playbook that waits for the answer, as process_token() gives it.
CONTROLLER_ENV = "SERVICEMESH_MIGRATION_CONTROLLER"
RESUME, PAUSE, ABORT, ROLLBACK = "resume", "pause", "abort", "rollback"
_RANK = {RESUME: 0, PAUSE: 1, ABORT: 2, ROLLBACK: 3}


@dataclasses.dataclass(frozen=True)
class Order:
    """What the operator wants: ``resume`` (nothing special), ``pause``, ``abort`` or ``rollback``, and where it is said."""

    word: str = RESUME
    origin: str = ""
    note: str = ""


def read_order(text: str | None, origin: str) -> Order:
    """An unknown word pauses: somebody wanted something, and a typing error must not let traffic move on."""
    word = (text or "").strip().lower()
    if not word:
        return Order(RESUME, origin)
    if word in _RANK:
        return Order(word, origin)
    return Order(PAUSE, origin, f"{word[:40]!r} is no order (pause, resume, abort, rollback), so it counts as pause")


def strongest(orders: t.Sequence[Order]) -> Order:
    return max(orders, key=lambda order: _RANK[order.word], default=Order())


class Watch(t.Protocol[A_co]):
    """The newest answer of something slow that is asked again and again."""

    def latest(self) -> A_co | None: ...

    def problem(self) -> str: ...

    def stop(self) -> None: ...


class Poller(t.Generic[T]):
    """Ask in a thread every ``interval`` seconds (first after the first of them), so that a slow API never delays a verdict."""

    def __init__(self, call: t.Callable[[], T], interval: float, initial: T | None = None) -> None:
        self._call = call
        self._interval = interval
        self._value = initial
        self._problem = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._value = self._call()
                self._problem = ""
            except Exception as error:  # shown as a warning; the last answer stands
                self._problem = str(error) or type(error).__name__

    def latest(self) -> T | None:
        return self._value

    def problem(self) -> str:
        return self._problem

    def stop(self) -> None:
        self._ended.set()


class Control:
    """The file ``<state_dir>/<migration>/control`` and the annotation of the source Services; the stronger word wins.

    :arg lease: whoever has taken it is at work now, and two must not be: nothing more is done here, not even a way back.
    """

    def __init__(self, path: pathlib.Path, annotation: Watch[Order] | None = None, lease: Lease | None = None) -> None:
        self.path = path
        self._annotation = annotation
        self._lease = lease

    def order(self) -> Order:
        if self._lease is not None and self._lease.lost:
            return Order(ABORT, f"the loss of {self._lease.lost}")
        orders = [self._file()]
        if self._annotation is not None:
            orders.append(self._annotation.latest() or Order())
        return strongest(orders)

    def problem(self) -> str:
        return self._annotation.problem() if self._annotation is not None else ""

    def stop(self) -> None:
        if self._annotation is not None:
            self._annotation.stop()

    def _file(self) -> Order:
        try:
            with open(self.path, "rb") as file:
                return read_order(file.read(200).decode("utf-8", "replace"), f"the file {self.path}")
        except FileNotFoundError:
            return Order()
        except OSError as error:
            return Order(PAUSE, f"the file {self.path}", f"it cannot be read ({error}), so it counts as pause")


def process_token(pid: int) -> str:
    """``pid:start time``, so that a number that is used again is not taken for the old process."""
    return f"{pid}:{_started(pid)}"


def process_lives(token: str) -> bool:
    """Whether the process of this token is there. True when it cannot be known."""
    pid, _colon, start = token.partition(":")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return not start or _started(int(pid)) in ("", start)


def _started(pid: int) -> str:
    try:
        # The name in brackets may hold spaces; the start time is the 20th field after it (proc(5)).
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        # A zombie is over, although its number is still taken.
        return "over" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return ""


def nobody_elsewhere(lease: Lease | None, *, wait: float, among: bool = False) -> contextlib.AbstractContextManager[None]:
    """As only_one, for runs whose state folders are not this one; within it, for the folder's own lock is the cheaper one."""
    return contextlib.nullcontext() if lease is None else lease.held(wait=wait, among=among)


@contextlib.contextmanager
def only_one(
    path: pathlib.Path, *, wait: float, among: bool = False, sleep: t.Callable[[float], None] = time.sleep
) -> t.Iterator[None]:
    """Hold the lock file for the block. Another holder is waited for ``wait`` seconds: it may be ending just now.

    The kernel gives the lock back when the process ends, however it ends.

    :arg among: others that say this too may hold it at the same time.
    """
    try:
        make_private(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MigrationError(
            "The state folder cannot be used", where=str(path), why=str(error), todo="set another state_dir"
        ) from error
    try:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if among else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise MigrationError(
                        "Another run is moving the traffic of this migration",
                        where=str(path),
                        why=f"its lock is held by {os.pread(fd, 500, 0).decode(errors='replace').strip() or 'another process'}",
                        todo="let it end, or end it: write abort (or rollback) into the file control beside the lock",
                    ) from error
                sleep(0.2)
            except OSError as error:  # a network file system without locks
                raise MigrationError(
                    "The state folder cannot be locked, so two runs could move the same traffic",
                    where=str(path),
                    why=str(error),
                    todo="set a state_dir on a file system that has locks",
                ) from error
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with contextlib.suppress(OSError):  # it only tells others whose lock this is, and a disk may be full
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "since": now}).encode(), 0)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


class Interrupted:
    """A reason to end: a signal, or the ansible-playbook that started this is gone (then nobody reads the answer)."""

    def __init__(self, flag: Interrupt, controller: str | None) -> None:
        self._flag = flag
        self._controller = controller
        self._asked = 0.0

    def __call__(self) -> str:
        if self._flag:
            number = self._flag.signal
            return f"the signal {signal.Signals(number).name} came" if number else "a signal came"
        if self._controller and time.monotonic() - self._asked >= 1.0:
            self._asked = time.monotonic()
            if not process_lives(self._controller):
                return "the ansible-playbook that started this run is gone"
        return ""
