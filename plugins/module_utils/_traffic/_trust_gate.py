# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Trust between the meshes as a gate: what old and new sidecars send to each other while a wave is held."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _trust
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._trust import Cell, Reading
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import Poller
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, INCONCLUSIVE, PASS, Verdict

Object = dict[str, t.Any]
INTERVAL = 2.0
_AT_ONCE = 50


class Asked(t.Protocol):
    """Where the pods and their counters come from."""

    def pods(self) -> list[Object]: ...

    def clients(self, pods: t.Sequence[Object]) -> Reading: ...

    def servers(self, pods: t.Sequence[Object]) -> dict[str, bool | None]: ...


@dataclasses.dataclass
class _Seen:
    known: dict[str, tuple[str, Object]] = dataclasses.field(default_factory=dict)
    sample: list[Object] = dataclasses.field(default_factory=list)
    strict: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    before: Reading = dataclasses.field(default_factory=dict)


class TrustGate:
    """A Gate. :arg require: False only tells. :arg most: so many pods of each side are read.

    :arg patience: seconds for which one that only tells waits for its numbers, so that a wave does not end without them.
    """

    name = "trust both ways"

    def __init__(
        self,
        asked: Asked,
        proxies: Proxies,
        most: int,
        *,
        require: bool,
        interval: float = INTERVAL,
        patience: float = 0.0,
    ) -> None:
        self._asked = asked
        self._proxies = proxies
        self._most = most
        self._require = require
        self._interval = interval
        self._patience = patience
        self._began = 0.0
        self._looks = 0
        self._poller: Poller[list[Cell]] | None = None

    def start(self) -> None:
        self.stop()
        seen: list[_Seen] = []
        self._began, self._looks = time.monotonic(), 0

        def look() -> list[Cell]:
            if not seen:
                seen.append(self._first())
            found = self._next(seen[0])
            self._looks += 1
            return found

        self._poller = Poller(look, self._interval)

    def stop(self) -> None:
        if self._poller is not None:
            self._poller.stop()

    def verdict(self) -> Verdict:
        cells = self._poller.latest() if self._poller is not None else None
        problem = self._poller.problem() if self._poller is not None else ""
        if cells is None:
            found = Verdict(INCONCLUSIVE, problem or "the proxies are being read")
        else:
            found = judge(cells)
            if problem and found.state == PASS:
                found = Verdict(INCONCLUSIVE, f"the proxies cannot be read any more: {problem}", found.numbers)
        # The first look has only the moment between its two readings.
        reading = cells != [] and self._looks < 2 and not problem and time.monotonic() - self._began < self._patience
        if self._require or reading:
            return found if self._require else Verdict(INCONCLUSIVE, "the proxies are being read", found.numbers)
        return Verdict(PASS, f"only told ({found.state}): {found.reason}", found.numbers)

    def _first(self) -> _Seen:
        known = _trust.sides(self._asked.pods(), self._proxies)
        sample = _trust.sample(known, self._most)
        if len({side for side, _pod in known.values()}) < 2:
            return _Seen(known)
        return _Seen(known, sample, {}, self._asked.clients(sample))

    def _next(self, seen: _Seen) -> list[Cell]:
        if not seen.sample:
            return []
        after = self._asked.clients(seen.sample)
        # Only servers that were met are asked what they take, each once, and not all at the same time.
        fresh = [address for address in _trust.met(seen.known, seen.before, after) if address not in seen.strict][:_AT_ONCE]
        seen.strict.update(self._asked.servers([seen.known[address][1] for address in fresh]) if fresh else {})
        return _trust.matrix(seen.known, seen.before, after, seen.strict)


def judge(cells: t.Sequence[Cell]) -> Verdict:
    """The matrix as a verdict. No cells: there is only one side. Pure."""
    numbers = {"matrix": [cell.as_dict() for cell in cells]}
    if not cells:
        return Verdict(PASS, "all pods are on one side", numbers)
    for state, verdict in ((_trust.FAILED, FAIL), (_trust.UNPROVEN, INCONCLUSIVE)):
        bad = [f"{cell.client} to {cell.server}: {cell.reason}" for cell in cells if cell.state == state]
        if bad:
            return Verdict(verdict, "; ".join(bad), numbers)
    told = ", ".join(f"{cell.requests} requests {cell.client} to {cell.server}" for cell in cells)
    return Verdict(PASS, told, numbers)
