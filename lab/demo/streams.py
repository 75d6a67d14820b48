# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams that are open all the time: each goes on, or is ended by its server, or is cut in the grace of a pod that was ending.

Nobody can move an open stream from one pod to another. What a migration owes it is the time that its workload's own grace period
gives: the server that is asked to end says so in the stream, and a gateway that goes keeps it until its own grace is over.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.kubeapi import Api, KubeError, path_of

Line = Mapping[str, Any]
DRAINED, OPEN = "drained", "open"
# The kubelet's own, between the end of a pod's grace and that of its last process; and the API server tells whole seconds.
LATE_S = 3.0


@dataclass(frozen=True)
class Ending:
    """A pod that was asked to end at ``asked`` (epoch seconds), and may take ``grace`` seconds."""

    pod: str
    asked: float
    grace: float

    def covers(self, moment: float) -> bool:
        return self.asked - 1 <= moment <= self.asked + self.grace + LATE_S


class Endings(threading.Thread):
    """Notes every pod of some namespaces that is ending."""

    def __init__(self, api: Api, namespaces: Sequence[str], every: float = 0.7) -> None:
        super().__init__(name="endings", daemon=True)
        self._api, self._namespaces, self._every = api, namespaces, every
        self._over = threading.Event()
        self.found: dict[str, Ending] = {}

    def run(self) -> None:
        while not self._over.wait(self._every):
            for name in self._namespaces:
                with contextlib.suppress(KubeError):
                    for pod in self._api.get(path_of("v1", "pods", name))["items"]:
                        if ending := ending_of(pod):
                            self.found.setdefault(ending.pod, ending)

    def stop(self) -> list[Ending]:
        self._over.set()
        self.join(10)
        return list(self.found.values())


def ending_of(pod: Line) -> Ending | None:
    meta = pod["metadata"]
    if not meta.get("deletionTimestamp"):
        return None
    grace = float(meta.get("deletionGracePeriodSeconds") or 0)
    # The time is that at which the grace is over.
    until = datetime.fromisoformat(str(meta["deletionTimestamp"]).replace("Z", "+00:00")).timestamp()
    return Ending(str(meta["name"]), until - grace, grace)


def lines_of(file: Path) -> list[Line]:
    """The streams that a load generator's file tells of."""
    found = []
    for text in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if "stream" in line:
                found.append(line)
    return found


def judge(lines: Iterable[Line], endings: Sequence[Ending], gateways: str = "") -> dict[str, Any]:
    """What became of them. Pure.

    :arg gateways: what the names of the gateways' pods begin with, where the streams go through some.
    """
    found: dict[str, Any] = {"opened": 0, "survived": 0, "drained": 0, "cut_in_grace": 0, "cut": [], "refused": []}
    gap = longest = 0.0
    for line in lines:
        if not line["opened"]:
            if line["how"] != OPEN:
                found["refused"].append(dict(line))
            continue
        found["opened"] += 1
        gap, longest = max(gap, line["gap_ms"]), max(longest, line["t"] - line["opened"])
        if line["how"] in (OPEN, DRAINED):
            found["survived" if line["how"] == OPEN else "drained"] += 1
        elif any(one.covers(line["t"]) for one in endings if _concerned(one, line, gateways)):
            found["cut_in_grace"] += 1
        else:
            found["cut"].append(dict(line))
    return {**found, "gap_ms": round(gap, 1), "longest_s": round(longest, 1)}


def _concerned(one: Ending, line: Line, gateways: str) -> bool:
    return one.pod == line.get("pod") or bool(gateways and one.pod.startswith(gateways))


def problems(name: str, found: Mapping[str, Any]) -> list[str]:
    """What was promised of streams and not seen."""
    wrong = [] if found["opened"] else [f"no stream was open {name}"]
    if found["cut"]:
        wrong.append(f"{len(found['cut'])} streams {name} were cut outside of a pod's grace: {json.dumps(found['cut'][:2])}")
    if found["refused"]:
        wrong.append(f"{len(found['refused'])} streams {name} could not be opened: {json.dumps(found['refused'][:2])}")
    return wrong


def told(name: str, found: Mapping[str, Any]) -> str:
    """One line for people."""
    counts = f"{found['survived']} were still open at the end, {found['drained']} ended by their server"
    cut = f"{found['cut_in_grace']} with a gateway or pod in its grace, {len(found['cut'])} otherwise"
    times = f"the longest lived {found['longest_s']:g} s, the longest silence was {found['gap_ms']:g} ms"
    return f"streams {name}: {found['opened']} opened, {counts}, {cut}; {times}"
