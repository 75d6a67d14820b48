# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vm_asm_proxy by its playbooks: two VMs join, serve by weights, fail on purpose, and leave without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import net, vm, world
from lab.cluster import Cluster
from lab.images import ISTIO_TAG
from lab.kubeapi import path_of
from lab.mesh_source import namespace
from lab.state import Lab
from tests.integration.vm.way import ACCOUNT, HOST, NAME, NAMESPACE, Object, Played, ToVm, Way, differences, look, machines

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[3]
VERSIONS = [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]
SERVICE = {"name": NAME, "ports": [{"port": vm.APP_PORT, "name": "http"}], "subsets": VERSIONS, "weights": {"v1": 80, "v2": 20}}
KINDS = ("serviceentries", "workloadgroups", "workloadentries", "destinationrules", "virtualservices")


class Role(Way):
    """Playbooks of the collection, with one description."""

    def variables(self, **more: Any) -> Object:
        return {
            "vm_asm_proxy_name": "vms",
            "vm_asm_proxy_state_dir": str(self.folder / "state"),
            "vm_asm_proxy_source": {"kubeconfig": str(self.ack.kubeconfig), "cluster_uid": self.lab.data["ack_uid"]},
            "vm_asm_proxy_namespace": NAMESPACE,
            "vm_asm_proxy_service_account": ACCOUNT,
            "vm_asm_proxy_remove_service_account": True,
            "vm_asm_proxy_version": ISTIO_TAG,
            "vm_asm_proxy_istiod_version": ISTIO_TAG,
            "vm_asm_proxy_image": vm.IMAGE,
            "vm_asm_proxy_pull": "never",
            "vm_asm_proxy_args": ["proxy", "sidecar"],
            "vm_asm_proxy_user": "1337:1337",
            "vm_asm_proxy_capabilities": [],
            "vm_asm_proxy_memory": "400m",
            "vm_asm_proxy_istiod": {"addresses": [self.ack.nodes[0].address], "port": vm.NODE_PORT},
            "vm_asm_proxy_outbound_cidrs": [self.ack.service_cidr],
            "vm_asm_proxy_app_ports": [vm.APP_PORT],
            "vm_asm_proxy_labels": "{{ {'version': 'v1' if inventory_hostname == 'vm_0' else 'v2'} }}",
            "vm_asm_proxy_services": [SERVICE],
            "vm_asm_proxy_serial": 1,
            **more,
        }

    def book(self, name: str, *options: str, **more: Any) -> Played:
        file = self.folder / f"vars-{time.monotonic_ns()}.json"
        file.write_text(json.dumps(self.variables(**more)))
        argv = ["ansible-playbook", "-i", str(self.inventory()), str(ROOT / "playbooks" / f"{name}.yml")]
        done = Played(self._run([*argv, "-e", f"@{file}", *options]))
        print(done.text)
        return done

    def inventory(self) -> Path:
        """Hosts under names that are none of Kubernetes, as inventories have them."""
        group = vm.inventory(self.lab)["mesh_vms"]
        hosts = {name.replace("-", "_"): host for name, host in group["hosts"].items()}
        file = self.folder / "inventory.yml"
        file.write_text(json.dumps({"mesh_vms": {**group, "hosts": hosts}}))
        return file

    def objects(self) -> list[str]:
        """What is in the namespace, but for what the cluster puts there."""
        paths = [path_of("networking.istio.io/v1", kind, NAMESPACE) for kind in KINDS]
        paths += [path_of("v1", kind, NAMESPACE) for kind in ("services", "serviceaccounts")]
        found = [
            f"{path.rsplit('/', 1)[1]}/{obj['metadata']['name']}" for path in paths for obj in self.ack.api.list(path)["items"]
        ]
        return sorted(name for name in found if name != "serviceaccounts/default")

    def served(self, count: int) -> Counter[str]:
        """Which VM answers a pod, so many times."""
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _number: self.from_pod(), range(count)))
        return Counter((one.get("headers") or {}).get("X-Lab-Pod", [str(one.get("status"))])[0] for one in answers)


def good(done: Played, changed: bool | None = None) -> Played:
    assert done.code == 0, done.text[-6000:]
    if changed is not None:
        assert bool(done.changed) is changed, done.text[-6000:]
    return done


