# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""CustomResourceDefinitions of an archive: those that the target lacks are made first, those that it has are never touched.

An object of a kind that is not served cannot be checked by the API server, so its definition is written before the dry run of
the others. A definition alone does nothing; one that is there belongs to the control plane of the target.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore import is_definition
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import fingerprint


class Definitions:
    """:arg wants: whether an object is restored; definitions of kinds that are not stay out."""

    def __init__(self, reader: Reader, cluster: Cluster, wants: t.Callable[[Entry], bool]) -> None:
        self.reader, self.cluster = reader, cluster
        self.kinds = {(entry.group, entry.kind) for entry in reader.entries() if wants(entry)}

    def bring(self, check_mode: bool) -> Plan:
        """Check all that are missing, then make them and wait until they are served. Returns what was (or would be) made."""
        made, bodies = Plan(), []
        for entry, obj in self.reader.objects(is_definition):
            if obj is None:
                raise MigrationError("A CustomResourceDefinition cannot be read", where=entry.where, todo="give the key")
            kind = (obj["spec"]["group"], obj["spec"]["names"]["kind"])
            if kind not in self.kinds:
                continue
            present = self.cluster.get(_scope.CRD, entry.name)
            if present is None:
                bodies.append(obj)
                after = {"group": kind[0], "kind": kind[1], "versions": [one["name"] for one in obj["spec"]["versions"]]}
                made.add("create", f"target/CustomResourceDefinition/{entry.name}", None, after, "the target lacks it")
            elif fingerprint({**present, "apiVersion": obj["apiVersion"], "kind": obj["kind"]}) != fingerprint(obj):
                made.notes.append(f"the target has its own CustomResourceDefinition {entry.name}: it is left as it is")
        for body in bodies:
            self._create(body, dry_run=True)
        if check_mode:
            return made
        for body in bodies:
            self._create(body, dry_run=False)
        for body in bodies:
            self._wait(body["spec"]["group"], body["spec"]["names"]["kind"])
        return made

    def _create(self, body: Object, *, dry_run: bool) -> None:
        try:
            self.cluster.create(_scope.CRD, body, dry_run=dry_run)
        except MigrationError as error:
            if error.details.get("status") != 409:  # somebody else made it meanwhile
                raise

    def _wait(self, group: str, kind: str) -> None:
        def served() -> bool | None:
            self.cluster.ask_again()
            return any(one["kind"] == kind for one in self.cluster.served(group)) or None

        wait_until(served, timeout=60, what="the API server serves a new kind", where=f"target/{group}/{kind}")
