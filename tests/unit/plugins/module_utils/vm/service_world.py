# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of vm_service as Ansible gives them, and objects on which a decision is carried out in memory."""

from __future__ import annotations

import copy
import json
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE, Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_decide import (
    Decision,
    Observed,
    decide,
    original_key,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_plan import editor_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import PARTS, read_services, vm_service_spec

Object = dict[str, Any]
MIGRATION = "vms"
VERSIONS = [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]
WORKLOADS = [
    {"address": "192.0.2.1", "labels": {"version": "v1"}},
    {"address": "192.0.2.2", "labels": {"version": "v2"}},
]
PORT = {"port": 8080, "name": "http"}


def forecast(**more: Any) -> Object:
    return {"name": "forecast", "namespace": "vmns", "ports": [PORT], **more}


def two_versions(**more: Any) -> Object:
    return forecast(workloads=WORKLOADS, subsets=VERSIONS, **more)


def validated(*services: Object, **options: Any) -> Object:
    """With all defaults, as the module gets them."""
    found = ArgumentSpecValidator(vm_service_spec()).validate(json.loads(json.dumps({"services": services, **options})))
    assert not found.error_messages, found.error_messages
    return dict(found.validated_parameters)


class Memory:
    """Objects by key, in place of API servers; the originals that the journal would keep."""

    def __init__(self, *objects: Object) -> None:
        kinds: dict[str, Kind | None] = {
            name: kind_of("networking.istio.io/v1", name)
            for name in ("WorkloadEntry", "WorkloadGroup", "ServiceEntry", "DestinationRule", "VirtualService", "Gateway")
        }
        self.observed = Observed({}, {**kinds, "Service": SERVICE})
        for obj in objects:
            self.put(obj)

    def put(self, obj: Object) -> None:
        self.observed.objects[key_of(obj)] = copy.deepcopy(obj)

    def get(self, key: str) -> Object:
        return self.observed.objects[key]

    def spec(self, key: str) -> Object:
        found: Object = self.get(key)["spec"]
        return found

    def decide(self, *services: Object, present: bool = True, parts: tuple[str, ...] = PARTS) -> list[Decision]:
        given = validated(*services)["services"]
        read = read_services(given, present=present, parts=parts)
        return decide(read, self.observed, MIGRATION, present=present, parts=parts)

    def carry_out(self, *services: Object, **more: Any) -> list[Decision]:
        """Decide and write; problems fail the test."""
        made = self.decide(*services, **more)
        problems = [problem for decision in made for problem in decision.problems]
        assert not problems, problems
        for item in sorted((item for decision in made for item in decision.writes), key=lambda item: item.stage):
            key = original_key(item.service, item.key)
            if item.action == "delete":
                del self.observed.objects[item.key]
                continue
            if item.action == "edit" and not editor_of(self.get(item.key))[0]:
                self.observed.originals[key] = copy.deepcopy(self.get(item.key))
            if item.action == "restore":
                del self.observed.originals[key]
            assert item.body is not None
            self.put(item.body)
        return made

    def actions(self, *services: Object, **more: Any) -> dict[str, str]:
        return {item.key: item.action for decision in self.decide(*services, **more) for item in decision.items}

    def problems(self, *services: Object, **more: Any) -> str:
        return "; ".join(problem for decision in self.decide(*services, **more) for problem in decision.problems)


def istio(kind: str, name: str, spec: Object, namespace: str = "vmns", **meta: Any) -> Object:
    full = {"name": name, "namespace": namespace, "resourceVersion": "7", "uid": f"uid-{name}", **meta}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": full, "spec": spec}


def virtual_service(name: str = "own", **spec: Any) -> Object:
    """The user's own: two paths, the second to another host too."""
    http = [
        {"name": "admin", "match": [{"uri": {"prefix": "/admin"}}], "route": [{"destination": {"host": "admin"}}]},
        {"name": "all", "timeout": "3s", "route": [{"destination": {"host": "forecast", "port": {"number": 8080}}}]},
    ]
    return istio("VirtualService", name, {"hosts": ["forecast"], "http": http, **spec})
