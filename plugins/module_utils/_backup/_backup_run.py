# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of mesh_backup: collect, write, prove, and keep an older archive when it holds the very same."""

from __future__ import annotations

import os
import pathlib
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._collect import Collector, Scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._scope import GROUPS
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Seal, seal_of
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
SUFFIX = ".tar.zst"


def key_spec() -> Object:
    """Options that encrypt and decrypt."""
    return {
        "age_identity": {"type": "str", "no_log": True},
        "age_identity_file": {"type": "path", "no_log": False},
        "vault_password": {"type": "str", "no_log": True},
        "vault_password_file": {"type": "path", "no_log": False},
    }


def backup_spec() -> Object:
    """Options of mesh_backup, beside the cluster and the keys."""
    return {
        "dest": {"type": "path", "required": True},
        "name": {"type": "str", "default": "mesh"},
        "namespaces": {"type": "list", "elements": "str", "default": []},
        "groups": {"type": "list", "elements": "str", "default": list(GROUPS)},
        "more_kinds": {"type": "list", "elements": "str", "default": []},
        "skip_kinds": {"type": "list", "elements": "str", "default": []},
        "services": {"type": "str", "choices": ["none", "referred", "all"], "default": "referred"},
        "workloads": {"type": "str", "choices": ["none", "referred", "all"], "default": "referred"},
        "secrets": {"type": "str", "choices": ["none", "referred", "all"], "default": "none"},
        "config_maps": {"type": "str", "choices": ["none", "all"], "default": "none"},
        "crds": {"type": "str", "choices": ["none", "referred"], "default": "referred"},
        "encrypt": {"type": "str", "choices": ["all", "secrets"], "default": "all"},
        "age_recipients": {"type": "list", "elements": "str", "default": []},
    }


def _scope(params: t.Mapping[str, t.Any]) -> Scope:
    return Scope(**{field: params[field] for field in Scope.__dataclass_fields__})


def _key(params: t.Mapping[str, t.Any]) -> Seal | None:
    seal = seal_of(params)
    if seal is None and params["secrets"] != "none":
        raise InputError(
            "Secrets are not saved without encryption",
            why=f"the option secrets is {params['secrets']}, and no key is given",
            todo="set age_recipients, vault_password or vault_password_file",
        )
    return seal


def _encryption(seal: Seal | None) -> Object:
    if seal is None:
        return {"method": "none"}
    return {"method": seal.name, "recipients": seal.recipients} if seal.name == "age" else {"method": seal.name}


def same_as_before(folder: pathlib.Path, name: str, digest: str, wanted: Object, seal: Seal | None) -> pathlib.Path | None:
    """A whole archive of the same objects, from the same cluster, encrypted in the same way, and for the same key."""
    for path in sorted(folder.glob(f"{name}-*-{digest[:12]}{SUFFIX}"), reverse=True):
        try:
            with Reader(path, seal) as reader:
                manifest = reader.manifest
                # who can read it is written in the manifest of one of age; which password a vault has, nowhere
                ours = seal is None or seal.name != "vault" or reader.opens()
        except MigrationError:
            continue
        if ours and manifest["content_sha256"] == digest and all(manifest.get(key) == value for key, value in wanted.items()):
            return path
    return None


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of mesh_backup. Raises MigrationError; then nothing new is in the folder."""
    if not _NAME.fullmatch(params["name"]):
        raise InputError(
            f"The name {params['name']!r} cannot be part of a file's name", todo="use small letters, digits, '-' and '.'"
        )
    seal, folder = _key(params), pathlib.Path(params["dest"]).expanduser()
    cluster = Cluster("source", params["source"])
    cluster.guard()
    encryption = _encryption(seal)
    half = None if check_mode else folder / f"{params['name']}.{os.getpid()}{SUFFIX}"
    made = Plan()
    with Writer(half, seal) as writer:
        collector = Collector(cluster, _scope(params), writer, params["encrypt"] if seal else "none", check_mode)
        facts = {**collector.run(), "encryption": encryption}
        alike = {"cluster": facts["cluster"], "scope": facts["scope"], "encrypt": facts["encrypt"], "encryption": encryption}
        digest = writer.content_sha256
        path = same_as_before(folder, params["name"], digest, alike, seal)
        summary = {"objects": writer.objects, "counts": dict(writer.counts), "content_sha256": digest}
        if path is None:
            stamp = facts["created"].replace("-", "").replace(":", "").replace("+0000", "Z")
            path = folder / f"{params['name']}-{stamp}-{digest[:12]}{SUFFIX}"
            made.add("save", str(path), None, summary, "the way back starts from here")
            if not check_mode:
                writer.path = path
                writer.close(facts)
        else:
            made.notes.append(f"this state is saved already, in {path}")
    result: Object = {
        **summary,
        "archive": str(path) if not (check_mode and made.changed) else "",
        "lists": facts["lists"],
        "left_out": facts["left_out"],
        "drift": facts["drift"],
        "sealed": dict(writer.sealed),
        "exposed": {"count": len(collector.exposed), "objects": collector.exposed[:50]},
    }
    return Outcome(made, result, _warnings(facts, collector))


def _warnings(facts: Object, collector: Collector) -> list[str]:
    found = []
    drift = facts["drift"]
    if drift["changes"]:
        kinds = ", ".join(f"{entry['kind']} ({entry['count']})" for entry in drift["kinds"])
        found.append(f"Objects changed while the backup was made, it holds their state from before: {kinds}")
    if drift["unknown"]:
        found.append(f"It is not known whether these changed while the backup was made: {', '.join(drift['unknown'])}")
    if collector.exposed:
        found.append(
            f"{len(collector.exposed)} objects look as if they held secrets, and no key is given: only the file's mode (0600) "
            "protects them. Set age_recipients or vault_password."
        )
    found += [f"{entry['kind']} is not in the backup: {entry['why']}" for entry in facts["left_out"] if not entry["count"]]
    return found
