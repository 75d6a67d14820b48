# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One gateway on a load balancer that the CCM made, an IstioGateway beside it, and the modules' logic as Ansible calls it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_info import clb_info
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_module import clb_reuse
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._weight_module import clb_weight
from lab.kube import Api, Controller, KubeError, Watch, exponential, own_key, path_of
from tests.integration.ccm.cloud import SUITE_KEY
from tests.integration.ccm.implementation import REGION
from tests.integration.ccm.world import PREFIX, World, until

Object = dict[str, Any]
GROUP = "istio.alibabacloud.com"
_NUMBERS = itertools.count()

CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"istiogateways.{GROUP}"},
    "spec": {
        "group": GROUP,
        "names": {"kind": "IstioGateway", "plural": "istiogateways", "singular": "istiogateway"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def newest(test: Callable[..., None]) -> Callable[..., None]:
    """This test does not depend on the version of the CCM: it runs with the newest one."""
    test.VERSIONS = ("v2.14.0",)  # type: ignore[attr-defined]
    return test


class Gateways:
    """What ASM does with spec.serviceAnnotations: they become the annotations of Service istio-<name>."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._watch = Watch(api, self.path(), own_key)
        self._controller = Controller([self._watch], self._reconcile, backoff=exponential(0.02, 0.2), name="gateways")
        self.paused = False

    def start(self) -> None:
        try:
            self._api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CRD)
            self._api.create(path_of("v1", "namespaces"), {"metadata": {"name": "istio-system"}})
        except KubeError as error:
            if error.status != 409:
                raise
        until("the CRD is served", self._served)
        self._controller.start()

    def _served(self) -> bool:
        try:
            self._api.get(self.path())
            return True
        except KubeError:
            return False

    @staticmethod
    def path(namespace: str | None = None, name: str | None = None) -> str:
        return path_of(f"{GROUP}/v1beta1", "istiogateways", namespace, name)

    def stop(self) -> None:
        self._controller.stop()

    def _reconcile(self, key: str) -> float | None:
        gateway = self._watch.cache.get(key)
        if gateway is None:
            return None
        if self.paused:
            return 0.02
        namespace, name = key.split("/")
        path = path_of("v1", "services", namespace, f"istio-{name}")
        if self._api.find(path) is None:
            return 0.05
        self._api.patch(path, {"metadata": {"annotations": gateway["spec"].get("serviceAnnotations") or {}}})
        return None


class Killed(BaseException):
    """Stands for kill -9: nothing of the program runs after it."""


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Inside, the process dies at its ``number``-th line of the journal: odd ones after writing the line, even ones before.

    So a ``begin`` that is on disk may have no write behind it, and a write may have no ``done``.
    """
    lines: list[str] = []
    plain = Journal.write

    def write(self: Journal, event: str, **fields: Any) -> dict[str, Any]:
        lines.append(f"{event} {fields.get('action') or fields.get('key') or ''} {fields.get('target') or ''}")
        if len(lines) == number and number % 2 == 0:
            raise Killed
        entry = plain(self, event, **fields)
        if len(lines) == number:
            raise Killed
        return entry

    Journal.write = write  # type: ignore[method-assign]
    try:
        yield lines
    except Killed:
        pass
    finally:
        Journal.write = plain  # type: ignore[method-assign]


class Scene:
    """See the module's docstring. ``lb``: id of the load balancer; ``source``: the Service; ``target``: the IstioGateway."""

    PORTS = (15021, 80, 443)

    def __init__(self, world: World, kubeconfig: Path, controller: Gateways, folder: Path) -> None:
        self.world = world
        self.controller = controller
        number = next(_NUMBERS)
        self.source, self.target = f"gw{number}", f"asm{number}"
        self._kubeconfig = str(kubeconfig)
        self._folder = folder
        self.migration = f"m{number}"
        self.lb = ""

    # -- the stage -----------------------------------------------------------------------------------------------

    def up(self, nodes: int = 2, pods: int = 2, **more: Any) -> Scene:
        """The source gateway with its own load balancer."""
        self.nodes = self.world.nodes(nodes)
        self.lb = self.world.create(self.source, ports=self.PORTS, **more)
        self.endpoints(self.source, pods)
        self.rest()
        return self

    def endpoints(self, name: str, pods: int, ready: bool = True) -> None:
        number = int("".join(filter(str.isdigit, name)))
        base = 100 if name.startswith("istio-") else 10
        names = [f"n{index}" for index in range(len(self.nodes))]
        items = [(f"10.64.{index % len(names)}.{base + number % 50 + index}", names[index % len(names)]) for index in range(pods)]
        self.world.endpoints(name, items if ready else [], ports=self.PORTS)

    def rest(self) -> None:
        """Until the CCM writes no more."""
        last = -1
        for _ in range(200):
            now = self.world.cloud.mark()
            threading.Event().wait(0.08)
            if self.world.cloud.mark() == now == last:
                return
            last = self.world.cloud.mark()

    def gateway(self, weight: int = 0, pods: int = 2, local: bool = False, eni: bool = False, **notes: str) -> None:
        """The IstioGateway and what ASM makes of it, reusing the load balancer."""
        text = (self.world.get(self.source) or {})["metadata"]["annotations"][f"{PREFIX}vgroup-port"]
        values = {"id": self.lb, "vgroup-port": text, "weight": str(weight), "force-override-listeners": "false"}
        values.update({key.replace("_", "-"): value for key, value in notes.items()})
        name = f"istio-{self.target}"
        spec = {"serviceAnnotations": {PREFIX + key: value for key, value in values.items()}}
        self.world.api.create(
            self.controller.path(self.world.ns),
            {"apiVersion": f"{GROUP}/v1beta1", "kind": "IstioGateway", "metadata": {"name": self.target}, "spec": spec},
        )
        self.world.ensured(name, lambda: self.world.service(name, values, ports=self.PORTS, local=local, eni=eni))
        self.endpoints(name, pods)
        until("backends of the target", lambda: all(self.weights(name).values()))
        self.rest()

    def remove_gateway(self) -> None:
        """The IstioGateway and its Service are gone; the CCM has taken its backends out."""
        name = f"istio-{self.target}"
        self.world.api.delete(self.controller.path(self.world.ns, self.target))
        self.world.delete(name)
        until("the target's Service is gone", lambda: self.world.get(name) is None)
        self.rest()

    def close(self) -> None:
        self.controller.paused = False
        try:
            self.world.api.delete(self.controller.path(self.world.ns, self.target))
            self.world.api.delete(path_of("v1", "configmaps", "istio-system", f"servicemesh-migration-{self.migration}"))
        except KubeError as error:
            if error.status != 404:
                raise

    # -- the modules ---------------------------------------------------------------------------------------------

    def params(self, **over: Any) -> dict[str, Any]:
        gateway = {
            "namespace": self.world.ns,
            "source_service": self.source,
            "target_gateway": self.target,
            "load_balancer_id": None,
        }
        return {
            "source": {"kubeconfig": self._kubeconfig, "request_timeout": 10},
            "target": {"kubeconfig": self._kubeconfig, "request_timeout": 10},
            "alibaba": {
                "region": REGION,
                "access_key_id": SUITE_KEY,
                "access_key_secret": SUITE_KEY,
                "slb_endpoint": self.world.cloud.endpoint,
                "protocol": "http",
                "request_timeout": 10,
                "attempts": 8,
            },
            "migration": self.migration,
            "state_dir": str(self._folder / "state"),
            "wait_timeout": 20.0,
            "gateways": [gateway],
            "ccm_version": "",
            **over,
        }

    def reuse(self, state: str = "present", check: bool = False, **over: Any) -> Outcome:
        return self._call(clb_reuse, self.params(state=state, **over), check)

    def weight(self, share: Any, check: bool = False, **over: Any) -> Outcome:
        return self._call(clb_weight, self.params(share=share, **over), check)

    def info(self) -> Object:
        outcome = self._call(clb_info, {**self.params(), "load_balancer_ids": []}, False)
        return {**outcome.result["load_balancers"][0], "warnings": outcome.warnings}

    @staticmethod
    def _call(logic: Callable[[dict[str, Any], bool], Outcome], params: dict[str, Any], check: bool) -> Outcome:
        outcome = logic(params, check)
        if outcome.failed is not None:
            raise outcome.failed
        return outcome

    def refused(self, call: Callable[[], Outcome]) -> MigrationError:
        """The error of a call that must change nothing, neither in the cloud nor in the Service."""
        before = self.snapshot()
        with pytest.raises(MigrationError) as caught:
            call()
        assert not caught.value.done, caught.value.message
        assert self.snapshot() == before, caught.value.message
        return caught.value

    # -- what is there -------------------------------------------------------------------------------------------

    def weights(self, name: str) -> dict[str, list[int]]:
        """By group of the gateway's ports: the weights of a Service's backends."""
        return {
            group: self.world.weights(group, name)
            for group in [str(item["VServerGroupId"]) for item in self.world.listeners(self.lb).values()]
        }

    def one_weight(self, name: str) -> list[int]:
        """The weights, which must be the same in all groups."""
        found = {tuple(item) for item in self.weights(name).values()}
        assert len(found) == 1, found
        return list(found.pop())

    def snapshot(self) -> Object:
        """All that an undo must bring back: the Service, and the load balancer with everything in it."""
        service = self.world.get(self.source) or {}
        balancer = self.world.load_balancer(self.lb)
        balancer.pop("RequestId", None)
        balancer.pop("Tags", None)  # shown apart; their order has no meaning
        groups = self.world.groups(self.lb)
        return {
            "annotations": service["metadata"].get("annotations"),
            "labels": service["metadata"].get("labels"),
            "spec": service["spec"],
            "tags": self.world.tags(self.lb),
            "balancer": balancer,
            "groups": groups,
            "listeners": self.world.listeners(self.lb),
            "backends": {
                name: sorted(self.world.backends(group_id), key=lambda item: (item["ServerId"], item["Port"]))
                for name, group_id in groups.items()
            },
        }

    def writes(self, since: int) -> list[str]:
        """The writes of the CCM alone (its SDK puts the action into the query, the modules' into a header)."""
        found = self.world.cloud._admin("GET", f"calls?since={since}")["calls"]
        return [
            item["action"]
            for item in found
            if "Suite" not in item["parameters"]
            and item["style"] == "query"
            and not item["action"].startswith(("Describe", "List"))
        ]
