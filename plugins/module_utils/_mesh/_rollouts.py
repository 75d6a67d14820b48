# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Rollouts of Deployments, StatefulSets and DaemonSets: what they may take away, and how far they are. Pure."""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import DEPLOYMENT, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import pending, pod_trouble, rollout_trouble

Object = dict[str, t.Any]

STATEFUL_SET = kind_of("apps/v1", "StatefulSet")
DAEMON_SET = kind_of("apps/v1", "DaemonSet")
#: The kinds whose pods follow a changed template by themselves, safely.
MOVABLE = {"Deployment": DEPLOYMENT, "StatefulSet": STATEFUL_SET, "DaemonSet": DAEMON_SET}


@dataclasses.dataclass(frozen=True)
class Rollout:
    """:arg missing: what is still to come. :arg hopeless: why it will never come. :arg progress: only grows while it goes on."""

    done: bool
    missing: str = ""
    hopeless: str = ""
    progress: int = 0


@dataclasses.dataclass(frozen=True)
class Manners:
    """How a workload replaces its pods.

    :arg replicas: pods that are wanted. :arg ready: pods that are ready. :arg unavailable: at most so many fewer while it rolls.
    :arg surge: at most so many more. :arg raw: maxUnavailable as it is written. :arg trouble: why it does not roll by itself.
    """

    replicas: int
    ready: int
    unavailable: int
    surge: int
    raw: t.Any = None
    trouble: str = ""


def manners(workload: Object) -> Manners:
    spec, status = workload["spec"], workload.get("status") or {}
    if workload["kind"] == "Deployment":
        return _deployment(spec, status)
    if workload["kind"] == "StatefulSet":
        return _stateful_set(spec, status)
    return _daemon_set(spec, status)


def _deployment(spec: Object, status: Object) -> Manners:
    replicas, ready = int(spec.get("replicas", 1)), int(status.get("readyReplicas", 0))
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        trouble = "its strategy is Recreate: all its pods go before the first new one comes" if replicas else ""
        return Manners(replicas, ready, replicas, 0, None, trouble)
    rolling = strategy.get("rollingUpdate") or {}
    raw = rolling.get("maxUnavailable", "25%")
    surge = share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = share(raw, replicas, up=False)
    # As the Deployment controller does it: with both 0 nothing would ever move.
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Manners(replicas, ready, unavailable, surge, raw, "it is paused (spec.paused)" if spec.get("paused") else "")


def _stateful_set(spec: Object, status: Object) -> Manners:
    replicas, ready = int(spec.get("replicas", 1)), int(status.get("readyReplicas", 0))
    strategy = spec.get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    trouble = ""
    if strategy.get("type") == "OnDelete":
        trouble = "its update strategy is OnDelete: its pods change only when somebody deletes them"
    elif int(rolling.get("partition") or 0) > 0:
        trouble = f"its update strategy has partition {rolling['partition']}: the pods below it would keep their sidecar"
    raw = rolling.get("maxUnavailable")
    return Manners(replicas, ready, max(1, share(raw, replicas, up=False)) if raw is not None else 1, 0, None, trouble)


def _daemon_set(spec: Object, status: Object) -> Manners:
    wanted, ready = int(status.get("desiredNumberScheduled", 0)), int(status.get("numberReady", 0))
    strategy = spec.get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    trouble = "its update strategy is OnDelete" if strategy.get("type") == "OnDelete" else ""
    surge = share(rolling.get("maxSurge", 0), wanted, up=True)
    unavailable = share(rolling.get("maxUnavailable", 1 if not surge else 0), wanted, up=True)
    return Manners(wanted, ready, unavailable, surge, None, trouble)


def share(value: t.Any, of: int, *, up: bool) -> int:
    """A number, or a percentage of the replicas, rounded as Kubernetes does."""
    text = str(value)
    if text.endswith("%"):
        part = int(text[:-1]) * of / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value)


def judge(workload: Object | None, pods: t.Sequence[Object] = ()) -> Rollout:
    """How far a rollout is. :arg pods: the pods with the new template, to see what will never start."""
    if workload is None:
        return Rollout(False, "it is gone", "somebody deleted it")
    status, generation = workload.get("status") or {}, int(workload["metadata"].get("generation", 0))
    if int(status.get("observedGeneration", 0)) < generation:
        return Rollout(False, "the new generation is not observed yet")
    if workload["kind"] == "Deployment":
        return _judge_deployment(workload, status, pods)
    if workload["kind"] == "StatefulSet":
        wanted, updated = int(workload["spec"].get("replicas", 1)), int(status.get("updatedReplicas", 0))
        available = int(status.get("availableReplicas", status.get("readyReplicas", 0)))
        settled = status.get("currentRevision") == status.get("updateRevision")
        done = available >= wanted and (settled or updated >= wanted)
        # Before the first update updatedReplicas may be left out.
        return _judged(done, updated, available, wanted, pods)
    wanted, updated = int(status.get("desiredNumberScheduled", 0)), int(status.get("updatedNumberScheduled", 0))
    available = int(status.get("numberAvailable", 0))
    return _judged(updated >= wanted and available >= wanted, updated, available, wanted, pods)


def _judge_deployment(workload: Object, status: Object, pods: t.Sequence[Object]) -> Rollout:
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    old = int(status.get("replicas", 0)) - updated
    progress = 2 * updated + available - old
    if int(workload["spec"].get("replicas", 1)) == 0:
        total = int(status.get("replicas", 0))
        return Rollout(total == 0, "" if total == 0 else f"{total} pods are still there", progress=progress)
    done, missing, hopeless = rollout_trouble(workload, pods)
    for condition in status.get("conditions") or []:
        if not done and condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            missing += f"; {condition.get('reason')}: {condition.get('message')}"
    return Rollout(done, missing, hopeless, progress)


def _judged(done: bool, updated: int, available: int, wanted: int, pods: t.Sequence[Object]) -> Rollout:
    if done:
        return Rollout(True, progress=3 * wanted)
    missing = "; ".join([f"{available} of {wanted} pods are available, {updated} updated", *filter(None, map(pending, pods))])
    hopeless = next(filter(None, map(pod_trouble, pods)), "")
    return Rollout(False, missing, hopeless, 2 * updated + available)
