# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for ASM run in this process, against the lab's own cloud on loopback and an API server in memory."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from tests.unit.lab.cloud.conftest import (  # noqa: F401  (fixtures)  # pylint: disable=unused-import
    SECRET,
    Endpoint,
    cloud,
    loop,
    start,
)

PACKAGE = "ansible_collections.servicemesh.migration.plugins.modules"
MESH, CLUSTER = "c0mesh", "c0ack"
KEY_DATA = "LS0tLS1CRUdJTiBQUklWQVRF"


@pytest.fixture(autouse=True)
def on_a_managed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings go into the result there; a test of an action plugin before this one made this process a controller."""
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)


def kubeconfig(server: str = "https://203.0.113.7:6443", key: str = KEY_DATA) -> str:
    """As ASM gives it: with the client's key in it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"client-key-data": key}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(config)


class Memory:
    """As much of the client of an API server as the modules use. ``writes``: what was changed; ``after``: then follows."""

    host = "https://memory"

    def __init__(self, name: str = "source") -> None:
        self.name = name
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.writes: list[tuple[str, str, Any]] = []
        self.kinds: list[dict[str, Any]] = []
        self.git_version = "v1.30.1-aliyun.1"
        self.after: Callable[[Memory], None] = lambda memory: None
        self.reads: Callable[[Memory], None] = lambda memory: None
        self.prune: Callable[[Any], Any] = lambda body: body

    def guard(self) -> None:
        return

    def where(self, kind: Kind | None = None, name: str = "", namespace: str = "") -> str:
        return "/".join(part for part in (self.name, namespace, kind.kind if kind else "", name) if part)

    def version(self) -> str:
        return self.git_version

    def served(self, group: str) -> list[dict[str, Any]]:
        return self.kinds

    def put(self, obj: Mapping[str, Any]) -> None:
        meta = obj["metadata"]
        stored = copy.deepcopy(dict(obj))
        stored["metadata"].setdefault("resourceVersion", "1")
        self.objects[obj["kind"], meta.get("namespace", ""), meta["name"]] = stored

    def get(self, kind: Kind, name: str, namespace: str = "") -> dict[str, Any] | None:
        self.reads(self)
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    def list_all(self, kind: Kind, namespace: str = "", **selectors: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(one) for key, one in self.objects.items() if key[0] == kind.kind]

    def create(self, kind: Kind, body: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.put({"kind": kind.kind, **body})
        self.writes.append(("create", self.where(kind, body["metadata"]["name"]), body))
        return body

    def patch(self, kind: Kind, name: str, namespace: str, body: Any, **more: Any) -> dict[str, Any]:
        key = (kind.kind, namespace, name)
        if key not in self.objects:
            raise MigrationError("not there", details={"status": 404})
        self.objects[key] = _merged(self.objects[key], self.prune(body))
        self.writes.append(("patch", self.where(kind, name, namespace), body))
        self.after(self)
        return copy.deepcopy(self.objects[key])


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, dict):
        return new
    base = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = _merged(base.get(key), value)
    return base


def pod(name: str, mesh: str = "", *, agent: bool = False, native: bool = False, phase: str = "Running") -> dict[str, Any]:
    """A pod with a sidecar of Istio, or of the mesh that is named."""
    env = [{"name": "ASM_ID", "value": mesh}] if mesh else []
    if agent:
        env.append({"name": "PROXY_CONFIG_XDS_AGENT", "value": "true"})
    proxy = {"name": "istio-proxy", "image": "proxyv2", "env": env}
    spec = {"containers": [{"name": "app"}], "initContainers": [proxy]} if native else {"containers": [proxy]}
    meta = {"name": name, "namespace": "shop"}
    return {"kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": phase}}


class Bench:
    """Runs modules; all that they were given points to the cloud of this test."""

    def __init__(self, cloud: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
        self.cloud, self.folder, self._capsys = cloud, tmp_path, capsys
        self.source, self.target = Memory("source"), Memory("target")
        self.put()

    def put(self, mesh: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None) -> None:
        """One mesh, and one cluster that has Istio; joins take no time. Both changed by what the case says."""
        meshes = {MESH: {"join_seconds": 0, "kubeconfig": kubeconfig(), **(mesh or {})}}
        self.cloud.lab("PUT", "/_lab/meshes", {"meshes": meshes, "clusters": {CLUSTER: {"forbidden": 4, **(cluster or {})}}})

    @property
    def writes(self) -> list[str]:
        """The writing actions that the cloud was asked for."""
        words = ("Add", "Remove", "Update")
        return [call["action"] for call in self.cloud.lab("GET", "/_lab/calls")["calls"] if call["action"].startswith(words)]

    @property
    def journal(self) -> str:
        file = self.folder / "state" / "shop" / "journal.jsonl"
        return file.read_text() if file.exists() else ""

    @property
    def alibaba(self) -> dict[str, Any]:
        """The option `alibaba` for the cloud of this test."""
        return {
            "region": "cn-hangzhou",
            "access_key_id": "full",
            "access_key_secret": SECRET,
            "asm_endpoint": f"127.0.0.1:{self.cloud.port}",
            "protocol": "http",
            "attempts": 3,
        }

    def run(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """What the module answers; whether it failed is in it. There is no key of anybody in it, and no traceback."""
        given: dict[str, Any] = {
            "migration": "shop",
            "state_dir": str(self.folder / "state"),
            "wait_timeout": 3,
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **({} if name == "asm_migration" else {"mesh_id": MESH, "alibaba": self.alibaba}),
            **options,
        }
        module = importlib.import_module(f"{PACKAGE}.{name}")
        self._capsys.readouterr()
        with patch_module_args({key: value for key, value in given.items() if value is not None}), pytest.raises(SystemExit):
            module.main()
        text = self._capsys.readouterr().out.strip().splitlines()[-1]
        answer: dict[str, Any] = json.loads(text)
        answer.pop("invocation", None)
        whole = json.dumps(answer) + self.journal
        assert KEY_DATA not in whole and SECRET not in whole and "Traceback" not in whole
        return answer


@pytest.fixture
def bench(
    cloud: Endpoint,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    made = Bench(cloud, tmp_path, capsys)
    room = "ansible_collections.servicemesh.migration.plugins.module_utils._mesh"
    clusters = {"source": made.source, "target": made.target}
    for file in ("_asm_session", "_asm_migration"):
        try:
            importlib.import_module(f"{room}.{file}")
        except ModuleNotFoundError:
            continue
        monkeypatch.setattr(f"{room}.{file}.Cluster", lambda name, options: clusters[name], raising=False)
    return made
