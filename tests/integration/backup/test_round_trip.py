# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was saved comes back with the same meaning, however odd it is; what is there already is left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._collect import Collector
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS as ISTIO
from tests.integration.backup.world import (
    CRD,
    NAMESPACE,
    SECRET,
    SERVICE,
    VIRTUAL_SERVICE,
    Object,
    World,
    backup,
    established,
    info,
    make,
    restore,
    secret,
    service,
    vs,
    wait,
)

ODD_YAML = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: anchors
  namespace: shop
  annotations: {note: "第一行\\r\\n第二行", twice: first, empty: ""}
spec:
  host: web
  subsets:
  - name: v1
    labels: &labels {version: v1, app: web}
    trafficPolicy: &policy
      connectionPool: {tcp: {connectTimeout: 1500ms}}
  - name: v2
    labels: *labels
    trafficPolicy:
      <<: *policy
"""


def odd_objects() -> list[Object]:
    """Everything odd that an API server takes."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "serviceAccountName": "web",
                    "containers": [{"name": "c", "image": "web:1", "env": [{"name": "A", "value": "1"}]}],
                },
            },
        },
    }
    large = [
        {"match": [{"uri": {"prefix": f"/{i}/" + "x" * 900}}], "route": [{"destination": {"host": "web"}}]} for i in range(950)
    ]
    finalized, owned, noted = vs("finalized"), vs("owned"), vs("noted")
    finalized["metadata"]["finalizers"] = ["example.com/wait"]
    noted["metadata"]["annotations"] = {"note": "中文 é 🎈\r\n\ttab \x7f \u2028 end ", "yes": "no", "n": "1.0"}
    filter_spec = {
        "workloadSelector": {"labels": {"app": "web"}},
        "configPatches": [
            {
                "applyTo": "HTTP_FILTER",
                "match": {"context": "ANY"},
                "patch": {
                    "operation": "INSERT_BEFORE",
                    "value": {
                        "unknownToEverybody": {"deep": [1, 1.5, None, True, "", {}, []]},
                        "inline_code": "function f()\n  x = 1\n\nend\n",
                    },
                },
            }
        ],
    }
    return [
        service("web"),
        service("headless", clusterIP="None"),
        service("outside", type="LoadBalancer"),
        service("unrelated"),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "shop"}},
        deployment,
        vs("n" * 200),
        vs("a.b-c.1"),
        vs("large", http=large),
        finalized,
        owned,
        noted,
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "free", "namespace": "shop"},
            "spec": filter_spec,
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "gw", "namespace": "shop"},
            "spec": {
                "selector": {"istio": "gw"},
                "servers": [
                    {
                        "hosts": ["*"],
                        "port": {"name": "https", "number": 443, "protocol": "HTTPS"},
                        "tls": {"mode": "SIMPLE", "credentialName": "cert"},
                    }
                ],
            },
        },
        secret("cert", "planted"),
        secret("other", "x"),
    ]


@pytest.fixture
def odd(source: World) -> World:
    make(source, *odd_objects())
    source.kubectl("create", "-f", "-", stdin=ODD_YAML)
    owner = source.cluster.get(VIRTUAL_SERVICE, "finalized", "shop")
    assert owner
    ref = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "name": "finalized", "uid": owner["metadata"]["uid"]}
    source.cluster.patch(VIRTUAL_SERVICE, "owned", "shop", {"metadata": {"ownerReferences": [ref]}})
    return source


