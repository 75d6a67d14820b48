# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What does not fit a target's schemas is told with its path, a suggestion and no value; so is what istioctl finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_run import rewrite_spec, run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_schema import Schemas, analyze
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_yaml import load_text
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

Object = dict[str, Any]
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: virtualservices.networking.istio.io}
spec:
  group: networking.istio.io
  names: {kind: VirtualService, plural: virtualservices}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            properties:
              hosts: {type: array, items: {type: string, maxLength: 20}, minItems: 1}
              retries: {type: integer, minimum: 0, exclusiveMinimum: true}
              mode: {type: string, enum: [A, B], nullable: true}
              port: {x-kubernetes-int-or-string: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
              labels: {type: object, additionalProperties: {type: string}}
              route:
                type: object
                properties: {destination: {type: object, properties: {host: {type: string}}, required: [host]}}
              exact: {type: string}
              prefix: {type: string}
            anyOf: [{properties: {prefix: {enum: [a, b]}}}, {properties: {prefix: {maxLength: 1}}}]
            oneOf: [{not: {anyOf: [{required: [exact]}, {required: [prefix]}]}}, {required: [exact]}, {required: [prefix]}]
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
  - {name: v1alpha3, served: false, schema: {openAPIV3Schema: {type: object}}}
"""


@pytest.fixture
def schemas() -> Schemas:
    return Schemas(load_text(CRD, "crd"))


def vs(spec: Any, api: str = "networking.istio.io/v1", kind: str = "VirtualService") -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"hosts": ["a"], "mode": "A", "port": "http", "free": {"x": 1, "a": "b"}, "labels": {"any": "x"}}, []),
        ({"hosts": ["a"], "mode": None, "port": 80, "retries": None}, []),
        ({"host": ["a"]}, ["spec.host: the schema has no such field; did you mean hosts?"]),
        ({"route": {"destnation": {}}}, ["spec.route.destnation: the schema has no such field; did you mean destination?"]),
        ({"route": {"destination": {}}}, ["spec.route.destination.host: it is required"]),
        ({"hosts": "planted"}, ["spec.hosts: array is needed"]),
        ({"hosts": [1]}, ["spec.hosts[0]: string is needed"]),
        ({"hosts": ["planted-planted-planted"]}, ["spec.hosts[0]: maxLength 20 is not kept"]),
        ({"hosts": []}, ["spec.hosts: minItems 1 is not kept"]),
        ({"mode": "planted"}, ["spec.mode: it is one of A, B, None"]),
        ({"retries": 0}, ["spec.retries: exclusiveMinimum 0 is not kept"]),
        ({"port": True}, ["spec.port: integer or string is needed"]),
        ({"labels": {"a": 1}}, ["spec.labels.a: string is needed"]),
        ({"exact": "a", "prefix": "b"}, ["spec: it needs exactly one of exact, prefix"]),
        (None, ["spec: it is required"]),
    ],
)
def test_objects_against_a_schema(spec: Any, wanted: list[str], schemas: Schemas) -> None:
    assert schemas.check(vs(spec)) == wanted


def test_kinds_and_versions(schemas: Schemas) -> None:
    assert schemas.check(vs({}, "networking.istio.io/v1alpha3")) == ["apiVersion: the target serves v1, not v1alpha3"]
    (line,) = schemas.check(vs({}, kind="VirtualServce")) or []
    assert "did you mean VirtualService?" in line
    assert schemas.check(vs({}, "example.com/v1")) is None
    with pytest.raises(MigrationError, match="No CustomResourceDefinition"):
        Schemas([])


# --- istioctl ---

FAKE = """#!/usr/bin/env python3
import json, os, sys
text = sys.stdin.read()
assert "KUBECONFIG" in os.environ and not os.path.exists(os.environ["KUBECONFIG"]) and "VAULT" not in os.environ
assert sys.argv[1:4] == ["analyze", "--use-kube=false", "--all-namespaces"] and sys.argv[-1] == "-"
if "latin" in text:  # a file name or a comment in another code, quoted as it is
    found = json.dumps([{"code": "IST0101", "message": "BYTES"}]) if "told" in text else "Error: BYTES"
    stream = sys.stdout if "told" in text else sys.stderr
    stream.buffer.write(found.encode().replace(b"BYTES", b"caf\\xe9 is wrong"))
    sys.exit(1)
if "broken" in text:
    sys.exit("Error: stdin is no YAML")
found = []
for part in text.split("---"):
    if "IST0101=*" not in sys.argv:
        kind = "EnvoyFilter" if "EnvoyFilter" in part else "VirtualService"
        found.append({"code": "IST0101", "level": "Error", "origin": kind + " store/a", "message": "it says planted"})
print(json.dumps(found))
"""


@pytest.fixture
def istioctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VAULT", "x")
    path = tmp_path / "istioctl"
    path.write_text(FAKE)
    path.chmod(0o700)
    return str(path)


def test_bytes_that_are_no_utf_8_end_no_analysis(istioctl: str) -> None:
    (found,) = analyze(istioctl, ["latin: told\n"])
    assert found["message"] == "caf\ufffd is wrong"
    with pytest.raises(MigrationError, match=r"gives no answer.*caf\ufffd is wrong"):
        analyze(istioctl, ["latin: 1\n"])


def test_messages_of_istioctl(istioctl: str) -> None:
    (found,) = analyze(istioctl, ["a: 1\n"])
    assert found == {"code": "IST0101", "level": "Error", "object": "VirtualService store/a", "message": "it says planted"}
    assert analyze(istioctl, ["a: 1\n"], ["IST0101"]) == []
    with pytest.raises(MigrationError, match="no YAML"):
        analyze(istioctl, ["broken"])
    with pytest.raises(MigrationError, match="cannot be run"):
        analyze(istioctl + "-missing", ["a: 1\n"])


# --- as the module does it ---


def outcome(tmp_path: Path, found: list[Object], **options: Any) -> Any:
    archive = tmp_path / "in.tar.zst"
    with Writer(archive) as writer:
        for obj in found:
            writer.add(obj)
        writer.close({})
    spec = {name: option.get("default") for name, option in rewrite_spec().items()}
    rules = {"rules": [{"kind": "namespace", "from": "shop", "to": "store"}]}
    given = {**spec, "archive": str(archive), "dest": str(tmp_path / "out.tar.zst"), "rules": rules, **options}
    return run_module(given, False)


def test_nothing_is_written_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "crds.yaml").write_text(CRD)
    crds = [str(tmp_path / "crds.yaml")]
    wrong = vs({"hosts": ["planted-planted-planted"], "host": "planted"})
    done = outcome(tmp_path, [wrong], crds=crds)
    assert done.failed is not None and "2 fields do not fit" in done.failed.message and "planted" not in done.failed.message
    assert done.result["counts"]["invalid"] == 2 and not (tmp_path / "out.tar.zst").exists()
    right = outcome(tmp_path, [vs({"hosts": ["a"]}), {**vs({}, "v1", "Service")}], crds=crds)
    assert right.failed is None and right.result["not_validated"] == {"/Service": 1}


def test_crds_from_an_archive(tmp_path: Path) -> None:
    with Writer(tmp_path / "crds.tar.zst") as writer:
        writer.add(load_text(CRD, "crd")[0])
        writer.close({})
    done = outcome(tmp_path, [vs({"host": "x"})], crds=[str(tmp_path / "crds.tar.zst")])
    assert done.failed is not None and "did you mean hosts?" in done.failed.message


def test_errors_of_istioctl_count_and_tell_no_secret(tmp_path: Path, istioctl: str) -> None:
    free = vs({"configPatches": [{"patch": {"value": "planted"}}]}, "networking.istio.io/v1alpha3", "EnvoyFilter")
    done = outcome(tmp_path, [vs({}), free], istioctl=istioctl)
    assert done.failed is not None and "istioctl finds 2 errors" in done.failed.message
    told = {message["object"]: message["message"] for message in done.result["analysis"]}
    assert told["VirtualService store/a"] == "it says planted" and "planted" not in told["EnvoyFilter store/a"]
    assert "planted" not in json.dumps(done.failed.as_dict())
    assert outcome(tmp_path, [vs({}), free], istioctl=istioctl, istioctl_ignore=["IST0101"]).failed is None
