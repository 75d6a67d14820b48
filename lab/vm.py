# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh VMs: machines with Docker Engine and an application, in the VPC of the ACK cluster, reached by ssh like any host.

As in a VPC, a VM has a route to every pod and to every node, none to Service addresses, and no DNS that knows the cluster.
istiod is reached at a node port (Service istiod-vm) or at its pods' addresses. Docker's store holds the proxy's image under
the names that the vendor would give two builds of it; no registry is spoken to.
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from lab import binaries, images, net
from lab.cluster import Cluster
from lab.images import ISTIO_TAG
from lab.kubeapi import KubeError, path_of
from lab.machine import Machine
from lab.mesh_source import NAMESPACE as SYSTEM
from lab.node import clone, prepared_store
from lab.state import Lab, LabError, write_atomic

HUB = "swr.cn-north-4.myhuaweicloud.com/istio/asm-proxy"
IMAGE = f"{HUB}:{ISTIO_TAG}"
NEXT_IMAGE = f"{HUB}:{ISTIO_TAG}-r2"  # the same programs in an image of another id: something to upgrade to
STORE, RESULTS, PROGRAMS = "/var/lib/docker", "/var/lib/lab-load", "/opt/lab/programs"
SERVICE, PORT, NODE_PORT = "istiod-vm", 15012, 30012
APP_PORT = 8080
MOST = 60
DOCKER = """[Unit]
Description=Docker Engine
After=network.target lab-prepare.service

[Service]
Type=notify
ExecStart=/usr/sbin/dockerd -H unix:///run/docker.sock
Restart=always
RestartSec=1
LimitNOFILE=1048576
TasksMax=infinity
Delegate=yes
KillMode=process
"""
APP = """[Unit]
Description=The application of this VM
After=network.target

[Service]
Environment=VERSION={version} POD_NAME={name}
ExecStart={programs}/echo -listen=:{port} -drain=1s
User=nobody
Restart=always
RestartSec=1
"""
# An engine of its own for a moment. The second image differs from the first one in a label only.
FILL = r"""
set -eu
run=$1 root=$2 socket=unix://$1/docker.sock archive=$3 from=$4 image=$5 next=$6
dockerd --data-root "$root" --exec-root "$run/exec" -p "$run/pid" -H "$socket" --bridge=none --iptables=false --ip6tables=false \
    --storage-driver=overlay2 >"$run/log" 2>&1 & pid=$!
trap 'kill $pid; wait $pid || true' EXIT
export DOCKER_HOST=$socket
for i in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker load -q -i "$archive" || { tail -5 "$run/log"; exit 1; }
docker tag "$from" "$image"
made=$(docker create --network=none "$image")
docker commit --change 'LABEL lab.build=2' "$made" "$next"
docker rm "$made"
docker images -q --no-trunc | sort -u
for name in $(docker images --format '{{.Repository}}:{{.Tag}}'); do
    case $name in "$image"|"$next") ;; *) docker rmi "$name" ;; esac
done
"""


def machine(lab: Lab, i: int) -> Machine:
    """VM i: machine `vm-<i>` with the address 10.10.20.<10+i>."""
    version, name = "vm", f"vm-{i}"
    programs = binaries.path("echo").parent
    return Machine(
        lab,
        name,
        f"10.10.20.{10 + i}",
        units={
            "docker.service": DOCKER,
            "app.service": APP.format(version=version, name=name, programs=PROGRAMS, port=APP_PORT),
        },
        binds=[(programs, PROGRAMS, True)],
        folders=[STORE, RESULTS],
    )


def machines(lab: Lab) -> list[Machine]:
    """The VMs that are up."""
    return [machine(lab, i) for i in range(int(lab.data.get("vms", 0)))]


