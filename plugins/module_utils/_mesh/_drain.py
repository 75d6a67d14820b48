# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Whether anybody is still connected to a gateway's pods.

A weight of 0 sends no new connections; those that are there stay as long as their clients keep them.
"""

from __future__ import annotations

import math
import re
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD

_CONNECTIONS = re.compile(r"^envoy_server_total_connections(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


def drain_of(params: t.Mapping[str, t.Any]) -> float:
    """The option drain_seconds. Raises InputError for what cannot be waited."""
    seconds = float(params["drain_seconds"])
    if not 0 <= seconds < math.inf:
        raise InputError("drain_seconds cannot be used", why=f"it is {seconds:g}", todo="give a number of seconds, 0 or more")
    return seconds


def connections(cluster: Cluster, namespace: str, pod: str) -> float | None:
    """Envoy's open connections (port 15090 of every gateway pod), or None when nobody answers. A pod that is gone has none."""
    try:
        text = cluster.text(f"{POD.path(namespace)}/{pod}:15090/proxy/stats/prometheus?filter=server.total_connections")
    except MigrationError as error:
        return 0.0 if error.details.get("status") == 404 else None
    found = _CONNECTIONS.search(text)
    return float(found.group(1)) if found else None


def deserted(cluster: Cluster, namespace: str, pods: t.Sequence[str]) -> bool | None:
    """True when no pod has a connection but the one that asks, False when some have more, None when it cannot be asked."""
    counts = values(each(pods, lambda pod: connections(cluster, namespace, pod)))
    if any(count is None for count in counts):
        return None
    return all((count or 0.0) <= 1 for count in counts)


def wait_drained(cluster: Cluster, namespace: str, pods: t.Sequence[str], seconds: float) -> tuple[bool | None, float]:
    """Wait until no pod has a client any more, at most ``seconds``. ``(True | False | None: it cannot be asked, seconds)``.

    Asked through the API server's proxy, and twice, because a probe comes and goes. Where it cannot be asked, the whole time
    is waited.
    """
    start = time.monotonic()
    quiet = 0
    while True:
        answer = deserted(cluster, namespace, pods)
        quiet = quiet + 1 if answer else 0
        elapsed = time.monotonic() - start
        if quiet >= 2 or not pods:
            return True, round(elapsed, 2)
        if elapsed >= seconds:
            return answer, round(elapsed, 2)
        time.sleep(min(0.5 if quiet else 1.0, max(0.0, seconds - elapsed)))
