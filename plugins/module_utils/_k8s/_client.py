# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One API server. The kubernetes library does authentication and TLS (but see _plain.py); objects stay plain dictionaries.

Why not its typed clients: they drop fields that they do not know, and a mesh is made of such fields.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import typing as t
import urllib.parse

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s import _lists
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._configuration import configuration_of, pool_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._plain import plain_access
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._wire import Answer, QuietError, Wire, WireError

#: API servers note under this name what was set by us (managedFields).
AGENT = "servicemesh.migration"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PAGE = 500
# An API server answers a first page from memory, and reads every later one from etcd, object by object: a list in pages of 500
# cost it five times as much CPU as the same list in one answer. For kinds whose objects are small, and are all kept here anyway.
LARGE_PAGE = 5000
# Seconds for which the headers that log in are kept: looking for a fresher token costs as much as a call.
_LOGIN = 5.0
_CONNECTIONS = 32

Object = dict[str, t.Any]


class Cluster:
    """Calls to one API server; ``name`` is the word used in messages (``source`` or ``target``).

    All calls raise MigrationError with ``details["status"]`` = HTTP status (0: no answer).
    Reads and idempotent writes are repeated on 429, 5xx and broken connections; creates only when nothing can be doubled.
    """

    def __init__(self, name: str, options: t.Mapping[str, t.Any], attempts: int = 8) -> None:
        self.name = name
        self._attempts = attempts
        #: A time.monotonic() after which no call is repeated: who waits for the answer has gates and orders to hear.
        self.until: float | None = None
        self._timeout = float(options.get("request_timeout") or 30)
        self._options = options
        self._configured: t.Any = None
        self._login: tuple[float, dict[str, str]] = (0.0, {})
        access = plain_access(options, _CONNECTIONS)
        if access is not None:
            self.host, self._wire, self._login = access.host, access.wire, (math.inf, access.headers)
        else:
            self.host = str(self.configuration.host).rstrip("/")
            self._wire = Wire(self.host, pool_of(self.configuration, _CONNECTIONS))
        self._discovered: dict[str, list[Object]] = {}
        self._wanted_uid = options.get("cluster_uid")
        self._uid: str | None = None

    @property
    def configuration(self) -> t.Any:
        """The kubernetes library's Configuration for this API server."""
        if self._configured is None:
            self._configured = configuration_of(self.name, self._options)
        return self._configured

    # -- identity ------------------------------------------------------------------------------------------------

    def uid(self) -> str:
        """The UID of the namespace kube-system: the identity of a cluster."""
        if self._uid is None:
            found = self.get(kind_of("v1", "Namespace"), "kube-system")
            if found is None:
                raise MigrationError(
                    "This is not a Kubernetes cluster as expected", where=self.where(), why="it has no namespace kube-system"
                )
            self._uid = str(found["metadata"]["uid"])
        return self._uid

    def guard(self) -> None:
        """Refuse the wrong cluster. To be called before the first write, and cheap to call always."""
        if self._wanted_uid and self.uid() != self._wanted_uid:
            raise InputError(
                f"The {self.name} cluster is not the one that was named",
                where=self.where(),
                why=f"the UID of its namespace kube-system is {self.uid()}, the option {self.name}.cluster_uid says "
                f"{self._wanted_uid}",
                todo=f"check kubeconfig and context of {self.name}",
            )

    def where(self, kind: Kind | None = None, name: str = "", namespace: str = "") -> str:
        """``cluster/namespace/kind/name`` for messages and plans."""
        parts = [self.name]
        if kind is None:
            return f"{self.name} ({self.host})"
        if namespace:
            parts.append(namespace)
        parts.append(kind.kind)
        if name:
            parts.append(name)
        return "/".join(parts)

    # -- verbs ---------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """The object, or None when it (or its kind) is not there."""
        try:
            return self._call("GET", kind.path(namespace, name), where=self.where(kind, name, namespace))
        except MigrationError as error:
            if error.details.get("status") == 404:
                return None
            raise

    def exists(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Whether the object is there; only its metadata is sent, so the content of a Secret never gets here."""
        try:
            self._call("GET", kind.path(namespace, name), where=self.where(kind, name, namespace), accept=_METADATA)
        except MigrationError as error:
            if error.details.get("status") == 404:
                return False
            raise
        return True

    def text(self, path: str) -> str:
        """The body of a GET that is not JSON, like what a pod answers through the API server's proxy."""
        return str(self._call("GET", path, where=self.where(), accept="*/*").get("text", ""))

    def list_all(
        self, kind: Kind, namespace: str = "", *, label_selector: str = "", field_selector: str = "", limit: int = PAGE
    ) -> t.Iterator[Object]:
        """All objects, page by page of ``limit``. Nothing when the kind is not served."""
        query = {"limit": str(limit)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            try:
                meta, items = self._part(kind, namespace, query)
            except MigrationError as error:
                if error.details.get("status") == 404:
                    return
                raise
            for item in items:
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                yield item
            token = meta.get("continue")
            if not token:
                return
            query["continue"] = token

    def page(
        self, kind: Kind, namespace: str = "", *, limit: int = PAGE, token: str = "", at: str = "", accept: str = ""
    ) -> Object:
        """One page of a LIST as it came. ``token``: of the page before; ``at``: exactly this resourceVersion. 404 is raised."""
        where = self.where(kind, "", namespace)
        query = _page_query(limit, token, at)
        return self._call("GET", kind.path(namespace), query=query, where=where, accept=accept or "application/json")

    def part(
        self, kind: Kind, namespace: str = "", *, limit: int = PAGE, token: str = "", at: str = ""
    ) -> tuple[Object, t.Iterator[Object]]:
        """The same page as its metadata and its objects, each of these decoded when its turn comes."""
        return self._part(kind, namespace, _page_query(limit, token, at))

    def _part(self, kind: Kind, namespace: str, query: t.Mapping[str, str]) -> tuple[Object, t.Iterator[Object]]:
        where = self.where(kind, "", namespace)
        page = self._call("GET", kind.path(namespace), query=query, where=where, listed=True)
        return page.get("metadata") or {}, self._told(where, page.get("items") or ())

    def _told(self, where: str, items: t.Iterable[Object]) -> t.Iterator[Object]:
        try:
            yield from items
        except ValueError as error:
            raise MigrationError(
                f"The API server of {self.name} answered with a list that is no JSON",
                where=f"{where} at {self.host}",
                why=str(error),
                todo="check the proxy: something may change answers on their way; then run again",
                transient=True,
                details={"status": 0},
            ) from error

    def groups(self) -> list[str]:
        """The names of all API groups, without the core's."""
        found = self._call("GET", "/apis", where=self.where()).get("groups") or []
        return [str(group["name"]) for group in found]

    def watch(self, kind: Kind, version: str, *, seconds: int, quiet: float | None) -> Answer:
        """A watch on metadata after a resourceVersion. The API server ends it after ``seconds``; QuietError is raised when
        nothing comes for ``quiet`` seconds."""
        query = urllib.parse.urlencode({"watch": "1", "resourceVersion": version, "timeoutSeconds": str(seconds)})
        headers = {"Accept": _METADATA, "User-Agent": AGENT, **self._auth_headers()}
        return self._wire.watch(f"{kind.path()}?{query}", headers, self._timeout, quiet)

    def events_since(self, kind: Kind, version: str, seconds: float = 0.2) -> list[Object]:
        """The watch events after a resourceVersion that are there within ``seconds`` (metadata only).

        Raises MigrationError with status 410 when the API server does not remember that far back.
        """
        data, status = b"", 200
        try:
            answer = self.watch(kind, version, seconds=1, quiet=seconds)
            status = answer.status
            with contextlib.closing(answer):
                for part in answer.stream():
                    data += part
        except QuietError:
            pass  # nothing more came, or nothing at all: the server sends its headers with the first event
        except WireError as error:
            raise MigrationError(
                f"The API server of {self.name} gave no answer to a watch", where=self.where(kind), why=str(error)
            ) from error
        return self.events_of(kind, status, data)

    def events_of(self, kind: Kind, status: int, data: bytes) -> list[Object]:
        """The whole events in what was read of a watch. Raises MigrationError for one that says why the watch is none."""
        if status >= 400:
            self._read(status, data, "GET", self.where(kind))
        events = [json.loads(line) for line in data.split(b"\n")[:-1] if line.strip()]
        for event in events:
            if event.get("type") == "ERROR":
                code = int((event.get("object") or {}).get("code") or 500)
                why = str((event.get("object") or {}).get("message") or "")
                raise MigrationError("A watch ended with an error", where=self.where(kind), why=why, details={"status": code})
        return events

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False, validate: bool = True) -> Object:
        """Create; when an earlier try of this very call was answered too late, AlreadyExists is seen by the caller.

        ``validate=False``: the server need not look for unknown fields; the caller compares what is stored.
        """
        meta = body["metadata"]
        query = {"dryRun": "All"} if dry_run else {}
        if not validate:
            query["fieldValidation"] = "Ignore"
        return self._call(
            "POST",
            kind.path(meta.get("namespace", "")),
            body=body,
            query=query,
            where=self.where(kind, meta.get("name", ""), meta.get("namespace", "")),
        )

    def request_token(self, namespace: str, account: str, audiences: t.Sequence[str], seconds: int) -> Object:
        """The status of a TokenRequest: C(token) and C(expirationTimestamp). A call that is repeated makes one token too many."""
        kind = kind_of("v1", "ServiceAccount")
        spec: Object = {"expirationSeconds": seconds, **({"audiences": list(audiences)} if audiences else {})}
        return dict(
            self._call(
                "POST",
                f"{kind.path(namespace, account)}/token",
                body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
                where=self.where(kind, account, namespace),
            ).get("status")
            or {}
        )

    def patch(self, kind: Kind, name: str, namespace: str, body: t.Any, *, content: str = MERGE, dry_run: bool = False) -> Object:
        """Patch (merge patch by default). Give metadata.resourceVersion in the body to refuse a concurrent change (409)."""
        return self._call(
            "PATCH",
            kind.path(namespace, name),
            body=body,
            content=content,
            query={"dryRun": "All"} if dry_run else {},
            where=self.where(kind, name, namespace),
        )

    def replace(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """PUT of a whole object, guarded by its metadata.resourceVersion."""
        meta = body["metadata"]
        return self._call(
            "PUT",
            kind.path(meta.get("namespace", ""), meta["name"]),
            body=body,
            query={"dryRun": "All"} if dry_run else {},
            where=self.where(kind, meta["name"], meta.get("namespace", "")),
        )

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "", version: str = "") -> None:
        """Delete this very object (by UID when given), as it was at a resourceVersion; being gone already is success."""
        body: Object = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid, **({"resourceVersion": version} if version else {})}
        try:
            self._call("DELETE", kind.path(namespace, name), body=body, where=self.where(kind, name, namespace))
        except MigrationError as error:
            if error.details.get("status") != 404:
                raise

    def served(self, group: str) -> list[Object]:
        """Discovery: ``[{version, kind, plural, namespaced}]`` of a group, in the server's order of preference."""
        if group not in self._discovered:
            self._discovered[group] = list(self._discover(group))
        return self._discovered[group]

    def ask_again(self) -> None:
        """Forget what discovery told: kinds came or went."""
        self._discovered = {}

    def version(self) -> str:
        """The API server's version, like v1.36.3."""
        return str(self._call("GET", "/version", where=self.where()).get("gitVersion", ""))

    def can(self, verb: str, kind: Kind, namespace: str = "") -> bool:
        """Whether the credentials in use may do this (SelfSubjectAccessReview)."""
        attributes = {"verb": verb, "group": kind.group, "resource": kind.plural, "namespace": namespace}
        answer = self._call(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
            where=self.where(),
        )
        return bool((answer.get("status") or {}).get("allowed"))

    # -- below ---------------------------------------------------------------------------------------------------

    def _discover(self, group: str) -> t.Iterator[Object]:
        root = "/api" if not group else f"/apis/{group}"
        try:
            answer = self._call("GET", root, where=self.where())
        except MigrationError as error:
            if error.details.get("status") == 404:
                return
            raise
        versions = answer.get("versions") or []
        for version in versions:
            name = version if isinstance(version, str) else version["version"]
            resources = self._call("GET", f"{root}/{name}", where=self.where())
            for resource in resources.get("resources") or []:
                if "/" not in resource["name"]:
                    yield {
                        "version": name,
                        "kind": resource["kind"],
                        "plural": resource["name"],
                        "namespaced": bool(resource.get("namespaced")),
                    }

    def _call(
        self,
        method: str,
        path: str,
        *,
        where: str,
        body: t.Any = None,
        content: str = "application/json",
        query: t.Mapping[str, str] | None = None,
        accept: str = "application/json",
        listed: bool = False,
    ) -> Object:
        """``listed``: the items may be an iterator."""
        return retry(
            lambda: self._once(method, path, where=where, body=body, content=content, query=query, accept=accept, listed=listed),
            attempts=self._attempts,
            deadline=self.until,
        )

    def _once(
        self,
        method: str,
        path: str,
        *,
        where: str,
        body: t.Any,
        content: str,
        query: t.Mapping[str, str] | None,
        accept: str,
        listed: bool,
    ) -> Object:
        target = path + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = {"Accept": accept, "User-Agent": AGENT, **self._auth_headers()}
        data = None
        if method == "GET":
            headers["Accept-Encoding"] = "gzip"  # an API server packs long lists: a tenth of the bytes
        if body is not None:
            headers["Content-Type"] = content
            data = json.dumps(body, separators=(",", ":")).encode()
        try:
            status, found = self._wire.request(method, target, headers, data, self._timeout)
        except WireError as error:
            why = str(error)
            raise MigrationError(
                f"The API server of {self.name} gave no answer to {method}",
                where=f"{where} at {self.host}",
                why=why,
                todo="check the address, the network and the proxy",
                transient="certificate" not in why.lower(),
                details={"status": 0},
            ) from error
        parts = _lists.split(found) if listed and status < 400 else None
        if parts is not None:
            return {"metadata": parts[0], "items": parts[1]}
        return self._read(status, found, method, where, text=accept == "*/*")

    def _auth_headers(self) -> dict[str, str]:
        until, headers = self._login
        if time.monotonic() < until:
            return headers
        headers = {}
        for setting in self.configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                headers[setting["key"]] = setting["value"]
        self._login = (time.monotonic() + _LOGIN, headers)
        return headers

    def _read(self, status: int, data: bytes, method: str, where: str, *, text: bool = False) -> Object:
        """The answer's object, or ``{"text": ...}`` where any text was asked for. A cut or foreign answer is none."""
        if text and status < 400:
            return {"text": data.decode(errors="replace")}
        try:
            answer = json.loads(data) if data or method == "GET" else {}
        except ValueError:
            answer = None
        if status < 400 and isinstance(answer, dict):
            return answer
        if status < 400:
            raise self._foreign(method, where, status, data)
        if status == 404 and not text and not _says_so(answer, data):
            raise self._foreign(method, where, status, data)
        if status == 401 and self._login[0] < math.inf:
            self._login = (0.0, {})
        reason = str(answer.get("message") or "") if isinstance(answer, dict) else ""
        reason = reason or data[:200].decode(errors="replace") or f"HTTP {status}"
        todo = {
            401: f"the credentials of {self.name} are expired or wrong: renew the token or the kubeconfig",
            403: f"grant the user of {self.name} this right; docs/rbac.md lists all that are needed",
            409: "somebody else changed the object at the same time: run again",
        }.get(status, "")
        raise MigrationError(
            f"The API server of {self.name} answered {method} with {status}",
            where=where,
            why=reason,
            todo=todo,
            transient=status in _TRANSIENT,
            details={"status": status, "reason": answer.get("reason") if isinstance(answer, dict) else None},
        )

    def _foreign(self, method: str, where: str, status: int, data: bytes) -> MigrationError:
        what = "a 404 that is not its own" if status == 404 else "something that is no JSON object"
        return MigrationError(
            f"The API server of {self.name} answered {method} with {what}",
            where=f"{where} at {self.host}",
            why=f"{len(data)} bytes that begin with {data[:80].decode(errors='replace')!r}",
            todo="check the address and the proxy: something else may answer there, or cut answers off",
            transient=True,
            details={"status": 0},
        )


def _page_query(limit: int, token: str, at: str) -> dict[str, str]:
    query = {"limit": str(limit)}
    if token:
        query["continue"] = token
    elif at:
        query.update(resourceVersion=at, resourceVersionMatch="Exact")
    return query


def _says_so(answer: t.Any, data: bytes) -> bool:
    """Whether a 404 is one of an API server: a Status, or its plain text for a path that it does not serve."""
    return (isinstance(answer, dict) and answer.get("kind") == "Status") or data.strip() == b"404 page not found"