def inventory(lab: Lab) -> dict[str, Any]:
    """An Ansible inventory of the VMs: group `mesh_vms`, reached from the cloud's network (`lab exec`)."""
    known = lab.dir / "vm" / "known_hosts"
    hosts = {one.name: {"ansible_host": one.address, "vm_address": one.address} for one in machines(lab)}
    # a master connection would outlive the play in a namespace that `lab down` removes; it ends by itself soon
    common = f"-o UserKnownHostsFile={known} -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes"
    shared = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.dir / "ssh" / "id_ed25519"),
        "ansible_ssh_common_args": common,
        "ansible_ssh_extra_args": "-o ControlPersist=5s",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    return {"mesh_vms": {"hosts": hosts, "vars": shared}}


def inventory_file(lab: Lab) -> Path:
    return lab.dir / "vm" / "inventory.yml"


def up(lab: Lab, ack: Cluster, count: int) -> None:
    """Boot VMs until there are `count`, wait until their Docker and their application answer. Those that run stay as they are.

    :raises LabError: a number that is none, no mesh to join, Docker is missing or does not come up.
    """
    if not 1 <= count <= MOST:
        raise LabError(f"there can be 1 to {MOST} VMs, not {count}")
    if lab.data.get("options", {}).get("parts") not in ("mesh", "all"):
        raise LabError("this lab was brought up without its meshes: there is nothing to join")
    missing = [name for name in ("docker", "dockerd") if shutil.which(name) is None]
    if missing:
        raise LabError(f"missing on this host: {', '.join(missing)}; `make setup` installs the packages of lab/apt.txt")
    ack.apply_object("v1", "services", istiod_service())
    store = prepared_store(lab, [images.archive(lab, "proxyv2")], ("docker", _fill))
    there = int(lab.data.get("vms", 0))
    lab.update(vms=max(count, there))
    with ThreadPoolExecutor(max_workers=4) as pool:
        for job in [pool.submit(_boot, one, store) for one in machines(lab)]:
            job.result()
    lines = [f"{one.address} {(one.dir / 'ssh_host_ed25519_key.pub').read_text().rsplit(' ', 1)[0]}" for one in machines(lab)]
    write_atomic(lab.dir / "vm" / "known_hosts", "\n".join(lines) + "\n")
    write_atomic(inventory_file(lab), yaml.safe_dump(inventory(lab), sort_keys=False))


def _boot(one: Machine, store: Path) -> None:
    if one.alive():
        return
    if not one.folder(STORE).exists():
        clone(store, one.folder(STORE))
    one.start()
    one.wait(60)


def down(lab: Lab, ack: Cluster) -> None:
    """Remove all VMs and what `up` made for them. Also when there are none."""
    for one in machines(lab):
        one.stop()
        net.remove_port(lab, one.name)
        shutil.rmtree(one.dir, ignore_errors=True)
    shutil.rmtree(lab.dir / "vm", ignore_errors=True)
    lab.update(vms=0)
    try:
        ack.api.delete(path_of("v1", "services", SYSTEM, SERVICE))
    except KubeError as error:
        if error.status != 404:
            raise


def istiod_service() -> dict[str, Any]:
    """istiod on a port of every node, for those who have no route to Service addresses."""
    port = {"name": "tls-xds", "port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": SYSTEM},
        "spec": {"type": "NodePort", "selector": {"app": "istiod"}, "ports": [port]},
    }


def _fill(temp: Path, archives: Any) -> None:
    """Load the archive into an engine's store, in a mount and network namespace of its own."""
    (archive,) = archives
    root, run = temp / "root", temp / "run"
    root.mkdir()
    run.mkdir()
    argv = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", FILL, "lab-docker"]
    argv += [str(word) for word in (run, root, archive, images.TAGS["proxyv2"][0], IMAGE, NEXT_IMAGE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise LabError(f"the proxy's image cannot be loaded into Docker: {(done.stdout + done.stderr)[-2000:]}")
    (root / "engine-id").unlink(missing_ok=True)  # each engine makes its own
    shutil.rmtree(root / "runtimes", ignore_errors=True)
