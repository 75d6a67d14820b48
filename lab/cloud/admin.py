# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own paths: ``/_lab/...`` for tests and for the other rooms of the lab, and the instance metadata.

GET /_lab/state · GET /_lab/calls?since=N · GET|POST|DELETE /_lab/faults[?id=] · POST /_lab/faults/decide {"target", "names"}
GET|PUT /_lab/instances[?replace=1] {"i-x": {"ip", "pod_cidr"?, "zone_id"?, "tags"?} | null} · PUT /_lab/latency {"seconds"}
GET|PUT /_lab/meshes {"meshes": {"<id>": {field: value} | null}, "clusters": {...}}: fields of asm_model that are to change
PUT /_lab/settings {"batch_limit"?, "vpc_id"?, "vswitch_id"?, "vpc_cidr"?} · PUT /_lab/keys (shape: auth.py) · GET /_lab/ready
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any

from aiohttp import web

from .asm_model import AckCluster, ServiceMesh, read_mesh
from .auth import Keys
from .errors import ApiError
from .faults import BadRule
from .model import Instance, World
from .server import Cloud, dump

_SETTINGS = {"batch_limit": int, "vpc_id": str, "vswitch_id": str, "vpc_cidr": str}


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(text=dump(data) + "\n", status=status, content_type="application/json")


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.text() or "null")
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"not JSON: {error}\n") from error


class Admin:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    async def ready(self, request: web.Request) -> web.Response:
        return _json({"ready": not self.cloud.plane_error, "error": self.cloud.plane_error})

    async def state(self, request: web.Request) -> web.Response:
        return _json(self.cloud.store.world.to_json())

    async def calls(self, request: web.Request) -> web.Response:
        since = int(request.query.get("since", "0"))
        rows = list(itertools.takewhile(lambda call: call["seq"] > since, reversed(self.cloud.calls)))  # the record may be long
        return _json({"calls": rows[::-1], "next": self.cloud.sequence})

    async def faults(self, request: web.Request) -> web.Response:
        return _json({"rules": [r.to_json() for r in self.cloud.rules.rules.values()]})

    async def add_faults(self, request: web.Request) -> web.Response:
        try:
            return _json({"ids": self.cloud.rules.add(await _body(request))})
        except BadRule as error:
            return _json({"error": str(error)}, status=400)

    async def remove_faults(self, request: web.Request) -> web.Response:
        return _json({"removed": self.cloud.rules.remove(request.query.get("id"))})

    async def decide(self, request: web.Request) -> web.Response:
        """For the API fault proxy: count one call of this target and say what is to be done to it (null: nothing)."""
        raw = await _body(request)
        return _json({"effect": self.cloud.rules.decide(str(raw["target"]), [str(n) for n in raw["names"]])})

    async def instances(self, request: web.Request) -> web.Response:
        return _json(self.cloud.store.world.to_json()["instances"])

    async def put_instances(self, request: web.Request) -> web.Response:
        raw = await _body(request)
        try:
            wanted = read_instances(raw)
        except (TypeError, KeyError, AttributeError) as error:
            return _json({"error": f"instances must be {{id: {{ip, pod_cidr?, zone_id?, tags?}}}}: {error}"}, status=400)
        known = self.cloud.store.world.instances
        if request.query.get("replace"):
            known.clear()
        for key, instance in wanted.items():
            if instance is None:
                known.pop(key, None)
            else:
                known[key] = instance
        return await self._changed({"instances": len(known)})

    async def _changed(self, answer: object) -> web.Response:
        try:
            await self.cloud.changed()
        except ApiError as error:
            return _json({"error": error.message}, status=500)
        return _json(answer)

    async def meshes(self, request: web.Request) -> web.Response:
        raw = self.cloud.store.world.to_json()
        return _json({"meshes": raw["meshes"], "clusters": raw["ack_clusters"]})

    async def put_meshes(self, request: web.Request) -> web.Response:
        try:
            put_meshes(self.cloud.store.world, await _body(request))
        except (TypeError, AttributeError) as error:
            return _json({"error": f"meshes and clusters: {error}"}, status=400)
        return await self._changed({"meshes": len(self.cloud.store.world.meshes)})

    async def latency(self, request: web.Request) -> web.Response:
        self.cloud.latency = max(0.0, float((await _body(request))["seconds"]))
        return _json({"seconds": self.cloud.latency})

    async def settings(self, request: web.Request) -> web.Response:
        raw = await _body(request)
        if not isinstance(raw, dict) or set(raw) - set(_SETTINGS):
            return _json({"error": f"settings are {', '.join(_SETTINGS)}"}, status=400)
        for name, value in raw.items():
            setattr(self.cloud.store.world, name, _SETTINGS[name](value))
        return await self._changed(raw)

    async def keys(self, request: web.Request) -> web.Response:
        try:
            self.cloud.keys = Keys(await _body(request))
        except (TypeError, AttributeError) as error:
            return _json({"error": f"keys: {error}"}, status=400)
        return _json({"keys": sorted(self.cloud.keys.keys)})

    async def token(self, request: web.Request) -> web.Response:
        return web.Response(text="lab-metadata-token")

    async def metadata(self, request: web.Request) -> web.Response:
        """Instance metadata as the CCM reads it; the RAM role hands out the first full access key."""
        world = self.cloud.store.world
        path = request.match_info["path"]
        values = {
            "region-id": world.region_id,
            "zone-id": f"{world.region_id}-h",
            "vpc-id": world.vpc_id,
            "vswitch-id": world.vswitch_id,
            "vpc-cidr-block": world.vpc_cidr,
            "vswitch-cidr-block": "10.10.0.0/16",
            "owner-account-id": "1000000000000000",
            "ram/security-credentials/": "KubernetesWorkerRole-lab",
        }
        if path in values:
            return web.Response(text=values[path])
        full = next((k for k, v in self.cloud.keys.keys.items() if not v.readonly and not v.tokens), None)
        if path == "ram/security-credentials/KubernetesWorkerRole-lab" and full:
            return _json(
                {
                    "AccessKeyId": full,
                    "AccessKeySecret": self.cloud.keys.keys[full].secret,
                    "SecurityToken": "",
                    "Expiration": "2999-01-01T00:00:00Z",
                    "Code": "Success",
                }
            )
        return web.Response(status=404, text="not found")


