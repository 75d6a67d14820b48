# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A connection to a port of a pod, through the API server: what ``kubectl port-forward`` does, without kubectl.

From a controller or an AWX job the pods of a cluster cannot be reached otherwise, and the load balancer chooses by itself.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD


@contextlib.contextmanager
def forwarded(cluster: Cluster, namespace: str, pod: str, port: int, timeout: float) -> t.Iterator[socket.socket]:
    """A stream socket to ``127.0.0.1:port`` inside the pod, closed at the end. ``timeout`` in seconds: for the way there, and for
    each wait on it.

    Raises MigrationError when the API server refuses (``details["status"]``: HTTP status, 0 without an answer). A port on which
    nothing listens is an end of file on the socket.
    """
    from kubernetes import client, stream  # pylint: disable=import-outside-toplevel

    api = client.CoreV1Api(client.ApiClient(cluster.configuration))
    try:
        tunnel = _in_time(
            lambda: stream.portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port)), timeout
        )
    except TimeoutError as error:
        raise _refused(cluster, namespace, pod, f"no answer in {timeout:g} s") from error
    except client.ApiException as error:
        raise _refused(cluster, namespace, pod, str(error.reason or error)) from error
    sock = tunnel.socket(port)
    sock.settimeout(timeout)
    try:
        yield sock
    finally:
        sock.close()


def _in_time(opened: t.Callable[[], t.Any], timeout: float) -> t.Any:
    """What is opened, or TimeoutError. The library opens its WebSocket without any time limit, and who waits for it for ever can
    neither be told to end nor hear a gate. One that opens later is closed."""
    answers: queue.Queue[tuple[t.Any, Exception | None]] = queue.Queue()
    late = threading.Event()

    def work() -> None:
        try:
            made = opened()
        except Exception as error:  # raised where it is waited for
            answers.put((None, error))
            return
        answers.put((made, None))
        if late.is_set():
            made.close()

    threading.Thread(target=work, name="port-forward", daemon=True).start()
    try:
        made, error = answers.get(timeout=timeout)
    except queue.Empty:
        late.set()
        with contextlib.suppress(queue.Empty):  # it came in this very moment
            made, _error = answers.get_nowait()
            if made is not None:
                made.close()
        raise TimeoutError from None
    if error is not None:
        raise error
    return made


def _refused(cluster: Cluster, namespace: str, pod: str, said: str) -> MigrationError:
    found = re.search(r"status (\d{3})", said)
    status = int(found.group(1)) if found else 0
    todo = "check the network and proxies in between (port-forward is a WebSocket), or go without this proof"
    if status in (401, 403):
        todo = f"grant the user of {cluster.name} get and create of pods/portforward there (docs/rbac.md)"
    return MigrationError(
        f"The API server of {cluster.name} opens no connection to a pod",
        where=cluster.where(POD, pod, namespace),
        why=said.splitlines()[0][:200],
        todo=todo,
        transient=status in (0, 404, 429, 500, 502, 503, 504),
        details={"status": status},
    )
