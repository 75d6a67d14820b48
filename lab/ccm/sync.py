# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One reconcile against the cloud: what the Service wants, what is there, and the steps in between, in each version's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from lab.ccm import backends, listeners, names, plan
from lab.ccm.backends import Endpoint, Group
from lab.ccm.clb import Clb, Config, LoadBalancer, parallel
from lab.ccm.cloud import Cloud
from lab.ccm.listeners import Listener
from lab.ccm.names import CcmError, Object, joined

T = TypeVar("T")
Event = Callable[[str, str, str], None]  # kind (Normal | Warning), reason, message


class World(Protocol):
    """What a reconcile reads of the cluster (from caches)."""

    def nodes(self) -> list[Object]: ...

    def endpoints(self, svc: Object, port: Object) -> list[Endpoint]: ...


class SyncError(CcmError):
    """A failed sync; `lb_id` is what the event shows in brackets (some failures show none)."""

    def __init__(self, lb_id: str, message: str) -> None:
        super().__init__(message)
        self.lb_id = lb_id


@dataclass
class Wanted:
    """The model of the Service: empty when its load balancer is to go."""

    groups: list[Group] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)


@dataclass
class Done:
    lb: LoadBalancer | None
    groups: list[Group]


class Syncer:
    def __init__(self, cloud: Cloud, config: Config, world: World) -> None:
        self.config = config
        self._clb = Clb(cloud, config)
        self._world = world

    def sync(self, svc: Object, event: Event) -> Done:
        """Brings the load balancer to what the Service says. Raises SyncError."""
        try:
            wanted = self._wanted(svc, event)
        except CcmError as error:
            raise SyncError("", f"build lb local model error: {error}") from error
        try:
            if self.config.quirks.joined_apply:
                lb = self._apply_joined(svc, wanted, event)
            else:
                lb = self._apply_in_turn(svc, wanted, event)
        except SyncError as error:
            raise SyncError(error.lb_id, f"apply model error: {error}") from error
        return Done(lb, wanted.groups)

    # --- what the Service wants ---------------------------------------------------------------------------------------------

    def _wanted(self, svc: Object, event: Event) -> Wanted:
        if names.leaving(svc):
            return Wanted()
        wanted = Wanted()
        try:
            nodes = backends.candidates(self._world.nodes(), svc)
            for port in svc["spec"].get("ports") or []:
                try:
                    wanted.groups.append(self._wanted_group(svc, port, nodes, event))
                except CcmError as error:
                    if not self.config.quirks.swallow_port_errors:
                        raise CcmError(f"build vgroup for port {port['port']} error: {error}") from error
            if self.config.quirks.eni_after_ports:
                self._resolve(wanted.groups, event)
        except CcmError as error:
            raise CcmError(f"build vserver groups error: {error}") from error
        try:
            wanted.listeners = listeners.wanted(svc, self.config.cluster)
        except CcmError as error:
            raise CcmError(f"builid lb listener error: {error}") from error  # sic
        return wanted

    def _wanted_group(self, svc: Object, port: Object, nodes: list[Object], event: Event) -> Group:
        quirks = self.config.quirks
        endpoints = self._world.endpoints(svc, port)
        early = names.eni_mode(svc) and not quirks.eni_after_ports and bool(endpoints)
        if early:
            in_vpc = self._clb.vpc_test()
            endpoints = [item for item in endpoints if in_vpc(item.ip)]
        group = backends.wanted_group(
            svc, port, self.config.cluster, quirks, nodes, endpoints, lambda: self._clb.group_list(names.annotation(svc, "id"))
        )
        if early:
            self._resolve_early(group, [item.ip for item in endpoints])
        if not group.backends:
            event("Normal", "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
        return group

    def _resolve_early(self, group: Group, addresses: list[str]) -> None:
        """v2.8: a pod in the VPC without a known interface fails the whole Service."""
        found = self._clb.interfaces(addresses)
        backends.resolve_interfaces(group, found, lambda address: True)
        if group.unknown:
            vpc = self.config.vpc
            raise CcmError(f"build eni backends error: can not find eniid for ip {group.unknown[0]} in vpc {vpc}")

    def _resolve(self, groups: list[Group], event: Event) -> None:
        addresses = sorted({item.server_ip for group in groups for item in group.backends if item.type == "eni"})
        if not addresses:
            return
        try:
            found = self._clb.interfaces(addresses)
        except CcmError as error:
            raise CcmError(f"call DescribeNetworkInterfaces: {error}") from error
        try:
            in_vpc = self._clb.vpc_test() if set(addresses) - set(found) else lambda address: False
        except CcmError as error:
            raise CcmError(f"call DescribeVpcCIDRBlock: {error}") from error
        for group in groups:
            outside = backends.resolve_interfaces(group, found, in_vpc)
            if group.unknown and not self.config.quirks.keep_invalid_eni:
                raise CcmError(f"can not find eniid for ip {group.unknown[0]} in vpc {self.config.vpc}")
            if outside:
                event("Normal", "SkipSyncBackends", f"Not sync pods [{','.join(outside)}] whose ip is not in vpc cidrs")
            if group.unknown:
                event("Warning", "SkipSyncBackends", f"Not sync pods [{','.join(group.unknown)}] whose eni is invalid")

    # --- v2.12 and newer ----------------------------------------------------------------------------------------------------

    def _apply_joined(self, svc: Object, wanted: Wanted, event: Event) -> LoadBalancer | None:
        """Tags, groups and listeners at the same time; leftovers are cleaned up only when the hash changed."""
        changed = names.hash_changed(svc, self.config.quirks)
        with_listeners = changed and (not names.reused(svc) or names.overrides(svc))
        lb = self._find(svc)
        groups: list[Group] = []
        there: list[Listener] = []
        if lb is not None:
            groups, there = self._read_joined(svc, lb, with_listeners)
            self._say_preserved(svc, lb, event)
        lb_id = lb.id if lb else ""
        if changed:
            try:
                lb = self._ensure(svc, lb)
            except CcmError as error:
                raise SyncError(lb_id, f"update lb attribute error: {error}") from error
        if lb is None:
            if names.leaving(svc):
                return None
            raise SyncError("", self._not_found(svc))
        target = lb
        actions = plan.group_actions(wanted.groups, groups)
        tasks: list[Callable[[], None]] = []
        waiting: dict[str, list[listeners.Action]] = {}
        if changed:
            tasks.append(lambda: self._update(svc, target))
        if with_listeners:
            # a listener waits only for a group that is yet to be created; the others run beside the groups
            at_once, waiting = self._split(svc, wanted, there, lb.id)
            tasks.append(lambda: self._listeners(at_once, target.id))
        made: list[str] = []

        def group_task(action: plan.GroupAction) -> Callable[[], None]:
            def run() -> None:
                group = action.wanted
                self._clb.apply_group(action, target.id, lambda new, old: _say_invalid(new, old, event))
                if action.kind == "create":
                    made.append(group.name)
                    self._listeners([listeners.rebound(item, group.id) for item in waiting.get(group.name, [])], target.id)

            return run

        tasks += [group_task(action) for action in actions]
        errors = parallel(tasks)
        if set(waiting) - set(made):
            errors.append(CcmError("there are unprocessed listeners in reconcile"))
        _raise_sync(lb.id, errors)
        if changed:
            self._clean(svc, wanted, groups, lb.id, "cleanup lb error: ")
        return lb

    def _read_joined(self, svc: Object, lb: LoadBalancer, with_listeners: bool) -> tuple[list[Group], list[Listener]]:
        groups: list[Group] = []
        there: list[Listener] = []

        def tags() -> None:
            lb.tags = _said("DescribeTags: ", lambda: self._clb.read_tags(lb.id))

        def read_groups() -> None:
            prefix = "get lb backend from remote error: DescribeVServerGroups error: "
            groups.extend(_said(prefix, lambda: self._clb.groups(svc, lb.id)))

        def read_listeners() -> None:
            prefix = "get lb listeners from cloud, error: DescribeLoadBalancerListeners error:"
            there.extend(_said(prefix, lambda: self._clb.listeners(lb.id)))

        _raise_sync(lb.id, parallel([tags, read_groups, *([read_listeners] if with_listeners else [])]))
        return groups, there

    def _split(
        self, svc: Object, wanted: Wanted, there: list[Listener], lb_id: str
    ) -> tuple[list[listeners.Action], dict[str, list[listeners.Action]]]:
        try:
            new = listeners.bound(wanted.listeners, wanted.groups)
        except CcmError as error:
            raise SyncError(lb_id, f"merge listener: {error}") from error
        at_once: list[listeners.Action] = []
        waiting: dict[str, list[listeners.Action]] = {}
        for action in listeners.actions(new, there, svc, self.config.cluster):
            if action.kind == "delete" or action.new.group_id:
                at_once.append(action)
            else:
                waiting.setdefault(action.new.group_name, []).append(action)
        return at_once, waiting

    def _listeners(self, actions: list[listeners.Action], lb_id: str) -> None:
        def task(action: listeners.Action) -> Callable[[], None]:
            return lambda: _said(f"{action.kind} listener error: ", lambda: self._clb.apply_listener(action, lb_id))

        error = joined(parallel([task(action) for action in actions])) if actions else None
        if error:
            raise error

    def _update(self, svc: Object, lb: LoadBalancer) -> None:
        error = self._clb.update(svc, lb)
        if error:
            raise CcmError(f"update lb attribute error: {error}") from error

    # --- before v2.12 -------------------------------------------------------------------------------------------------------

    def _apply_in_turn(self, svc: Object, wanted: Wanted, event: Event) -> LoadBalancer | None:
        """Load balancer, groups, listeners, leftovers, one after the other; the last always."""
        changed = names.hash_changed(svc, self.config.quirks)
        lb = self._find(svc)
        if lb is not None:
            self._say_preserved(svc, lb, event)
        errors: list[Exception | None] = []
        if changed:
            fresh = lb is None
            try:
                if lb is not None and not names.leaving(svc):
                    lb.tags = _said("DescribeTags: ", partial(self._clb.read_tags, lb.id))
                lb = self._ensure(svc, lb)
            except CcmError as error:
                raise SyncError("", str(error)) from error
            if lb is not None and not fresh and not names.leaving(svc):
                problem = self._clb.update(svc, lb)
                if problem:
                    errors.append(CcmError(f"update lb attribute error: {problem}"))
        if lb is None:
            if names.leaving(svc):
                return None
            raise SyncError("", str(joined([*errors, CcmError(self._not_found(svc))])))
        try:
            groups = _said(
                "get lb backend from remote error: DescribeVServerGroups error: ", lambda: self._clb.groups(svc, lb.id)
            )
            self._groups_in_turn(wanted, groups, lb.id, event)
            if changed:
                self._listeners_in_turn(svc, wanted, lb.id)
            self._clean(svc, wanted, groups, lb.id, "update lb listeners error: ")
        except CcmError as error:
            errors.append(error)
        _raise_sync(lb.id, errors)
        return lb

    def _groups_in_turn(self, wanted: Wanted, groups: list[Group], lb_id: str, event: Event) -> None:
        def task(action: plan.GroupAction) -> Callable[[], None]:
            return lambda: self._clb.apply_group(action, lb_id, lambda new, old: _say_invalid(new, old, event))

        actions = plan.group_actions(wanted.groups, groups)
        if not actions:
            return
        tasks = [task(action) for action in actions]
        parallel_limit = 10 if self.config.quirks.parallel_groups else 1
        error = joined(parallel(tasks, parallel_limit))
        if error:
            raise CcmError(f"update lb backends error: {error}") from error

    def _listeners_in_turn(self, svc: Object, wanted: Wanted, lb_id: str) -> None:
        """Read always; changed only on an own load balancer or with override. Deletions, then creations, then changes."""
        there = _said(
            "get lb listeners from cloud, error: DescribeLoadBalancerListeners error:", lambda: self._clb.listeners(lb_id)
        )
        if names.reused(svc) and not names.overrides(svc):
            return
        new = _said("update lb listeners error: merge listener: ", lambda: listeners.bound(wanted.listeners, wanted.groups))
        order = ("delete", "create", "update")
        for action in sorted(listeners.actions(new, there, svc, self.config.cluster), key=lambda item: order.index(item.kind)):
            prefix = f"update lb listeners error: {action.kind} listener [{action.new.port}] error: "
            _said(prefix, partial(self._clb.apply_listener, action, lb_id))

    # --- both ---------------------------------------------------------------------------------------------------------------

    def _find(self, svc: Object) -> LoadBalancer | None:
        try:
            return self._clb.find(svc)
        except CcmError as error:
            lb_id = names.annotation(svc, "id")
            raise SyncError(lb_id, f"get load balancer attribute from cloud, error: {error}") from error

    def _not_found(self, svc: Object) -> str:
        return f"alicloud: can not find loadbalancer by tag [{names.TAG_OWNER}:{names.lb_name(svc)}]"

    def _preserves(self, svc: Object) -> bool:
        return self.config.quirks.preserve_on_delete and names.annotation(svc, "preserve-lb-on-delete") != ""

    def _say_preserved(self, svc: Object, lb: LoadBalancer, event: Event) -> None:
        if self._preserves(svc):
            event("Warning", "PreservedOnDelete", f"The lb [{lb.id}] will be preserved after the service is deleted.")

    def _ensure(self, svc: Object, lb: LoadBalancer | None) -> LoadBalancer | None:
        """Deletes, creates, or checks that it may be reused. The load balancer that is there afterwards."""
        if names.leaving(svc):
            if lb is None or names.reused(svc):
                return lb
            if self._preserves(svc):
                self._clb.release(svc, lb)
                # v2.12+ goes on with the emptied model and takes groups and listeners away
                return lb if self.config.quirks.joined_apply else None
            _said(f"delete loadbalancer [{lb.id}] error: ", lambda: self._clb.delete(svc, lb))
            return None
        if lb is None:
            address = _ingress(svc)
            if address is not None:
                raise CcmError(
                    f"alicloud: can not find loadbalancer, but it's defined in service [{address}] "
                    "this may happen when you delete the loadbalancer"
                )
            return _said("create lb error: create slb error: ", lambda: self._clb.create(svc))
        if names.reused(svc):
            reason = _not_reusable(svc, lb)
            if reason:
                raise CcmError(f"alicloud: the loadbalancer {lb.id} can not be reused, {reason}")
        return lb

    def _clean(self, svc: Object, wanted: Wanted, groups: list[Group], lb_id: str, prefix: str) -> None:
        delete, empty = plan.leftovers(wanted.groups, groups, svc, self.config.cluster)
        try:
            for group, mine in empty:
                self._clb.remove_backends(group, mine)
            if self.config.quirks.joined_apply:
                error = joined(parallel([partial(self._clb.delete_group, group) for group in delete])) if delete else None
                if error:
                    raise error
            else:
                for group in delete:
                    text = f"lb [{lb_id}] delete vgroup {group.id} failed, error: "
                    _said(text, partial(self._clb.delete_group, group))
        except CcmError as error:
            raise SyncError(lb_id, f"{prefix}{error}") from error


def _raise_sync(lb_id: str, errors: list[Exception | None]) -> None:
    problem = joined(errors)
    if problem:
        raise SyncError(lb_id, str(problem)) from problem


def _ingress(svc: Object) -> str | None:
    entries = ((svc.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return str(entries[0].get("ip", "")) if entries else None


def _not_reusable(svc: Object, lb: LoadBalancer) -> str:
    """Why the load balancer may not be reused; "" when it may. Looked at only when the hash changed."""
    if names.TAG_OWNER in lb.tags or names.TAG_CLUSTER in lb.tags:
        return "can not reuse loadbalancer created by kubernetes."
    entries = ((svc.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    if entries and not any(item.get("ip") == lb.address or (item.get("hostname") and not item.get("ip")) for item in entries):
        return f"service has been associated with ip [{entries[0].get('ip', '')}], cannot be bound to ip [{lb.address}]"
    return ""


def _say_invalid(new: Group, old: Group, event: Event) -> None:
    text = f"Skip delete and update backends to vgroup {old.name} due to invalid backends: {', '.join(new.unknown)}"
    event("Warning", "SkipSyncBackends", text)


def _said(prefix: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except CcmError as error:
        raise CcmError(f"{prefix}{error}") from error
