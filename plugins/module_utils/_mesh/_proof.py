# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Questions to a load balancer whose answers guard a write, or prove its effect."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Backend, Clb, Group, Health, Listener
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import EVENT, SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import TOUCHED
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import by_port, owned_by, shares
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, now_text

Object = dict[str, t.Any]


# Seconds between two touches of a Service whose effect is waited for.
_NUDGE = 5.0


class Nudge:
    """Makes the CCM look at a Service again at once, while its work is waited for.

    After a call that failed the CCM pauses by itself for 5, 10, 20 ... 300 s; a changed annotation ends the pause. Harmless, and
    the mark is this collection's own.
    """

    def __init__(self, cluster: Cluster, namespace: str, service: str) -> None:
        self._cluster, self._namespace, self._service = cluster, namespace, service
        self._last = time.monotonic()
        self.done = False

    def again(self) -> None:
        """Touch, when the last touch (or the beginning of the wait) is long enough ago."""
        if time.monotonic() - self._last < _NUDGE:
            return
        self._last = time.monotonic()
        try:
            self._mark(f"working {now_text()}")
        except MigrationError as error:
            if error.details.get("status") != 404:
                raise
        self.done = True

    def unmark(self) -> None:
        """Take the mark away where nothing of ours may stay."""
        if self.done:
            self._mark(None)

    def _mark(self, value: str | None) -> None:
        self._cluster.patch(SERVICE, self._service, self._namespace, {"metadata": {"annotations": {TOUCHED: value}}})


def share(view: PairView, side: str, port: int) -> float:
    """Percent of a listener's new connections that a side gets by the weights of now."""
    listener = by_port(view.listeners).get(port)
    owner = f"{view.pair.namespace}/{view.pair.service(side)}"
    return shares(listener, view.group(port)).get(owner, 0.0) if listener else 0.0


def live_ports(view: PairView, side: str) -> dict[int, float]:
    """``{port: percent}`` of all listeners of the load balancer on which a side has a share over 0."""
    found = {listener.port: share(view, side, listener.port) for listener in view.listeners}
    return {port: percent for port, percent in found.items() if percent > 0}


def health_of(clb: Clb, view: PairView) -> dict[int, list[Health]]:
    """Port -> what the health check says about the backends, of the gateway's listeners."""
    heads = [listener for port, listener in by_port(view.listeners).items() if port in view.ports]
    states = values(each(heads, lambda listener: clb.health(view.balancer.id, listener)))
    return {listener.port: states[index] for index, listener in enumerate(heads)}


def health_states(view: PairView, health: t.Mapping[int, t.Sequence[Health]], side: str, port: int) -> set[str]:
    """What the health check says about a side's backends of a port: normal, abnormal, unavailable; empty without backends."""
    group, name = view.group(port), view.pair.service(side)
    mine = [item for item in (group.backends if group else ()) if owned_by(item, view.pair.namespace, name)]
    return {item.status for item in health.get(port, []) if any(_same(item, backend) for backend in mine)}


def _same(health: Health, backend: Backend) -> bool:
    """Whether a health result is about this backend. The address tells pods of one network interface apart."""
    if (health.server_id, health.port) != (backend.server_id, backend.port):
        return False
    return not health.server_ip or not backend.server_ip or health.server_ip == backend.server_ip


def not_serving(view: PairView, health: t.Mapping[int, t.Sequence[Health]], side: str) -> list[str]:
    """Ports on which the other side is healthy and this one is not (yet), one line each."""
    other = "target" if side == "source" else "source"
    found = []
    for port in view.ports:
        mine = health_states(view, health, side, port)
        if "normal" in health_states(view, health, other, port) and "normal" not in mine:
            said = ", ".join(sorted(mine)) or "nothing"
            found.append(f"port {port}: the health check of {view.pair.service(side)} says {said}")
    return found


def left_behind(groups: t.Iterable[Group], namespace: str, service: str) -> list[str]:
    """Groups that still have backends of a Service."""
    return [group.id for group in groups if any(owned_by(item, namespace, service) for item in group.backends)]


def missing(view: PairView, side: str) -> list[str]:
    """Why the groups do not hold what the weight of a side's Service means, one line a port; empty when they do."""
    try:
        found = view.differences(side, view.weight(side))
    except ValueError as error:
        return [f"{view.pair.service(side)}: {error}"]
    for port in view.ports:
        group = view.group(port)
        if group is not None and not view.own(side, group) and not found:
            found.append(f"port {port}: {group.id} has no backend of {view.pair.service(side)}")
    return found


def unlike_listeners(before: t.Sequence[Listener], after: t.Sequence[Listener]) -> list[str]:
    """What became of listeners, one sentence each; empty when they are the same in every field."""
    old = {(item.port, item.protocol): item for item in before}
    new = {(item.port, item.protocol): item for item in after}
    found = []
    for key in sorted({*old, *new}):
        name = f"listener {key[0]}/{key[1]}"
        if key not in new:
            found.append(f"{name} is gone")
        elif key not in old:
            found.append(f"{name} is new")
        else:
            left, right = dataclasses.asdict(old[key]), dataclasses.asdict(new[key])
            found += [f"{name}: {field} {left[field]!r} -> {right[field]!r}" for field in left if left[field] != right[field]]
    return found


def last_trouble(cluster: Cluster, namespace: str, service: str) -> str:
    """The CCM's newest event about a failure of this Service, for messages; empty when there is none or it cannot be read."""
    selector = f"involvedObject.kind=Service,involvedObject.name={service}"
    try:
        events = list(cluster.list_all(EVENT, namespace, field_selector=selector))
    except MigrationError:
        return ""
    words = ("Failed", "Skip", "UnAvailable")
    bad = [item for item in events if any(word in str(item.get("reason")) for word in words)]
    bad.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))
    if not bad:
        return ""
    where = cluster.where(SERVICE, service, namespace)
    return f"the CCM says about {where}: {bad[-1].get('reason')}: {bad[-1].get('message')}"
