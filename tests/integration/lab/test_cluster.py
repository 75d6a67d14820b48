# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of clusters alone: what is in it is real, and it survives the death of pods and nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import machine, proc
from lab.cluster import Cluster
from lab.images import ECHO
from lab.kubeapi import path_of
from lab.state import Lab, LabError
from tests.integration.lab.helpers import MARKS, a_lab, answers, call, kubectl, pods, ready, until

pytestmark = [*MARKS, pytest.mark.thorough]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with a_lab("fnd") as one:
        yield one


@pytest.fixture(scope="module")
def ack(lab: Lab) -> Cluster:
    return Cluster(lab, "ack", 1)


@pytest.fixture(scope="module")
def web(ack: Cluster) -> list[str]:
    """Names of four echo pods behind Service `web`, two on each node."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    container = {
        "name": "web",
        "image": ECHO,
        "args": ["-listen=:8080"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
    }
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [container], "topologySpreadConstraints": [spread], "terminationGracePeriodSeconds": 5},
    }
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
    ack.apply(
        [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports},
            },
        ]
    )
    ack.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    return [pod["metadata"]["name"] for pod in pods(ack)]


# --- clusters that are whole ------------------------------------------------------------------------------------------------


def test_status_and_nodes(lab: Lab, ack: Cluster) -> None:
    assert call(lab.name, "status").returncode == 0
    nodes = {node["metadata"]["name"]: node for node in ack.api.list("/api/v1/nodes")["items"]}
    assert set(nodes) == {"ack-0", "ack-1"}
    for i, name in enumerate(sorted(nodes)):
        assert nodes[name]["spec"]["providerID"] == f"cn-hangzhou.i-ack{i}"
        assert nodes[name]["spec"]["podCIDR"] == f"10.21.{i}.0/24"
        assert {"type": "InternalIP", "address": f"10.10.1.{10 + i}"} in nodes[name]["status"]["addresses"]
        assert nodes[name]["status"]["nodeInfo"]["kubeletVersion"] == "v1.36.3"
    asm = Cluster(lab, "asm", 2)
    assert asm.api.list("/api/v1/nodes")["items"] == []
    assert asm.uid() != ack.uid()


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = {name: proc.load(lab, name) for name in proc.names(lab)}
    done = call(lab.name, "up", "--parts", "cluster")
    assert done.returncode == 0
    assert "is up" in done.stdout
    assert {name: proc.load(lab, name) for name in proc.names(lab)} == before
    other = call(lab.name, "up", "--parts", "cluster", "--nodes", "1")
    assert other.returncode == 1
    assert "other options" in other.stderr


def test_pods_answer_by_service_and_by_node_port(lab: Lab, web: list[str]) -> None:
    for url in ("http://10.10.1.10:30080/", "http://10.10.1.11:30080/"):
        until("every pod answers", lambda url=url: answers(lab, url, 60) == set(web), 15)  # type: ignore[misc]


def test_names_and_services_inside_a_node(lab: Lab, web: list[str]) -> None:
    """Resolved by CoreDNS behind the kube-dns Service, then load-balanced by kube-proxy."""
    inside = machine.Machine(lab, "ack-0", "")
    inside.run(["bash", "-c", "echo > /dev/tcp/10.96.0.10/53"])
    address = inside.run(["getent", "hosts", "web.default.svc.cluster.local"]).stdout.split()[0]
    assert address.startswith("10.96.")
    seen = {
        inside.run(["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%header{x-lab-pod}", f"http://{address}/"]).stdout
        for _ in range(40)
    }
    assert seen == set(web)


def test_logs_exec_and_port_forward(lab: Lab, ack: Cluster, web: list[str]) -> None:
    assert ack.kubectl("logs", web[0]) is not None
    done = proc.run(lab, [*kubectl(ack), "exec", web[0], "--", "/no/such/program"], check=False)
    assert "no such file" in done.stderr.lower()  # the runtime in the node was asked, and answered
    script = f"""
{" ".join(kubectl(ack))} port-forward pod/{web[0]} 9999:8080 >/dev/null & pid=$!
trap "kill $pid" EXIT
for i in $(seq 50); do curl -s -m 2 -o /dev/null -w "%header{{x-lab-pod}}" http://127.0.0.1:9999/ && break; sleep 0.1; done
"""
    assert proc.run(lab, ["bash", "-c", script]).stdout == web[0]


def test_exec_runs_where_and_as_said(lab: Lab) -> None:
    done = call(lab.name, "exec", "--", "sh", "-c", "ip -4 -o address show br0; echo $KUBECONFIG; command -v kubectl; exit 7")
    assert done.returncode == 7
    assert "10.10.0.1/16" in done.stdout
    assert str(lab.dir) in done.stdout
    inside = call(
        lab.name, "exec", "-m", "ack-1", "--", "sh", "-c", "hostname; systemctl is-active kubelet containerd kube-proxy ssh"
    )
    assert inside.stdout.split() == ["ack-1", "active", "active", "active", "active"]
    assert call(lab.name, "exec", "-m", "ack-7", "--", "true").returncode == 1
    assert call(lab.name, "exec").returncode == 1


def test_a_machine_hides_the_host(lab: Lab) -> None:
    inside = machine.Machine(lab, "ack-0", "")
    assert inside.run(["ls", "/home"]).stdout == ""
    assert set(inside.run(["ls", "-A", "/root"]).stdout.split()) == {".ssh"}
    wants = inside.run(["ls", "/etc/systemd/system/multi-user.target.wants"]).stdout.split()
    assert set(wants) == {"containerd.service", "kubelet.service", "kube-proxy.service", "ssh.service"}


def test_a_machine_that_is_no_node(lab: Lab) -> None:
    """What a mesh VM will be: files, units and folders of its own, a power button, and what it wrote into its folders stays."""
    vm = machine.Machine(
        lab,
        "vm-0",
        "10.10.9.10",
        files={"/etc/lab/greeting": "hello\n", "/etc/lab/secret": ("x", 0o600)},
        units={"tell.service": "[Service]\nType=oneshot\nExecStart=/bin/cp /etc/lab/greeting /var/lib/kept/greeting\n"},
        folders=["/var/lib/kept"],
        hosts={"10.10.0.1": "cloud.lab.test"},
    )
    vm.start()
    try:
        vm.wait(60)
        until("its service", lambda: (vm.folder("/var/lib/kept") / "greeting").exists(), 10)
        assert vm.run(["stat", "-c", "%a", "/etc/lab/secret"]).stdout == "600\n"
        assert vm.run(["getent", "hosts", "cloud.lab.test"]).stdout.split()[0] == "10.10.0.1"
        assert "SSH-2.0" in proc.run(lab, ["bash", "-c", "exec 3<>/dev/tcp/10.10.9.10/22; head -n 1 <&3"]).stdout
        with pytest.raises(LabError, match="runs already"):
            vm.start()
        vm.poweroff()
        assert not vm.alive()
        assert vm.leader() is None
        with pytest.raises(LabError, match="is not running"):
            vm.run(["true"])
        vm.start()
        vm.wait(60)
        assert vm.run(["cat", "/var/lib/kept/greeting"]).stdout == "hello\n"
    finally:
        vm.stop()


def test_ssh_into_a_machine(lab: Lab) -> None:
    key = lab.dir / "ssh" / "id_ed25519"
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    assert proc.run(lab, ["ssh", *options, "-i", key, "root@10.10.1.10", "hostname"]).stdout.strip() == "ack-0"


def test_env_is_for_shells(lab: Lab) -> None:
    text = call(lab.name, "env").stdout
    assert (lab.dir / "env").stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["bash", "-c", f"{text}\necho $LAB_ACK_KUBECONFIG; command -v kube-apiserver"], capture_output=True, text=True, check=True
    )
    kubeconfig, program = done.stdout.split()
    assert Path(kubeconfig).exists()
    assert program.endswith("/kube-apiserver")


def test_logs_command(lab: Lab) -> None:
    assert "ack-apiserver" in call(lab.name, "logs").stdout
    assert call(lab.name, "logs", "ack-etcd").stdout
    assert "kubelet" in call(lab.name, "logs", "ack-0/kubelet").stdout
    assert call(lab.name, "logs", "cheese").returncode == 1


def test_killed_pod_is_restarted_by_kubelet(lab: Lab, ack: Cluster, web: list[str]) -> None:
    path = path_of("v1", "pods", "default", web[0])
    assert call(lab.name, "faults", "kill-pod", f"default/{web[0]}").returncode == 0
    until("a restart", lambda: ack.api.get(path)["status"]["containerStatuses"][0]["restartCount"] >= 1)
    until("ready again", lambda: ready(ack.api.get(path)))
    assert call(lab.name, "faults", "kill-pod", "default/none").returncode == 1


def test_a_node_reboots(lab: Lab, ack: Cluster, web: list[str]) -> None:
    inside = machine.Machine(lab, "ack-1", "")
    leader = inside.leader()
    inside.run(["systemctl", "reboot"], check=False)
    until("another systemd", lambda: inside.leader() not in (None, leader))
    until("services", lambda: inside.run(["systemctl", "is-active", "kubelet"], check=False).stdout.strip() == "active")

    def back() -> bool:
        mine = [pod for pod in pods(ack) if pod["spec"].get("nodeName") == "ack-1"]
        return len(mine) >= 2 and all(ready(pod) and pod["status"]["containerStatuses"][0]["restartCount"] >= 1 for pod in mine)

    until("its pods run again", back)
    assert call(lab.name, "status").returncode == 0
    until(
        "all pods answer", lambda: answers(lab, "http://10.10.1.11:30080/", 60) == {pod["metadata"]["name"] for pod in pods(ack)}
    )


def test_a_node_dies_and_comes_back(lab: Lab, ack: Cluster, web: list[str]) -> None:
    assert call(lab.name, "faults", "kill-node", "ack-0").returncode == 0
    until("NotReady", lambda: ack.ready_nodes() == {"ack-1"}, 60)
    assert call(lab.name, "status").returncode == 1
    survivors = {pod["metadata"]["name"] for pod in pods(ack) if pod["spec"]["nodeName"] == "ack-1"}
    until("only the living answer", lambda: answers(lab, "http://10.10.1.11:30080/", 40) == survivors, 30)
    assert call(lab.name, "faults", "start-node", "ack-0").returncode == 0
    until("Ready", lambda: ack.ready_nodes() == {"ack-0", "ack-1"})
    until("all pods ready", lambda: sum(ready(pod) for pod in pods(ack)) >= 4, 90)
    assert call(lab.name, "status").returncode == 0
    assert call(lab.name, "faults", "kill-node", "ack-9").returncode == 1


def test_simulated_nodes(ack: Cluster) -> None:
    ack.add_kwok_nodes(2)
    ack.add_kwok_nodes(1)
    assert {f"ack-kwok-{i}" for i in range(3)} <= ack.ready_nodes()
    spec = {
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "containers": [{"name": "none", "image": "none"}],
    }
    template = {"metadata": {"labels": {"app": "many"}}, "spec": spec}
    ack.apply(
        [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "many", "namespace": "default"},
                "spec": {"replicas": 300, "selector": {"matchLabels": {"app": "many"}}, "template": template},
            }
        ]
    )
    ack.kubectl("rollout", "status", "deployment/many", "--timeout=60s")
    found = ack.api.list("/api/v1/namespaces/default/pods", labelSelector="app=many")["items"]
    assert len({pod["status"]["podIP"] for pod in found}) == 300
    ack.kubectl("delete", "deployment", "many", "--wait=true")
    nobody = ack.api.list("/api/v1/namespaces/default/pods", labelSelector="app=web", fieldSelector="spec.nodeName=ack-kwok-0")
    assert nobody["items"] == []
