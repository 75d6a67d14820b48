# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The journal's second home: a ConfigMap of the source cluster."""

from __future__ import annotations

import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP

# A ConfigMap holds at most 1 MiB; the originals are never cut, the newest lines take what is left.
_LIMIT = 900_000
LABEL = "servicemesh.migration/journal"


class ConfigMapMirror:
    """ConfigMap ``servicemesh-migration-<name>``: data ``originals.json``, ``tail.jsonl``."""

    def __init__(self, cluster: Cluster, migration: str, namespace: str = "istio-system") -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = f"servicemesh-migration-{migration}"[:253]

    def load(self) -> dict[str, t.Any]:
        found = self._cluster.get(CONFIG_MAP, self._name, self._namespace)
        if found is None:
            return {}
        try:
            return {"originals": json.loads((found.get("data") or {}).get("originals.json") or "{}")}
        except ValueError as error:
            raise MigrationError(
                "The mirrored journal cannot be read",
                where=self._cluster.where(CONFIG_MAP, self._name, self._namespace),
                why=str(error),
                todo="restore or delete this ConfigMap; with it goes the memory of original values",
            ) from error

    def save(self, originals: dict[str, t.Any], tail: list[dict[str, t.Any]]) -> None:
        first = json.dumps(originals, ensure_ascii=False, sort_keys=True, default=str)
        room = _LIMIT - len(first.encode())
        lines: list[str] = []
        for entry in reversed(tail):
            line = json.dumps(entry, ensure_ascii=False, default=str)
            room -= len(line.encode()) + 1
            if room < 0:
                break
            lines.insert(0, line)
        data = {"originals.json": first, "tail.jsonl": "\n".join(lines)}
        if self._cluster.get(CONFIG_MAP, self._name, self._namespace) is not None:
            self._cluster.patch(CONFIG_MAP, self._name, self._namespace, {"data": data})
            return
        meta = {"name": self._name, "namespace": self._namespace, "labels": {LABEL: "true"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
        try:
            self._cluster.create(CONFIG_MAP, body)
        except MigrationError as error:
            # Another run was first, or an answer of ours was lost: either way it is there now.
            if error.details.get("status") != 409:
                raise
            self._cluster.patch(CONFIG_MAP, self._name, self._namespace, {"data": data})
