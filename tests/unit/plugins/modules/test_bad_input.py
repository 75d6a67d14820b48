# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input, module by module: one clear sentence for the operator, before anything is written, and never a traceback.

Nothing is served here: what needs a cluster or a load balancer to be found out is in tests/integration.
"""

from __future__ import annotations

import importlib
import json
import time
import types
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _retry

PACKAGE = "ansible_collections.servicemesh.migration.plugins.modules"
# Nobody listens on port 1 of this machine: the connection is refused at once.
NOWHERE = "https://127.0.0.1:1"
GATEWAYS = [{"target_gateway": "ingressgateway-asm"}]
CLOUD = {
    "region": "cn-hangzhou",
    "access_key_id": "id",
    "access_key_secret": "sesame-open",
    "slb_endpoint": "127.0.0.1:1",
    "protocol": "http",
    "attempts": 1,
}
CLUSTER = {"host": NOWHERE, "api_key": "token-of-nobody", "request_timeout": 2}
EVERYTHING = {"source": CLUSTER, "target": CLUSTER, "alibaba": CLOUD, "gateways": GATEWAYS, "migration": "shop"}
ROUTE = {"namespace": "shop", "name": "out", "source": {"host": "old"}, "target": {"host": "new"}}
VM = {"name": "forecast", "namespace": "vmns", "ports": [{"port": 8080}]}
MODULES: dict[str, dict[str, Any]] = {
    "clb_info": {"source": CLUSTER, "alibaba": CLOUD, "gateways": GATEWAYS},
    "clb_reuse": {},
    "clb_weight": {"share": 25},
    "asm_gateway": {},
    "mesh_config": {},
    "gateway_snapshot": {},
    "gateway_retire": {},
    "istio_uninstall": {},
    "route_weight": {"routes": [ROUTE], "gates": [], "allow_without_gates": True},
    "migration_preflight": {"steps": [1, 100]},
    "traffic_shift": {"steps": [1, 100], "gates": [], "allow_without_gates": True},
    "vm_service": {"services": [VM]},
}

#: Options of EVERYTHING that a module does not have.
UNKNOWN = {
    "clb_info": ("migration", "state_dir", "target"),
    "istio_uninstall": ("alibaba", "gateways"),
    "route_weight": ("alibaba", "gateways"),
    "vm_service": ("alibaba", "gateways"),
}


def options(name: str, state_dir: Path, changed: dict[str, Any]) -> dict[str, Any]:
    """All options that the module has, with those of the case in their place (None takes one away)."""
    given = {**EVERYTHING, "state_dir": str(state_dir), **MODULES[name], **changed}
    for word in UNKNOWN.get(name, ()):
        given.pop(word)
    return {key: value for key, value in given.items() if value is not None}


def failure(name: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the module in this process; it has to fail."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    with patch_module_args(given), pytest.raises(SystemExit) as end:
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert end.value.code == 1
    assert answer["failed"] is True
    text = json.dumps(answer)
    assert "Traceback" not in text
    assert "sesame-open" not in text.replace(json.dumps(answer.get("invocation", {})), "")
    assert "token-of-nobody" not in text
    return answer


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set on this machine may not stand in for what a case leaves out; and nobody waits between attempts."""
    monkeypatch.setattr(_retry, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: None))
    for name in ("KUBECONFIG", "HOST", "API_KEY", "CONTEXT"):
        monkeypatch.delenv(f"K8S_AUTH_{name}", raising=False)
        monkeypatch.delenv(f"K8S_AUTH_TARGET_{name}", raising=False)
    for name in ("REGION_ID", "SLB_ENDPOINT", "SLB_PROTOCOL", "ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "SECURITY_TOKEN"):
        monkeypatch.delenv(f"ALIBABA_CLOUD_{name}", raising=False)


WITH_CLUSTERS = sorted(MODULES)
WITH_STATE = sorted(set(MODULES) - {"clb_info"})


@pytest.mark.parametrize("name", WITH_CLUSTERS)
def test_a_cluster_is_never_guessed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = failure(name, options(name, tmp_path / "state", {"source": {}}), capsys)
    assert "not said which cluster source is" in answer["msg"]
    assert "K8S_AUTH_KUBECONFIG" in answer["msg"]
    assert "Nothing has been changed" in answer["msg"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", WITH_CLUSTERS)
def test_an_unreachable_api_server_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = failure(name, options(name, tmp_path / "state", {}), capsys)
    assert "127.0.0.1:1" in answer["msg"]
    assert answer["changed"] is False


@pytest.mark.parametrize("name", WITH_STATE)
@pytest.mark.parametrize("bad", ["", "Shop", "../etc", "a b", "x" * 64])
def test_a_migration_needs_a_usable_name(name: str, bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = failure(name, options(name, tmp_path / "state", {"migration": bad}), capsys)
    assert "migration" in answer["msg"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", WITH_CLUSTERS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "kubeconfig"),
        ("this: is: no yaml", "kubeconfig"),
        ("{}", "kubeconfig"),
    ],
    ids=["missing", "broken", "empty"],
)
def test_a_kubeconfig_that_cannot_be_used(
    name: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    answer = failure(name, options(name, tmp_path / "state", {"source": {"kubeconfig": str(file)}}), capsys)
    assert words in answer["msg"]
    assert str(file) in answer["msg"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("clb_weight", {"share": -1}, "it is not in 0..100"),
        ("clb_weight", {"share": 101}, "it is not in 0..100"),
        ("clb_weight", {"share": "ten"}, "ten"),
        ("clb_weight", {"gateways": []}, "gateway"),
        ("traffic_shift", {"steps": []}, "step"),
        ("traffic_shift", {"steps": [-1]}, "-1"),
        ("traffic_shift", {"steps": [1, 101]}, "101"),
        ("traffic_shift", {"steps": ["ten"]}, "ten"),
        ("traffic_shift", {"steps": [50, 25]}, "allow_down"),
        ("traffic_shift", {"hold": -1}, "hold"),
        ("traffic_shift", {"allow_without_gates": False}, "gates"),
        ("traffic_shift", {"gates": [{"probe": {"url": "ftp://x/"}}]}, "ftp"),
        ("traffic_shift", {"gates": [{"probe": {"url": "https://x/", "ca_cert": "/no/such/file"}}]}, "/no/such/file"),
        ("migration_preflight", {"steps": [1, 101]}, "101"),
        ("clb_reuse", {"ccm_version": "two"}, "two"),
        ("route_weight", {"routes": []}, "routes"),
        ("route_weight", {"routes": [{**ROUTE, "target": {"host": "old"}}]}, "one destination"),
        ("route_weight", {"steps": ["ten"]}, "ten"),
        ("route_weight", {"drain_seconds": -1}, "drain_seconds"),
        ("gateway_retire", {"drain_seconds": -1}, "drain_seconds"),
        ("gateway_retire", {"drain_seconds": "nan"}, "drain_seconds"),
        ("asm_gateway", {"drain_seconds": "inf"}, "drain_seconds"),
        ("route_weight", {"allow_without_gates": False}, "gates"),
        ("route_weight", {"objects": [{"mesh": "target", "definition": {"kind": "Secret"}}]}, "not whole"),
        ("istio_uninstall", {"quiet_seconds": -1}, "quiet_seconds"),
        ("istio_uninstall", {"dormant": "perhaps"}, "dormant"),
        ("vm_service", {"services": []}, "services is empty"),
        ("vm_service", {"services": [VM, VM]}, "vmns/forecast is there twice"),
        ("vm_service", {"services": [{**VM, "weights": {"v1": "most"}}]}, "Weights are whole numbers"),
        ("vm_service", {"settle_seconds": -1}, "settle_seconds"),
    ],
)
def test_values_that_cannot_be_right(
    name: str, changed: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = failure(name, options(name, tmp_path / "state", changed), capsys)
    assert words in answer["msg"]
    assert not (tmp_path / "state").exists()
