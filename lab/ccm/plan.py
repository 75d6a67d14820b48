# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done with vServer groups. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from lab.ccm.backends import Backend, Group
from lab.ccm.names import Object, Owner


@dataclass
class Diff:
    add: list[Backend]
    remove: list[Backend]
    update: list[Backend]

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.update)


def _same(wanted: Backend, there: Backend) -> bool:
    """By server and port; an ENI backend by its address too."""
    if wanted.server_id != there.server_id or wanted.port != there.port:
        return False
    return wanted.type != "eni" or wanted.server_ip == there.server_ip


def diff(wanted: Group, there: Group) -> Diff:
    """Foreign backends are never removed. Updates are found by server without the port, so two Services that share a group on
    the same nodes make each other's reconciles write the same values again and again (alibaba.md 2.5, B5)."""
    remove = [old for old in there.backends if not old.foreign and not any(_same(new, old) for new in wanted.backends)]
    add = [new for new in wanted.backends if not any(_same(new, old) for old in there.backends)]
    update = []
    for new in wanted.backends:
        for old in there.backends:
            if new.server_id != old.server_id or (new.type == "eni" and new.server_ip != old.server_ip):
                continue
            weight = not wanted.keep_weights and new.weight != old.weight
            if new.port != old.port or weight or new.description != old.description:
                update.append(new)
                break
    return Diff(add, remove, update)


@dataclass
class GroupAction:
    """kind: create | update; `there` is the group as read (update only)."""

    kind: str
    wanted: Group
    there: Group | None = None


def group_actions(wanted: list[Group], there: list[Group]) -> list[GroupAction]:
    """By id for a named group, by name for its own. Puts the ids found into `wanted`. A group of two ports is written once."""
    plan: list[GroupAction] = []
    seen: set[str] = set()
    for group in wanted:
        key = f"id-{group.id}" if group.id else f"name-{group.name}"
        found = next((old for old in there if (old.id == group.id if group.id else old.name == group.name)), None)
        if found is not None:
            group.id = found.id
        if key in seen:
            continue
        if found is None:
            plan.append(GroupAction("create", group))
            seen.add(key)
        elif diff(group, found):
            plan.append(GroupAction("update", group, found))
            seen.add(key)
    return plan


def own_group(group: Group, svc: Object, cluster: str) -> bool:
    """Made by the CCM for this Service, and holding no backend of somebody else."""
    owner = Owner.parse(group.name)
    return not group.foreign and owner is not None and owner.same_service(svc, cluster)


def leftovers(
    wanted: list[Group], there: list[Group], svc: Object, cluster: str
) -> tuple[list[Group], list[tuple[Group, list[Backend]]]]:
    """Groups to delete (its own that no port needs), and backends of its own to take out of groups of others."""
    needed = {group.id for group in wanted}
    delete, empty = [], []
    for group in there:
        if group.id in needed:
            continue
        if own_group(group, svc, cluster):
            delete.append(group)
        else:
            mine = [item for item in group.backends if not item.foreign]
            if mine:
                empty.append((group, mine))
    return delete, empty
