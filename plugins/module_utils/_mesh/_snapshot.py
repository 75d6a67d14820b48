# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Copies of objects, exact to the byte: snapshot files, and single objects kept before they are changed or deleted.

A snapshot is ``<state_dir>/<migration>/snapshots/<time>-<hash>.json`` (0600):
``{"format": 1, "migration", "time", "sha256", "content": {"objects": {"source/ns/Kind/name": object}, "clb": {id: configuration},
"secrets": [names only], ...}}``; sha256 is that of the content in canonical JSON. A Secret's data is never read.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import datetime
import hashlib
import json
import os
import pathlib
import typing as t
import zlib

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal, make_private
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed, scrub

Object = dict[str, t.Any]
FORMAT = 1
# Larger objects are packed for the journal's ConfigMap (1 MiB for all); those that are larger still are kept by their file alone.
_INLINE = 30_000
# Assigned by the server, or set by others while nothing that matters changed.
_VOLATILE = ("managedFields", "resourceVersion", "generation", "selfLink")
_SERVER = (
    *_VOLATILE,
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "ownerReferences",
)


def canonical(value: t.Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def sha256(value: t.Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def stable(obj: Object) -> Object:
    """The object as it goes into a snapshot: without what moves by itself (status, but for a Service's address)."""
    if obj.get("kind") == "Secret":
        raise ValueError("a Secret never goes into a snapshot")
    # Not a deep copy: of thousands of objects it takes seconds, and nobody changes what is in a snapshot.
    fresh = {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key not in _VOLATILE}}
    if fresh.get("kind") != "Service":
        fresh.pop("status", None)
    return fresh


def creatable(obj: Object) -> Object:
    """The object as it can be created again: without what the server assigns."""
    fresh = copy.deepcopy(obj)
    for field in _SERVER:
        fresh["metadata"].pop(field, None)
    fresh.pop("status", None)
    return fresh


def save(path: pathlib.Path, data: bytes) -> None:
    """Write a file of mode 0600 whole or not at all, and read it back."""
    try:
        make_private(path.parent)
        half = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)
        again = path.read_bytes()
    except OSError as error:
        raise MigrationError(
            "A copy cannot be written, so nothing further is done",
            where=str(path),
            why=str(error),
            todo="make room or set another state_dir, then run again",
        ) from error
    if again != data:
        raise MigrationError("A copy cannot be read back as it was written", where=str(path), todo="check the disk of state_dir")


def load(path: pathlib.Path) -> Object:
    """Read a snapshot and prove that it is whole. Raises MigrationError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        right = document["format"] == FORMAT and document["sha256"] == sha256(document["content"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MigrationError("A snapshot cannot be read", where=str(path), why=str(error)) from error
    if not right:
        raise MigrationError("A snapshot is damaged", where=str(path), why="its content has not the hash that is written in it")
    return t.cast(Object, document)


def folder(journal: Journal) -> pathlib.Path:
    return journal.directory / "snapshots"


def files(journal: Journal) -> list[pathlib.Path]:
    """All snapshot files, oldest first."""
    place = folder(journal)
    return sorted(place.glob("*.json")) if place.is_dir() else []


def plan(content: Object, present: t.Mapping[str, str], place: pathlib.Path, *, begun: str = "", digest: str = "") -> Plan:
    """One change when no snapshot has this very content. ``present``: sha256 -> file of the whole snapshots. ``digest``: of the
    content, when it is known: of thousands of objects that takes long.

    ``begun``: the snapshot from before the migration's first change. What is different since then is its own doing, so that
    one stays the newest.
    """
    wanted, made = digest or sha256(content), Plan()
    if wanted in present:
        made.notes.append(f"this state is saved already, in {present[wanted]}")
        return made
    if begun:
        made.notes.append(f"the migration is under way; the state of before it is in {begun}")
        return made
    summary = {"objects": sorted(content["objects"]), "clb": sorted(content.get("clb") or {}), "sha256": wanted}
    made.add("save", str(place), None, summary, "the way back starts from here")
    return made


def whole_ones(journal: Journal) -> tuple[dict[str, str], list[str]]:
    """``sha256 -> file`` of all whole snapshots, and what is wrong with the others."""
    good: dict[str, str] = {}
    bad: list[str] = []
    for path in files(journal):
        try:
            good[load(path)["sha256"]] = str(path)
        except MigrationError as error:
            bad.append(error.message)
    return good, bad


def write(journal: Journal, content: Object) -> pathlib.Path:
    """Save a snapshot, verify it by reading, and note it in the journal, whose mirror tells fresh containers of it."""
    now = datetime.datetime.now(tz=datetime.timezone.utc)  # noqa: UP017 (Python 3.9)
    digest = sha256(content)
    document: Object = {"format": FORMAT, "migration": journal.migration, "time": now.isoformat(timespec="seconds")}
    document.update(sha256=digest, content=content)
    path = folder(journal) / f"{now:%Y%m%dT%H%M%SZ}-{digest[:12]}.json"
    save(path, json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True, default=str).encode())
    load(path)
    # Without Istio's configuration: nobody asks for it, and the mirror has no room for thousands.
    those = {key: obj for key, obj in content["objects"].items() if "istio.io/" not in obj["apiVersion"]}
    uids = {key: obj["metadata"].get("uid", "") for key, obj in those.items()}
    journal.keep_original(f"snapshot/{digest[:12]}", {"file": str(path), "sha256": digest, "uids": uids})
    return path


def begun(journal: Journal, gateways: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """The newest whole snapshot that has the source gateways, when the migration has changed something since; or nothing."""
    if not any(not key.startswith("snapshot/") for key in journal.originals()):
        return ""
    wanted = {f"source/{item['namespace']}/Service/{item['source_service']}" for item in gateways}
    for path in reversed(files(journal)):
        try:
            if wanted <= set(load(path)["content"]["objects"]):
                return str(path)
        except MigrationError:
            continue
    return ""


def holds(journal: Journal, key: str, uid: str) -> str:
    """The file of a snapshot that has this very object, or nothing. Files are proven whole; the mirror's word counts too."""
    for path in reversed(files(journal)):
        try:
            found = load(path)["content"]["objects"].get(key)
        except MigrationError:
            continue
        if found and found["metadata"].get("uid") == uid:
            return str(path)
    for kept in journal.originals("snapshot/").values():
        if kept.get("uids", {}).get(key) == uid:
            return str(kept.get("file"))
    return ""


