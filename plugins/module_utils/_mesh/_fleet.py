# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Workloads that roll, a wave of them at a time: start what may start, look at all of them at once, prove what has ended.

One LIST a kind and tick, however many workloads roll; one PATCH a workload. Nothing here sleeps for ever: a rollout that makes no
progress for ``patience`` seconds (and its own minReadySeconds and grace period) has failed.
"""

from __future__ import annotations

import dataclasses
import threading
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import Answer, each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _inject, _rollouts, _sidecar_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._inject import Original
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import MOVABLE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, ready, sidecar_of, was_ready
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import PDB, pod_trouble
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import startable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import (
    Workload,
    budgets_of,
    pods_of,
    present_of,
    risk,
)

Object = dict[str, t.Any]
QUEUED, ROLLING, DONE, FAILED = "queued", "rolling", "done", "failed"
# Between two looks at rollouts; at pods while rollouts end; at pods while none does. Seconds.
TICK, _PROVE, _PODS = 1.0, 2.0, 5.0
_WORKERS = 8
# So many proxies are asked without a look at the clock; and so many seconds long proxies are asked and patches sent in one tick.
_ASKED, _LISTEN = 32, 5.0


class Clock(t.Protocol):
    def monotonic(self) -> float: ...

    def time(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


@dataclasses.dataclass
class Flight:
    """One workload on its way. :arg patch: None when it was patched by an earlier run. :arg forth: towards the target.

    :arg risk: why it may not begin as it is now. :arg trouble: why its patch got no answer that counts; it is tried again.
    """

    workload: Workload
    original: Original | None
    patch: Object | None
    forth: bool
    change: Change | None = None
    state: str = QUEUED
    reason: str = ""
    progress: int = -1
    since: float = 0.0
    began: float = 0.0
    seconds: float = 0.0
    proving: float | None = None
    proofs: list[Object] = dataclasses.field(default_factory=list)
    wrote: bool = False
    risk: str = ""
    trouble: str = ""

    @property
    def eager(self) -> bool:
        """Not to be held up by budgets: it rolls already, or its way back replaces pods first that serve nobody."""
        own = self.workload.manners
        return self.patch is None or (not self.forth and own.ready < own.replicas)

    # What a wave's arithmetic asks of its members.
    @property
    def kind(self) -> str:
        return self.workload.kind

    @property
    def namespace(self) -> str:
        return self.workload.namespace

    @property
    def name(self) -> str:
        return self.workload.name

    @property
    def labels(self) -> t.Mapping[str, str]:
        return self.workload.labels

    @property
    def cost(self) -> int:
        return self.workload.cost

    @property
    def pdbs(self) -> tuple[str, ...]:
        return self.workload.pdbs

    def as_dict(self) -> Object:
        own = self.workload
        return {
            "kind": own.kind,
            "namespace": own.namespace,
            "name": own.name,
            "state": self.state,
            "reason": self.reason,
            "seconds": round(self.seconds, 2),
            "pods": self.proofs,
        }


@dataclasses.dataclass(frozen=True)
class Pace:
    """:arg concurrency: rollouts at once. :arg patience: seconds without progress. :arg ask: whether proxies are asked.

    :arg sample: so many pods of a workload are asked, 0 for all. :arg proof_wait: seconds that a proof may take.
    """

    concurrency: int = 25
    patience: float = 300.0
    ask: bool = True
    sample: int = 0
    proof_wait: float = 60.0
    request_timeout: float = 10.0


class Fleet:
    """See the module's docstring. One at a time is under way; ``tick`` advances it."""

    def __init__(self, cluster: Cluster, proxies: Proxies, pace: Pace, journal: Journal, clock: Clock) -> None:
        self._cluster = cluster
        self._proxies = proxies
        self._pace = pace
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = -_PODS
        self._still: float | None = None
        self.writes: list[float] = []

    def tick(self, flights: t.Sequence[Flight], *, hold: bool = False) -> None:
        """Start what may start (nothing when ``hold``), then look once at what rolls."""
        rolling = [one for one in flights if one.state == ROLLING]
        queue = [one for one in flights if one.state == QUEUED]
        if queue and not hold:
            eager = [one for one in queue if one.eager]
            self._start(eager)
            rolling += [one for one in eager if one.state == ROLLING]
            queue = [one for one in queue if not one.eager]
            budgets = self._budgets(queue)
            begun = self._startable(queue, rolling, budgets)
            self._start(begun)
            rolling += [one for one in begun if one.state == ROLLING]
        if rolling or queue:
            self._clock.sleep(TICK)
        if rolling:
            self._look(rolling)
        self._idle(queue if queue and not rolling and not hold else [])

    def _startable(self, queue: t.Sequence[Flight], rolling: t.Sequence[Flight], budgets: t.Mapping[str, int]) -> list[Flight]:
        """What may begin, by what each of them may take away at this very moment."""
        waiting = list(queue)
        while begun := startable(waiting, rolling, budgets, self._pace.concurrency):
            present = present_of(self._cluster, [one.workload.key for one in begun if one.forth])
            for one in begun:
                item = present.get(one.workload.key)
                own = _rollouts.manners({**item, "kind": one.kind}) if item is not None else None
                one.risk = risk(own, one.workload.guard) if own is not None and one.forth else ""
            if not any(one.risk for one in begun):
                break
            waiting = [one for one in waiting if not (one.risk and any(one is other for other in begun))]
        return begun

    def _budgets(self, queue: t.Sequence[Flight]) -> dict[str, int]:
        """Only asked for when one of them needs it."""
        places = {one.namespace for one in queue if one.cost and one.pdbs}
        if not places:
            return {}
        return budgets_of(list(self._cluster.list_all(PDB, places.pop() if len(places) == 1 else "")))

    def _idle(self, queue: t.Sequence[Flight]) -> None:
        """What may not begin although nothing of ours rolls (a budget, too few ready pods) is not waited for without bound."""
        now = self._clock.monotonic()
        if not queue:
            self._still = None
            return
        self._still = now if self._still is None else self._still
        for one in queue:
            one.reason = one.risk or one.trouble or f"waits for the disruption budget {', '.join(one.pdbs)}"
            if now - self._still >= self._pace.patience:
                more = "and that for" if one.risk or one.trouble else "which let no pod go for"
                self._end(one, FAILED, f"{one.reason}, {more} {now - self._still:.0f} s")

    # -- writes --------------------------------------------------------------------------------------------------

    def _start(self, begun: t.Sequence[Flight]) -> None:
        """Patch them. On the way there an API server that hangs gets a few at a time, and what it did not answer stays in the
        queue: gates and orders want to be heard in between. A merge patch may come twice."""
        now, left = self._clock.monotonic(), list(begun)
        while left:
            most = _WORKERS if left[0].forth else len(left)
            some, left = left[:most], left[most:]
            answers: list[Answer[Flight, None]] = each(some, self._patch, _WORKERS)
            for answer in answers:
                one = answer.item
                if answer.error is not None and answer.error.transient and one.forth:
                    one.reason = one.trouble = answer.error.message
                    continue
                one.state, one.since, one.began = ROLLING, now, now
                one.reason = one.trouble = ""
                if answer.error is not None:
                    self._end(one, FAILED, answer.error.message)
            if self._clock.monotonic() - now >= _LISTEN and left and left[0].forth:
                break

    def _patch(self, one: Flight) -> None:
        if one.patch is None or one.change is None:
            return
        answer = self._write(one, one.patch, one.change)
        if one.original is not None:
            meta = answer["spec"]["template"].get("metadata") or {}
            for part in ("labels", "annotations"):
                wanted = one.original.after(part) if one.forth else one.original.before(part)
                wrong = [key for key, value in wanted.items() if (meta.get(part) or {}).get(key) != value]
                if wrong:
                    raise MigrationError(
                        f"The template's {part[:-1]} {wrong[0]} did not become what was written",
                        where=one.change.target,
                        why="an admission webhook or another writer changes it",
                        todo="find out who does (kubectl get --show-managed-fields), or set it at its origin",
                    )

    def _write(self, one: Flight, body: Object, change: Change) -> Object:
        """Journalled one line at a time; the patches themselves go side by side. No way back waits for room on a disk."""
        own, note = one.workload, self._journal.write if one.forth else self._journal.try_write
        facts = {"action": change.action, "target": change.target}
        with self._lock:
            note("begin", **facts, before=change.before, after=change.after, reason=change.reason)
        try:
            answer = self._cluster.patch(MOVABLE[own.kind], own.name, own.namespace, body)
        except MigrationError as error:
            with self._lock:
                self._journal.try_write("failed", **facts, error=error.message)
            raise
        with self._lock:
            one.wrote = True
            self.writes.append(self._clock.time())
            note("done", **facts)
        return answer

    def settle(self, one: Flight) -> None:
        """Give the workload its own maxUnavailable back."""
        known = one.original
        mine = one.workload.guard is not None and one.patch is not None
        if known is None or known.guard is None or not (mine or _inject.guarded(one.workload, known)):
            return
        before, after = {"maxUnavailable": known.guard}, {"maxUnavailable": known.unavailable}
        change = Change("settle", _inject.target_name(one.workload), before, after, "its rollout has ended")
        self._write(one, _inject.settle(one.workload, known.unavailable), change)

    # -- reads ---------------------------------------------------------------------------------------------------

    def _look(self, rolling: t.Sequence[Flight]) -> None:
        now = self._clock.monotonic()
        present = self._present(rolling)
        judged = {id(one): _rollouts.judge(present.get(one.workload.key)) for one in rolling}
        ended = [one for one in rolling if judged[id(one)].done]
        age = now - self._looked
        if age >= _PODS or (ended and (age >= _PROVE or len(ended) == len(rolling))):
            self._looked = now
            pods = self._pods(rolling)
            for one in rolling:
                mine = self._own(one, present, pods)
                if judged[id(one)].done:
                    continue
                judged[id(one)] = _rollouts.judge(present.get(one.workload.key), [pod for pod in mine if self._is_new(one, pod)])
                self._free(one, present, mine)
            self._finish(ended, {id(one): self._own(one, present, pods) for one in ended}, now)
        for one in rolling:
            if one.state == ROLLING and not judged[id(one)].done:
                self._patient(one, judged[id(one)], now)

    def _present(self, rolling: t.Sequence[Flight]) -> dict[tuple[str, str, str], Object]:
        """All workloads of the kinds that roll: one paged list a kind."""
        places = {one.namespace for one in rolling}
        place = places.pop() if len(places) == 1 else ""
        kinds = [MOVABLE[kind] for kind in sorted({one.kind for one in rolling})]
        lists = values(each(kinds, lambda kind: list(self._cluster.list_all(kind, place))))
        return {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item for some in lists for item in some}

    def _pods(self, rolling: t.Sequence[Flight]) -> dict[tuple[str, str, str], list[Object]]:
        places = {one.namespace for one in rolling}
        found = list(self._cluster.list_all(POD, places.pop() if len(places) == 1 else ""))
        names = {(one.namespace, one.name) for one in rolling if one.kind == "Deployment"}
        return pods_of(found, names)

    def _own(
        self, one: Flight, present: t.Mapping[t.Any, Object], pods: t.Mapping[tuple[str, str, str], list[Object]]
    ) -> list[Object]:
        return pods.get(one.workload.key, []) if one.workload.key in present else []

    def _is_new(self, one: Flight, pod: Object) -> bool:
        """Whether a pod has the sidecar of the side that this workload goes to."""
        return (not self._proxies.differs(sidecar_of(pod))) == one.forth

    def _finish(self, ended: t.Sequence[Flight], pods: t.Mapping[int, list[Object]], now: float) -> None:
        """Prove what has ended, those first that were not asked yet. When proxies are slow to answer the rest comes with the next
        tick: gates and orders want to be heard in between."""
        left = sorted(ended, key=lambda one: one.proving is not None)
        began = self._clock.monotonic()
        while left and self._clock.monotonic() - began < _LISTEN:
            some = [left.pop(0)]
            while left and sum(len(pods[id(one)]) for one in (*some, left[0])) <= _ASKED:
                some.append(left.pop(0))
            self._finish_some(some, pods, now)

    def _finish_some(self, ended: t.Sequence[Flight], pods: t.Mapping[int, list[Object]], now: float) -> None:
        """What is not proven yet is asked again at another tick, for a while."""
        jobs = [(one, pod, number) for one in ended for number, pod in enumerate(sorted(pods[id(one)], key=_name))]
        answers = each(jobs, lambda job: self._prove(*job), _WORKERS)
        lines: dict[int, list[Object]] = {id(one): [] for one in ended}
        for answer in answers:
            one, pod, _number = answer.item
            line = answer.value or {"pod": pod["metadata"]["name"], "trouble": answer.error.message if answer.error else ""}
            lines[id(one)].append(line)
        for one in ended:
            one.proofs = lines[id(one)]
            missing = self._few(one, pods[id(one)])
            troubles = (
                [missing] if missing else [f"pod {item['pod']}: {item['trouble']}" for item in one.proofs if item["trouble"]]
            )
            one.proving = now if one.proving is None else one.proving
            if not troubles:
                self._land(one, now - one.proving < self._pace.proof_wait)
                continue
            if now - one.proving >= self._pace.proof_wait:
                self._end(one, FAILED, "; ".join(troubles[:3]))
            else:
                one.reason = "; ".join(troubles[:3])

    def _few(self, one: Flight, pods: t.Sequence[Object]) -> str:
        return "its pods are not to be seen" if one.workload.manners.replicas and not pods else ""

    def _prove(self, one: Flight, pod: Object, number: int) -> Object:
        line: Object = {"pod": pod["metadata"]["name"], "trouble": ""}
        proxy = sidecar_of(pod)
        if proxy is not None:
            line.update(image=proxy.image, asm_id=proxy.asm_id, discovery_address=proxy.discovery, native=proxy.native)
        if not one.forth:
            # It had one before it was moved: without it, servers that take nothing but mutual TLS would refuse it.
            line["trouble"] = (
                "it has no sidecar" if proxy is None else "" if self._is_new(one, pod) else "it still has the target's sidecar"
            )
            return line
        line["trouble"] = _sidecar_proof.judge_pod(pod, self._proxies)
        asked = self._pace.ask and (self._pace.sample == 0 or number < self._pace.sample)
        if not line["trouble"] and asked:
            facts, line["trouble"] = _sidecar_proof.prove(self._cluster, pod, self._proxies, self._pace.request_timeout)
            if facts is not None:
                line["proxy"] = facts.as_dict()
        return line

    def _free(self, one: Flight, present: t.Mapping[t.Any, Object], pods: t.Sequence[Object]) -> None:
        """A StatefulSet on its way back waits for its broken pod for ever: the API's known way out is to delete that pod.

        One that was ready before waits for its peers, perhaps, and comes back by itself.
        """
        item = present.get(one.workload.key, {})
        status = item.get("status") or {}
        late = int(status.get("observedGeneration", 0)) < int((item.get("metadata") or {}).get("generation", 0))
        if one.forth or one.kind != "StatefulSet" or late:
            return
        wanted = status.get("updateRevision")
        for pod in pods:
            revision = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
            broken = not was_ready(pod) or (not ready(pod) and pod_trouble(pod))
            if wanted and revision != wanted and broken:
                name = pod["metadata"]["name"]
                change = Change(
                    "delete", f"source/{one.namespace}/Pod/{name}", {"uid": pod["metadata"].get("uid")}, None, "never ready"
                )
                with self._lock, self._journal.around(change, must=False):
                    self._cluster.delete(POD, name, one.namespace, uid=str(pod["metadata"].get("uid") or ""))

    # -- ends ----------------------------------------------------------------------------------------------------

    def _patient(self, one: Flight, rollout: _rollouts.Rollout, now: float) -> None:
        one.reason = rollout.missing
        if rollout.hopeless:
            self._end(one, FAILED, rollout.hopeless)
        elif rollout.progress > one.progress:
            one.progress, one.since = rollout.progress, now
        elif now - one.since >= self._pace.patience + one.workload.slack:
            self._end(one, FAILED, f"no progress for {now - one.since:.0f} s: {rollout.missing}")

    def _land(self, one: Flight, again: bool) -> None:
        """:arg again: there is time for another tick when the API server does not answer in this one."""
        try:
            self.settle(one)
        except MigrationError as error:
            if error.transient and one.forth and again:
                one.reason = error.message
            else:
                self._end(one, FAILED, error.message)
            return
        self._end(one, DONE, "")

    def _end(self, one: Flight, state: str, reason: str) -> None:
        one.state, one.reason = state, reason
        one.seconds = self._clock.monotonic() - one.began if one.began else 0.0
        target, trail = _inject.target_name(one.workload), one.workload.trail
        note = self._journal.write if one.forth else self._journal.try_write
        note("workload", target=target, state=state, reason=reason, forth=one.forth, trail=trail)


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
