# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two API servers in memory with VirtualServices, proxies that follow them, and route_weight's logic over them."""

from __future__ import annotations

import copy
import typing as t
from pathlib import Path

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import Taken, shares_in, waits
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_run import World, read_options, run
from tests.unit.plugins.module_utils.traffic.stairs_world import FakeClock

Object = dict[str, t.Any]
OLD, NEW = "istio-egressgateway.istio-system.svc.cluster.local", "istio-asm-egress.istio-system.svc.cluster.local"
ROUTE: Object = {"namespace": "shop", "name": "cnn", "source": {"host": OLD}, "target": {"host": NEW}}
OPTIONS: Object = {
    "state": "moved",
    "routes": [ROUTE],
    "objects": [],
    "steps": [1, 50, 100],
    "hold": 5.0,
    "max_hold": None,
    "allow_down": False,
    "on_fail": "zero",
    "on_interrupt": "hold",
    "baseline_timeout": 30.0,
    "soak": 0.0,
    "max_pause": 600.0,
    "proof": "proxies",
    "proof_sample": 5,
    "drain_seconds": 10.0,
    "wait_timeout": 0.3,
    "gates": [],
    "allow_without_gates": True,
}


class Killed(BaseException):
    """kill -9: nothing in the code may catch it."""


def destination(host: str, weight: int | None = None, port: int = 80, **more: t.Any) -> Object:
    found: Object = {"destination": {"host": host, "port": {"number": port}}, **more}
    return found if weight is None else {**found, "weight": weight}


def virtual_service(*routes: Object, name: str = "cnn", **more: t.Any) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": ["edition.cnn.com"], "gateways": ["egress", "mesh"], "http": list(routes), **more},
    }


def cnn() -> Object:
    """As in the vendor's example: the mesh sends to the gateway, the gateway to the world."""
    inside = {
        "match": [{"gateways": ["mesh"], "port": 80}],
        "route": [destination(OLD, headers={"request": {"set": {"a": "b"}}})],
    }
    outside = {"match": [{"gateways": ["egress"], "port": 80}], "route": [destination("edition.cnn.com", 100)]}
    return virtual_service(inside, outside)


class Api:
    """What the logic asks of a Cluster. ``on_write`` may kill, fail or change something beside it."""

    host = "memory"

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict[tuple[str, str, str], Object] = {}
        self.writes: list[str] = []
        self.on_write: t.Callable[[Api, str], None] = lambda _api, _what: None
        self._version = 0

    def put(self, item: Object) -> Object:
        self._version += 1
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(self._version)
        item["metadata"].setdefault("uid", f"uid-{self._version}")
        self.items[item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]] = item
        return copy.deepcopy(item)

    def where(self, *_args: t.Any) -> str:
        return self.name

    def served(self, group: str) -> list[Object]:
        kinds = ("VirtualService", "ServiceEntry", "DestinationRule", "Gateway") if group == "networking.istio.io" else ()
        return [{"version": "v1", "kind": kind, "plural": kind.lower() + "s", "namespaced": True} for kind in kinds]

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return copy.deepcopy(self.items.get((kind.kind, namespace, name)))

    def list_all(self, kind: Kind, namespace: str = "", *, label_selector: str = "") -> t.Iterator[Object]:
        for key, item in sorted(self.items.items()):
            if key[0] == kind.kind and namespace in ("", key[1]):
                label, _equals, value = label_selector.partition("=")
                if not label or (item["metadata"].get("labels") or {}).get(label) == value:
                    yield copy.deepcopy(item)

    @staticmethod
    def _defaulted(body: Object) -> Object:
        """As a schema with a default stores it."""
        body = copy.deepcopy(body)
        if body["kind"] == "ServiceEntry":
            body["spec"].setdefault("location", "MESH_EXTERNAL")
        return body

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        self.on_write(self, what)

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False, validate: bool = True) -> Object:
        body = self._defaulted(body)
        if dry_run:
            return body
        made = self.put({**body, "kind": kind.kind})
        self._wrote(f"create {kind.kind} {body['metadata']['name']}")
        return made

    def replace(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        body = self._defaulted(body)
        if dry_run:
            return body
        made = self.put({**body, "kind": kind.kind})
        self._wrote(f"replace {kind.kind} {body['metadata']['name']}")
        return made

    def patch(self, kind: Kind, name: str, namespace: str, body: Object, **_more: t.Any) -> Object:
        if kind.kind == "VirtualService":
            self._wrote(f"before {kind.kind} {name}")
        item = self.items[kind.kind, namespace, name]
        wanted = (body.get("metadata") or {}).get("resourceVersion")
        if wanted and wanted != item["metadata"]["resourceVersion"]:
            raise MigrationError("conflict", details={"status": 409})
        made = self.put(_merged(item, body))
        if kind.kind == "VirtualService":
            self._wrote(f"patch {kind.kind} {name}")
        return made

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "") -> None:
        item = self.items.pop((kind.kind, namespace, name))
        assert item["metadata"]["uid"] == uid
        self._wrote(f"delete {kind.kind} {name}")


