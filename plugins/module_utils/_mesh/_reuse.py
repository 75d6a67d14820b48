# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Makes a load balancer that the cloud-controller-manager (CCM) made reusable by a second gateway, and gives it back. Pure plan.

The trick in both directions: a Service that names a load balancer which still has the tags of the CCM's own makes every reconcile
of the CCM abort before its first write ("can not be reused"). In this frozen state vServer groups can be renamed; in any other
state a renamed group makes the CCM create new ones, or delete groups that are in use.

present: annotate while the tags are on (frozen), rename, remove the two tags, touch (the CCM works again).
absent:  tags back, touch (frozen), rename back, remove the tag of reuse, take the annotations away (the CCM works again).

Killed between any two writes, a plain re-run of either finds out from what is there which steps are left.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    DELETE_PROTECTION,
    ID,
    MADE_TAGS,
    MAX_TAGS,
    OVERRIDE,
    TAG_CLUSTER,
    TAG_OWNER,
    TAG_REUSED,
    TOUCHED,
    VGROUP_PORT,
    WEIGHT,
    Rules,
    annotation,
    annotations_of,
    group_name,
    owner_tag,
    parse_owner,
    ports_of,
    vgroup_port,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import WEIGHTED, by_port
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView

OURS = (ID, VGROUP_PORT, WEIGHT, OVERRIDE, DELETE_PROTECTION)

