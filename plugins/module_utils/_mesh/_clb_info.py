# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of module clb_info. Reads only."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb, Health, Listener
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import describe
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import (
    GatewayPair,
    balancer_id,
    pairs_of,
    read_balancer,
)


def clb_info(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """See module clb_info."""
    ids = list(params.get("load_balancer_ids") or [])
    pairs = pairs_of(params["gateways"]) if params.get("gateways") else []
    if not ids and not pairs:
        raise InputError(
            "No load balancer is named",
            why="gateways and load_balancer_ids are both empty",
            todo="name gateways, or ids, or both",
        )
    clb = Clb(params["alibaba"])
    by_gateway: dict[str, list[GatewayPair]] = {}
    if pairs:
        source = Cluster("source", params["source"])
        source.guard()

        def find(pair: GatewayPair) -> str:
            services = [source.get(SERVICE, name, pair.namespace) for name in (pair.source_service, pair.target_service)]
            return balancer_id(clb, pair, *services)

        for pair, lb_id in values(each(pairs, lambda pair: (pair, find(pair)))):
            by_gateway.setdefault(lb_id, []).append(pair)
    warnings: list[str] = []
    found: list[dict[str, t.Any]] = []
    for shown, warned in values(each(list(dict.fromkeys([*ids, *by_gateway])), lambda lb_id: _one(clb, lb_id))):
        shown["gateways"] = [pair.as_dict() for pair in by_gateway.get(shown["id"], [])]
        found.append(shown)
        warnings.extend(warned)
    return Outcome(result={"load_balancers": found}, warnings=warnings)


def _one(clb: Clb, lb_id: str) -> tuple[dict[str, t.Any], list[str]]:
    balancer, listeners, groups = read_balancer(clb, lb_id)
    health: dict[int, list[Health]] = {}

    def read(listener: Listener) -> tuple[int, list[Health]]:
        return listener.port, clb.health(lb_id, listener)

    health.update(values(each([item for item in listeners if item.group_id], read)))
    return describe(balancer, listeners, groups, health)
