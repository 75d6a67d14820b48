# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P3: 500 Deployments change their sidecars in one call, beside a loop of `kubernetes.core.k8s` and the API server itself.

Pods are simulated (kwok), so a rollout costs what the control plane takes for it. Injection is real: both webhooks answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import yaml

from lab import binaries, net
from lab.bench import Figure, at_least, at_most
from lab.bench.backup import Say, collections
from lab.cluster import Cluster
from lab.demo.stage import COLLECTION, Stage
from lab.kubeapi import KubeError, path_of
from lab.kwok import LABEL as NODES
from lab.kwok import TAINT
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.mesh_source import namespace
from lab.state import Lab, LabError

COUNT = 500
SAMPLE = 20  # of the loop; LAB_THOROUGH=1: all, and the default of 25 at once
TURNS = 2
NAMESPACE = "bench-swap"
INJECT = "sidecar.asm.aliyun.com/inject"
BUNDLE = "ansible==12.3.0"  # the community's package of collections, from which the loop's comes
WHOLE: dict[str, Any] = {
    "ack_to_asm_mesh_id": MESH_ID,
    "ack_to_asm_cluster_id": ACK_ID,
    "ack_to_asm_waves": ["100%"],
    "ack_to_asm_restart_waves": ["100%"],
    "ack_to_asm_sidecar_hold": 0,
    "ack_to_asm_gates": [],
    "ack_to_asm_without_gates": True,
}

# The least that any client can do: all patches by 16 threads, then a look at all Deployments four times a second until the last
# rollout has ended. It judges as `kubectl rollout status` does.
BARE = """
import concurrent.futures, sys, time
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import DEPLOYMENT
cluster, place = Cluster("source", {"kubeconfig": sys.argv[1]}), sys.argv[2]
body = {"spec": {"template": {"metadata": {"labels": {sys.argv[3]: sys.argv[4] or None}}}}}
names = [item["metadata"]["name"] for item in cluster.list_all(DEPLOYMENT, place)]
def through(item):
    want, have = item["spec"]["replicas"], item.get("status") or {}
    seen = have.get("observedGeneration", 0) >= item["metadata"]["generation"]
    return seen and want == have.get("updatedReplicas", 0) == have.get("replicas", 0) == have.get("availableReplicas", 0)
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda name: cluster.patch(DEPLOYMENT, name, place, body), names))
end = time.monotonic() + 600
while not all(through(item) for item in cluster.list_all(DEPLOYMENT, place)):
    if time.monotonic() > end:
        sys.exit("the rollouts did not end in ten minutes")
    time.sleep(0.25)
"""