# Kinds of steps, in no order.
PROTECT, SCHEDULE, TAG, FREEZE, RENAME, UNTAG, THAW, RESTORE = (
    "set_delete_protection",
    "set_scheduler",
    "tag",
    "annotate",
    "rename_group",
    "untag",
    "touch",
    "restore_annotations",
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One write. :arg key: group id, or port of a listener, or nothing. :arg value: what is written."""

    kind: str
    change: Change
    key: str = ""
    value: t.Any = None


@dataclasses.dataclass(frozen=True)
class Keys:
    """Keys of the originals in the journal."""

    balancer: str
    namespace: str
    service: str

    @property
    def clb(self) -> str:
        return f"clb/{self.balancer}/"

    @property
    def tags(self) -> str:
        return f"{self.clb}tags"

    @property
    def protection(self) -> str:
        return f"{self.clb}delete_protection"

    @property
    def annotations(self) -> str:
        return f"source/{self.namespace}/Service/{self.service}/annotations"

    def group(self, group_id: str) -> str:
        return f"{self.clb}group/{group_id}/name"

    def scheduler(self, port: int) -> str:
        return f"{self.clb}listener/{port}/scheduler"


def keys_of(view: PairView) -> Keys:
    return Keys(view.balancer.id, view.pair.namespace, view.pair.source_service)


Originals = t.Mapping[str, t.Any]


def made_here(view: PairView) -> bool:
    """Whether the CCM made this load balancer for this very Service (it may have been given free since)."""
    mine = owner_tag(str(view.source_there["metadata"]["uid"]))
    return mine in (view.balancer.tags.get(TAG_OWNER), view.balancer.name)


def made_name(view: PairView, port: int) -> str:
    """The name under which the CCM looks for the group of this port when the load balancer is its own."""
    entry = next(item for item in ports_of(view.source_there) if int(item["port"]) == port)
    return group_name(view.source_there, entry, view.mode("source"), view.cluster_id)


def is_made_name(name: str) -> bool:
    return parse_owner(name) is not None


def shared_name(view: PairView, port: int) -> str:
    """``shared-<port>``; with the Service's name behind it when another group has that name."""
    name, group = f"shared-{port}", view.group(port)
    taken = any(other.name == name and group is not None and other.id != group.id for other in view.groups)
    return f"{name}-{view.pair.source_service}" if taken else name


def wanted_annotations(view: PairView) -> dict[str, str]:
    """What the source's Service must say. A weight that is in use already (a shift is going on) stays."""
    present = annotations_of(view.source_there)
    groups = {port: group.id for port in view.ports for group in [view.group(port)] if group is not None}
    try:
        weight = view.weight("source")
    except ValueError:
        weight = None
    return {
        ID: view.balancer.id,
        VGROUP_PORT: vgroup_port(groups, view.source_there),
        WEIGHT: "100" if weight is None else present.get(WEIGHT, str(weight)),
        OVERRIDE: "false",
        # With this annotation the CCM itself would take the protection off again.
        **({DELETE_PROTECTION: "on"} if annotation(present, DELETE_PROTECTION) == "off" else {}),
    }


def missing_annotations(view: PairView) -> dict[str, str]:
    present = annotations_of(view.source_there)
    return {key: value for key, value in wanted_annotations(view).items() if present.get(key) != value}


# -- originals ---------------------------------------------------------------------------------------------------


def originals(view: PairView, kept: Originals) -> tuple[dict[str, t.Any], list[str]]:
    """The values of before, by journal key, and notes on what had to be re-derived because the journal does not know it.

    A value that is still as the CCM made it is taken as it is; a value of ours is replaced by the one that the CCM would make.
    A scheduler that is weighted already, and not in the journal, is taken for the original: nothing tells otherwise.
    """
    keys, notes = keys_of(view), []
    found: dict[str, t.Any] = {}
    tags = {key: view.balancer.tags[key] for key in MADE_TAGS if key in view.balancer.tags}
    if keys.tags not in kept:
        if not tags and made_here(view):
            tags = {TAG_OWNER: owner_tag(str(view.source_there["metadata"]["uid"])), TAG_CLUSTER: view.cluster_id}
            notes.append(f"{view.where}: its tags were gone already, their values are derived from the Service and its cluster")
        found[keys.tags] = tags
    for port in view.ports:
        group, listener = view.group(port), by_port(view.listeners).get(port)
        if group is not None and keys.group(group.id) not in kept and keys.group(group.id) not in found:
            name = group.name
            if not is_made_name(name):
                name = made_name(view, port)
                notes.append(f"{view.where}/group/{group.id}: it was renamed already, its first name is derived: {name}")
            found[keys.group(group.id)] = name
        if listener is not None and keys.scheduler(port) not in kept:
            found[keys.scheduler(port)] = listener.scheduler
    if keys.protection not in kept:
        found[keys.protection] = view.balancer.delete_protection
    if keys.annotations not in kept:
        present = annotations_of(view.source_there)
        ours = annotation(present, ID) == view.balancer.id
        if ours:
            notes.append(
                f"{keys.annotations}: they were there already and are taken for this collection's, so absent removes them"
            )
        found[keys.annotations] = {key: None if ours else present.get(key) for key in (*OURS, TOUCHED)}
    return found, notes


# -- plans -------------------------------------------------------------------------------------------------------


def plan_present(view: PairView, stamp: str) -> list[Step]:
    """:arg stamp: the time now, as text; the value of the annotation that touches."""
    steps: list[Step] = []
    where = view.where
    service = f"source/{view.pair.namespace}/Service/{view.pair.source_service}"
    tags = view.balancer.tags
    made = {key: tags[key] for key in MADE_TAGS if key in tags}
    names = {
        port: group
        for port in view.ports
        for group in [view.group(port)]
        if group is not None and is_made_name(group.name) and _first_port(view, port)
    }
    absent = missing_annotations(view)
    structural = {key for key in absent if key in (ID, VGROUP_PORT)}
    if view.balancer.delete_protection != "on":
        change = Change(PROTECT, where, view.balancer.delete_protection, "on", "nobody deletes it in the middle of a migration")
        steps.append(Step(PROTECT, change, value="on"))
    if (names or structural) and not made:
        # Somebody took the tags away before the names were changed: without the tags the CCM cannot be stopped.
        made = {TAG_OWNER: owner_tag(str(view.source_there["metadata"]["uid"])), TAG_CLUSTER: view.cluster_id}
        steps.append(Step(TAG, Change(TAG, f"{where}/tags", {}, made, "stops the CCM while names change"), value=made))
    if absent or (names and made):
        values = {**absent, **({TOUCHED: f"frozen {stamp}"} if made else {})}
        before = {key: annotations_of(view.source or {}).get(key) for key in values}
        reason = "the CCM stops at this load balancer while it has the tags" if made else "they were incomplete"
        steps.append(Step(FREEZE if made else THAW, Change(FREEZE, service, before, values, reason), value=values))
    for port in view.ports:
        listener = by_port(view.listeners).get(port)
        if listener is not None and listener.scheduler not in WEIGHTED:
            change = Change(
                SCHEDULE, f"{where}/listener/{port}", listener.scheduler, "wrr", "only a weighted scheduler looks at weights"
            )
            steps.append(Step(SCHEDULE, change, str(port), "wrr"))
    for port, group in names.items():
        name = shared_name(view, port)
        change = Change(
            RENAME, f"{where}/group/{group.id}", group.name, name, "the CCM does not reuse groups with names of its own"
        )
        steps.append(Step(RENAME, change, group.id, name))
    if made:
        change = Change(
            UNTAG, f"{where}/tags", made, dict.fromkeys(made), "the CCM does not reuse a load balancer with these tags"
        )
        steps.append(Step(UNTAG, change, value=sorted(made)))
    if made or (not absent and not _working(view)):
        before = {TOUCHED: annotations_of(view.source or {}).get(TOUCHED)}
        change = Change(THAW, service, before, {TOUCHED: f"working {stamp}"}, "makes the CCM look again at once")
        steps.append(Step(THAW, change, value={TOUCHED: f"working {stamp}"}))
    return steps


def _first_port(view: PairView, port: int) -> bool:
    """Two ports may have one group; it is renamed once."""
    group = view.group(port)
    return next(item for item in view.ports if view.group(item) == group) == port


def _working(view: PairView) -> bool:
    """Whether the CCM has taken over the reused load balancer: its tag is there, and the weights are those of the annotation."""
    if TAG_REUSED not in view.balancer.tags and len(view.balancer.tags) < MAX_TAGS:
        return False
    try:
        return view.shows("source", view.weight("source"))
    except ValueError:
        return False


def plan_absent(view: PairView, kept: Originals, stamp: str) -> tuple[list[Step], list[str]]:
    """:arg kept: originals of the journal, completed by originals(). Returns the steps and notes for the operator."""
    keys, where, notes = keys_of(view), view.where, []
    service = f"source/{view.pair.namespace}/Service/{view.pair.source_service}"
    present, tags = annotations_of(view.source_there), view.balancer.tags
    steps: list[Step] = []
    first_tags = dict(kept.get(keys.tags) or {})
    mine = owner_tag(str(view.source_there["metadata"]["uid"]))
    if TAG_OWNER in first_tags and first_tags[TAG_OWNER] != mine:
        notes.append(f"{where}: the Service was made anew since, so the tag {TAG_OWNER} becomes {mine}")
        first_tags[TAG_OWNER] = mine
    back = {key: value for key, value in first_tags.items() if tags.get(key) != value}
    names, renamed = _first_names(view, kept)
    notes.extend(renamed)
    first_annotations = {TOUCHED: None, **dict(kept.get(keys.annotations) or {})}
    touch: dict[str, str] = {}
    if names or TAG_REUSED in tags:
        # Without the id (somebody took the annotations away) the CCM would not stop at the tags.
        touch = {TOUCHED: f"frozen {stamp}", **({} if annotation(present, ID) == view.balancer.id else {ID: view.balancer.id})}
    restored = {key: value for key, value in first_annotations.items() if {**present, **touch}.get(key) != value}
    if back:
        change = Change(TAG, f"{where}/tags", {key: tags.get(key) for key in back}, back, "they say whose load balancer it is")
        steps.append(Step(TAG, change, value=back))
    if touch:
        before = {key: present.get(key) for key in touch}
        change = Change(FREEZE, service, before, touch, "the CCM stops at this load balancer while names change")
        steps.append(Step(FREEZE, change, value=touch))
    for port in view.ports:
        listener, first = by_port(view.listeners).get(port), kept.get(keys.scheduler(port))
        if listener is not None and first and listener.scheduler != first:
            change = Change(SCHEDULE, f"{where}/listener/{port}", listener.scheduler, first, "as it was")
            steps.append(Step(SCHEDULE, change, str(port), first))
    for group_id, (name, first) in names.items():
        steps.append(Step(RENAME, Change(RENAME, f"{where}/group/{group_id}", name, first, "as it was"), group_id, first))
    if TAG_REUSED in tags and first_tags:
        change = Change(UNTAG, f"{where}/tags", {TAG_REUSED: tags[TAG_REUSED]}, {TAG_REUSED: None}, "as it was")
        steps.append(Step(UNTAG, change, value=[TAG_REUSED]))
    if restored:
        before = {key: present.get(key) for key in restored}
        steps.append(Step(RESTORE, Change(RESTORE, service, before, restored, "the CCM works on its own again"), value=restored))
    protection = kept.get(keys.protection)
    if protection and protection != view.balancer.delete_protection:
        change = Change(PROTECT, where, view.balancer.delete_protection, protection, "as it was")
        steps.append(Step(PROTECT, change, value=protection))
    return steps, notes


def _first_names(view: PairView, kept: Originals) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """``{group id: (name, first name)}`` of groups that are not named as the CCM will look for them, and notes."""
    keys, notes = keys_of(view), []
    found: dict[str, tuple[str, str]] = {}
    for port in view.ports:
        group = view.group(port)
        if group is None or group.id in found or not _first_port(view, port):
            continue
        first, needed = kept.get(keys.group(group.id)), made_name(view, port)
        if first and first != needed:
            notes.append(
                f"{view.where}/group/{group.id}: the Service's ports have changed since: it is named {needed}, not {first}"
            )
        if group.name != needed:
            found[group.id] = (group.name, needed)
    return found, notes


def describe(view: PairView, rules: Rules) -> dict[str, t.Any]:
    """The return value for one gateway: how far it is."""
    tags = view.balancer.tags
    reusable = not any(key in tags for key in MADE_TAGS)
    return {
        **view.pair.as_dict(),
        "load_balancer_id": view.balancer.id,
        "address": view.balancer.address,
        "ccm_version": rules.version,
        "reusable": reusable and view.source is not None and not missing_annotations(view),
        "delete_protection": view.balancer.delete_protection,
        "groups": {str(port): group.id for port in view.ports for group in [view.group(port)] if group},
        "schedulers": {str(item.port): item.scheduler for item in view.listeners if item.port in view.ports},
    }
