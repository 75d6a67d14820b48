# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reverse proxy before a Kubernetes API server, for clients with a bearer token, that does what fault rules say.

``python -m lab.cloud.apiproxy --listen 10.10.0.1:7443 --upstream https://10.10.0.1:6443 --cert F --key F --upstream-ca F
--rules-url http://127.0.0.1:8100/_lab/faults --target ack``. TLS ends here, so client certificates do not get through: use
a token. Answers are streamed, watches too. A rule's action is a glob over ``VERB /path``, where VERB may be the HTTP
method or the Kubernetes verb: ``PATCH /api/v1/*``, ``watch /apis/*``, ``* /api/v1/namespaces/*/services/*``.
Rules live in the cloud server, which counts and decides (one question per request); while it is away there are no faults.
A status fault is a Kubernetes Status object (with Retry-After: 1 for 429 and 503).
WebSockets (exec, attach, port-forward) pass through; older upgrades (SPDY) are refused with 501.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from .server import abort, early_effect

log = logging.getLogger("lab.apiproxy")

# Headers of one hop, which are not passed on (RFC 9110, 7.6.1).
_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"}
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_KUBE_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def names_of(method: str, path: str, query: Mapping[str, str]) -> list[str]:
    """The names under which a rule can mean this request: by HTTP method and by Kubernetes verb.

    A GET is a watch, else a list if the path ends with a plural resource and not an object; as the path alone does not
    tell these apart for every resource, a GET that is no watch goes by both ``get`` and ``list``.
    """
    names = [f"{method} {path}"]
    if method in _KUBE_VERBS:
        return [*names, f"{_KUBE_VERBS[method]} {path}"]
    if query.get("watch", "").lower() in ("true", "1"):
        return [*names, f"watch {path}"]
    return [*names, f"get {path}", f"list {path}"]


def status_object(effect: Mapping[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    """HTTP status, Status object and headers of a status fault."""
    status = int(effect.get("status", 500))
    reason = str(effect.get("code") or _REASONS.get(status, "InternalError"))
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(effect.get("message") or f"A fault of the lab: {reason}"),
        "reason": reason,
        "code": status,
    }
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = "1"
        body["details"] = {"retryAfterSeconds": 1}
    return status, body, headers


async def _pump(here: Any, there: Any) -> None:
    """What comes from one WebSocket goes to the other."""
    async for message in here:
        if message.type == aiohttp.WSMsgType.BINARY:
            await there.send_bytes(message.data)
        elif message.type == aiohttp.WSMsgType.TEXT:
            await there.send_str(message.data)


class ApiProxy:
    def __init__(self, upstream: str, rules_url: str, target: str, upstream_tls: ssl.SSLContext | bool) -> None:
        self.upstream = upstream.rstrip("/")
        self.decide_url = rules_url.rstrip("/") + "/decide"
        self.target = target
        self.upstream_tls = upstream_tls
        self.session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ApiProxy:
        # No limits of its own: a watch lasts as long as its two ends want. Bodies pass through as they are.
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.session is not None:
            await self.session.close()

    async def _effect(self, request: web.Request) -> dict[str, Any] | None:
        assert self.session is not None
        question = {"target": self.target, "names": names_of(request.method, request.path, request.query)}
        try:
            timeout = aiohttp.ClientTimeout(total=2)
            async with self.session.post(self.decide_url, json=question, timeout=timeout) as answer:
                answer.raise_for_status()
                effect: dict[str, Any] | None = (await answer.json())["effect"]
                return effect
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        upgrade = request.headers.get("Upgrade", "").lower()
        if upgrade not in ("", "websocket"):
            status, body, headers = status_object({"status": 501, "code": "NotImplemented", "message": "no upgrades here"})
            return web.json_response(body, status=status, headers=headers)
        effect = await self._effect(request)
        if await early_effect(request, effect):
            return web.Response(status=500)
        if effect and "status" in effect and not effect.get("after"):
            status, body, headers = status_object(effect)
            return web.json_response(body, status=status, headers=headers)
        if upgrade:
            return await self._tunnel(request)
        return await self._forward(request, effect if effect and effect.get("after") else None)

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        """Frames of a WebSocket both ways, until one side ends."""
        assert self.session is not None
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if word.strip()]
        headers = {key: request.headers[key] for key in ("Authorization",) if key in request.headers}
        url = URL(self.upstream + request.raw_path, encoded=True)
        try:
            how: Any = {"protocols": offered, "headers": headers, "ssl": self.upstream_tls, "max_msg_size": 0}
            async with self.session.ws_connect(url, **how) as far:
                near = web.WebSocketResponse(protocols=[far.protocol] if far.protocol else [], max_msg_size=0)
                await near.prepare(request)
                there, back = asyncio.ensure_future(_pump(near, far)), asyncio.ensure_future(_pump(far, near))
                try:
                    await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
                await near.close()
                return near
        except aiohttp.WSServerHandshakeError as error:
            status, body, extra = status_object({"status": error.status, "message": error.message})
            return web.json_response(body, status=status, headers=extra)
        except aiohttp.ClientError as error:
            status, body, extra = status_object({"status": 503, "message": f"upstream: {error}"})
            return web.json_response(body, status=status, headers=extra)

    async def _forward(self, request: web.Request, lost: Mapping[str, Any] | None) -> web.StreamResponse:
        """Ask the API server and stream its answer back; with ``lost`` the deed is done and the answer replaced."""
        assert self.session is not None
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP | {"host", "content-length"}]
        url = self.upstream + request.raw_path
        body = await request.read() if request.can_read_body else None
        response: web.StreamResponse | None = None
        try:
            async with self.session.request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                ssl=self.upstream_tls,
                allow_redirects=False,
            ) as answer:
                if lost is not None:
                    await answer.read()
                    if lost.get("reset"):
                        abort(request)
                        return web.Response(status=500)
                    status, text, extra = status_object(lost)
                    return web.json_response(text, status=status, headers=extra)
                passed = [(k, v) for k, v in answer.headers.items() if k.lower() not in _HOP | {"content-length"}]
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                response.headers.extend(passed)
                if answer.content_length is not None:
                    response.content_length = answer.content_length
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            # Before the first byte this is an answer; after it, cutting the connection is all that can be said.
            log.info("%s %s: %s", request.method, request.path, error)
            if response is not None:
                abort(request)
                return response
            status, text, extra = status_object({"status": 503, "message": f"upstream: {error}"})
            return web.json_response(text, status=status, headers=extra)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.cloud.apiproxy", description="Fault proxy before an API server.")
    parser.add_argument("--listen", required=True, help="address:port")
    parser.add_argument("--upstream", required=True, help="https://address:port of the API server")
    parser.add_argument("--cert", help="certificate chain of this proxy")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--upstream-ca", help="CA of the API server")
    parser.add_argument("--rules-url", default="http://127.0.0.1:8100/_lab/faults")
    parser.add_argument("--target", required=True, choices=("ack", "asm"))
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> None:
    host, _, port = options.listen.rpartition(":")
    server_tls = None
    if options.cert:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_tls.load_cert_chain(options.cert, options.key)
    upstream_tls = ssl.create_default_context(cafile=options.upstream_ca) if options.upstream_ca else True
    async with ApiProxy(options.upstream, options.rules_url, options.target, upstream_tls) as proxy:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        # A client that goes ends its watch upstream too: handlers are cancelled with their connection.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, host, int(port), ssl_context=server_tls, reuse_address=True).start()
        log.info("listening on %s for %s", options.listen, options.upstream)
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()
        await runner.cleanup()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(arguments()))


if __name__ == "__main__":
    main()
