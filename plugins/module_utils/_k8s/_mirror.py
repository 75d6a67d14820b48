# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The journal's second home: a ConfigMap of the source cluster."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import time
import typing as t
import zlib

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import News
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import CONFIG_MAP

# A ConfigMap holds at most 1 MiB; the originals are never cut, but packed when they are many; the newest lines take what is left.
_LIMIT = 900_000
_MOST = 1_000_000
_PACKED = "packed"
_PARTS = ("originals.json", "times.json", _PACKED)
# Runs that write at the same time: slices of a job, dozens at most.
_AGAIN = 20
LABEL = "servicemesh.migration/journal"


class ConfigMapMirror:
    """ConfigMap ``servicemesh-migration-<name>``: data ``originals.json``, ``times.json``, ``tail.jsonl``.

    With thousands of originals, ``packed`` instead of the first two: base64 of zlib of both in one JSON object.
    """

    def __init__(self, cluster: Cluster, migration: str, namespace: str = "istio-system") -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = f"servicemesh-migration-{migration}"[:253]

    def load(self) -> dict[str, t.Any]:
        found = self._cluster.get(CONFIG_MAP, self._name, self._namespace)
        return {} if found is None else self._read(found)

    def _read(self, found: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            return _parts(found)
        except (ValueError, TypeError, zlib.error) as error:
            raise MigrationError(
                "The mirrored journal cannot be read",
                where=self._cluster.where(CONFIG_MAP, self._name, self._namespace),
                why=str(error),
                todo="restore or delete this ConfigMap; with it goes the memory of original values",
            ) from error

    def save(self, news: News) -> None:
        """Other runs write here too: onto what is there now, and again when it was changed in between."""
        for attempt in range(_AGAIN):
            found = self._cluster.get(CONFIG_MAP, self._name, self._namespace)
            data = _data(news.onto(self._read(found) if found is not None else None), news.tail)
            if sum(len(text.encode()) for text in data.values()) > _MOST:
                raise MigrationError(
                    "The journal does not fit into its ConfigMap any more, so nothing further is done",
                    where=self._cluster.where(CONFIG_MAP, self._name, self._namespace),
                    why=f"{len(news.originals)} original values have more than {_MOST} bytes, packed",
                    todo="what has been moved can be taken back as it is; move the rest under another name (option migration)",
                )
            try:
                if found is None:
                    meta = {"name": self._name, "namespace": self._namespace, "labels": {LABEL: "true"}}
                    self._cluster.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
                else:
                    guard = {"resourceVersion": found["metadata"]["resourceVersion"]}
                    old: dict[str, None] = dict.fromkeys(set(found.get("data") or {}) & set(_PARTS) - set(data))
                    self._cluster.patch(CONFIG_MAP, self._name, self._namespace, {"metadata": guard, "data": {**data, **old}})
                return
            except MigrationError as error:
                # Another run was first, or an answer of ours was lost.
                if error.details.get("status") != 409 or attempt == _AGAIN - 1:
                    raise
            time.sleep(random.uniform(0.0, 0.05 * 2 ** min(attempt, 5)))


def remembered(cluster: Cluster, namespace: str, prefix: str) -> set[str]:
    """Keys of originals in the mirrors of all migrations. Those that cannot be read, or may not be listed, remember nothing."""
    found: set[str] = set()
    with contextlib.suppress(MigrationError):
        for item in cluster.list_all(CONFIG_MAP, namespace, label_selector=f"{LABEL}=true"):
            with contextlib.suppress(ValueError, TypeError, zlib.error):
                found.update(key for key in _parts(item).get("originals", {}) if key.startswith(prefix))
    return found


def _parts(found: dict[str, t.Any]) -> dict[str, t.Any]:
    data = found.get("data") or {}
    if data.get(_PACKED):
        return dict(json.loads(zlib.decompress(base64.b64decode(data[_PACKED]))))
    return {part: json.loads(data.get(f"{part}.json") or "{}") for part in ("originals", "times")}


def _data(whole: dict[str, t.Any], tail: list[dict[str, t.Any]]) -> dict[str, str]:
    data = {f"{part}.json": json.dumps(whole[part], ensure_ascii=False, sort_keys=True, default=str) for part in whole}
    if sum(len(text.encode()) for text in data.values()) > _LIMIT:
        plain = json.dumps(whole, ensure_ascii=False, sort_keys=True, default=str).encode()
        data = {_PACKED: base64.b64encode(zlib.compress(plain, 9)).decode()}
    room = _LIMIT - sum(len(text.encode()) for text in data.values())
    lines: list[str] = []
    for entry in reversed(tail):
        line = json.dumps(entry, ensure_ascii=False, default=str)
        room -= len(line.encode()) + 1
        if room < 0:
            break
        lines.insert(0, line)
    return {**data, "tail.jsonl": "\n".join(lines)}
