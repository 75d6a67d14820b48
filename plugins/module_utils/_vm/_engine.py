# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Docker Engine, or podman by the same API, over its unix socket. A VM need not have the Python package docker.

Paths carry no version: the engine then speaks its own, and what is used here is the same in all of them.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import time
import typing as t
import urllib.parse

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")
PODMAN_UNIT = "podman-restart.service"
REMOVING = ("removing", "dead")
Object = dict[str, t.Any]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """Calls raise MigrationError with ``details["status"]`` = HTTP status (0: no answer)."""

    def __init__(self, path: str = "", timeout: float = 60) -> None:
        self.path = path or next((one for one in SOCKETS if os.path.exists(one)), SOCKETS[0])
        self._timeout = timeout

    def call(
        self,
        method: str,
        path: str,
        query: t.Mapping[str, str] | None = None,
        body: t.Any = None,
        headers: t.Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        url = path + ("?" + urllib.parse.urlencode(query) if query else "")
        connection = _Connection(self.path, timeout or self._timeout)
        sent = {"Host": "engine", **(headers or {})}
        data = None
        if body is not None:
            sent["Content-Type"], data = "application/json", json.dumps(body).encode()
        try:
            connection.request(method, url, data, sent)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MigrationError(
                "The container engine gives no answer",
                where=self.path,
                why=str(error) or type(error).__name__,
                todo="install and start Docker (or podman's socket), name it in engine_socket, and run as root (become)",
                details={"status": 0},
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise MigrationError(
                f"The container engine answered {method} {path} with {answer.status}",
                where=self.path,
                why=_reason(text),
                details={"status": answer.status},
            )
        return text

    def get(self, path: str) -> Object | None:
        """JSON, or None when there is no such thing."""
        try:
            text = self.call("GET", path)
        except MigrationError as error:
            if error.details.get("status") == 404:
                return None
            raise
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        raise MigrationError(
            f"The container engine answered GET {path} with something that is no JSON object",
            where=self.path,
            why=f"{len(text)} bytes that begin with {text[:80].decode(errors='replace')!r}",
            todo="see what listens on this socket, and name the engine's own in engine_socket",
            details={"status": 0},
        )

    def name(self, version: Object | None = None) -> str:
        """`docker` or `podman`."""
        found = self.get("/version") if version is None else version
        parts = " ".join(str(one.get("Name")) for one in (found or {}).get("Components") or [])
        return "podman" if "podman" in parts.lower() else "docker"

    def boots(self) -> bool:
        """Whether containers come back when the VM boots: podman has no daemon that would do it, only a unit."""
        if self.name() != "podman":
            return True
        try:
            return subprocess.run(["systemctl", "is-enabled", PODMAN_UNIT], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    # -- images -----------------------------------------------------------------------------------------------------

    def image(self, reference: str) -> Object | None:
        return self.get(f"/images/{urllib.parse.quote(reference, safe='/:@')}/json")

    def pull(self, reference: str, login: tuple[str, str] | None = None, timeout: float = 600) -> None:
        """An engine that fails says so by its status, or answers 200 and says so in the stream."""
        headers = {}
        if login:
            account = {"username": login[0], "password": login[1], "serveraddress": reference.split("/", 1)[0]}
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(account).encode()).decode()
        name, tag = split_reference(reference)
        try:
            text = self.call("POST", "/images/create", {"fromImage": name, "tag": tag}, headers=headers, timeout=timeout)
        except MigrationError as error:
            if error.details.get("status"):
                raise _not_pulled(reference, error.why) from error
            raise
        for line in text.decode(errors="replace").splitlines():
            try:
                said = json.loads(line).get("error")
            except (ValueError, AttributeError):
                continue
            if said:
                raise _not_pulled(reference, str(said))

    def remove_image(self, reference: str) -> None:
        self._quiet(404, "DELETE", f"/images/{urllib.parse.quote(reference, safe='/:@')}")

    # -- containers -------------------------------------------------------------------------------------------------

    def container(self, name: str) -> Object | None:
        return self.get(f"/containers/{name}/json")

    def create(self, name: str, body: Object) -> None:
        self._wait_gone(name)  # a removal that another run began may still be under way
        self.call("POST", "/containers/create", {"name": name}, body)

    def start(self, name: str) -> None:
        self._quiet(304, "POST", f"/containers/{name}/start")

    def stop(self, name: str, seconds: int) -> None:
        self._quiet(304, "POST", f"/containers/{name}/stop", {"t": str(seconds)}, timeout=seconds + self._timeout)

    def remove(self, name: str) -> None:
        """With the volumes that it made without a name. It is gone when this returns."""
        try:
            self._quiet(404, "DELETE", f"/containers/{name}", {"force": "true", "v": "true"})
        except MigrationError as error:
            if (
                error.details.get("status") != 409
            ):  # else somebody's removal is in progress, perhaps that of a run that was killed
                raise
        self._wait_gone(name, removing=True)

    def _wait_gone(self, name: str, removing: bool = False, timeout: float = 60) -> None:
        """Until a container that is being removed is gone. One that is not is only waited for when it was just removed."""
        end = time.monotonic() + timeout
        while (found := self.container(name)) is not None:
            status = str((found.get("State") or {}).get("Status") or "")
            if not removing and status not in REMOVING:
                return
            if time.monotonic() > end:
                todo = "look at the engine's own log, then run again"
                raise MigrationError("The engine does not end a removal", where=name, why=f"its state is {status}", todo=todo)
            time.sleep(0.1)

    def logs(self, name: str, lines: int = 20) -> str:
        """The end of what it wrote; frames of both streams in the order in which they came."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        try:
            data = self.call("GET", f"/containers/{name}/logs", query)
        except MigrationError:
            return ""
        text = b""
        while len(data) >= 8 and data[0] in (0, 1, 2) and data[1:4] == b"\0\0\0":
            size = int.from_bytes(data[4:8], "big")
            text, data = text + data[8 : 8 + size], data[8 + size :]
        return (text + data).decode(errors="replace").strip()

    def _quiet(
        self, fine: int, method: str, path: str, query: t.Mapping[str, str] | None = None, timeout: float | None = None
    ) -> None:
        """A call for which one status means that nothing was to be done."""
        try:
            self.call(method, path, query, timeout=timeout)
        except MigrationError as error:
            if error.details.get("status") != fine:
                raise


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag, or digest. A colon before the last slash belongs to the registry's port."""
    if "@" in reference:
        name, digest = reference.split("@", 1)
        return name, digest
    head, slash, last = reference.rpartition("/")
    name, colon, tag = last.partition(":")
    return head + slash + name, tag if colon else "latest"


def _not_pulled(reference: str, why: str) -> MigrationError:
    todo = "check name, registry and login, and that the VM reaches the registry"
    return MigrationError("The image cannot be pulled", where=reference, why=why, todo=todo)


def _reason(text: bytes) -> str:
    try:
        return str(json.loads(text).get("message") or "")
    except (ValueError, AttributeError):
        return text[:300].decode(errors="replace")
