# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""East-west traffic: a client with a sidecar in namespace `demo` that calls the sample application through both sidecars.

The client is a Deployment like any other, so a migration moves it too: its pod ends, a new one has begun before. Each pod writes
what came back into a file on its node (see lab/go/internal/traffic), and all of them together are the run. Rate and length are
bounded; arrivals are by chance. `strict` makes the namespace take nothing but mutual TLS, by a PeerAuthentication in both meshes.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lab import apps
from lab.cluster import Cluster
from lab.images import ECHO
from lab.kubeapi import KubeError, path_of
from lab.mesh_source import namespace
from lab.node import RESULTS
from lab.state import Lab, LabError

NAME, NAMESPACE = "client", apps.NAMESPACE
LONGEST = 3600  # seconds
Object = dict[str, Any]
DEPLOYMENT = path_of("apps/v1", "deployments", NAMESPACE, NAME)
PODS = path_of("v1", "pods", NAMESPACE)
ASM_NAMESPACE = path_of("v1", "namespaces", None, NAMESPACE)
STRICT = {"mtls": {"mode": "STRICT"}}


def deployment(rate: float, target: Sequence[str]) -> Object:
    """The client. Its own user may not write to the node, so it is root; its files are all that it writes."""
    arguments = [f"-rate={rate:g}", f"-duration={LONGEST}s", "-chance", "-new-ratio=0.3", "-bucket=100ms", "-timeout=10s"]
    arguments += [*target, f"-out={RESULTS}/$(POD_NAME).jsonl"]
    container = {
        "name": "client",
        "image": ECHO,
        "command": ["/usr/local/bin/traffic"],
        "args": arguments,
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "results", "mountPath": RESULTS}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    volume = {"name": "results", "hostPath": {"path": RESULTS, "type": "DirectoryOrCreate"}}
    labels = {"app": NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            # the new pod sends for a second before the old one ends: no moment is without traffic
            "minReadySeconds": 1,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 30, "containers": [container], "volumes": [volume]},
            },
        },
    }


