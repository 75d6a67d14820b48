# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Live progress: JSON lines in ``<state_dir>/<migration>/progress.jsonl``, and the sentence that a person reads of each.

A line is ``{"time": ISO 8601 UTC, "run": id, "event": str, "step": n, "of": m, "asked", "planned", "observed": percent,
"since": ISO, "until": ISO, "gates": {name: {state, reason, numbers}}, "text": str}``; what does not apply is left out.
Events: start, baseline, move, hold, verdict, replan, pause, resume, rollback, end. The file is of the newest run only.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import time
import typing as t

NAME = "progress.jsonl"
# Events that say the same again with newer numbers: at most one a second.
REPEATING = frozenset({"hold", "baseline"})


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 UTC with milliseconds."""
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).isoformat(timespec="milliseconds")


class Progress:
    """Writes the lines. It can fail to (a full disk): the run goes on, and ``problem`` says why there are no lines."""

    def __init__(
        self,
        directory: pathlib.Path,
        run: str,
        *,
        enabled: bool = True,
        every: float = 1.0,
        clock: t.Callable[[], float] = time.time,
    ) -> None:
        self.path = directory / NAME
        self.problem = ""
        self._run = run
        self._every = every
        self._clock = clock
        self._last = 0.0
        self._file: t.TextIO | None = None
        if not enabled:
            return
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A new file in place of the old one, so that whoever reads along sees where this run begins.
            fresh = self.path.with_name(f".{NAME}.{os.getpid()}")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(fd, "a", encoding="utf-8", buffering=1)
            os.replace(fresh, self.path)
        except OSError as error:
            self._give_up(error)

    def event(self, event: str, **fields: t.Any) -> None:
        """Write one line. Repeating events are left out when the last line is younger than ``every`` seconds."""
        if self._file is None:
            return
        now = self._clock()
        if event in REPEATING and 0 <= now - self._last < self._every:
            return
        self._last = now
        known = {key: item for key, item in fields.items() if item is not None}
        line = {"time": iso(now), "run": self._run, "event": event, **known}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)
            self._file = None

    def _give_up(self, error: OSError) -> None:
        self.problem = f"there are no progress lines in {self.path}: {error}"
        self._file = None


def human(line: t.Mapping[str, t.Any]) -> str:
    """The line for a terminal: ``12:00:07 step 2/5 hold: 5 % asked, 4.8 % planned, 4.8 % observed, 12 s left | web: ...``."""
    head = [str(line.get("time", ""))[11:19]]
    if line.get("step"):
        head.append(f"step {line['step']}/{line.get('of', '?')}")
    head.append(str(line.get("event", "")))
    parts = [f"{line[name]:g} % {name}" for name in ("asked", "planned", "observed") if isinstance(line.get(name), (int, float))]
    left = _left(line)
    if left is not None:
        parts.append(f"{left:.0f} s left")
    if line.get("text"):
        parts.append(str(line["text"]))
    text = " ".join(part for part in head if part) + (": " + ", ".join(parts) if parts else "")
    gates = line.get("gates") if line.get("event") != "end" else None
    if isinstance(gates, t.Mapping):
        for name, gate in gates.items():
            if isinstance(gate, t.Mapping):
                text += f" | {name} {gate.get('state')}: {gate.get('reason')}"
    return text


def _left(line: t.Mapping[str, t.Any]) -> float | None:
    try:
        until = datetime.datetime.fromisoformat(str(line["until"]))
        now = datetime.datetime.fromisoformat(str(line["time"]))
    except (KeyError, ValueError):
        return None
    return max(0.0, (until - now).total_seconds())
