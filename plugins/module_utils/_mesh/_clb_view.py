# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A load balancer as its users see it: who owns which backend, and which share of a listener that gives. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import (
    Backend,
    Group,
    Health,
    Listener,
    LoadBalancer,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import Owner, parse_owner

# Schedulers that look at the weights (SDK docstring of Scheduler, CLB page on backend servers).
WEIGHTED = ("wrr", "wlc")
UNKNOWN = "(not by a cloud-controller-manager)"


def owner_of(backend: Backend) -> Owner | None:
    return parse_owner(backend.description)


def owned_by(backend: Backend, namespace: str, service: str, cluster_id: str = "") -> bool:
    """vgroups.go isBackendManagedByMyService; without ``cluster_id`` any cluster."""
    owner = owner_of(backend)
    if owner is None or (owner.namespace, owner.service) != (namespace, service):
        return False
    return not cluster_id or owner.cluster_id == cluster_id


def owner_key(backend: Backend) -> str:
    owner = owner_of(backend)
    return owner.key if owner else UNKNOWN


def backend_key(backend: Backend) -> str:
    """How a weight formula's member is found again: the instance of a node, the address of a pod."""
    return backend.server_ip if backend.type != "ecs" and backend.server_ip else backend.server_id


def sums(group: Group | None) -> dict[str, int]:
    """Sum of the weights of each owner in a group; an owner with weight 0 is listed too."""
    found: dict[str, int] = {}
    for backend in group.backends if group else ():
        key = owner_key(backend)
        found[key] = found.get(key, 0) + backend.weight
    return found


def shares(listener: Listener, group: Group | None) -> dict[str, float]:
    """Percent of the listener's new connections that each owner gets.

    A scheduler that does not look at weights gives every backend with a weight over 0 the same (that rr sends nothing to a
    weight of 0 is taken for granted, not proven).
    """
    found: dict[str, float] = {}
    for backend in group.backends if group else ():
        key = owner_key(backend)
        part = backend.weight if listener.scheduler in WEIGHTED else int(backend.weight > 0)
        found[key] = found.get(key, 0.0) + part
    total = sum(found.values())
    return {key: round(100.0 * part / total, 3) if total else 0.0 for key, part in sorted(found.items())}


def by_port(listeners: t.Sequence[Listener]) -> dict[int, Listener]:
    return {listener.port: listener for listener in listeners}


def describe(
    balancer: LoadBalancer,
    listeners: t.Sequence[Listener],
    groups: t.Sequence[Group],
    health: t.Mapping[int, t.Sequence[Health]],
) -> tuple[dict[str, t.Any], list[str]]:
    """The return value of module clb_info for one load balancer, and the warnings.

    ``{id, name, address, status, delete_protection, modification_protection, tags, listeners: [{port, protocol, scheduler,
    group_id, status, description, persistence, drain, owner, shares: {owner: percent}}], groups: [{id, name, listeners, backends:
    [{server_id, server_ip, port, type, weight, owner, health}]}]}``
    """
    warnings: list[str] = []
    known = {group.id: group for group in groups}
    state = {(item.server_id, item.server_ip, item.port): item.status for items in health.values() for item in items}
    shown: list[dict[str, t.Any]] = []
    for listener in listeners:
        group = known.get(listener.group_id)
        owner = parse_owner(listener.description)
        shown.append({**dataclasses.asdict(listener), "owner": owner.key if owner else None, "shares": shares(listener, group)})
        place = f"clb/{balancer.id}/listener/{listener.port}"
        if listener.scheduler not in WEIGHTED:
            warnings.append(
                f"{place}: the scheduler {listener.scheduler or '?'} does not look at weights; "
                "the shares are counted by backends with a weight over 0"
            )
        if listener.persistence:
            warnings.append(f"{place}: {listener.persistence} keeps clients at their backend whatever the weights are")
        if group is not None and not any(backend.weight for backend in group.backends):
            warnings.append(f"{place}: the weights of all its backends are 0, or it has none: it serves nobody")
    return {
        **dataclasses.asdict(balancer),
        "listeners": shown,
        "groups": [
            {
                "id": group.id,
                "name": group.name,
                "listeners": list(group.listeners),
                "backends": [
                    {
                        **dataclasses.asdict(backend),
                        "owner": owner_key(backend),
                        "health": state.get((backend.server_id, backend.server_ip, backend.port), "unknown"),
                    }
                    for backend in group.backends
                ],
            }
            for group in groups
        ],
    }, warnings