def _peer_authentication() -> Object:
    meta = {"name": "default", "namespace": NAMESPACE}
    return {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": meta, "spec": STRICT}


class Load:
    """The client's run. Use `running`, or `start` and `stop`."""

    target: Sequence[str] = (f"-target=echo=http://echo.{NAMESPACE}/",)
    #: With it one answer goes on all the time (see lab.demo.streams).
    stream: Sequence[str] = (f"-stream=echo=http://echo.{NAMESPACE}/stream",)

    def __init__(self, lab: Lab) -> None:
        self.ack, self.asm = Cluster(lab, "ack", 1), Cluster(lab, "asm", 2)
        self._made_namespace = False

    @contextmanager
    def running(self, rate: float = 120, *, strict: bool = False, copied: bool = True, streams: bool = False) -> Iterator[Load]:
        self.start(rate, strict=strict, copied=copied, streams=streams)
        try:
            yield self
        finally:
            self.remove()

    def start(self, rate: float = 120, *, strict: bool = False, copied: bool = True, streams: bool = False) -> None:
        """The client sends, and is answered. `copied`: ASM has the policy too; else a migration has to copy it.

        :raises LabError: it is there already, or does not get an answer within a minute.
        """
        if self.ack.api.find(DEPLOYMENT) is not None:
            raise LabError("a client runs already: remove it first")
        for file in self._files():
            file.unlink()
        if strict:
            if copied and self.asm.api.find(ASM_NAMESPACE) is None:
                self.asm.apply_object("v1", "namespaces", namespace(NAMESPACE))
                self._made_namespace = True
            for cluster in (self.asm, self.ack) if copied else (self.ack,):
                cluster.apply_object("security.istio.io/v1", "peerauthentications", _peer_authentication())
        self.ack.apply_object("apps/v1", "deployments", deployment(rate, [*self.target, *(self.stream if streams else ())]))
        self.ack.wait("answers to the client", lambda: any(line["ok"] for line in self.buckets()), 60)
        self.ack.wait("the client", lambda: bool(self.ack.api.get(DEPLOYMENT)["status"].get("availableReplicas")), 60)

    def stop(self) -> Object:
        """End the run and give the sums of all pods that there were.

        :raises LabError: a pod does not end, or ended without its summary (what it did then is not known).
        """
        self.ack.api.patch(DEPLOYMENT, {"spec": {"replicas": 0}})
        self._gone()
        found: Object = {"sent": 0, "ok": 0, "failed": 0, "stale_retry": 0, "pods": 0, "errors": {}, "status": {}, "seconds": 0.0}
        for file in self._files():
            lines = _lines(file.read_text(encoding="utf-8"))
            summary = next((line for line in lines if line.get("summary")), None)
            if summary is None:
                raise LabError(f"the client {file.stem} ended without a summary")
            found["pods"] += 1
            for key in ("sent", "ok", "failed", "stale_retry"):
                found[key] += summary[key]
            for key in ("errors", "status"):
                for word, number in summary[key].items():
                    found[key][word] = found[key].get(word, 0) + number
        seconds = self.per_second()
        found["seconds"] = len(seconds)
        found["least_rate"] = least(seconds[1:-1])  # the first and the last second are not whole ones
        found["failures"] = self.failures()[:20]
        return found

    def remove(self) -> None:
        """Take away everything that `start` made."""
        for cluster, path in (
            (self.ack, DEPLOYMENT),
            (self.ack, path_of("security.istio.io/v1", "peerauthentications", NAMESPACE, "default")),
            (self.asm, path_of("security.istio.io/v1", "peerauthentications", NAMESPACE, "default")),
        ):
            with contextlib.suppress(KubeError):
                cluster.api.delete(path)
        self._gone()
        if self._made_namespace:
            self.asm.api.delete(ASM_NAMESPACE)
            self.asm.wait("the end of the namespace in ASM", lambda: self.asm.api.find(ASM_NAMESPACE) is None, 60)

    def _gone(self) -> None:
        selector = f"app={NAME}"
        self.ack.wait("the end of the client", lambda: not self.ack.api.list(PODS, labelSelector=selector)["items"], 60)

    def _files(self) -> list[Any]:
        return sorted(file for node in self.ack.nodes for file in node.machine.folder(RESULTS).glob("*.jsonl"))

    def _all(self) -> list[Mapping[str, Any]]:
        return [line for file in self._files() for line in _lines(file.read_text(encoding="utf-8"))]

    def buckets(self) -> list[Mapping[str, Any]]:
        """The lines of time of all pods, in the order of time."""
        return sorted((line for line in self._all() if "served" in line and not line.get("summary")), key=lambda line: line["t"])

    def streams(self) -> list[Mapping[str, Any]]:
        """A line for each stream that has ended, at the latest with its client."""
        return [line for line in self._all() if "stream" in line]

    def failures(self) -> list[Mapping[str, Any]]:
        return [line for line in self._all() if "failure" in line]

    def per_second(self) -> list[int]:
        """Requests that were sent in each second from the first to the last, zeros too."""
        found: dict[int, int] = {}
        for line in self.buckets():
            found[int(line["t"])] = found.get(int(line["t"]), 0) + line["sent"]
        return [found.get(second, 0) for second in range(min(found, default=0), max(found, default=-1) + 1)]

    def wait_for(self, requests: int, timeout: float = 60) -> None:
        """Until so many more requests were answered."""
        before = sum(line["ok"] for line in self.buckets())
        end = time.monotonic() + timeout
        while sum(line["ok"] for line in self.buckets()) - before < requests:
            if time.monotonic() > end:
                raise LabError(f"the client did not get {requests} answers in {timeout:g} s")
            time.sleep(0.2)


def least(seconds: Sequence[int], window: int = 10) -> float:
    """The lowest rate over some seconds in a row: a machine that is busy sends what was due in one second in the next."""
    if len(seconds) < window:
        return 0.0
    return min(sum(seconds[first : first + window]) / window for first in range(len(seconds) - window + 1))


def _lines(text: str) -> list[Mapping[str, Any]]:
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # the line that is being written right now
            found.append(json.loads(line))
    return found