def deployment(number: int) -> dict[str, Any]:
    labels = {"app": f"shop-{number}"}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "nodeSelector": NODES,
            "tolerations": [{"key": TAINT["key"], "operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "shop", "image": "shop", "resources": {"requests": {"cpu": "10m"}}}],
        },
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": labels["app"], "namespace": NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def others_collection(lab: Lab) -> Path:
    """Where `kubernetes.core` is, below ansible_collections; fetched from PyPI once."""
    place = lab.cache / "bench" / BUNDLE
    if not (place / "ansible_collections/kubernetes/core/MANIFEST.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), BUNDLE]
        if subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode:
            raise LabError(f"P3: {BUNDLE}, which has kubernetes.core, cannot be had from PyPI")
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(place, [name for name in file.namelist() if name.startswith("ansible_collections/kubernetes/core/")])
        wheel.unlink()
    return place


class Swap:
    """A lab whose ASM chooses sidecars by label, and 500 Deployments with Istio's."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.lab, self.say = lab, say
        self.others = others_collection(lab)
        self.ack = Cluster(lab, "ack", 1)
        self.stage = Stage(lab, lab.dir / "bench", "swap", **WHOLE)
        self.kubeconfig = self.stage.env["LAB_ACK_KUBECONFIG"]

    def up(self) -> None:
        played = self.stage.play("ack_to_asm_prepare")
        if played.code:
            raise LabError(f"ack_to_asm_prepare failed:\n{played.text[-3000:]}")
        self.ack.add_kwok_nodes(2)
        self.ack.apply_object("v1", "namespaces", namespace(NAMESPACE, {"istio-injection": "enabled"}))
        for number in range(COUNT):
            self.ack.api.create(path_of("apps/v1", "deployments", NAMESPACE), deployment(number))
        self.ack.wait(f"{COUNT} Deployments", lambda: self.proxies() == {"": COUNT}, 300)

    def proxies(self) -> dict[str, int]:
        """Running pods by the mesh of their sidecar; Istio's have no id, and a pod without one is not counted."""
        found: dict[str, int] = {}
        for pod in self.ack.api.list(path_of("v1", "pods", NAMESPACE))["items"]:
            if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") != "Running":
                continue
            for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                if one["name"] == "istio-proxy":
                    mesh = next((item["value"] for item in one["env"] if item["name"] == "ASM_ID"), "")
                    found[mesh] = found.get(mesh, 0) + 1
        return found

    def expect(self, moved: int) -> None:
        """All pods are there, so many of them with ASM's sidecar. A contender that did not do its work is no contender."""
        wanted = {mesh: number for mesh, number in ((MESH_ID, moved), ("", COUNT - moved)) if number}
        try:
            self.ack.wait(f"sidecars {wanted}", lambda: self.proxies() == wanted, 30)
        except LabError as error:
            raise LabError(f"P3: {error}; there are {self.proxies()}") from error

    def bare(self, value: str) -> float:
        began = time.monotonic()
        argv = [sys.executable, "-c", BARE, self.kubeconfig, NAMESPACE, INJECT, value]
        env = {**self.stage.env, "PYTHONPATH": str(collections(self.stage.folder))}
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise LabError("P3: the bare client failed")
        return time.monotonic() - began

    def back(self) -> None:
        self.bare("")
        self.expect(0)

    def playbook(self, name: str, task: dict[str, Any]) -> float:
        """Seconds of ansible-playbook with this one task."""
        file = self.stage.folder / f"{name}.yml"
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
        play["vars"] = {"ansible_python_interpreter": sys.executable}
        file.write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
        env = {**self.stage.env, "ANSIBLE_NOCOLOR": "1"}
        paths = [*filter(None, [env.get("ANSIBLE_COLLECTIONS_PATH")]), str(self.others)]
        env["ANSIBLE_COLLECTIONS_PATH"] = ":".join(paths)
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", str(file)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"P3: {name} failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        return time.monotonic() - began

    def ours(self, turn: str, concurrency: int) -> float:
        options = {
            "migration": f"swap-{turn}",
            "state_dir": str(self.stage.folder / "swap-state"),
            "source": {"kubeconfig": self.kubeconfig},
            "target_proxy": {"asm_id": MESH_ID},
            "namespaces": [NAMESPACE],
            "waves": ["100%"],
            "concurrency": concurrency,
            "proof": "pods",  # nothing runs in a simulated pod that could be asked
            "hold": 0,
            "gates": [],
            "allow_without_gates": True,
        }
        seconds = self.playbook("ours", {"name": "All at once", f"{COLLECTION}.sidecar_inject": options})
        self.expect(COUNT)
        return seconds

    def loop(self, count: int) -> float:
        """Seconds for each: patch, and wait for the rollout, with all else as the collection has it."""
        definition = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "shop-{{ item }}", "namespace": NAMESPACE},
            "spec": {"template": {"metadata": {"labels": {INJECT: "true"}}}},
        }
        options = {"kubeconfig": self.kubeconfig, "state": "patched", "definition": definition, "wait": True}
        task = {"name": "One after the other", "kubernetes.core.k8s": options, "loop": list(range(count))}
        seconds = self.playbook("loop", task)
        self.expect(count)
        return seconds / count

    def down(self) -> None:
        self.ack.api.delete(path_of("v1", "namespaces", None, NAMESPACE))


def p3(lab: Lab, say: Say) -> list[Figure]:
    """In a lab that is up and not yet migrated. It is not fit for anything else afterwards."""
    binaries.build(("kwok",), say)
    swap = Swap(lab, say)
    with net.inside(lab):
        try:
            swap.up()
            thorough = bool(os.environ.get("LAB_THOROUGH"))
            bare, ours, usual = [], [], []
            for turn in range(TURNS):
                say(f"P3: turn {turn + 1} of {TURNS}")
                bare.append(swap.bare("true"))
                swap.expect(COUNT)
                swap.back()
                ours.append(swap.ours(f"all-{turn}", COUNT))
                swap.back()
                say(f"P3: bare {bare[-1]:.1f} s, one call {ours[-1]:.1f} s")
            if thorough:
                usual.append(swap.ours("default", 25))
                swap.back()
            count = COUNT if thorough else SAMPLE
            each = swap.loop(count)
            say(f"P3: the loop takes {each:.2f} s for each of {count}")
        except KubeError as error:
            raise LabError(f"P3: {error}") from error
        finally:
            swap.down()
    mine, least = min(ours), min(bare)
    how = "" if count == COUNT else f" (measured with {count})"
    return [
        at_least("P3", f"{COUNT} Deployments in one call against a loop{how}", each * COUNT / mine, "times faster", 20.0),
        at_most("P3", "one call against the API server's own rollout time", mine / least, "times", 1.3),
        Figure("P3", f"the API server's own rollout time of {COUNT}", round(least, 2), "s", "-", True),
        Figure("P3", f"{COUNT} in one call, all at once", round(mine, 2), "s", "-", True),
        *(Figure("P3", f"{COUNT} in one call, 25 at once (the default)", round(one, 2), "s", "-", True) for one in usual),
        Figure("P3", f"a loop of kubernetes.core.k8s with wait, for each{how}", round(each, 2), "s", "-", True),
    ]
