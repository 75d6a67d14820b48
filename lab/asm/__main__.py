# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m lab.asm`: run the controllers of gateways, of migrations from Istio and of networks, until SIGTERM."""

from __future__ import annotations

import argparse
import base64
import json
import logging
import signal
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from lab import asm, images
from lab.asm.controller import Gateways
from lab.asm.migrate import Injector, Migrations, follow, spread
from lab.asm.networks import Networks, obey
from lab.asm.render import ASM_ROOT, ISTIO_ROOT, Mesh
from lab.kube import Api, KubeError

LOOK = 2.0  # seconds between two looks at who is in the mesh


def told(cloud: str, mesh_id: str) -> dict[str, Any] | None:
    """The mesh as the cloud server at this URL knows it; None when it does not."""
    if not cloud:
        return None
    with urllib.request.urlopen(f"{cloud}/_lab/meshes", timeout=5) as answer:
        found: dict[str, Any] | None = json.load(answer)["meshes"].get(mesh_id)
    return found


def member(cloud: str, mesh_id: str, cluster_id: str) -> bool | None:
    """Whether the cluster is in the mesh and has Istio, as the cloud server says; None when it does not know."""
    mesh = told(cloud, mesh_id)
    found = mesh["members"].get(cluster_id) if mesh else None
    if mesh is None or (found and found["state"] == "stopping"):
        return None
    return bool(found and found["ignore_namespace_check"])


def networks(cloud: str, mesh_id: str) -> Networks | None:
    """The networks of the mesh's clusters; None when the cloud server does not know the mesh."""
    mesh = told(cloud, mesh_id)
    return mesh["networks"] if mesh else None


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM, 1 when a kubeconfig cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.asm", description=asm.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asm-kubeconfig", required=True, help="of ASM's control plane")
    parser.add_argument("--ack-kubeconfig", required=True, help="of the ACK cluster")
    parser.add_argument("--cluster-id", required=True, help="id of the ACK cluster")
    parser.add_argument("--mesh-id", default="c0asm11112222333344445555666677778")
    parser.add_argument("--region", default="cn-hangzhou")
    parser.add_argument("--istiod", default="istiod-1-31-0", help="name of istiod's Service in the ACK cluster")
    parser.add_argument("--cloud", default="", help="URL of the cloud server: clusters are added to the mesh there")
    parser.add_argument("--root", type=Path, help="ASM's root certificate")
    parser.add_argument("--own-root", action="store_true", help="the root is not that of Istio")
    parser.add_argument("--inject", default="", help="URL where ASM's istiod injects sidecars; its certificate is of --root")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    own_root = ASM_ROOT if options.own_root else ISTIO_ROOT
    mesh = Mesh(options.mesh_id, options.cluster_id, images.asm_proxy(options.region), options.istiod, root=own_root)
    try:
        apis = [Api.from_kubeconfig(file) for file in (options.asm_kubeconfig, options.ack_kubeconfig)]
    except KubeError as error:
        print(f"lab.asm: {error}", file=sys.stderr)
        return 1
    root = options.root.read_text() if options.root and options.root.exists() else ""
    injector = Injector(options.inject, base64.b64encode(root.encode()).decode()) if options.inject else None
    migrations = Migrations(apis[0], apis[1], mesh, root, injector)
    controllers = [Gateways(apis[0], apis[1], mesh).controller(), migrations.controller()]
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    for controller in controllers:
        controller.start()
    while not stopped.wait(LOOK if options.cloud else 3600):
        if options.own_root:
            spread(apis[1], root)
        follow(migrations, lambda: member(options.cloud, options.mesh_id, options.cluster_id))
        obey(apis[0], migrations, options.cluster_id, lambda: networks(options.cloud, options.mesh_id))
    for controller in controllers:
        controller.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
