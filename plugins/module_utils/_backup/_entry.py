# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One object of an archive: its line in the index, the member that holds it; and what stands for all of them. Pure."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import json.encoder

CLUSTER, PACKS = "_cluster", "packs/"
_quote = json.encoder.encode_basestring


@dataclasses.dataclass(frozen=True)
class Entry:
    """One object of an archive.

    :arg api_version: the version it was read in. :arg sha256: of the member's bytes. :arg size: of the member, in bytes.
    :arg uid, resource_version: of the object in the cluster when it was read; empty when it never was in one.
    :arg sealed: empty, ``age`` or ``vault``. :arg pack: the number of the pack that it is in; 0 for a member of its own.
    """

    api_version: str
    kind: str
    name: str
    sha256: str
    size: int
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    sealed: str = ""
    pack: int = 0

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def key(self) -> str:
        """``group/kind/namespace/name``: unique in an archive; the group of v1 is empty."""
        return f"{self.group}/{self.kind}/{self.namespace}/{self.name}"

    @property
    def where(self) -> str:
        """``namespace/kind/name`` for messages."""
        return "/".join(filter(None, (self.namespace, self.kind, self.name)))

    @property
    def path(self) -> str:
        """Its place. A name too long for a file system is cut, and told apart by its hash; it is whole in the index."""
        suffix = f".yaml.{self.sealed}" if self.sealed else ".yaml"
        stem = self.name
        if len(stem.encode()) + len(suffix) > 255:
            digest = hashlib.sha256(stem.encode()).hexdigest()[:32]
            stem = stem.encode()[: 255 - len(suffix) - 33].decode("utf-8", "ignore") + "~" + digest
        return f"{_folder(self.api_version, self.kind, self.namespace)}/{stem}{suffix}"

    @property
    def member(self) -> str:
        """The name of the member that holds it."""
        return f"{PACKS}{self.pack:06d}.yaml.{self.sealed}" if self.pack else self.path

    def line(self) -> str:
        """The entry as a line of the index: JSON, its keys sorted, without those that are empty."""
        made = f'{{"api_version":{_quote(self.api_version)},"kind":{_quote(self.kind)},"name":{_quote(self.name)},'
        made += f'"namespace":{_quote(self.namespace)},' if self.namespace else ""
        made += f'"pack":{self.pack},' if self.pack else ""
        made += f'"resource_version":{_quote(self.resource_version)},' if self.resource_version else ""
        made += f'"sealed":{_quote(self.sealed)},' if self.sealed else ""
        made += f'"sha256":{_quote(self.sha256)},"size":{self.size}'
        return made + (f',"uid":{_quote(self.uid)}}}\n' if self.uid else "}\n")


@functools.lru_cache(1000)
def _folder(api_version: str, kind: str, namespace: str) -> str:
    """Where objects of a kind and a namespace are."""
    return f"objects/{api_version.rpartition('/')[0] or 'core'}/{kind}/{namespace or CLUSTER}"


_fine: set[tuple[str, str, str]] = set()  # most objects are in the namespaces of others


def check_parts(api_version: str, kind: str, namespace: str, name: str) -> None:
    """Refuse names that are no parts of a path (Kubernetes forbids them too). Raises ValueError."""
    known = (api_version, kind, namespace)
    if known not in _fine:
        _check_part("group", api_version.replace("/", "", 1))
        _check_part("kind", kind)
        _check_part("namespace", namespace or "x")
        if len(_fine) < 10_000:
            _fine.add(known)
    _check_part("name", name)


def _check_part(what: str, part: str) -> None:
    if not part or part in (".", "..") or "/" in part or not part.isprintable():
        raise ValueError(f"its {what} cannot be part of a path")


class Content:
    """The hash of all objects together: the same for the same objects. Encryption gives other bytes each time, so an encrypted
    one is known by its version in the cluster."""

    def __init__(self) -> None:
        self._all = hashlib.sha256()
        self._parts: dict[str, hashlib._Hash] = {}

    def add(self, entry: Entry) -> None:
        line = f"{entry.key}\0{entry.uid + entry.resource_version if entry.sealed else entry.sha256}\n".encode()
        self._all.update(line)
        self._parts.setdefault(entry.sealed, hashlib.sha256()).update(line)

    @property
    def in_order(self) -> str:
        """With the order of the objects."""
        return self._all.hexdigest()

    @property
    def sha256(self) -> str:
        """Between objects in packs and others there is no order that would stay: packs come when they are full."""
        if "vault" not in self._parts or len(self._parts) == 1:
            return self.in_order
        parts = "".join(f"{sealed} {part.hexdigest()}\n" for sealed, part in sorted(self._parts.items()))
        return hashlib.sha256(parts.encode()).hexdigest()
