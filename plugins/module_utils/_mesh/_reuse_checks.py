# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What forbids to make a load balancer reusable, or to give it back. Pure; all reasons at once, before the first write."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    EVENT_DONE,
    EVENT_FAILED,
    ID,
    OVERRIDE,
    TAG_OWNER,
    VGROUP_PORT,
    Object,
    Rules,
    annotation,
    annotations_of,
    owner_tag,
    parse_owner,
    ports_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import by_port, owned_by, owner_key
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, addresses_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse import (
    Originals,
    is_made_name,
    keys_of,
    made_here,
    made_name,
    missing_annotations,
)


def present_problems(
    view: PairView, kept: Originals, rules: Rules, events: t.Sequence[Object], twins: t.Sequence[str]
) -> list[str]:
    """:arg kept: originals in the journal (not empty: a run was here already). :arg events: of the source's Service.
    :arg twins: ids of load balancers with the owner tag of this Service."""
    service = view.source
    if service is None:
        return [f"the Service {view.pair.source_service} is not there"]
    found = _identity(view, kept, rules, twins)
    values = annotations_of(service)
    started = keys_of(view).annotations in kept
    if annotation(values, OVERRIDE) == "true":
        found.append(
            'its annotation force-override-listeners is "true": the CCM then takes listeners over and deletes them; set "false"'
        )
    try:
        view.weight("source")
    except ValueError as error:
        found.append(f"its annotation weight cannot be used: {error}")
    named = annotation(values, VGROUP_PORT)
    if " " in named:
        found.append("its annotation vgroup-port has spaces: the CCM finds no port after a space; take the annotation away")
    found.extend(listener_problems(view))
    if not found:
        found.extend(_name_problems(view))
    for name in view.bad_nodes():
        found.append(f"node {name} has no usable spec.providerID, the CCM fails or takes all backends away")
    failure = last_failure(events)
    if failure and not started and missing_annotations(view):
        found.append(f"the CCM cannot reconcile the Service as it is: {failure}")
    return found


def _identity(view: PairView, kept: Originals, rules: Rules, twins: t.Sequence[str]) -> list[str]:
    """Is this the load balancer of this Service, of it alone, and can this CCM do it at all?"""
    found: list[str] = []
    service = view.source_there
    spec, meta = service.get("spec") or {}, service["metadata"]
    if rules.too_old:
        found.append(f"the cloud-controller-manager {rules.version} is too old: {rules.too_old}")
    if spec.get("type") != "LoadBalancer" or spec.get("loadBalancerClass"):
        found.append(
            f"the Service is no LoadBalancer of the CCM (type {spec.get('type')}, class {spec.get('loadBalancerClass')})"
        )
    if meta.get("deletionTimestamp"):
        found.append("the Service is being deleted")
    status = addresses_of(service)
    if len(status) > 1:
        found.append(f"the Service has several addresses: {', '.join(status)}")
    elif status and view.balancer.address not in status:
        found.append(f"the Service has the address {status[0]}, the load balancer has {view.balancer.address}")
    others = [item for item in twins if item != view.balancer.id]
    if others:
        found.append(f"the Service has another load balancer too: {', '.join(others)}")
    mine = owner_tag(str(meta["uid"]))
    owner = view.balancer.tags.get(TAG_OWNER)
    if owner and owner != mine:
        found.append(f"the load balancer belongs to somebody else: its tag {TAG_OWNER} is {owner}, the Service's is {mine}")
    elif not made_here(view) and keys_of(view).tags not in kept and _incomplete(view):
        found.append(
            "the load balancer was not made by the CCM for this Service (neither its tag nor its name says so): "
            "make its annotations and vServer groups by hand, as for any shared load balancer"
        )
    if not view.cluster_id:
        found.append("nothing in the load balancer was written by a CCM for this Service, so the cluster's id is not known")
    return found


def _incomplete(view: PairView) -> bool:
    return bool(missing_annotations(view)) or any(is_made_name(group.name) for group in view.gateway_groups)


