# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SLB 2014-05-15: vServer groups and their backends.

Source: request and response models of alibabacloud_slb20140515 3.3.31 (docstrings of AddVServerGroupBackendServers,
SetVServerGroupAttribute), CCM vgroups.go. ``BackendServers`` is a JSON string; the CCM writes lowerCamel keys, users of
the Python SDK CamelCase ones: keys are read without regard to case, numbers may be strings.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from .call import Call, Context, action, tag_list, tags_match
from .errors import backend_unknown, invalid, missing, too_many_backends, vserver_group_in_use, vserver_group_not_found
from .model import Backend, VServerGroup, new_id
from .slb_load_balancer import find as find_lb

TYPES = ("ecs", "eni", "eci")


def find(ctx: Context, call: Call) -> VServerGroup:
    group = ctx.world.groups.get(call.need("VServerGroupId"))
    if group is None:
        raise vserver_group_not_found()
    lb = ctx.world.load_balancers[group.load_balancer_id]
    if call.region and call.region != lb.region_id:
        raise vserver_group_not_found()
    return group


def _number(raw: object, name: str, low: int, high: int) -> int:
    try:
        value = int(str(raw))
    except ValueError as error:
        raise invalid("BackendServers", f"{name} is not a number.") from error
    if not low <= value <= high:
        raise invalid("BackendServers", f"{name} must be in [{low}, {high}].")
    return value


def parse(ctx: Context, text: str) -> list[tuple[Backend, set[str]]]:
    """The backends of a call, each with the (lower case) names of the fields that were given."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise invalid("BackendServers") from error
    if not isinstance(raw, list) or not all(isinstance(x, dict) for x in raw):
        raise invalid("BackendServers")
    if len(raw) > ctx.world.batch_limit:
        raise too_many_backends(ctx.world.batch_limit)
    result = []
    for item in raw:
        fields = {str(k).lower(): v for k, v in item.items() if v is not None}
        if not fields.get("serverid"):
            raise invalid("BackendServers", "ServerId is empty.")
        kind = str(fields.get("type") or "ecs").lower()
        if kind not in TYPES:
            raise invalid("BackendServers", "Type is not ecs, eni or eci.")
        backend = Backend(
            server_id=str(fields["serverid"]),
            port=_number(fields.get("port", ""), "Port", 1, 65535),
            weight=_number(fields.get("weight", 100), "Weight", 0, 100),
            type=kind,
            server_ip=str(fields.get("serverip") or "") if kind != "ecs" else "",
            description=str(fields.get("description") or ""),
        )
        result.append((backend, set(fields)))
    return result


def _check_exists(ctx: Context, backend: Backend) -> None:
    """An ECS backend must be a known instance; an ENI or ECI must bring an address."""
    if backend.type == "ecs":
        if backend.server_id not in ctx.world.instances:
            raise backend_unknown()
        return
    try:
        ipaddress.ip_address(backend.server_ip)
    except ValueError as error:
        raise invalid("BackendServers", "ServerIp is not an address.") from error


def _row(backend: Backend, with_ip: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ServerId": backend.server_id,
        "Port": backend.port,
        "Weight": backend.weight,
        "Type": backend.type,
        "Description": backend.description,
    }
    if with_ip:
        row["ServerIp"] = backend.server_ip
    return row


def _answer(group: VServerGroup) -> dict[str, Any]:
    # Answers of writing calls lack ServerIp (SDK models).
    return {"VServerGroupId": group.id, "BackendServers": {"BackendServer": [_row(b, False) for b in group.backends]}}


def _add(ctx: Context, group: VServerGroup, additions: list[Backend]) -> list[Backend]:
    """The group's backends with the additions; one that is already there is left as it is."""
    for backend in additions:
        _check_exists(ctx, backend)
    merged = {b.key(): b for b in group.backends}
    for backend in additions:
        merged.setdefault(backend.key(), backend)
    return list(merged.values())


