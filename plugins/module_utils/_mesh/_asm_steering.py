# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The resource ASMMigrateFromIstio: one step forward at a time, never back. Pure: what is wanted, what is there, what to write.

Vendor: spec.desiredState goes Init, SetupIstioForMigrate, Migrating, Finished; a failed check is told in status.message, and
is made again when spec.retryCounter is one more; a step is done when state and counter of status are those of spec.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_session import (
    ISTIO_VERSION,
    KUBERNETES_VERSION,
    too_old,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxy, listed

Object = dict[str, t.Any]
GROUP, KIND, NAME = "istio.alibabacloud.com", "ASMMigrateFromIstio", "default"
STATES = ("Init", "SetupIstioForMigrate", "Migrating", "Finished")
# The published type has this field. The vendor's example sets disableIstioSystemLabelReconciliation, which no type has.
FIELD = "stopIstioSystemInjectionDisabling"
MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Steering:
    """The resource as plain data. :arg keep: the advanced option, None when it is not set."""

    version: str
    desired: str
    counter: int
    keep: bool | None
    state: str
    done_counter: int
    message: str

    @property
    def settled(self) -> bool:
        """What was asked for last is done."""
        return self.state == self.desired and self.done_counter == self.counter and not self.message

    def spec(self) -> Object:
        found: Object = {"desiredState": self.desired, "retryCounter": self.counter}
        return found if self.keep is None else {**found, "advancedOptions": {FIELD: self.keep}}


@dataclasses.dataclass
class Observed:
    """:arg served: the API server knows the kind. :arg proxies: None when the source's pods were not looked at."""

    served: bool
    steering: Steering | None
    proxies: list[Proxy] | None = None
    kubernetes: str = ""
    istio: str = ""
    where: str = f"target/{KIND}/{NAME}"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """:arg keep: the advanced option; None leaves it as it is. :arg passed: a state that is behind already is no error."""

    state: str
    keep: bool | None = None
    retry: bool = True
    passed: bool = False


def read(found: t.Mapping[str, t.Any]) -> Steering:
    """An object without a status has not been looked at by ASM yet."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    keep = (spec.get("advancedOptions") or {}).get(FIELD)
    return Steering(
        version=str(found["metadata"].get("resourceVersion") or ""),
        desired=str(spec.get("desiredState") or STATES[0]),
        counter=int(spec.get("retryCounter") or 0),
        keep=None if keep is None else bool(keep),
        state=str(status.get("state") or ""),
        done_counter=int(status.get("retryCounter") or 0),
        message=str(status.get("message") or "").strip(),
    )


def position(state: str) -> int:
    """Where a state is in the fixed order; -1 for none or one that is not known."""
    return STATES.index(state) if state in STATES else -1


def plan(seen: Observed, wanted: Wanted) -> tuple[Plan, list[Refusal]]:
    """At most one change of the resource, and why it may not be made."""
    made = Plan()
    if not seen.served:
        why = f"its API server does not serve {KIND}"
        todo = "use an ASM instance of version 1.24 or newer, and check that target is the instance, not the ACK cluster"
        return made, [Refusal("This is no ASM instance that takes over from Istio", seen.where, why, todo)]
    now = seen.steering
    if now is None:
        why = f"ASM makes the {KIND} named {NAME} when a cluster with Istio is added"
        todo = "add the cluster with asm_cluster and ignore_namespace_check, then run again"
        fresh = {"desiredState": STATES[0], "retryCounter": 0}
        after = {**fresh, "desiredState": wanted.state, **({"advancedOptions": {FIELD: True}} if wanted.keep else {})}
        if after != fresh:
            made.add("steer", seen.where, fresh, after, "when ASM has made the resource, and the states before are reached")
        return made, [Refusal("The resource that steers the migration does not exist", seen.where, why, todo, order=True)]
    if behind(now, wanted):
        made.notes.append(f"{wanted.state} is reached already: the migration is in {now.state}, {now.desired} was asked for last")
        return made, []
    refusals = order_refusals(seen, now, wanted)
    after = dict(now.spec())
    if wanted.keep is not None and bool(now.keep) != wanted.keep:
        after["advancedOptions"] = {FIELD: wanted.keep}
    reasons = []
    if now.desired != wanted.state:
        after["desiredState"] = wanted.state
        reasons.append(f"the next state after {now.state}")
        refusals += readiness(seen, wanted.state)
        made.notes += _gateways(seen, wanted.state)
    elif now.message:
        refusals += _retry(seen, now, wanted, after, reasons)
    elif not now.settled:
        made.notes.append(f"{wanted.state} was asked for already; this run waits for it")
    if after.get("advancedOptions") != now.spec().get("advancedOptions"):
        reasons.append("ASM leaves the label of istio-system alone" if wanted.keep else "ASM labels istio-system as it likes")
    if after != now.spec():
        made.add("steer", seen.where, now.spec(), after, "; ".join(reasons))
    return made, refusals


def behind(now: Steering, wanted: Wanted) -> bool:
    """The state was reached before, more was asked for since, and that is all right."""
    more = position(now.desired) > position(wanted.state)
    return wanted.passed and more and position(now.state) >= position(wanted.state)


def order_refusals(seen: Observed, now: Steering, wanted: Wanted) -> list[Refusal]:
    """Never back, never two steps, never from a state that is not reached."""
    at, asked, goal = position(now.state), position(now.desired), position(wanted.state)
    order = f"the order is {' -> '.join(STATES)}"
    if now.state and at < 0:
        return [
            Refusal("The migration is in a state that is not known", seen.where, f"status.state is {now.state}", "ask the vendor")
        ]
    if goal > at + 1:
        step, why = STATES[at + 1], f"it is in {now.state or 'no state yet'}, and {order}"
        if now.desired == step:
            why += f"; {step} was asked for and is not reached: {now.message or 'ASM is at it'}"
        return [Refusal(f"The migration cannot jump to {wanted.state}", seen.where, why, f"reach {step} first", order=True)]
    # A jump that somebody else asked for, and that ASM refused, is put right by asking for the next state.
    mends = goal == at + 1 and bool(now.message)
    if goal < max(at, asked) and not mends:
        why = f"it is in {now.state or 'no state yet'}, {now.desired} was asked for, and {order}"
        return [
            Refusal(
                f"The migration cannot go back to {wanted.state}", seen.where, why, "set passed when this is meant as: at least"
            )
        ]
    return []


def _retry(seen: Observed, now: Steering, wanted: Wanted, after: Object, reasons: list[str]) -> list[Refusal]:
    """The last check failed: ask for it again, with a counter that is one more."""
    if not wanted.retry:
        what = f"ASM could not go to {wanted.state}"
        return [Refusal(what, seen.where, now.message, "mend what it says, then run again with retry")]
    if now.counter >= MOST:
        why = f"spec.retryCounter is {now.counter}, the largest number it takes"
        return [Refusal("The check cannot be asked for again", seen.where, why, "ask the vendor")]
    after["retryCounter"] = now.counter + 1
    reasons.append(f"check again; the last one said: {now.message}")
    return readiness(seen, wanted.state)


def readiness(seen: Observed, state: str) -> list[Refusal]:
    """What the vendor's procedure asks for before a state, as far as it can be seen in the source cluster."""
    if seen.proxies is None:
        return []
    if state == "SetupIstioForMigrate":
        return _versions(seen)
    theirs = [item for item in seen.proxies if not item.mesh]
    if state == "Migrating" and (old := [item for item in theirs if _one_trust(item)]):
        why = f"{len(old)} pods have a sidecar that knows one trust only: {listed(old)}"
        todo = "restart the workloads of these pods (sidecar_inject, state: restarted): new proxies have PROXY_CONFIG_XDS_AGENT"
        return [Refusal("Not all sidecars are ready for two meshes", seen.where, why, todo, order=True)]
    if state == "Finished" and theirs:
        why = f"{len(theirs)} pods have a proxy of Istio: {listed(theirs)}"
        return [Refusal("Istio is in use still", seen.where, why, "move these workloads and gateways to ASM first", order=True)]
    return []


def _one_trust(proxy: Proxy) -> bool:
    """Its workload has to be restarted; what is ending was."""
    return not (proxy.ready_for_two or proxy.router or proxy.ending)


def _gateways(seen: Observed, state: str) -> list[str]:
    """The procedure restarts sidecars; a gateway whose manifest istioctl wrote would not even get the variable by that."""
    old = [one for one in seen.proxies or () if one.router and not (one.mesh or one.ready_for_two)]
    if state != "Migrating" or not old:
        return []
    why = "when the meshes have two roots they cannot reach workloads of ASM: give it to them in their manifest"
    return [f"{len(old)} pods of Istio's gateways do not have PROXY_CONFIG_XDS_AGENT ({listed(old)}); {why}"]


def _versions(seen: Observed) -> list[Refusal]:
    found = []
    for what, version, least in (("cluster", seen.kubernetes, KUBERNETES_VERSION), ("Istio", seen.istio, ISTIO_VERSION)):
        if too_old(version, least):
            why, todo = f"it is {version}, and at least {least} is needed", "upgrade it first"
            found.append(Refusal(f"The version of the {what} is too old".replace("the Istio", "Istio"), "source", why, todo))
    return found
