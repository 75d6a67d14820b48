# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a port of a pod: what hangs ends, what comes too late is closed."""

from __future__ import annotations

import socket
import threading
import types
import typing as t

import kubernetes
import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._forward import forwarded


class Tunnel:
    """What the library opens."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.closed = threading.Event()

    def socket(self, port: int) -> socket.socket:
        assert port == 15000
        return self.ours

    def close(self) -> None:
        self.ours.close()
        self.closed.set()


CLUSTER: t.Any = types.SimpleNamespace(
    name="source", configuration=kubernetes.client.Configuration(), where=lambda _kind, name, place: f"source/{place}/Pod/{name}"
)


def opens(monkeypatch: pytest.MonkeyPatch, call: t.Callable[[], t.Any]) -> None:
    monkeypatch.setattr(kubernetes.stream, "portforward", lambda *_args, **_more: call())


def test_a_connection_that_opens_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel = Tunnel()
    opens(monkeypatch, lambda: tunnel)
    with forwarded(CLUSTER, "shop", "a-1", 15000, 5.0) as sock:
        tunnel.theirs.sendall(b"hello")
        assert sock.recv(5) == b"hello" and sock.gettimeout() == 5.0
    assert tunnel.theirs.recv(1) == b""


def test_an_api_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tunnel, answered = Tunnel(), threading.Event()

    def hang() -> Tunnel:
        answered.wait(30)
        return tunnel

    opens(monkeypatch, hang)
    with pytest.raises(MigrationError) as caught, forwarded(CLUSTER, "shop", "a-1", 15000, 0.05):
        pass
    assert caught.value.transient and caught.value.details["status"] == 0
    assert "source/shop/Pod/a-1" in caught.value.message and "no answer in 0.05 s" in caught.value.message
    assert not tunnel.closed.is_set()
    answered.set()
    assert tunnel.closed.wait(10)


def test_a_refusal_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> t.NoReturn:
        raise kubernetes.client.ApiException(status=0, reason="Handshake status 403 Forbidden")

    opens(monkeypatch, refuse)
    with pytest.raises(MigrationError, match="grant the user of source") as caught, forwarded(CLUSTER, "shop", "a-1", 15000, 5.0):
        pass
    assert caught.value.details["status"] == 403 and not caught.value.transient
