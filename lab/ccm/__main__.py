# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m lab.ccm --kubeconfig F --cloud-endpoint HOST:PORT --cluster-id C --region R --ccm-version V`: runs until SIGTERM."""

from __future__ import annotations

import argparse
import http.server
import logging
import os
import signal
import sys
import threading

from lab.ccm.clb import Config
from lab.ccm.cloud import RpcCloud
from lab.ccm.controller import ServiceController
from lab.ccm.versions import VERSIONS
from lab.kube import Api, KubeError


class _Health(http.server.BaseHTTPRequestHandler):
    """/healthz: 200 when all caches are filled."""

    ready = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200 if self.ready.is_set() else 503)
        self.end_headers()
        self.wfile.write(b"ok" if self.ready.is_set() else b"not yet")

    def log_message(self, *args: object) -> None:
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.ccm", description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--cloud-endpoint", required=True, metavar="HOST:PORT")
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--ccm-version", choices=sorted(VERSIONS), default="v2.14.0")
    parser.add_argument("--vpc", default="vpc-lab")
    parser.add_argument("--vswitch", default="vsw-lab")
    parser.add_argument("--health-port", type=int, default=0, help="127.0.0.1:PORT/healthz; 0: none")
    return parser.parse_args()


def main() -> int:
    args = _arguments()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname).1s %(name)s %(message)s")
    # API and cloud answer within a millisecond: do not let another thread keep the interpreter for the default 5 ms
    sys.setswitchinterval(0.0005)
    cloud = RpcCloud(
        args.cloud_endpoint,
        args.region,
        os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID", "lab-access-key"),
        os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "lab-access-key-secret"),
    )
    config = Config(cluster=args.cluster_id, quirks=VERSIONS[args.ccm_version], vpc=args.vpc, vswitch=args.vswitch)
    try:
        controller = ServiceController(Api.from_kubeconfig(args.kubeconfig), cloud, config)
    except KubeError as error:
        print(f"lab.ccm: {error}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.health_port:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.health_port), _Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    controller.start()
    logging.info("cloud-controller-manager stand-in %s for cluster %s", args.ccm_version, args.cluster_id)
    while not stop.is_set():
        if not _Health.ready.is_set() and controller.synced(0.2):
            _Health.ready.set()
            logging.info("ready")
        if _Health.ready.is_set():
            stop.wait()
    controller.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
