# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Writes many objects into an API server: asked about all of them first (server-side dry run), then in order, several at once.

Every object gets its own answer. A copy and a restore write with these functions.
"""

from __future__ import annotations

import hashlib
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import Answer, flow
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import fingerprint, lost

Object = dict[str, t.Any]
J = t.TypeVar("J")
STAND_IN = "default"
# The API server said nothing about the object: it was busy, or did not know who asks.
_NO_ANSWER = (0, 401, 408, 429, 502, 503, 504)


def refusal(error: MigrationError) -> str:
    """Why the API server does not take an object. The error is raised when it tells nothing about the object."""
    if error.details.get("status", 0) in _NO_ANSWER:
        raise error
    return error.why or error.what


def payload(obj: t.Mapping[str, t.Any]) -> Object:
    """What a user writes into an object, without its metadata."""
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata", "status", "stringData")}


def dropped(body: Object, stored: Object) -> list[str]:
    """Paths that the server did not store: a schema drops fields that it does not know without a word."""
    wanted, kept = payload(body), payload(stored)
    return [] if wanted == kept else lost(wanted, kept)


def changed(body: Object, stored: Object) -> bool:
    """Whether the server (its defaults, a webhook) stores something else than was sent."""
    return payload(body) != payload(stored) or any(
        (body["metadata"].get(field) or {}) != (stored["metadata"].get(field) or {}) for field in ("labels", "annotations")
    )


def stand_in(body: Object, new: t.Collection[str], place: str = STAND_IN) -> Object:
    """As it can be checked now: an object of a namespace that is not there yet (``new``) in another one, by another name.

    Without its owners: these may not be there yet either.
    """
    meta = body["metadata"]
    strange = meta.get("namespace") in new
    if not strange and "ownerReferences" not in meta:
        return body
    fresh = {**body, "metadata": {key: value for key, value in meta.items() if key != "ownerReferences"}}
    if strange:
        digest = hashlib.sha256(f"{meta.get('namespace')}/{meta['name']}".encode()).hexdigest()[:12]
        fresh["metadata"].update(namespace=place, name=f"dry-run-{digest}")
    return fresh


def rehearse(
    cluster: Cluster, kind: Kind, body: Object, live: Object | None, new: t.Collection[str] = (), place: str = STAND_IN
) -> tuple[Object, list[str]]:
    """Ask the API server to check one write. Returns what it would store, and the paths that it would drop.

    :arg live: the object that is replaced; ``body`` has its resourceVersion. :arg new, place: see ``stand_in``.
    """
    if live is None:
        stored = cluster.create(kind, stand_in(body, new, place), dry_run=True, validate=False)
    else:
        stored = cluster.replace(kind, body, dry_run=True)
    stored["apiVersion"], stored["kind"] = kind.api_version, kind.kind
    return stored, dropped(body, stored)


def create(cluster: Cluster, kind: Kind, body: Object) -> Object:
    """Create; found there after a lost answer, it must be what we wanted to write. Returns what is stored."""
    try:
        return cluster.create(kind, body, validate=False)
    except MigrationError as error:
        return _there(cluster, kind, body, error)


def replace(cluster: Cluster, kind: Kind, body: Object) -> Object:
    """Replace; a conflict after a lost answer is none when the object holds what we wanted to write."""
    try:
        return cluster.replace(kind, body)
    except MigrationError as error:
        return _there(cluster, kind, body, error)


def _there(cluster: Cluster, kind: Kind, body: Object, error: MigrationError) -> Object:
    if error.details.get("status") != 409:
        raise error
    meta = body["metadata"]
    present = cluster.get(kind, meta["name"], meta.get("namespace", ""))
    if present is None:
        raise error
    present["apiVersion"], present["kind"] = kind.api_version, kind.kind
    if kind.kind != "Namespace" and fingerprint(present) != fingerprint(body):
        raise error
    return present


def in_order(
    ranks: t.Iterable[int], jobs: t.Callable[[int], t.Iterable[J]], write: t.Callable[[J], t.Any], workers: int
) -> t.Iterator[Answer[J, t.Any]]:
    """Write rank by rank, those of one rank at the same time. A failure stops the ranks behind it, not its neighbours."""
    for rank in ranks:
        failed = False
        for answer in flow(jobs(rank), write, workers):
            failed = failed or answer.error is not None
            yield answer
        if failed:
            return
