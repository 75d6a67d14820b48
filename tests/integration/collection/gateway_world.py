# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared lab as the modules of the gateways see it: their logic called as Ansible calls it, and everything taken back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._audit import _preflight
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import (
    _config_run,
    _gateway_run,
    _retire_run,
    _snapshot_run,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_module import clb_reuse
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._weight_module import clb_weight
from lab import net
from lab.demo.stage import Stage, differences
from lab.kube import Api, KubeError, path_of
from lab.state import Lab
from tests.integration.ccm.world import until

Object = dict[str, Any]
NAMESPACE, SOURCE, TARGET = "istio-system", "istio-ingressgateway", "ingressgateway-asm"
DEFAULTS: dict[str, Object] = {
    "asm": {"state": "present", "cluster_id": None, "overrides": {}, "drain_seconds": 1.0},
    "config": {name: option.get("default") for name, option in _config_run.config_spec().items()},
    "snapshot": {"refresh": False},
    "retire": {"state": "retired", "drain_seconds": 1.0},
    "reuse": {"state": "present"},
    "preflight": {"steps": [1, 50], "cluster_id": None, "fail_on": "error"},
}
LOGIC: dict[str, Callable[[Any, bool], Outcome]] = {
    "asm": _gateway_run.run_module,
    "config": _config_run.run_module,
    "snapshot": _snapshot_run.run_module,
    "retire": _retire_run.run_module,
    "preflight": _preflight.run_module,
    "reuse": clb_reuse,
    "weight": clb_weight,
}


@dataclasses.dataclass
class Gateways:
    """See the module's docstring."""

    stage: Stage
    folder: Path
    migration: str

    def params(self, module: str, **over: Any) -> Object:
        env = self.stage.env
        return {
            "source": {"kubeconfig": env["LAB_ACK_KUBECONFIG"], "cluster_uid": env["LAB_ACK_UID"], "request_timeout": 10},
            "target": {"kubeconfig": env["LAB_ASM_KUBECONFIG"], "cluster_uid": env["LAB_ASM_UID"], "request_timeout": 10},
            "alibaba": {
                "region": env["ALIBABA_CLOUD_REGION_ID"],
                "access_key_id": env["ALIBABA_CLOUD_ACCESS_KEY_ID"],
                "access_key_secret": env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
                "slb_endpoint": env["ALIBABA_CLOUD_SLB_ENDPOINT"],
                "protocol": "http",
                "request_timeout": 10,
                "attempts": 8,
            },
            "migration": self.migration,
            "state_dir": str(self.folder / "state"),
            "wait_timeout": 90.0,
            "ccm_version": env["LAB_CCM_VERSION"],
            "gateways": [
                {"namespace": NAMESPACE, "source_service": SOURCE, "target_gateway": TARGET, "load_balancer_id": None},
            ],
            **DEFAULTS.get(module, {}),
            **over,
        }

    def call(self, module: str, check: bool = False, **over: Any) -> Outcome:
        """Raises MigrationError as the module would fail."""
        outcome = LOGIC[module](self.params(module, **over), check)
        if outcome.failed is not None:
            raise outcome.failed
        return outcome

    def answer(self, module: str, **over: Any) -> Outcome:
        """The Outcome also of a module that fails with an answer for each item."""
        return LOGIC[module](self.params(module, **over), False)

    def refused(self, module: str, **over: Any) -> MigrationError:
        """The error of a call that must change nothing."""
        before = self.stage.world()
        with pytest.raises(MigrationError) as caught:
            self.call(module, **over)
        assert caught.value.done == [], caught.value.message
        assert not differences(before, self.stage.world()), caught.value.message
        return caught.value

    # -- what is there -------------------------------------------------------------------------------------------

    @property
    def ack(self) -> Api:
        return self.stage.ack

    @property
    def asm(self) -> Api:
        return self.stage.asm

    def service(self, name: str = SOURCE) -> Object | None:
        return self.ack.find(path_of("v1", "services", NAMESPACE, name))

    def gateway_path(self) -> str:
        return path_of("istio.alibabacloud.com/v1beta1", "istiogateways", NAMESPACE, TARGET)

    def listeners(self) -> Object:
        """Listeners of the load balancer, without what the cloud counts."""
        balancer = self.stage.cloud("state")["load_balancers"][self.stage.env["LAB_CLB_ID"]]
        return json.loads(json.dumps(balancer["listeners"]))

    def writes(self, since: int) -> list[str]:
        """Actions of the cloud's API since then that were not only reading."""
        calls = self.stage.cloud("calls")["calls"][since:]
        return [call["action"] for call in calls if not call["action"].startswith(("Describe", "List"))]

    def unlike(self, before: Object) -> list[str]:
        """What is not as it was. A Service that was retired and came back has another UID, which is what the CCM's tag says."""
        lines = self.stage.comparable(before, self.stage.world())
        return [line for line in lines if "/tags/kubernetes.do.not.delete" not in line]

    # -- the way back --------------------------------------------------------------------------------------------

    def undo(self) -> None:
        """The rollback of the role, module by module."""
        self.call("retire", state="restored")
        if self.asm.find(self.gateway_path()) is not None:
            self.call("weight", share=0)
        self.call("asm", state="absent")
        self.call("config", state="absent")
        self.call("reuse", state="absent")


@contextmanager
def gateways(lab: Lab, folder: Path, migration: str) -> Iterator[Gateways]:
    """Inside the lab's cloud. What a test leaves behind is taken back, and what then still is there fails the test."""
    with net.inside(lab):
        stage = Stage(lab, folder, migration)
        one = Gateways(stage, folder, migration)
        before = stage.world()
        try:
            yield one
        finally:
            stage.lift_faults()
            if differences(before, stage.world()):
                one.undo()
            left = one.unlike(before)
            try:
                stage.ack.delete(path_of("v1", "configmaps", NAMESPACE, f"servicemesh-migration-{migration}"))
            except KubeError as error:
                if error.status != 404:
                    raise
            assert not left, "\n".join(left)


@contextmanager
def no_routes(asm: Api) -> Iterator[None]:
    """The target's API server takes no VirtualService with a name."""
    root = path_of("admissionregistration.k8s.io/v1", "validatingadmissionpolicies")
    binds = path_of("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings")
    rule = {"apiGroups": ["networking.istio.io"], "apiVersions": ["*"], "operations": ["*"], "resources": ["virtualservices"]}
    policy = {
        "metadata": {"name": "test-forbidden"},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "object.metadata.name == ''", "message": "no routes today"}],
        },
    }
    binding = {"metadata": {"name": "test-forbidden"}, "spec": {"policyName": "test-forbidden", "validationActions": ["Deny"]}}
    asm.create(root, policy)
    try:
        asm.create(binds, binding)
        until("the policy works", lambda: _denied(asm))
        yield
    finally:
        asm.delete(f"{binds}/test-forbidden")
        asm.delete(f"{root}/test-forbidden")
        until("the policy is gone", lambda: not _denied(asm))


def _denied(api: Api) -> bool:
    body = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "x"}, "spec": {"hosts": ["x"]}}
    try:
        api.request("POST", path_of("networking.istio.io/v1", "virtualservices", "default"), body, {"dryRun": "All"})
    except KubeError as error:
        return "no routes today" in error.message
    return False
