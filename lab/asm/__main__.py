# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m lab.asm`: run the gateway controller until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

from lab import asm, images
from lab.asm.controller import Gateways
from lab.asm.render import Mesh
from lab.kube import Api, KubeError


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
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    mesh = Mesh(options.mesh_id, options.cluster_id, images.asm_proxy(options.region), options.istiod)
    try:
        apis = [Api.from_kubeconfig(file) for file in (options.asm_kubeconfig, options.ack_kubeconfig)]
    except KubeError as error:
        print(f"lab.asm: {error}", file=sys.stderr)
        return 1
    controller = Gateways(apis[0], apis[1], mesh).controller()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    controller.start()
    while not stopped.wait(3600):
        pass
    controller.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
