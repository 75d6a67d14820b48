# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m lab.cloud --state DIR --port 8100 --haproxy-dir DIR --clb-interface clb0 [--instances FILE]``.

SIGTERM and SIGINT end the server, HAProxy and the addresses that it added; after ``kill -9`` HAProxy lives on and the
next start takes it over. Access keys: ``--access-keys FILE``, else the pair in ALIBABA_CLOUD_ACCESS_KEY_ID and _SECRET,
else ``lab-access-key`` / ``lab-access-key-secret``; ``<id>-readonly`` with the same secret may only read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

from aiohttp import web

from .admin import put_meshes, read_instances
from .auth import Keys
from .dataplane import DataPlane, HAProxy, NoDataPlane
from .server import Cloud, application
from .store import Store


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.cloud", description="Alibaba Cloud SLB, ECS, VPC and ASM for the lab.")
    parser.add_argument("--state", type=Path, required=True, help="folder of the state file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--haproxy-dir", type=Path, help="folder of HAProxy's files; without it there is no data plane")
    parser.add_argument("--haproxy", default="haproxy", help="the program")
    parser.add_argument("--clb-interface", default="clb0", help="interface that carries the load balancers' addresses")
    parser.add_argument("--instances", type=Path, help='JSON: {"i-x": {"ip": "10.10.1.10", "pod_cidr": "10.21.0.0/24"}}')
    parser.add_argument("--meshes", type=Path, help='JSON: {"meshes": {id: {field: value}}, "clusters": {...}}; known ones stay')
    parser.add_argument("--access-keys", type=Path, help="JSON, shape in auth.py")
    parser.add_argument("--region", default="cn-hangzhou")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every call")
    parser.add_argument("--batch-limit", type=int, default=40, help="backends in one call (documented: 20; the CCM sends 40)")
    return parser.parse_args(argv)


def access_keys(path: Path | None) -> Keys:
    if path is not None:
        raw: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return Keys(raw)
    key = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID") or "lab-access-key"
    secret = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET") or "lab-access-key-secret"
    return Keys({key: {"secret": secret}, f"{key}-readonly": {"secret": secret, "readonly": True}})


async def serve(options: argparse.Namespace) -> None:
    # Bound first: two clouds must never share one HAProxy. Nobody is answered before the data plane is up.
    listening = socket.create_server((options.host, options.port))
    store = Store(options.state)
    store.world.region_id = options.region
    store.world.batch_limit = options.batch_limit
    if options.instances:
        for key, instance in read_instances(json.loads(options.instances.read_text(encoding="utf-8"))).items():
            if instance is not None:
                store.world.instances[key] = instance
    if options.meshes:
        given = json.loads(options.meshes.read_text(encoding="utf-8"))
        known = {"meshes": set(store.world.meshes), "clusters": set(store.world.ack_clusters)}
        put_meshes(store.world, {kind: {k: v for k, v in given[kind].items() if k not in known[kind]} for kind in known})
    plane: DataPlane = NoDataPlane()
    if options.haproxy_dir:
        plane = HAProxy(options.haproxy_dir, options.clb_interface, options.haproxy)
    cloud = Cloud(store, plane, access_keys(options.access_keys), options.latency)
    store.save()
    await cloud.start()
    # The CCM puts everything into the query: forty backends make a request line longer than aiohttp's 8190 bytes.
    runner = web.AppRunner(application(cloud), access_log=None, shutdown_timeout=1.0, max_line_size=65536, max_field_size=65536)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    logging.getLogger("lab.cloud").info("listening on %s:%d", options.host, options.port)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await runner.cleanup()
    await plane.stop()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(arguments()))


if __name__ == "__main__":
    main()
