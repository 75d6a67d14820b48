# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m lab.targets`: keep the file in which Prometheus finds the proxies, as their pods come and go.

Debian builds Prometheus without its discovery of Kubernetes; a file is what it can follow.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.kubeapi import Api, KubeError, key_of, path_of
from lab.state import write_atomic

PORT_NAME = "-envoy-prom"  # how Istio names the port of its proxies' metrics ends, in gateways and sidecars
PODS = path_of("v1", "pods")
Object = dict[str, Any]


def targets(pods: Iterable[Object]) -> list[Object]:
    """A target for each running proxy. A pod that is ending is one until it has ended: it still serves."""
    found = []
    for pod in sorted(pods, key=key_of):
        address, meta = pod.get("status", {}).get("podIP"), pod["metadata"]
        if pod.get("status", {}).get("phase") != "Running" or not address:
            continue
        containers = [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]
        ports = [port for one in containers for port in one.get("ports") or [] if port.get("name", "").endswith(PORT_NAME)]
        labels = {"namespace": meta["namespace"], "pod": meta["name"]}
        found += [{"targets": [f"{address}:{port['containerPort']}"], "labels": labels} for port in ports]
    return found


def follow(api: Api, file: Path) -> None:
    """Write the file at each change of a pod, until the server ends the watch.

    :raises KubeError: the API server does not answer, or the watch broke.
    """
    listing = api.list(PODS)
    pods = {key_of(pod): pod for pod in listing["items"]}
    written: list[Object] | None = None

    def write() -> None:
        nonlocal written
        now = targets(pods.values())
        if now != written:
            write_atomic(file, json.dumps(now, indent=1) + "\n", 0o644)
            written = now

    write()
    for event in api.watch(PODS, listing["metadata"]["resourceVersion"]):
        if event["type"] == "DELETED":
            pods.pop(key_of(event["object"]), None)
        elif event["type"] != "BOOKMARK":
            pods[key_of(event["object"])] = event["object"]
        write()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.targets", description="keep Prometheus' file of targets")
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    api = Api.from_kubeconfig(options.kubeconfig)
    while True:
        try:
            follow(api, options.file)
        except KubeError as error:
            print(error, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