def test_odd_objects_come_back_the_same(odd: World, tmp_path: Path) -> None:
    saved = backup(odd, tmp_path, secrets="referred", vault_password="pw").result
    assert info(odd, saved["archive"], vault_password="pw")["comparison"]["same"]
    odd.wipe()
    gone = info(odd, saved["archive"], vault_password="pw")["comparison"]["counts"]
    assert gone["missing"] == saved["objects"] - 1  # the namespace is still there
    done = restore(odd, saved["archive"], vault_password="pw")
    assert done.failed is None, done.failed
    assert done.result["written"] == saved["objects"] - 1
    after = info(odd, saved["archive"], vault_password="pw")["comparison"]
    assert after["same"], after["items"]
    owner, owned = (odd.cluster.get(VIRTUAL_SERVICE, name, "shop") for name in ("finalized", "owned"))
    assert owner and owned and owned["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    again = restore(odd, saved["archive"], vault_password="pw")
    assert not again.plan.changed and again.result["counts"]["same"] == saved["objects"]


def test_only_what_the_mesh_refers_to_is_saved(odd: World, tmp_path: Path) -> None:
    saved = backup(odd, tmp_path, secrets="referred", vault_password="pw").result
    names = [entry.key for entry in Reader(saved["archive"]).entries()]
    assert "/Service/shop/web" in names and "apps/Deployment/shop/web" in names and "/ServiceAccount/shop/web" in names
    assert "/Service/shop/unrelated" not in names
    assert "/Secret/shop/cert" in names and "/Secret/shop/other" not in names
    assert "/Namespace//shop" in names


def test_everything_is_saved_when_asked_but_what_the_cluster_makes(odd: World, tmp_path: Path) -> None:
    make(odd, secret("helm", "x", type="helm.sh/release.v1"))
    token = {"annotations": {"kubernetes.io/service-account.name": "web"}, "name": "tok", "namespace": "shop"}
    odd.cluster.create(
        SECRET, {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "metadata": token}
    )
    found = backup(odd, tmp_path, services="all", secrets="all", workloads="all", config_maps="all", vault_password="pw").result
    left = {name for entry in found["left_out"] for name in entry["names"]}
    assert {"default/kubernetes", "shop/helm", "shop/tok"} <= left
    assert found["counts"]["core/Secret"] == 2 and found["counts"]["core/Service"] == 4


def test_into_another_cluster_and_another_namespace(odd: World, target: World, tmp_path: Path) -> None:
    saved = backup(odd, tmp_path).result
    done = restore(target, saved["archive"], namespace_map={"shop": "rehearsal"})
    assert done.failed is None, done.failed
    there = {obj["metadata"]["name"] for obj in target.cluster.list_all(VIRTUAL_SERVICE, "rehearsal")}
    assert there == {"n" * 200, "a.b-c.1", "large", "finalized", "owned", "noted"}
    assert not restore(target, saved["archive"], namespace_map={"shop": "rehearsal"}).plan.changed
    namespace = target.cluster.get(NAMESPACE, "rehearsal")
    assert namespace and namespace["metadata"]["labels"]["istio-injection"] == "enabled"


def test_the_second_backup_of_the_same_makes_no_file(odd: World, tmp_path: Path) -> None:
    one = backup(odd, tmp_path)
    two = backup(odd, tmp_path)
    assert one.plan.changed and not two.plan.changed
    assert one.result["archive"] == two.result["archive"] and len(list(tmp_path.iterdir())) == 1
    make(odd, vs("new"))
    assert backup(odd, tmp_path, check=True).plan.changed and len(list(tmp_path.iterdir())) == 1
    assert backup(odd, tmp_path).result["archive"] != one.result["archive"]


def test_what_differs_is_refused_skipped_or_overwritten_with_a_copy(source: World, tmp_path: Path) -> None:
    make(source, vs("a"), vs("b"), vs("c"), service("web"))
    saved = backup(source, tmp_path).result["archive"]
    source.cluster.patch(VIRTUAL_SERVICE, "a", "shop", {"spec": {"hosts": ["changed.example.com"]}})
    source.remove(VIRTUAL_SERVICE, "b", "shop")
    make(source, vs("extra"))
    refused = restore(source, saved)
    assert refused.failed is not None and "VirtualService/shop/a" in refused.failed.message and not refused.plan.changed
    assert source.cluster.get(VIRTUAL_SERVICE, "b", "shop") is None
    skipped = restore(source, saved, existing="skip")
    assert skipped.failed is None and skipped.result["written"] == 1
    plan = restore(source, saved, check=True, existing="update", prune=True).plan.as_list()
    assert sorted((change["action"], change["target"].rpartition("/")[2]) for change in plan) == [
        ("delete", "extra"),
        ("update", "a"),
    ]
    done = restore(source, saved, existing="update", prune=True)
    assert done.result["written"] == 2 and info(source, saved)["comparison"]["same"]
    undone = restore(source, done.result["undo"], existing="update")
    assert undone.failed is None
    after = source.cluster.get(VIRTUAL_SERVICE, "a", "shop")
    assert after and after["spec"]["hosts"] == ["changed.example.com"]
    assert source.cluster.get(VIRTUAL_SERVICE, "extra", "shop") is not None


def test_what_the_server_gives_out_is_no_difference(source: World, target: World, tmp_path: Path) -> None:
    make(source, service("web", type="LoadBalancer"), vs("a"))
    saved = backup(source, tmp_path).result["archive"]
    make(target, service("web", type="LoadBalancer"), vs("a"))
    target.kubectl("-n", "shop", "annotate", "vs", "a", "kubectl.kubernetes.io/last-applied-configuration={}")
    assert restore(target, saved, check=True).result["counts"]["same"] == 3


def test_nothing_is_written_when_the_server_refuses_one_object(source: World, target: World, tmp_path: Path) -> None:
    make(source, service("web"), *(vs(f"v{i}") for i in range(30)))
    saved = backup(source, tmp_path).result["archive"]
    crd = target.cluster.get(
        kind_of("apiextensions.k8s.io/v1", "CustomResourceDefinition"), "virtualservices.networking.istio.io"
    )
    assert crd
    rule = {"rule": "self.metadata.name != 'v17'", "message": "seventeen is not allowed"}
    before = [version["schema"]["openAPIV3Schema"].get("x-kubernetes-validations") for version in crd["spec"]["versions"]]
    for version in crd["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = [rule]
    kind = kind_of("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    target.cluster.replace(kind, crd)
    try:
        import time

        for _try in range(50):
            done = restore(target, saved)
            if done.failed is not None:
                break
            target.wipe()
            time.sleep(0.2)
        assert done.failed is not None and "v17: " in done.failed.message and "seventeen" in done.failed.message
        assert list(target.cluster.list_all(VIRTUAL_SERVICE)) == [] and done.result["written"] == 0
        assert target.cluster.get(SERVICE, "web", "shop") is None
    finally:
        now = target.cluster.get(kind, "virtualservices.networking.istio.io")
        assert now
        for version, old in zip(now["spec"]["versions"], before, strict=True):
            version["schema"]["openAPIV3Schema"].pop("x-kubernetes-validations", None)
            if old:
                version["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = old
        target.cluster.replace(kind, now)


def test_without_the_key_it_is_told_and_nothing_is_written(source: World, tmp_path: Path) -> None:
    make(source, vs("a"), service("web"))
    saved = backup(source, tmp_path, vault_password="pw").result["archive"]
    source.wipe()
    done = restore(source, saved)
    assert done.failed is not None and "give the key" in done.failed.message
    with pytest.raises(MigrationError, match="password is another one"):
        restore(source, saved, vault_password="wrong")
    assert list(source.cluster.list_all(VIRTUAL_SERVICE)) == []


def test_a_change_while_the_backup_runs_is_told(source: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(source, vs("a"), vs("b"), service("web"), service("nobodys"))
    see, drift = _scope.References.see, Collector._drift

    def change(self: _scope.References, obj: Object) -> None:
        if obj["metadata"]["name"] == "a":
            source.cluster.patch(VIRTUAL_SERVICE, "b", "shop", {"spec": {"hosts": ["later.example.com"]}})
            source.remove(VIRTUAL_SERVICE, "a", "shop")
        see(self, obj)

    def change_late(self: Collector) -> Object:
        for name in ("web", "nobodys"):
            source.cluster.patch(SERVICE, name, "shop", {"metadata": {"labels": {"later": "yes"}}})
        made = {"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "s", "namespace": "shop"}}
        make(source, {**made, "spec": {"egress": [{"hosts": ["./*"]}]}})
        return drift(self)

    monkeypatch.setattr(_scope.References, "see", change)
    monkeypatch.setattr(Collector, "_drift", change_late)
    found = backup(source, tmp_path)
    assert found.result["drift"]["changes"] == 4
    told = {entry["kind"].rpartition("/")[2]: entry["changes"] for entry in found.result["drift"]["kinds"]}
    assert told.pop("VirtualService") == ["deleted shop/a", "modified shop/b"]
    assert told.pop("Service") == ["modified shop/web"], "nobody refers to the other one"
    assert told == {"Sidecar": ["added shop/s"]}, "there was none of it when it was read"
    objects = {entry.name: obj for entry, obj in Reader(found.result["archive"]).objects() if entry.kind == "VirtualService"}
    assert objects["b"] and objects["b"]["spec"]["hosts"] == ["b.example.com"], "the state of the moment at which it began"
    assert any("changed while" in warning for warning in found.warnings)


def widgets(group: str) -> Object:
    """The definition of a kind that no other test knows."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    spec = {"group": group, "names": names, "scope": "Namespaced", "versions": [version]}
    return {"apiVersion": CRD.api_version, "kind": CRD.kind, "metadata": {"name": f"widgets.{group}"}, "spec": spec}


@pytest.fixture
def widget(source: World, target: World) -> Iterator[str]:
    group = "bk.istio.io"
    source.cluster.create(CRD, widgets(group))
    wait(lambda: established(source.cluster.get(CRD, f"widgets.{group}")), "the kind is served")
    wait(lambda: any(kind.kind == "Widget" for kind in _scope.find_kinds(source.cluster, [group], [])), "it can be found")
    made = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "shop"}, "spec": {"size": 1}}
    make(source, made, vs("a"))
    yield f"widgets.{group}"
    for world in (source, target):
        world.remove(CRD, f"widgets.{group}")
        wait(lambda world=world: world.cluster.get(CRD, f"widgets.{group}") is None, "the definition is gone")  # type: ignore[misc]


def test_kinds_that_the_target_lacks_are_defined_when_asked(source: World, target: World, widget: str, tmp_path: Path) -> None:
    saved = backup(source, tmp_path, crds="referred").result
    assert saved["counts"]["apiextensions.k8s.io/CustomResourceDefinition"] == 2, "those of what is saved, and no others"
    assert info(source, saved["archive"])["comparison"]["same"]
    refused = restore(target, saved["archive"])
    assert refused.failed is not None and "set crds" in refused.failed.message
    planned = restore(target, saved["archive"], check=True, crds=True)
    assert planned.failed is None and planned.result["crds"] == [widget]
    assert target.cluster.get(CRD, widget) is None, "check mode makes nothing"
    done = restore(target, saved["archive"], crds=True)
    assert done.failed is None and done.result["crds"] == [widget], done.failed
    assert target.cluster.get(kind_of("bk.istio.io/v1", "Widget"), "a", "shop") is not None
    # The target's own definition of a VirtualService is left as it is, and other tests change it.
    compared = info(target, saved["archive"])["comparison"]
    assert {item["name"] for item in compared["items"]} <= {"virtualservices.networking.istio.io"}, compared
    assert not restore(target, saved["archive"], crds=True).plan.changed
    target.cluster.patch(CRD, widget, "", {"spec": {"names": {"shortNames": ["wg"]}}})
    again = restore(target, saved["archive"], crds=True)
    assert not again.plan.changed and any("left as it is" in note for note in again.plan.notes)
    told = info(target, saved["archive"])["comparison"]["items"]
    assert [(item["name"], item["state"]) for item in told] == [(widget, "differs")]


def test_definitions_are_left_out_when_asked(source: World, widget: str, tmp_path: Path) -> None:
    saved = backup(source, tmp_path, crds="none").result
    assert "apiextensions.k8s.io/CustomResourceDefinition" not in saved["counts"] and widget


SAMPLED = {"Service", "Deployment", "StatefulSet", "DaemonSet", "ServiceAccount", "ConfigMap", *ISTIO}


@pytest.mark.skipif(not os.environ.get("ISTIO_CHECKOUT"), reason="ISTIO_CHECKOUT names no checkout of istio/istio")
def test_all_samples_of_istio_come_back_the_same(source: World, tmp_path: Path) -> None:
    taken: dict[str, str] = {}
    refused: dict[str, str] = {}
    for path in sorted(Path(os.environ["ISTIO_CHECKOUT"]).joinpath("samples").rglob("*.yaml")):
        try:
            documents = list(yaml.load_all(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except yaml.YAMLError:
            continue  # a template
        for obj in documents:
            if not isinstance(obj, dict) or obj.get("kind") not in SAMPLED:
                continue
            name = f"s{len(taken) + len(refused)}"
            obj["metadata"] = {**obj.get("metadata", {}), "namespace": "samples", "name": name}
            group = obj["apiVersion"].rpartition("/")[0]
            try:
                make(source, obj)
                taken[f"{group}/{obj['kind']}/samples/{name}"] = path.name
            except MigrationError as error:
                refused[f"{obj['apiVersion']}/{obj['kind']}/{name}"] = f"{path.name}: {error.why[:150]}"
    assert len(taken) > 200
    saved = backup(source, tmp_path, services="all", workloads="all", config_maps="all").result
    lost = {key: path for key, path in taken.items() if key not in {entry.key for entry in Reader(saved["archive"]).entries()}}
    assert lost == {}, f"not in the backup; left out is {saved['left_out']}"
    source.wipe()
    done = restore(source, saved["archive"])
    assert done.failed is None, done.failed
    after = info(source, saved["archive"])["comparison"]
    print(f"{len(taken)} objects of Istio's samples: {after['counts']}")
    print("not taken by this API server:", *(f"{key}: {why}" for key, why in refused.items()), sep="\n  ")
    assert after["same"], after["items"]
