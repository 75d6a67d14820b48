# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Carries out the plans of _reuse: one write at a time, each in the journal, each proven before the next one."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster, Object
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import EVENT, SERVICE, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    ABORTED,
    EVENT_FAILED,
    TAG_OWNER,
    TAG_REUSED,
    TOUCHED,
    owner_tag,
    version_of_image,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import by_port
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, now_text, observe_pair
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import Nudge
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse import (
    FREEZE,
    PROTECT,
    RENAME,
    RESTORE,
    SCHEDULE,
    TAG,
    THAW,
    UNTAG,
    Step,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_checks import last_failure

# A key that no load balancer has: removing it changes nothing, but shows whether removing is allowed.
_NO_TAG = "servicemesh.migration/none"
# An event that says that the CCM stopped is waited for this long, with a new touch from time to time. Seconds.
_SILENT, _AGAIN = 15.0, 4.0


def ccm_version(source: Cluster, told: str) -> str:
    """The option, else the version in the image of kube-system's CCM; empty when a managed cluster hides it."""
    if told:
        return told
    for kind in (kind_of("apps/v1", "DaemonSet"), kind_of("apps/v1", "Deployment")):
        try:
            found = source.get(kind, "cloud-controller-manager", "kube-system")
        except MigrationError as error:
            if error.details.get("status") == 403:
                return ""
            raise
        pod = ((((found or {}).get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or []
        for container in pod:
            version = version_of_image(str(container.get("image") or ""))
            if version:
                return version
    return ""


def events_of(source: Cluster, namespace: str, service: str) -> list[Object]:
    """Events of a Service; none when they may not be read."""
    selector = f"involvedObject.kind=Service,involvedObject.name={service}"
    try:
        return list(source.list_all(EVENT, namespace, field_selector=selector))
    except MigrationError as error:
        if error.details.get("status") == 403:
            return []
        raise


def twins_of(clb: Clb, view: PairView) -> list[str]:
    """Load balancers that the CCM would find by the owner tag of the Service."""
    if view.source is None:
        return []
    return [item.id for item in clb.find(tag=(TAG_OWNER, owner_tag(str(view.source["metadata"]["uid"]))))]


def check_rights(source: Cluster, clb: Clb, view: PairView, steps: t.Sequence[Step]) -> None:
    """Every right that the steps need, tried with writes that change nothing (the value that is there already)."""
    kinds = {step.kind for step in steps}
    namespace = view.pair.namespace
    if kinds & {FREEZE, THAW, RESTORE} and not source.can("patch", SERVICE, namespace):
        raise InputError(
            "The Service of the gateway may not be changed",
            where=f"source/{namespace}/Service/{view.pair.source_service}",
            why="the credentials of source may not patch Services there",
            todo="grant the user of source this right; docs/rbac.md lists all that are needed",
        )
    lb_id = view.balancer.id
    known = by_port(view.listeners)
    tries: list[t.Callable[[], None]] = []
    if RENAME in kinds:
        group = view.gateway_groups[0]
        tries.append(lambda: clb.rename_group(lb_id, group.id, group.name))
    if kinds & {TAG, UNTAG} and view.balancer.tags:
        key, value = sorted(view.balancer.tags.items())[0]
        tries.append(lambda: clb.tag(lb_id, {key: value}))
    if UNTAG in kinds:
        tries.append(lambda: clb.untag(lb_id, [_NO_TAG]))
    for step in steps:
        if step.kind == SCHEDULE:
            listener = known[int(step.key)]
            tries.append(lambda listener=listener: clb.set_scheduler(lb_id, listener, listener.scheduler))  # type: ignore[misc]
    if PROTECT in kinds:
        tries.append(lambda: clb.set_delete_protection(lb_id, view.balancer.delete_protection))
    for attempt in tries:
        try:
            attempt()
        except MigrationError as error:
            code = str(error.details.get("code"))
            if "TagKey" in code or "TagNotExist" in code:
                continue  # an API that minds that the tag is not there: allowed, then
            error.what = f"A right is missing, found before the first write: {error.what}"
            raise


class Runner:
    """Steps of one gateway."""

    def __init__(self, source: Cluster, clb: Clb, view: PairView, journal: Journal, timeout: float) -> None:
        self._source = source
        self._clb = clb
        self._view = view
        self._journal = journal
        self._deadline = time.monotonic() + timeout
        self.notes: list[str] = []

    def run(self, steps: t.Sequence[Step]) -> PairView:
        """All steps, in order. Returns the view after them; a MigrationError says what is done and what is not."""
        done: list[str] = []
        for number, step in enumerate(steps):
            try:
                with self._journal.around(step.change):
                    self._write(step)
            except MigrationError as error:
                error.done = [*done, *error.done]
                error.not_done = [*error.not_done, *(str(item.change) for item in steps[number:])]
                raise
            done.append(str(step.change))
        if steps:
            try:
                self._settle(steps)
            except MigrationError as error:
                error.done = [*done, *error.done]
                raise
        return self._view

    def _write(self, step: Step) -> None:
        lb_id, pair = self._view.balancer.id, self._view.pair
        if step.kind == PROTECT:
            self._clb.set_delete_protection(lb_id, step.value)
        elif step.kind == SCHEDULE:
            self._clb.set_scheduler(lb_id, by_port(self._view.listeners)[int(step.key)], step.value)
            self._same_listener(int(step.key), step.value)
        elif step.kind == TAG:
            self._clb.tag(lb_id, step.value)
            self._seen("the tags", lambda: all(self._clb.tags(lb_id).get(key) == value for key, value in step.value.items()))
        elif step.kind == UNTAG:
            self._clb.untag(lb_id, step.value)
            self._seen("that the tags are gone", lambda: not set(step.value) & set(self._clb.tags(lb_id)))
        elif step.kind == RENAME:
            self._clb.rename_group(lb_id, step.key, step.value)
            self._seen("the name", lambda: self._clb.group(lb_id, step.key).name == step.value)
        elif step.kind == FREEZE:
            self._freeze(step.value)
        else:
            self._annotate(pair.source_service, step.value)

    def _annotate(self, service: str, values: t.Mapping[str, str | None]) -> None:
        self._source.patch(SERVICE, service, self._view.pair.namespace, {"metadata": {"annotations": dict(values)}})

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    def _seen(self, what: str, check: t.Callable[[], bool]) -> None:
        """The load balancer really shows what was written; an accepted request is no proof."""
        wait_until(
            lambda: True if check() else None,
            timeout=min(30.0, self._left()),
            what=f"the load balancer shows {what}",
            where=self._view.where,
            interval=0.03,
        )

    def _same_listener(self, port: int, scheduler: str) -> None:
        before = by_port(self._view.listeners)[port]
        wanted = dataclasses.replace(before, scheduler=scheduler)
        found = {"is": before}

        def check() -> bool:
            found["is"] = by_port(self._clb.listeners(self._view.balancer.id))[port]
            return found["is"].scheduler == scheduler

        self._seen("the scheduler", check)
        if found["is"] != wanted:
            raise MigrationError(
                "Setting the scheduler changed more of the listener than that",
                where=f"{self._view.where}/listener/{port}",
                why=f"before: {dataclasses.asdict(before)}, now: {dataclasses.asdict(found['is'])}",
                todo="put back the difference in the console, then run again",
            )

    # -- the cloud-controller-manager ----------------------------------------------------------------------------

    def _events(self) -> list[Object]:
        return events_of(self._source, self._view.pair.namespace, self._view.pair.source_service)

    def _freeze(self, values: t.Mapping[str, str | None]) -> None:
        """Annotate, and wait until the CCM has said that it stops at this load balancer.

        The event is the only trace of a reconcile that wrote nothing, and Kubernetes drops events of an object that has had many
        (25, then one in five minutes). So the touch is repeated a few times; without any event the CCM is taken to have seen it:
        it watches Services, and one that is not running lists them first when it starts. A note says so.
        """
        pair = self._view.pair
        before = {_mark(event) for event in self._events()}
        self._annotate(pair.source_service, values)
        began = touched = time.monotonic()

        def stopped() -> bool | None:
            nonlocal touched
            for event in self._events():
                text = str(event.get("message") or "")
                if event.get("reason") == EVENT_FAILED and _mark(event) not in before and any(word in text for word in ABORTED):
                    return True
            now = time.monotonic()
            if now - began > _SILENT:
                return False
            if now - touched > _AGAIN:
                touched = now
                self._annotate(pair.source_service, {TOUCHED: f"frozen {now_text()}"})
            return None

        seen = wait_until(
            stopped,
            timeout=_SILENT + 30.0,
            what="the events of the Service can be read",
            where=f"source/{pair.namespace}/Service/{pair.source_service}",
            todo="nothing is lost: run again, or run with state=absent",
            interval=0.03,
            max_interval=0.5,
        )
        if not seen:
            note = (
                f"{pair}: no event said within {_SILENT:g} s that the cloud-controller-manager stops at the load balancer; "
                "Kubernetes drops events of a Service that has had many"
            )
            self.notes.append(note)
            self._journal.write("note", text=note)

    def _settle(self, steps: t.Sequence[Step]) -> None:
        """Wait until the CCM works again, as the load balancer shows it."""
        pair = self._view.pair
        frozen = any(step.kind in (FREEZE, THAW, RESTORE) for step in steps)
        back = any(step.kind == RESTORE for step in steps)
        first = self._view
        fresh = {"view": first}
        nudge = Nudge(self._source, pair.namespace, pair.source_service)

        def wanted(view: PairView) -> int | None:
            return None if back else view.weight("source")

        def settled() -> bool | None:
            view = fresh["view"] = observe_pair(self._source, self._clb, pair)
            if not frozen:
                return True
            tagged = back or TAG_REUSED in view.balancer.tags or len(view.balancer.tags) >= 10
            if tagged and view.shows("source", wanted(view)):
                return True
            nudge.again()
            return None

        wait_until(
            settled,
            timeout=self._left(),
            what="the load balancer shows that the cloud-controller-manager works again",
            where=f"source/{pair.namespace}/Service/{pair.source_service}",
            todo="look at the events of the Service; run again when the cause is mended",
            interval=0.03,
            max_interval=0.5,
            explain=lambda: last_failure(self._events()) or "; ".join(fresh["view"].differences("source", wanted(fresh["view"]))),
        )
        if back:
            nudge.unmark()
        self._view = fresh["view"]
        self._unchanged(first, self._view)

    def _unchanged(self, first: PairView, now: PairView) -> None:
        """Whatever was done: every listener still has its group, and no group came or went."""
        for listener in first.listeners:
            found = by_port(now.listeners).get(listener.port)
            if found is None or (found.group_id, found.status) != (listener.group_id, listener.status):
                raise MigrationError(
                    "A listener changed in a way that was not planned",
                    where=f"{now.where}/listener/{listener.port}",
                    why=f"before: {listener}, now: {found or 'gone'}",
                    todo="look at it in the console before anything else is done",
                )
        before, after = {group.id for group in first.groups}, {group.id for group in now.groups}
        if before != after:
            raise MigrationError(
                "vServer groups came or went that nobody planned",
                where=now.where,
                why=f"new: {sorted(after - before)}, gone: {sorted(before - after)}",
                todo="look at the events of the Service before anything else is done",
            )


def _mark(event: Object) -> tuple[str, str]:
    meta = event.get("metadata") or {}
    return str(meta.get("uid")), str(meta.get("resourceVersion"))
