# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, apply and verify of gateway_snapshot: everything that the migration of gateways changes or removes."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_read, _snapshot
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import closure
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import balancer_id, pairs_of, read_balancer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import istio_gateway_kind, read_gateway

Object = dict[str, t.Any]
SERVICE_ACCOUNT = kind_of("v1", "ServiceAccount")
ROLE = kind_of("rbac.authorization.k8s.io/v1", "Role")
ROLE_BINDING = kind_of("rbac.authorization.k8s.io/v1", "RoleBinding")


def observe(session: Session) -> Object:
    """The content of a snapshot, read from both API servers and the load balancers' API."""
    gateways = session.options["gateways"]
    content: Object = {
        "gateways": [dict(item) for item in gateways],
        "clusters": {side.name: {"uid": side.uid(), "host": side.host} for side in (session.source, session.target)},
        "objects": {},
        "clb": {},
        "secrets": [],
    }
    for objects, balancers in values(each(gateways, lambda gateway: _gateway(session, gateway))):
        content["objects"].update(objects)
        content["clb"].update(balancers)
    seen = _config_read.observe(session.source, session.target)
    workloads = _config_read.workloads(session.source, gateways, session.journal, {})
    selected = closure(seen.source, workloads)
    for item in selected:
        _add(content["objects"], "source", item.obj)
        if item.key in seen.target:
            _add(content["objects"], "target", seen.target[item.key])
    content["secrets"] = _config_read.credentials(session.source, selected, gateways)
    return content


def _add(objects: Object, side: str, obj: Object) -> None:
    kind, namespace, name = key_of(obj).split("/")
    objects[f"{side}/{namespace}/{kind}/{name}"] = _snapshot.stable(obj)


def _gateway(session: Session, gateway: Object) -> tuple[Object, Object]:
    """Objects and load balancer of one pair."""
    pair = pairs_of([gateway])[0]
    objects: Object = {}
    for name in (pair.source_service, pair.target_service):
        found = read_gateway(session.source, pair.namespace, name, name if name == pair.target_service else "")
        for obj in (found.service, found.deployment, found.hpa, *found.pdbs):
            if obj is not None:
                _add(objects, "source", obj)
        if name == pair.source_service and found.deployment is not None:
            account = found.deployment["spec"]["template"]["spec"].get("serviceAccountName", "default")
            for obj in _identity(session.source, pair.namespace, account):
                _add(objects, "source", obj)
    kind = istio_gateway_kind(session.target)
    made = session.target.get(kind, pair.target_gateway, pair.namespace) if kind else None
    if made is not None:
        _add(objects, "target", made)
    source = objects.get(f"source/{pair.namespace}/Service/{pair.source_service}")
    target = objects.get(f"source/{pair.namespace}/Service/{pair.target_service}")
    lb_id = balancer_id(session.clb, pair, source, target)
    balancer, listeners, groups = read_balancer(session.clb, lb_id)
    plain = {
        "load_balancer": dataclasses.asdict(balancer),
        "listeners": [dataclasses.asdict(item) for item in listeners],
        "groups": [dataclasses.asdict(item) for item in groups],
    }
    return objects, {lb_id: plain}


def _identity(cluster: Cluster, namespace: str, account: str) -> list[Object]:
    """The pods' ServiceAccount with the Roles that are bound to it."""
    found = [cluster.get(SERVICE_ACCOUNT, account, namespace)]
    for binding in cluster.list_all(ROLE_BINDING, namespace):
        if any(who.get("kind") == "ServiceAccount" and who.get("name") == account for who in binding.get("subjects") or []):
            found.append(binding)
            if binding["roleRef"]["kind"] == "Role":
                found.append(cluster.get(ROLE, binding["roleRef"]["name"], namespace))
    return [obj for obj in found if obj is not None]


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of gateway_snapshot. Raises MigrationError."""
    pairs_of(params["gateways"])
    session = open_session(params, check_mode)
    content = observe(session)
    present, damaged = _snapshot.whole_ones(session.journal)
    begun = "" if params["refresh"] else _snapshot.begun(session.journal, params["gateways"])
    digest = _snapshot.sha256(content)
    made = _snapshot.plan(content, present, _snapshot.folder(session.journal), begun=begun, digest=digest)
    result: Object = {
        "path": present.get(digest, begun),
        "begun": bool(begun),
        "sha256": digest,
        "objects": sorted(content["objects"]),
        "load_balancers": sorted(content["clb"]),
        "secrets": content["secrets"],
    }
    absent = [f"{item['namespace']}/{item['name']}" for item in content["secrets"] if not item["exists"]]
    if absent:
        made.notes.append(f"Secrets that Gateways name are not there: {', '.join(absent)}")
    if made.changed and not check_mode:
        result["path"] = str(_snapshot.write(session.journal, content))
        if digest not in _snapshot.whole_ones(session.journal)[0]:
            raise MigrationError("The snapshot is not there as it was written", where=result["path"], todo="check the disk")
    return Outcome(made, result, damaged)
