# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster with Istio goes into an ASM instance of the lab and out again, with the modules as a user calls them.

LAB_THOROUGH=1 pytest tests/integration/collection/test_asm_migration.py
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.paths import environment
from lab.cluster import Cluster
from lab.kubeapi import path_of
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab
from tests.integration.conftest import LAB, NAME

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]
GROUP = "istio.alibabacloud.com"
OBJECT = path_of(f"{GROUP}/v1beta1", "asmmigratefromistios", None, "default")
NAMESPACE = path_of("v1", "namespaces", None, "istio-system")
CONFIG = path_of("v1", "configmaps", "istio-system", "istio")
AGENT = "PROXY_CONFIG_XDS_AGENT"


class User:
    """Calls modules where a user of the lab sits."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.ack, self.asm = Cluster(lab, "ack", 1), Cluster(lab, "asm", 2)
        self.kubeconfig = folder / "asm.kubeconfig"

    def run(self, module: str, *flags: str, **options: Any) -> dict[str, Any]:
        """The module's answer; `failed` is in it when it failed."""
        given: dict[str, Any] = {"migration": "asm-test", "state_dir": str(self.folder / "state"), "wait_timeout": 60}
        given["source"] = {"kubeconfig": str(self.ack.kubeconfig)}
        if module == "asm_migration":
            given["target"] = {"kubeconfig": str(self.kubeconfig)}
        else:
            given |= {"mesh_id": MESH_ID}
        name = f"servicemesh.migration.{module}"
        words = [
            LAB,
            "exec",
            "--",
            "ansible",
            "localhost",
            "-c",
            "local",
            "-m",
            name,
            "-a",
            json.dumps({**given, **options}),
            *flags,
        ]
        env = {**os.environ, **environment(), "LAB_NAME": NAME, "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=180, stdin=subprocess.DEVNULL)
        assert " => {" in done.stdout, done.stdout + done.stderr
        text = done.stdout[done.stdout.index(" => {") + 4 :]
        answer, _end = json.JSONDecoder().raw_decode(text)
        answer["failed"] = "FAILED! => {" in done.stdout
        print(json.dumps(answer, indent=1))
        return dict(answer)

    def mesh_config(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.ack.api.get(CONFIG)["data"]["mesh"]))


def until(check: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.1)
    return found


@pytest.fixture
def user(lab: Lab, tmp_path: Path) -> Iterator[User]:
    """The cluster is in no mesh, before and after."""
    one = User(lab, tmp_path)
    before = one.ack.api.get(CONFIG)["data"]["mesh"]
    try:
        yield one
    finally:
        left = one.run("asm_cluster", cluster_id=ACK_ID, state="absent")
        one.ack.api.patch(CONFIG, {"data": {"mesh": before}})
        until(lambda: one.asm.api.find(OBJECT) is None)
        one.ack.api.patch(NAMESPACE, {"metadata": {"labels": {"istio-injection": None}}})
        one.ack.api.delete(path_of("v1", "configmaps", "istio-system", "servicemesh-migration-asm-test"))
        assert not left.get("failed"), left["msg"]


def test_a_cluster_goes_into_the_mesh_and_the_migration_begins(user: User) -> None:
    refused = user.run("asm_cluster", cluster_id=ACK_ID)
    assert refused["failed"] and "ignore_namespace_check" in refused["msg"]
    wanted = {"cluster_id": ACK_ID, "ignore_namespace_check": True, "kubeconfig_path": str(user.kubeconfig)}
    assert user.run("asm_cluster", "--check", **wanted)["changed"] is True
    joined = user.run("asm_cluster", **wanted)
    assert joined["cluster"]["state"] == "running" and user.run("asm_cluster", **wanted)["changed"] is False
    assert stat.S_IMODE(user.kubeconfig.stat().st_mode) == 0o600
    assert user.kubeconfig.read_text() == user.asm.kubeconfig.read_text()

    until(lambda: (user.asm.api.find(OBJECT) or {}).get("status", {}).get("state") == "Init")
    assert user.ack.api.get(NAMESPACE)["metadata"]["labels"]["istio-injection"] == "disabled"
    jump = user.run("asm_migration", state="Migrating")
    assert jump["failed"] and "reach SetupIstioForMigrate first" in jump["msg"]

    # the vendor's spelling is dropped by the API server without a word; ours is kept
    user.asm.api.patch(OBJECT, {"spec": {"advancedOptions": {"disableIstioSystemLabelReconciliation": True}}})
    assert user.asm.api.get(OBJECT)["spec"]["advancedOptions"] == {"stopIstioSystemInjectionDisabling": False}
    kept = user.run("asm_migration", state="Init", keep_istio_system_injection=True)
    assert kept["changed"] and user.asm.api.get(OBJECT)["spec"]["advancedOptions"] == {"stopIstioSystemInjectionDisabling": True}

    assert AGENT not in user.mesh_config()["defaultConfig"]["proxyMetadata"]
    setup = user.run("asm_migration", state="SetupIstioForMigrate")
    assert setup["migration_state"]["state"] == "SetupIstioForMigrate"
    assert user.mesh_config()["defaultConfig"]["proxyMetadata"][AGENT] == "true"
    assert user.run("asm_migration", state="SetupIstioForMigrate")["changed"] is False


def test_what_asm_says_reaches_the_user_and_is_asked_for_again(user: User) -> None:
    joined = user.run("asm_cluster", cluster_id=ACK_ID, ignore_namespace_check=True, kubeconfig_path=str(user.kubeconfig))
    assert not joined.get("failed"), joined["msg"]
    until(lambda: user.asm.api.find(OBJECT))
    assert not user.run("asm_migration", state="SetupIstioForMigrate").get("failed")
    # no workload was restarted: seen by the module before it asks, and by ASM when it is asked all the same
    early = user.run("asm_migration", state="Migrating")
    assert early["failed"] and "knows one trust only" in early["msg"] and early["changed"] is False
    asked = user.run("asm_migration", state="Migrating", check_workloads=False)
    assert asked["failed"] and f"lack {AGENT}" in asked["msg"]
    again = user.run("asm_migration", state="Migrating", check_workloads=False)
    assert again["failed"] and user.asm.api.get(OBJECT)["spec"]["retryCounter"] == 1


def test_networks(user: User) -> None:
    joined = user.run("asm_cluster", cluster_id=ACK_ID, ignore_namespace_check=True)
    assert not joined.get("failed"), joined["msg"]
    wanted = {"networks": [{"cluster_id": ACK_ID, "network": "network-1", "enable_gateway": True}]}
    done = user.run("asm_network", **wanted)
    assert done["networks"][ACK_ID]["gateway_name"] and user.run("asm_network", **wanted)["changed"] is False
    assert user.run("asm_network", state="restored")["networks"][ACK_ID]["network"] == ""
