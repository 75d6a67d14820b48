# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Orders to a run that moves workloads or routes: they have no Service of their own to be annotated."""

from __future__ import annotations

from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    ABORT,
    ANNOTATION,
    PAUSE,
    Control,
    Order,
    Poller,
    read_order,
)

NAMESPACE = "istio-system"
_INTERVAL = 2.0


class Orders:
    """The control file and the annotation of the journal's ConfigMap."""

    def __init__(self, cluster: Cluster, journal: Journal, lease: Lease | None = None) -> None:
        self._cluster = cluster
        self._name = f"servicemesh-migration-{journal.migration}"[:253]
        first = self._ask()
        self.control = Control(journal.directory / "control", Poller(self._ask, _INTERVAL, first), lease)

    def _ask(self) -> Order:
        found = self._cluster.get(CONFIG_MAP, self._name, NAMESPACE) or {}
        text = ((found.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION)
        return read_order(text, f"the annotation {ANNOTATION} of ConfigMap {NAMESPACE}/{self._name}")

    def paused(self) -> bool:
        return self.control.order().word == PAUSE

    def stopped(self) -> str:
        order = self.control.order()
        return f"{order.word} was ordered by {order.origin}" if order.word == ABORT else ""