def listener_problems(view: PairView) -> list[str]:
    """Listeners that weights cannot move, and owners who are not the two gateways."""
    found: list[str] = []
    known, pair = by_port(view.listeners), view.pair
    names = {(pair.namespace, pair.source_service), (pair.namespace, pair.target_service)}
    protocols = {int(item["port"]): str(item.get("protocol") or "TCP") for item in ports_of(view.source or view.target or {})}
    for port in view.ports:
        listener, group = known.get(port), view.group(port)
        if protocols.get(port) == "UDP" or (listener and listener.protocol == "udp"):
            found.append(f"port {port} is UDP: only TCP, HTTP and HTTPS listeners are moved")
            continue
        if listener is None:
            found.append(f"port {port} has no listener")
            continue
        if group is None:
            found.append(f"listener {port} has no vServer group ({listener.group_id or 'none'})")
            continue
        if listener.status and listener.status != "running":
            found.append(f"listener {port} is {listener.status}")
        if listener.persistence:
            found.append(f"listener {port} has session persistence ({listener.persistence}): no weight moves clients then")
        strangers = {owner_key(item) for item in group.backends if not any(owned_by(item, *name) for name in names)}
        if strangers:
            found.append(f"group {group.id} of port {port} has backends of others: {', '.join(sorted(strangers))}")
    for listener in view.listeners:
        owner = parse_owner(listener.description)
        if listener.port not in view.ports and not (owner and (owner.namespace, owner.service) in names):
            found.append(
                f"the load balancer is shared: listener {listener.port} belongs to {owner.key if owner else 'somebody else'}"
            )
    return found


def _name_problems(view: PairView) -> list[str]:
    """A group with a CCM's name that is not the one for its port would be lost to the CCM on the way back."""
    found = []
    for port in view.ports:
        group = view.group(port)
        if group and is_made_name(group.name) and group.name != made_name(view, port):
            twin = [item for item in view.ports if view.group(item) == group and made_name(view, item) == group.name]
            if not twin:
                found.append(
                    f"group {group.id} of port {port} is named {group.name}, the CCM would look for {made_name(view, port)}"
                )
    return found


def absent_problems(view: PairView, kept: Originals) -> list[str]:
    service = view.source
    if service is None:
        return [
            f"the Service {view.pair.source_service} is not there: bring it back first (module gateway_retire, state restored)"
        ]
    found: list[str] = []
    own = [group.id for group in view.gateway_groups if view.own("target", group)]
    if own:
        found.append(
            f"backends of {view.pair.target_service} are still in {', '.join(own)}: remove the target gateway first "
            "(module asm_gateway, state absent)"
        )
    elif view.target is not None and annotation(annotations_of(view.target), ID) == view.balancer.id:
        found.append(f"the Service {view.pair.target_service} still names this load balancer: remove the target gateway first")
    if not made_here(view) and not kept.get(keys_of(view).tags):
        found.append("the load balancer was not made by the CCM for this Service, and the journal knows no original values")
    if not view.cluster_id:
        found.append("nothing in the load balancer tells the cluster's id, so the first names of its groups cannot be known")
    found.extend(listener_problems(view))
    for name in view.bad_nodes():
        found.append(f"node {name} has no usable spec.providerID, the CCM fails or takes all backends away")
    return found


def last_failure(events: t.Sequence[Object]) -> str:
    """Message of a SyncLoadBalancerFailed that is newer than any EnsuredLoadBalancer; empty otherwise."""
    failed = [event for event in events if event.get("reason") == EVENT_FAILED]
    if not failed:
        return ""
    newest = max(failed, key=_age)
    done = [event for event in events if event.get("reason") == EVENT_DONE]
    if done and max(map(_age, done)) >= _age(newest):
        return ""
    return str(newest.get("message") or "it says no reason")


def _age(event: Object) -> tuple[str, int]:
    """When it was last seen. Events have seconds; in one second the later write wins."""
    seen = str((event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
    version = str((event.get("metadata") or {}).get("resourceVersion") or "")
    return seen[:19], int(version) if version.isdigit() else 0


def refused(view: PairView, what: str, problems: t.Sequence[str]) -> MigrationError:
    return MigrationError(
        what,
        where=f"{view.where} of source/{view.pair.namespace}/Service/{view.pair.source_service}",
        why="; ".join(problems),
        todo="mend this and run again; module clb_info shows the load balancer",
        details={"refusals": list(problems)},
    )