# -- single objects ----------------------------------------------------------------------------------------------


def keep(journal: Journal, key: str, obj: Object, *, anew: bool = False) -> None:
    """Keep one object exactly, before it is changed or deleted. The first copy of a key stays, unless ``anew`` says that it is of
    an earlier life of this object.

    The file is exact. The journal holds the object too, so that a fresh container can bring it back, unless it is large
    or looks as if it held a secret, by names or by values: then ``journal.withheld`` says so.
    """
    if journal.original(key) is not None and not anew:
        return
    digest = sha256(obj)
    path = journal.directory / "objects" / f"{digest}.json"
    save(path, canonical(obj))
    clean = scrub(obj) == obj and concealed(obj) == obj
    if not clean:
        journal.withheld.append(
            f"{key}: it looks as if it held a secret, which a journal may not have, so its copy is only in {path}; the way back "
            "needs this file (the same state_dir), or the archive of a backup"
        )
    entry: Object = {"sha256": digest, "object": obj if clean and len(canonical(obj)) < _INLINE else None}
    if clean and entry["object"] is None:
        packed = base64.b64encode(zlib.compress(canonical(obj), 9)).decode()
        entry.update({"packed": packed} if len(packed) < 2 * _INLINE else {})
    journal.keep_originals({key: entry}, anew=anew)


def retired_prefix(namespace: str, service: str) -> str:
    """Under these keys of the journal are the objects of a gateway that was retired: ``<prefix><Kind>/<name>``."""
    return f"source/{namespace}/Service/{service}/retired/"


def kept(journal: Journal, key: str) -> Object | None:
    """The object of ``keep``, proven by its hash; None when nothing was kept. Raises MigrationError when it is lost."""
    entry = journal.original(key)
    if entry is None:
        return None
    obj = entry.get("object")
    if obj is None and entry.get("packed"):
        with contextlib.suppress(zlib.error, ValueError):  # damaged: there is the file
            obj = json.loads(zlib.decompress(base64.b64decode(entry["packed"])))
    path = journal.directory / "objects" / f"{entry['sha256']}.json"
    if obj is None:
        try:
            obj = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MigrationError(
                "The copy of an object is not here",
                where=str(path),
                why=str(error),
                todo="run where the copy was made, or with the same state_dir: this object is kept in a file only (large, or "
                "like a secret); or bring it back from the archive of a backup (mesh_restore), then run again",
            ) from error
    if sha256(obj) != entry["sha256"]:
        raise MigrationError("The copy of an object is damaged", where=str(path), why="its hash is another one")
    return t.cast(Object, obj)