def _merged(item: t.Any, patch: t.Any) -> t.Any:
    if not isinstance(patch, dict):
        return patch
    made = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def dump_of(obj: Object) -> Object:
    """What a proxy says of a VirtualService's HTTP routes; a destination with weight 0 is not sent to it."""
    meta, routes = obj["metadata"], []
    note = {"istio": {"config": f"/apis/networking.istio.io/v1/namespaces/{meta['namespace']}/virtual-service/{meta['name']}"}}
    for entry in obj["spec"].get("http") or []:
        clusters = []
        for weight, one in zip(_routes.weights_of(entry), entry["route"], strict=True):
            place = one["destination"]
            name = f"outbound|{place['port']['number']}|{place.get('subset', '')}|{fqdn(place['host'], meta['namespace'])}"
            clusters += [{"name": name, "weight": weight}] if weight else []
        action: Object = {"weighted_clusters": {"clusters": clusters}} if len(clusters) > 1 else {"cluster": clusters[0]["name"]}
        action["request_mirror_policies"] = [{"cluster": f"outbound|80||{NEW}"}]
        routes.append({"metadata": {"filter_metadata": note}, "route": action})
    return {"configs": [{"route_config": {"virtual_hosts": [{"routes": routes}]}}]}


class Followers:
    """One proxy for each mesh, which has what its API server had ``late`` questions ago."""

    def __init__(self, apis: dict[str, Api]) -> None:
        self._apis = apis
        self.late = 0
        self.asked = 0
        self.mute = False
        self.absent = False
        self.ignorant = 0  # so many questions until the new gateway has its routes
        self._seen: dict[str, list[Object]] = {}

    def forget(self) -> None:
        pass

    def can_ask(self, mesh: str, obj: Object) -> None:
        if self.mute:
            raise MigrationError("The proxies cannot be asked, so nothing is moved")

    def unaware(self, namespace: str, labels: Object, host: str, protocol: str) -> str:
        self.ignorant -= 1
        assert (namespace, labels, protocol) == ("istio-system", {"istio": "gw"}, "http")
        return f"it has no route for {host}" if self.ignorant >= 0 else ""

    def taken(self, mesh: str, obj: Object, pairs: t.Any, planned: t.Collection[float]) -> Taken:
        self.asked += 1
        name = obj["metadata"]["name"]
        history = self._seen.setdefault(mesh + name, [dump_of(cnn())])
        history.append(dump_of(self._apis[mesh].items["VirtualService", "shop", name]))
        shares = shares_in([history[max(0, len(history) - 1 - self.late)]], "shop", name, pairs)
        why = waits(shares, planned)
        if self.absent:
            return Taken()
        return Taken(1, bool(shares), shares, [f"proxy: {why}"] if why else [])


class Both:
    """Both meshes, a journal, and the gates of the test's making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apis = {"source": Api("source"), "target": Api("target")}
        self.clock = FakeClock()
        self.proxies: t.Any = Followers(self.apis)
        for name in (OLD, NEW):
            self.service(name.partition(".")[0])
        for api in self.apis.values():
            api.put(cnn())

    def service(self, name: str, pods: int = 1) -> None:
        meta = {"name": name, "namespace": "istio-system", "labels": {"kubernetes.io/service-name": name}}
        self.apis["source"].put(
            {"kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}], "selector": {"istio": "gw"}}}
        )
        slices = {"kind": "EndpointSlice", "metadata": meta, "endpoints": [{"conditions": {"ready": True}}] * pods}
        self.apis["source"].put(slices)

    def journal(self, check: bool = False) -> Journal:
        source = t.cast("t.Any", self.apis["source"])
        return Journal(str(self.folder), "shop", mirror=ConfigMapMirror(source, "shop"), enabled=not check)

    def run(self, *, check: bool = False, gates: t.Sequence[t.Any] = (), **options: t.Any) -> Outcome:
        wanted = read_options({**OPTIONS, **options})
        wanted.gates.extend(gates)
        world = World(t.cast("t.Any", self.apis), self.journal(check), self.clock, self.proxies)
        return run(wanted, world, check)

    def spec(self, mesh: str = "source", name: str = "cnn") -> Object:
        return t.cast(Object, self.apis[mesh].items["VirtualService", "shop", name]["spec"])

    def meta(self, mesh: str = "source", name: str = "cnn") -> Object:
        return t.cast(Object, self.apis[mesh].items["VirtualService", "shop", name]["metadata"])

    def weights(self, name: str = "cnn") -> list[list[int]]:
        """Of the first route, in both meshes."""
        return [_routes.weights_of(self.spec(mesh, name)["http"][0]) for mesh in self.apis]

    @property
    def writes(self) -> list[str]:
        return [f"{mesh}: {what}" for mesh, api in self.apis.items() for what in api.writes if not what.startswith("before")]

    def lose_disk(self) -> None:
        """A fresh container: only the mirror is left."""
        self.folder = self.folder / "fresh"
