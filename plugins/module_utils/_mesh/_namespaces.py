# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Namespaces that a migration made in the target: taken away again only when nothing of anybody is in them."""

from __future__ import annotations

import itertools
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import MANAGED_BY

Object = dict[str, t.Any]
NAMESPACE = kind_of("v1", "Namespace")
# What control planes put into every namespace by themselves.
_AUTOMATIC = frozenset(
    {
        ("ServiceAccount", "default"),
        ("ConfigMap", "kube-root-ca.crt"),
        ("ConfigMap", "istio-ca-root-cert"),
        ("ConfigMap", "istio-ca-crl"),
    }
)
_NOTHING = frozenset({"Event", "PodMetrics"})
_LABELS = frozenset({MANAGED_BY, "kubernetes.io/metadata.name"})


def made_by(target: Cluster, migration: str) -> list[Object]:
    """The namespaces that carry the migration's label."""
    return list(target.list_all(NAMESPACE, label_selector=f"{MANAGED_BY}={migration}"))


def in_the_way(namespace: Object, contents: t.Iterable[tuple[str, str]], leaving: t.Collection[tuple[str, str]]) -> str:
    """Why a namespace of ours stays, or nothing. ``contents``: (kind, name) of all in it; ``leaving``: what goes anyway."""
    labels = set(namespace["metadata"].get("labels") or {}) - _LABELS
    if labels:
        return f"somebody gave it the labels {', '.join(sorted(labels))}"
    left = sorted(
        f"{kind}/{name}"
        for kind, name in set(contents) - _AUTOMATIC - set(leaving)
        if kind not in _NOTHING and not (kind == "Secret" and name.startswith("default-token-"))
    )
    return f"there is {', '.join(left[:5])} in it" if left else ""


def contents(target: Cluster, namespace: str) -> list[tuple[str, str]]:
    """(kind, name) of everything in a namespace, of every kind that this API server serves; some of each kind are enough.

    Raises MigrationError when a kind may not be listed: then nothing is proven.
    """
    kinds: dict[tuple[str, str], Kind] = {}
    for group in ["", *target.groups()]:
        for item in target.served(group):
            if item["namespaced"]:
                version = f"{group}/{item['version']}" if group else item["version"]
                kinds.setdefault((group, item["plural"]), Kind(version, item["kind"], item["plural"]))

    def look(kind: Kind) -> list[tuple[str, str]]:
        try:
            found = itertools.islice(target.list_all(kind, namespace), 50)
            return [(str(item.get("kind") or kind.kind), str(item["metadata"]["name"])) for item in found]
        except MigrationError as error:
            if error.details.get("status") == 405:  # a kind that is only ever created, like a review
                return []
            raise

    answers = each(list(kinds.values()), look)
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return [item for answer in answers for item in answer.value or []]


def wait_gone(target: Cluster, names: t.Sequence[str], timeout: float = 60) -> None:
    """Wait until namespaces are gone. Raises MigrationError."""

    def gone() -> bool | None:
        return None if any(target.get(NAMESPACE, name) is not None for name in names) else True

    if names:
        wait_until(gone, timeout=timeout, what=f"the namespaces {', '.join(names)} are gone", where=target.where(), interval=0.2)
