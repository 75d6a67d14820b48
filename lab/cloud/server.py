# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP side: both SDK styles, credentials, faults, the record of calls, the lab's own paths, metadata.

Newer SDKs: POST /, action in ``x-acs-action``, version in ``x-acs-version``, parameters in the query (or a form).
Older SDKs (the CCM's): POST / with everything in the query: ``Action``, ``Version``, ``RegionId``, ``Format=JSON``.
The service follows from the version: SLB 2014-05-15, ECS 2014-05-26, VPC 2016-04-28, ASM 2020-01-11.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from . import asm, ecs_vpc, slb_listener, slb_load_balancer, slb_other, slb_vserver_group  # noqa: F401 (they register actions)
from .auth import Keys, Request
from .call import ACTIONS, Call, Context
from .dataplane import DataPlane, DataPlaneError
from .errors import ApiError, missing, unsupported_action
from .faults import Rules
from .haproxy import view_of
from .store import Store

log = logging.getLogger("lab.cloud")

SERVICES = {"2014-05-15": "slb", "2014-05-26": "ecs", "2016-04-28": "vpc", "2020-01-11": "servicemesh"}
# Never written to the record of calls.
_SECRET = {"signature", "signaturenonce", "securitytoken", "accesskeyid", "accesskeysecret", "timestamp", "kubeconfig"}
_TRANSPORT = {"action", "version", "format", "signaturemethod", "signatureversion", "signaturetype"}


class Cloud:
    def __init__(self, store: Store, plane: DataPlane, keys: Keys, latency: float = 0.0, keep_calls: int = 50_000) -> None:
        self.store = store
        self.plane = plane
        self.keys = keys
        self.rules = Rules()
        self.latency = latency
        self.calls: deque[dict[str, Any]] = deque(maxlen=keep_calls)
        self.sequence = 0
        self.plane_error = ""
        self._lock = asyncio.Lock()

    def context(self) -> Context:
        return Context(self.store.world)

    async def start(self) -> None:
        await self.plane.start(view_of(self.store.world))

    async def changed(self) -> None:
        """Write the world and bring it to the data plane; both before anybody is answered."""
        async with self._lock:
            self.store.save()
            try:
                await self.plane.apply(view_of(self.store.world))
                self.plane_error = ""
            except (DataPlaneError, OSError, TimeoutError) as error:
                self.plane_error = str(error)
                log.exception("data plane")
                raise ApiError("InternalError", f"The data plane failed: {error}", 500) from error

    async def run(self, call: Call) -> dict[str, Any]:
        entry = ACTIONS.get((call.service, call.action))
        if entry is None:
            raise unsupported_action(call.action)
        self.keys.authorize(call.access_key, call.service, call.action, entry.writes)
        if call.region and call.region not in (*ecs_vpc.REGIONS, self.store.world.region_id):
            raise ApiError("InvalidRegionId.NotFound", "The specified RegionId does not exist.", 404)
        context = self.context()
        if call.action == "DescribeHealthStatus":
            context.health = await self.plane.health()
        answer = entry.run(context, call)
        if entry.writes:
            await self.changed()
        return answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        started = time.time()
        request_id = str(uuid.uuid4()).upper()
        call, signed = await read_call(request)
        effect = self.rules.decide(call.service, [call.action, f"{call.style} {call.action}"])
        status, body, code = 200, {}, ""
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            cut = await early_effect(request, effect)
            if cut:
                self._record(call, started, 0, cut, request_id)
                return web.Response(status=500)
            if effect and "status" in effect and not effect.get("after"):
                raise fault_error(effect)
            call.access_key = self.keys.check(signed)
            if not call.action:
                raise missing("Action")
            body = await self.run(call)
            if effect and effect.get("after"):
                if effect.get("reset"):
                    self._record(call, started, 0, "reset after", request_id)
                    abort(request)
                    return web.Response(status=500)
                raise fault_error(effect)
        except ApiError as error:
            status, code = error.status, error.code
            body = {"Code": error.code, "Message": error.message, "HostId": request.host, "Recommend": ""}
        except Exception:
            log.exception("%s", call.action)
            status, code = 500, "InternalError"
            body = {"Code": code, "Message": "The request processing has failed due to some unknown error."}
        self._record(call, started, status, code, request_id)
        return web.json_response({**body, "RequestId": request_id}, status=status, headers={"x-acs-request-id": request_id})

    def _record(self, call: Call, started: float, status: int, code: str, request_id: str) -> None:
        self.sequence += 1
        self.calls.append(
            {
                "seq": self.sequence,
                "time": started,
                "ms": round((time.time() - started) * 1000, 3),
                "service": call.service,
                "action": call.action,
                "style": call.style,
                "parameters": call.parameters,
                "status": status,
                "code": code,
                "request_id": request_id,
            }
        )


def fault_error(effect: Mapping[str, Any]) -> ApiError:
    status = int(effect.get("status", 500))
    default = {429: "Throttling.User", 503: "ServiceUnavailable", 409: "OperationConflict", 403: "Forbidden.RAM"}
    code = str(effect.get("code") or default.get(status, "InternalError"))
    text = "Request was denied due to user flow control." if code.startswith("Throttling") else "A fault of the lab."
    return ApiError(code, str(effect.get("message") or text), status)


async def early_effect(request: web.Request, effect: Mapping[str, Any] | None) -> str:
    """Carry out slow, hang and reset; the name of what ended the call, or empty if it goes on."""
    if effect and "slow" in effect:
        await asyncio.sleep(float(effect["slow"]))
    if effect and "hang" in effect:
        await asyncio.sleep(float(effect["hang"]))
        abort(request)
        return "hang"
    if effect and effect.get("reset") and not effect.get("after"):
        abort(request)
        return "reset"
    return ""


def abort(request: web.Request) -> None:
    """Cut the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()


async def read_call(request: web.Request) -> tuple[Call, Request]:
    query = dict(request.query)
    form = {k: str(v) for k, v in (await request.post()).items()} if request.can_read_body else {}
    headers = request.headers
    action = headers.get("x-acs-action") or query.get("Action") or form.get("Action") or ""
    version = headers.get("x-acs-version") or query.get("Version") or form.get("Version") or ""
    parameters = {k: v for k, v in {**query, **form}.items() if k.lower() not in _SECRET | _TRANSPORT}
    call = Call(
        service=SERVICES.get(version, "slb"),
        action=action,
        parameters=parameters,
        style="header" if "x-acs-action" in headers else "query",
        region=parameters.get("RegionId", ""),
    )
    signed = Request(request.method, request.path, request.rel_url.raw_query_string, headers, query, form)
    return call, signed


def application(cloud: Cloud) -> web.Application:
    from .admin import add_routes

    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("POST", "/", cloud.handle)
    app.router.add_route("GET", "/", cloud.handle)
    add_routes(app, cloud)
    return app


def dump(data: object) -> str:
    return json.dumps(data, indent=2, sort_keys=True)