def read_instances(raw: dict[str, Any]) -> dict[str, Instance | None]:
    return {key: None if value is None else Instance(id=key, **value) for key, value in raw.items()}


def put_meshes(world: World, raw: dict[str, Any]) -> None:
    """Change fields of meshes and clusters, make those that are new, drop those that are null."""
    for key, fields in raw.get("meshes", {}).items():
        if fields is None:
            world.meshes.pop(key, None)
        else:
            world.meshes[key] = read_mesh({**asdict(world.meshes.get(key) or ServiceMesh(key)), **fields})
    for key, fields in raw.get("clusters", {}).items():
        if fields is None:
            world.ack_clusters.pop(key, None)
        else:
            world.ack_clusters[key] = AckCluster(**{**asdict(world.ack_clusters.get(key) or AckCluster(key)), **fields})


def add_routes(app: web.Application, cloud: Cloud) -> None:
    admin = Admin(cloud)
    app.router.add_get("/_lab/ready", admin.ready)
    app.router.add_get("/_lab/state", admin.state)
    app.router.add_get("/_lab/calls", admin.calls)
    app.router.add_get("/_lab/faults", admin.faults)
    app.router.add_post("/_lab/faults", admin.add_faults)
    app.router.add_delete("/_lab/faults", admin.remove_faults)
    app.router.add_post("/_lab/faults/decide", admin.decide)
    app.router.add_get("/_lab/instances", admin.instances)
    app.router.add_put("/_lab/instances", admin.put_instances)
    app.router.add_get("/_lab/meshes", admin.meshes)
    app.router.add_put("/_lab/meshes", admin.put_meshes)
    app.router.add_put("/_lab/latency", admin.latency)
    app.router.add_put("/_lab/settings", admin.settings)
    app.router.add_put("/_lab/keys", admin.keys)
    app.router.add_put("/latest/api/token", admin.token)
    app.router.add_get("/latest/meta-data/{path:.*}", admin.metadata)
