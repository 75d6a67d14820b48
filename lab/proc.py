# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a lab: started in a network namespace, logged, and stopped by pid *and* start time.

A pid alone may meanwhile belong to somebody else; pid and start time (clock ticks since boot,
field 22 of /proc/PID/stat) together name one process for ever.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.state import Lab, LabError, write_atomic


@dataclass(frozen=True)
class Proc:
    """A started process. `start` is in clock ticks since boot; `netns` is the part name ("cloud", ...)."""

    name: str
    pid: int
    start: int
    netns: str | None
    argv: list[str]
    log: str


def start_ticks(pid: int) -> int | None:
    """Start time of a living process, None when there is none.

    A zombie counts as gone when its last thread is: a large process that was killed may show its first thread as a zombie while
    another one still gives its memory back, and only then closes its sockets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the command may hold spaces and brackets: count from its last one
    return None if fields[0] in "ZX" and int(fields[17]) <= 1 else int(fields[19])


def record(lab: Lab, name: str) -> Path:
    return lab.dir / "run" / f"{name}.json"


def load(lab: Lab, name: str) -> Proc | None:
    """The recorded process of that name, alive or not."""
    try:
        return Proc(**json.loads(record(lab, name).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # a record cut short by a crash: `down` finds the process by its namespace


def names(lab: Lab) -> list[str]:
    """Names of all recorded processes."""
    return sorted(path.stem for path in (lab.dir / "run").glob("*.json"))


def alive(lab: Lab, name: str) -> bool:
    """Whether the recorded process still runs (this very one: pid and start time)."""
    proc = load(lab, name)
    return proc is not None and start_ticks(proc.pid) == proc.start


def tail(path: Path | str, lines: int = 15) -> str:
    """The last lines of a log, for error messages."""
    try:
        data = Path(path).read_bytes()[-16384:]
    except OSError:
        return "(no log)"
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:]) or "(the log is empty)"


def in_netns(lab: Lab, netns: str | None, argv: Sequence[str]) -> list[str]:
    """argv as run in a namespace of the lab. nsenter and not `ip netns exec`: that one mounts /sys anew and breaks containers."""
    return list(argv) if netns is None else ["nsenter", f"--net=/run/netns/{lab.netns(netns)}", "--", *argv]


def spawn(
    lab: Lab,
    name: str,
    argv: Sequence[str | Path],
    *,
    netns: str | None = "cloud",
    env: Mapping[str, str] | None = None,
    ready: Callable[[], bool] | None = None,
    timeout: float = 30,
) -> Proc:
    """Start a process in its own session, log to STATE/logs/<name>.log, wait until `ready` says so.

    :raises LabError: it ended, or was not ready in `timeout` seconds (then it is stopped); with the log's last lines.
    """
    if alive(lab, name):
        raise LabError(f"{name} runs already")
    log = lab.logs / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in argv]
    with open(log, "ab") as stream:
        try:
            child = subprocess.Popen(
                in_netns(lab, netns, words),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=None if env is None else {**os.environ, **env},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise LabError(f"{name} cannot be started: {error}") from error
    ticks = start_ticks(child.pid)
    proc = Proc(name, child.pid, ticks or 0, netns, words, str(log))
    write_atomic(record(lab, name), json.dumps(asdict(proc)))
    if ready is not None:
        try:
            wait_for(ready, timeout, what=name, gone=lambda: child.poll() is not None, log=log)
        except LabError:
            stop(lab, name)
            raise
    return proc


def wait_for(
    ready: Callable[[], bool],
    timeout: float,
    *,
    what: str,
    gone: Callable[[], bool] = lambda: False,
    log: Path | None = None,
    pause: float = 0.05,
) -> None:
    """Ask `ready` until it says yes. OSError counts as "not yet".

    :raises LabError: after `timeout` seconds, or as soon as `gone` says that it will never be.
    """
    end = time.monotonic() + timeout
    shown = "" if log is None else f"; the end of {log}:\n"
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        if gone():
            raise LabError(f"{what} ended before it was ready{shown}{tail(log) if log else ''}")
        if time.monotonic() > end:
            raise LabError(f"{what} was not ready after {timeout:g} s{shown}{tail(log) if log else ''}")
        time.sleep(pause)


def stop(lab: Lab, name: str, grace: float = 3.0) -> bool:
    """Stop by SIGTERM, after `grace` seconds by SIGKILL; forget the record. True when it had been alive."""
    return name in stop_all(lab, [name], grace)


def stop_all(lab: Lab, which: Iterable[str], grace: float = 3.0) -> set[str]:
    """Stop several at once, so that the grace is waited for only once. Gives the names that had been alive."""
    procs = {name: proc for name in which if (proc := load(lab, name)) is not None}
    living = {name for name, proc in procs.items() if _signal(proc, signal.SIGTERM if grace > 0 else signal.SIGKILL)}
    _wait_gone([procs[name] for name in living], grace)
    for name in living:
        _signal(procs[name], signal.SIGKILL)
    _wait_gone([procs[name] for name in living], 5)
    for name in procs:
        record(lab, name).unlink(missing_ok=True)
    return living


def _signal(proc: Proc, number: int) -> bool:
    if start_ticks(proc.pid) != proc.start:
        return False
    try:
        os.kill(proc.pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait_gone(procs: Sequence[Proc], timeout: float) -> None:
    end = time.monotonic() + timeout
    while any(_reap(proc.pid) and start_ticks(proc.pid) == proc.start for proc in procs):
        if time.monotonic() > end:
            return
        time.sleep(0.02)


def _reap(pid: int) -> bool:
    """Collect our own dead child, if it is one; always True."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    return True


def kill_ticks(pid: int, start: int, number: int = signal.SIGKILL) -> bool:
    """Signal a process that is still the one started at `start`; True when it was."""
    return _signal(Proc("", pid, start, None, [], ""), number)


def run(
    lab: Lab,
    argv: Sequence[str | Path],
    *,
    netns: str | None = "cloud",
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 60,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a namespace to its end and give its output.

    :raises LabError: it cannot be started, takes longer than `timeout` seconds, or (with `check`) fails; says what it wrote.
    """
    words = [str(word) for word in argv]
    text = " ".join(words)
    try:
        done = subprocess.run(
            in_netns(lab, netns, words),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else {**os.environ, **env},
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{text}` took longer than {timeout:g} s") from error
    except OSError as error:
        raise LabError(f"`{text}` cannot be run: {error}") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{text}` failed with status {done.returncode}: {said[-2000:]}")
    return done
