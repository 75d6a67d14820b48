# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes client of the lab's own controllers and tests (lab.kube re-exports it).

Why not the official Python client: it turns every object into typed models (slow, and it drops unknown fields). Here an object
is the plain JSON that the API server sent.

`Api` speaks HTTP/1.1 with keep-alive and TCP_NODELAY (urllib3's default). Paths are the API server's own
(`/api/v1/namespaces/demo/services/echo`); `path_of()` builds them. All errors are `KubeError`.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

Object = dict[str, Any]

_PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML, so a JSON body is fine
}


class KubeError(Exception):
    """An answer of the API server that is not a success. `status` is the HTTP code, 0 when the server was not reached."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


def path_of(api_version: str, plural: str, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
    """The URL path of a collection or an object, e.g. ("apps/v1", "deployments", "demo", "echo", "scale")."""
    parts = ["/api" if "/" not in api_version else "/apis", api_version]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, sub) if part]
    return "/".join(parts)


def key_of(obj: Mapping[str, Any]) -> str:
    """`namespace/name`, or `name` for objects without a namespace."""
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def _read_kubeconfig(path: Path) -> Object:
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except ValueError:
        import yaml  # only kubeconfigs that people wrote need it

        data = yaml.safe_load(text)
    if not isinstance(data, dict):
        raise KubeError(0, "BadKubeconfig", f"{path} is not a kubeconfig")
    return data


def _named(config: Object, kind: str, name: str | None, path: Path) -> Object:
    for entry in config.get(f"{kind}s") or []:
        if entry.get("name") == name:
            found: Object = entry.get(kind) or {}
            return found
    raise KubeError(0, "BadKubeconfig", f"{path}: no {kind} named {name!r}")


def _material(entry: Object, key: str, base: Path) -> bytes | None:
    """Bytes of a certificate or key that a kubeconfig gives inline (`key-data`, base64) or by file name (`key`)."""
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"])
    if entry.get(key):
        return (base / str(entry[key])).read_bytes()
    return None


def _ssl_context(cluster: Object, user: Object, base: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca = _material(cluster, "certificate-authority", base)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # asked for in so many words
    elif ca:
        # only this authority is trusted, not those of the system
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca.decode())
    cert, key = _material(user, "client-certificate", base), _material(user, "client-key", base)
    if cert and key:
        # ssl reads key pairs from files only
        handle, name = tempfile.mkstemp()
        try:
            with os.fdopen(handle, "wb") as pem:
                pem.write(cert + b"\n" + key)
            context.load_cert_chain(name)
        finally:
            os.unlink(name)
    return context


class Api:
    """One API server, as one user. Thread-safe."""

    def __init__(
        self, server: str, *, ssl_context: ssl.SSLContext | None = None, token: str | None = None, timeout: float = 30.0
    ) -> None:
        self.server = server.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "servicemesh-lab"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        options: Object = {"ssl_context": ssl_context} if ssl_context else {}
        self._pool = urllib3.PoolManager(num_pools=2, maxsize=32, retries=False, **options)
        self._timeout = urllib3.Timeout(connect=5.0, read=timeout)

    @classmethod
    def from_kubeconfig(cls, path: str | os.PathLike[str], context: str | None = None, *, timeout: float = 30.0) -> Api:
        """Client certificate, token or token file, as the (current) context says. Raises KubeError(0, "BadKubeconfig")."""
        file = Path(path)
        try:
            config = _read_kubeconfig(file)
            chosen = _named(config, "context", context or config.get("current-context"), file)
            cluster = _named(config, "cluster", chosen.get("cluster"), file)
            user = _named(config, "user", chosen.get("user"), file)
            token = user.get("token")
            if not token and user.get("tokenFile"):
                token = (file.parent / user["tokenFile"]).read_text(encoding="utf-8").strip()
            server = str(cluster["server"])
            tls = _ssl_context(cluster, user, file.parent) if server.startswith("https") else None
        except (OSError, ValueError, KeyError) as error:  # ssl.SSLError is an OSError
            raise KubeError(0, "BadKubeconfig", f"{file}: {error}") from error
        return cls(server, ssl_context=tls, token=token, timeout=timeout)

    def _send(self, method: str, path: str, params: Mapping[str, Any], body: Any, content_type: str) -> urllib3.BaseHTTPResponse:
        url = self.server + path + ("?" + urlencode(params) if params else "")
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = content_type
        # a kept connection may have been closed by a restarted server: reading may be asked again safely
        for last in (False, True) if method == "GET" else (True,):
            try:
                answer = self._pool.request(method, url, body=data, headers=headers, timeout=self._timeout)
                break
            except HTTPError as error:
                if last:
                    raise KubeError(0, "Unreachable", f"{method} {path}: {error}") from error
        if answer.status >= 400:
            raise self._error(method, path, answer.status, answer.data)
        return answer

    @staticmethod
    def _error(method: str, path: str, status: int, data: bytes) -> KubeError:
        try:
            said = json.loads(data)
            return KubeError(status, str(said.get("reason") or "Error"), str(said.get("message") or f"{method} {path}"))
        except (ValueError, AttributeError):
            return KubeError(status, "Error", f"{method} {path}: {data[:200].decode(errors='replace')}")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One call; the JSON of the answer (`{"text": ...}` when the answer is not JSON, as from /readyz)."""
        answer = self._send(method, path, params or {}, body, content_type)
        try:
            decoded = json.loads(answer.data)
        except ValueError:
            return {"text": answer.data.decode(errors="replace")}
        return decoded if isinstance(decoded, dict) else {"value": decoded}

    def get(self, path: str, **params: Any) -> Object:
        return self.request("GET", path, params=params)

    def find(self, path: str) -> Object | None:
        """Like get, but None when the object does not exist."""
        try:
            return self.get(path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, *, page: int = 500, **params: Any) -> Object:
        """The collection, read in pages: `{"metadata": {"resourceVersion"}, "items": [...]}`; items get apiVersion and kind."""
        items: list[Object] = []
        while True:
            answer = self.get(path, limit=page, **params)
            kind = str(answer.get("kind", "")).removesuffix("List")
            for item in answer.get("items") or []:
                items.append({"apiVersion": answer.get("apiVersion"), "kind": kind, **item})
            more = answer["metadata"].get("continue")
            if not more:
                return {"metadata": answer["metadata"], "items": items}
            params["continue"] = more

    def create(self, path: str, obj: Mapping[str, Any], **params: Any) -> Object:
        return self.request("POST", path, obj, params)

    def replace(self, path: str, obj: Mapping[str, Any], **params: Any) -> Object:
        return self.request("PUT", path, obj, params)

    def patch(self, path: str, patch: Any, kind: str = "merge", **params: Any) -> Object:
        """kind: merge | strategic | json | apply (server-side apply: give fieldManager=..., perhaps force="true")."""
        return self.request("PATCH", path, patch, params, content_type=_PATCH_TYPES[kind])

    def delete(self, path: str, *, missing_ok: bool = True, **params: Any) -> Object:
        """Params are DeleteOptions, e.g. gracePeriodSeconds=0, propagationPolicy="Foreground"."""
        try:
            return self.request("DELETE", path, params=params)
        except KubeError as error:
            if error.status == 404 and missing_ok:
                return {}
            raise

    def watch(
        self, path: str, resource_version: str, *, seconds: int = 300, on_open: Callable[[Any], None] | None = None, **params: Any
    ) -> Iterator[Object]:
        """Events `{"type", "object"}` after `resource_version` until the server ends the watch (about `seconds`).

        BOOKMARK events are passed on. An ERROR event becomes KubeError (410: the version is too old, list again).
        `on_open(response)` gives the caller the response, whose `shutdown()` ends the watch from another thread.
        """
        asked = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": seconds,
            **params,
        }
        answer = self._watch_open(path, asked, seconds)
        if on_open:
            on_open(answer)
        buffer = b""
        try:
            for chunk in answer.stream(None, decode_content=False):
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise KubeError(int(status.get("code") or 500), str(status.get("reason")), str(status.get("message")))
                    yield event
        except HTTPError as error:
            raise KubeError(0, "WatchBroken", f"{path}: {error}") from error
        finally:
            answer.close()

    def _watch_open(self, path: str, params: Mapping[str, Any], seconds: int) -> urllib3.BaseHTTPResponse:
        url = f"{self.server}{path}?{urlencode(params)}"
        timeout = urllib3.Timeout(connect=5.0, read=seconds + 15.0)
        try:
            answer = self._pool.request("GET", url, headers=self._headers, timeout=timeout, preload_content=False)
        except HTTPError as error:
            raise KubeError(0, "Unreachable", f"GET {path}: {error}") from error
        if answer.status >= 400:
            raise self._error("GET", path, answer.status, answer.data)
        return answer