@pytest.fixture
def role(lab: Lab, tmp_path: Path) -> Iterator[Role]:
    with machines(lab, tmp_path, Role, 2) as one:
        one.ack.apply_object("v1", "namespaces", namespace(NAMESPACE, {"istio-injection": "enabled"}))
        strict = {"metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"mtls": {"mode": "STRICT"}}}
        strict |= {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
        one.ack.apply_object("security.istio.io/v1", "peerauthentications", strict)
        try:
            yield one
        finally:
            mirror = path_of("v1", "configmaps", "istio-system", "servicemesh-migration-vms")
            if one.ack.api.find(mirror):
                one.ack.api.delete(mirror)


def test_two_vms_join_serve_by_weights_fail_on_purpose_and_leave(role: Role, lab: Lab) -> None:
    before = [look(one) for one in role.vms]
    good(role.book("vm_preflight"), changed=False)
    good(role.book("vm_join", "--check", "--diff", "--tags", "prepare"))
    assert [differences(old, look(one)) for old, one in zip(before, role.vms, strict=True)] == [[], []] and role.objects() == []

    good(role.book("vm_join"), changed=True)
    role.wait_for(200)
    answer = role.from_pod()
    assert answer["headers"]["X-Lab-Caller"] == ["spiffe://cluster.local/ns/demo/sa/echo"]
    assert role.plain() == 0, "STRICT: nobody without a certificate gets in"
    good(role.book("vm_join"), changed=False)

    counts = role.served(400)
    assert sum(counts.values()) == 400 and set(counts) == {"vm-0", "vm-1"}, counts
    assert abs(counts["vm-1"] - 80) <= 32, f"80 of 400 were expected, within four standard deviations: {counts}"

    good(role.book("vm_routes", vm_asm_proxy_services=[{**SERVICE, "faults": [{"delay": {"seconds": 1.5}}]}]), changed=True)
    wait(lambda: seconds(role) >= 1.5, "a delay")
    assert 1.5 <= seconds(role) < 3
    fault = {"abort": {"http_status": 599}}
    good(role.book("vm_routes", vm_asm_proxy_services=[{**SERVICE, "faults": [fault]}]), changed=True)
    role.wait_for(599)
    good(role.book("vm_routes", vm_asm_proxy_services=[{**SERVICE, "weights": {"v1": 0, "v2": 100}}]), changed=True)
    role.wait_for(200)
    wait(lambda: set(role.served(20)) == {"vm-1"}, "all requests go to the second version")

    refused = role.book("vm_leave", "--limit", "vm_1", vm_asm_proxy_services=[{**SERVICE, "weights": {"v1": 0, "v2": 100}}])
    assert refused.code != 0 and "nobody takes it" in refused.text
    assert differences(before[1], look(role.vms[1])), "it has not left"
    with ToVm(lab).running(rate=40) as load:
        good(role.book("vm_leave", "--limit", "vm_0"), changed=True)
        sums = load.stop()
    assert sums["failed"] == 0 and sums["ok"] == sums["sent"] > 0, sums
    assert differences(before[0], look(role.vms[0])) == []

    good(role.book("vm_leave"), changed=True)
    good(role.book("vm_leave"), changed=False)
    assert [differences(old, look(one)) for old, one in zip(before, role.vms, strict=True)] == [[], []]
    assert role.objects() == []


def seconds(role: Role) -> float:
    """How long a pod waits for the VM's answer."""
    start = time.monotonic()
    assert role.from_pod().get("status") == 200
    return time.monotonic() - start


def wait(check: Any, what: str, limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not check():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.3)


def test_the_playbook_of_routes_needs_no_vm(lab: Lab, tmp_path: Path) -> None:
    """It speaks to the cluster only, and says at once what is missing."""
    with net.inside(lab):
        argv = ["ansible-playbook", "-i", "localhost,", str(ROOT / "playbooks" / "vm_routes.yml"), "-e", "vm_asm_proxy_name=vms"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode != 0 and "vm_asm_proxy_namespace" in done.stdout and HOST not in done.stdout


def test_the_scenario_of_molecule(lab: Lab) -> None:
    """VMs are reached from the lab's network only, so this scenario is not among those of `make molecule`."""
    env = {**os.environ, **world.environment(lab), "LAB_NAME": lab.name, "LAB_KEEP": "1", "NO_COLOR": "1"}
    try:
        with net.inside(lab):
            argv = ["molecule", "test", "--scenario-name", "vm_asm_proxy"]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
    finally:
        vm.down(lab, Cluster(lab, "ack", 1))
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
