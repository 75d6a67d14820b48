# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Objects against the CRDs of a target, offline, and against ``istioctl analyze``.

The structural schema of a CRD becomes a JSON schema for the Python package jsonschema. Fields that the schema does not know,
which an API server would drop without a word, are errors here, with a suggestion. Rules in CEL
(``x-kubernetes-validations``) are not run: the server-side dry run of mesh_restore does that. No message holds a value.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import near
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError

Object = dict[str, t.Any]
# fmt: off
_KEPT = (
    "type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems",
    "minProperties", "maxProperties", "multipleOf", "required",
)
# fmt: on
_SHOWN = 10


def jsonschema() -> t.Any:
    """The Python package of that name."""
    try:
        import jsonschema as found  # type: ignore[import-untyped]  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise InputError(
            "The Python package jsonschema is missing where this module runs",
            why=f"objects are to be checked against CRDs: {error}",
            todo="pip install jsonschema, or leave crds and crds_from_target out",
        ) from error
    return found


def converted(schema: t.Mapping[str, t.Any], structural: bool = True) -> Object:
    """A structural schema of Kubernetes as a JSON schema. ``structural`` is false inside of allOf, anyOf, oneOf and not."""
    made: Object = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in made:
        made["type"] = [*(made["type"] if isinstance(made["type"], list) else [made["type"]]), "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    for side in ("Minimum", "Maximum"):  # a flag in OpenAPI 3.0
        if schema.get(f"exclusive{side}") is True and side.lower() in made:
            made[f"exclusive{side}"] = made.pop(side.lower())
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            made[key] = [converted(item, False) for item in schema[key]]
    if "not" in schema:
        made["not"] = converted(schema["not"], False)
    if isinstance(schema.get("items"), dict):
        made["items"] = converted(schema["items"], structural)
    properties = {name: converted(item, structural) for name, item in (schema.get("properties") or {}).items()}
    if schema.get("x-kubernetes-embedded-resource"):
        properties = {"apiVersion": {}, "kind": {}, "metadata": {}, **properties}
    if properties:
        made["properties"] = properties
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        made["additionalProperties"] = converted(more, structural)
    elif structural and properties and more is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


class Schemas:
    """The schemas of a target's CRDs, by group, kind and version."""

    def __init__(self, crds: t.Iterable[t.Mapping[str, t.Any]]) -> None:
        self._library = jsonschema()
        self._schemas: dict[tuple[str, str], dict[str, Object | None]] = {}
        self._validators: dict[tuple[str, str, str], t.Any] = {}
        for crd in crds:
            if crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec.get("versions") or ():
                if version.get("served", True):
                    schema = (version.get("schema") or {}).get("openAPIV3Schema")
                    self._schemas.setdefault((spec["group"], spec["names"]["kind"]), {})[version["name"]] = schema
        if not self._schemas:
            raise InputError("No CustomResourceDefinition is found", todo="check crds")

    def check(self, obj: t.Mapping[str, t.Any]) -> list[str] | None:
        """``path: why`` of all that is wrong; None when no CRD knows the kind."""
        group, _slash, version = str(obj["apiVersion"]).rpartition("/")
        served = self._schemas.get((group, str(obj["kind"])))
        if served is None:
            if any(known == group for known, _kind in self._schemas):
                kinds = [kind for known, kind in self._schemas if known == group]
                return [f"kind: the target has no such kind in the group {group}{near(str(obj['kind']), kinds)}"]
            return None
        if version not in served:
            return [f"apiVersion: the target serves {', '.join(sorted(served))}, not {version}"]
        schema = served[version]
        if schema is None:
            return None
        key = (group, str(obj["kind"]), version)
        if key not in self._validators:
            made = converted(schema)
            made["properties"] = {**made.get("properties", {}), "apiVersion": {}, "kind": {}, "metadata": {}}
            self._validators[key] = self._library.Draft202012Validator(made)
        found: list[str] = []
        for error in self._validators[key].iter_errors(_without_nulls(obj)):
            found += _told(error)
            if len(found) >= _SHOWN:
                break
        return found[:_SHOWN]


def _without_nulls(value: t.Any) -> t.Any:
    """An API server leaves a null field out; one that a schema takes for a value is as good as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _told(error: t.Any) -> list[str]:
    """An error of jsonschema in words without values."""
    path = ""
    for key in error.absolute_path:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
    keyword, wanted = error.validator, error.validator_value
    lead = f"{path}." if path else ""
    if keyword == "additionalProperties":
        known = error.schema.get("properties") or {}
        return [f"{lead}{name}: the schema has no such field{near(name, known)}" for name in error.instance if name not in known]
    if keyword == "required":
        return [f"{lead}{name}: it is required" for name in wanted if name not in error.instance]
    if keyword in ("oneOf", "anyOf"):
        names = sorted({name for part in wanted for name in part.get("required", ())})
        return [f"{path}: it needs exactly one of {', '.join(names)}" if names else f"{path}: it fits no variant of the schema"]
    if keyword == "type":
        return [f"{path}: {' or '.join(wanted) if isinstance(wanted, list) else wanted} is needed"]
    if keyword == "enum":
        return [f"{path}: it is one of {', '.join(map(str, wanted))}"]
    return [f"{path}: {keyword} {wanted} is not kept" if isinstance(wanted, (int, str)) else f"{path}: {keyword} is not kept"]


# -- istioctl ------------------------------------------------------------------------------------------------------------


def analyze(program: str, texts: t.Iterable[str], ignore: t.Sequence[str] = (), timeout: float = 600) -> list[Object]:
    """Messages of ``istioctl analyze`` about these objects (``code``, ``level``, ``object``, ``message``). They go in by a pipe,
    so that nothing decrypted lies on a disk."""
    command = [program, "analyze", "--use-kube=false", "--all-namespaces", "--output", "json"]
    for code in ignore:
        command += ["--suppress", code if "=" in code else f"{code}=*"]
    with tempfile.TemporaryDirectory() as home:
        # no kubeconfig of this user: it shall not look at any cluster
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "KUBECONFIG": os.path.join(home, "none")}
        try:
            done = subprocess.run(
                [*command, "-"],
                input="---\n".join(texts),
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=env,
                timeout=timeout,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MigrationError("istioctl cannot be run", where=program, why=str(error), todo="check its path") from None
    start = done.stdout.find("[")
    try:
        found = json.JSONDecoder().raw_decode(done.stdout[start:])[0] if start >= 0 else []
    except ValueError:
        found = []
    if done.returncode != 0 and not found:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1][:300]
        raise MigrationError("istioctl analyze gives no answer", where=program, why=why, todo="check the option istioctl")
    return [
        {
            "code": str(item.get("code", "")),
            "level": str(item.get("level", "")),
            "object": str(item.get("origin", "")),
            "message": str(item.get("message", "")),
        }
        for item in found
    ]