@action("slb", "CreateVServerGroup", writes=True)
def create(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find_lb(ctx, call)
    group = VServerGroup(id=new_id("rsp"), load_balancer_id=lb.id, name=call.get("VServerGroupName"))
    group.name = group.name or group.id
    group.tags = {k: v or "" for k, v in call.tags()}
    if call.get("BackendServers"):
        group.backends = _add(ctx, group, [b for b, _ in parse(ctx, call.get("BackendServers"))])
    ctx.world.groups[group.id] = group
    return _answer(group)


@action("slb", "DeleteVServerGroup", writes=True)
def delete(ctx: Context, call: Call) -> dict[str, Any]:
    group = find(ctx, call)
    if ctx.world.users_of(group.id):
        raise vserver_group_in_use()
    del ctx.world.groups[group.id]
    return {}


@action("slb", "DescribeVServerGroups")
def describe_all(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find_lb(ctx, call)
    name, tags = call.get("Description"), call.tags()
    rows = []
    for group in ctx.world.groups_of(lb.id):
        if (name and group.name != name) or not tags_match(group.tags, tags):
            continue
        row: dict[str, Any] = {
            "VServerGroupId": group.id,
            "VServerGroupName": group.name,
            "ServerCount": len(group.backends),
            "CreateTime": group.created,
            "Tags": tag_list(group.tags),
        }
        associated: dict[str, Any] = {}
        if call.flag("IncludeListener"):
            users = [{"Port": ln.port, "Protocol": ln.protocol} for _, ln in ctx.world.users_of(group.id)]
            associated["Listeners"] = {"Listener": users}
        if call.flag("IncludeRule"):
            associated["Rules"] = {"Rule": []}
        row["AssociatedObjects"] = associated
        rows.append(row)
    return {"VServerGroups": {"VServerGroup": rows}}


@action("slb", "DescribeVServerGroupAttribute")
def describe(ctx: Context, call: Call) -> dict[str, Any]:
    group = find(ctx, call)
    return {
        "VServerGroupId": group.id,
        "VServerGroupName": group.name,
        "LoadBalancerId": group.load_balancer_id,
        "CreateTime": group.created,
        "Tags": tag_list(group.tags),
        "BackendServers": {"BackendServer": [_row(b, True) for b in group.backends]},
    }


@action("slb", "SetVServerGroupAttribute", writes=True)
def set_attribute(ctx: Context, call: Call) -> dict[str, Any]:
    """The name, and weight and description of backends that are there; others in the list are passed over."""
    group = find(ctx, call)
    changes = []
    for wanted, given in parse(ctx, call.get("BackendServers")) if call.get("BackendServers") else []:
        backend = group.find(wanted.key())
        if backend is not None:
            changes.append((backend, wanted, given))
    for backend, wanted, given in changes:
        if "weight" in given:
            backend.weight = wanted.weight
        if "description" in given:
            backend.description = wanted.description
    group.name = call.get("VServerGroupName") or group.name
    return {**_answer(group), "VServerGroupName": group.name}


@action("slb", "AddVServerGroupBackendServers", writes=True)
def add_backends(ctx: Context, call: Call) -> dict[str, Any]:
    group = find(ctx, call)
    group.backends = _add(ctx, group, [b for b, _ in parse(ctx, call.need("BackendServers"))])
    return _answer(group)


def _without(group: VServerGroup, removed: list[Backend]) -> list[Backend]:
    gone = {b.key() for b in removed}
    return [b for b in group.backends if b.key() not in gone]


@action("slb", "RemoveVServerGroupBackendServers", writes=True)
def remove_backends(ctx: Context, call: Call) -> dict[str, Any]:
    group = find(ctx, call)
    group.backends = _without(group, [b for b, _ in parse(ctx, call.need("BackendServers"))])
    return _answer(group)


@action("slb", "ModifyVServerGroupBackendServers", writes=True)
def modify_backends(ctx: Context, call: Call) -> dict[str, Any]:
    group = find(ctx, call)
    if not call.get("OldBackendServers") and not call.get("NewBackendServers"):
        raise missing("NewBackendServers")
    old = [b for b, _ in parse(ctx, call.get("OldBackendServers") or "[]")]
    new = [b for b, _ in parse(ctx, call.get("NewBackendServers") or "[]")]
    kept = VServerGroup(group.id, group.load_balancer_id, group.name, _without(group, old))
    group.backends = _add(ctx, kept, new)
    return _answer(group)
