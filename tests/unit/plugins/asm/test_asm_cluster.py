# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""asm_cluster: what is refused and why, what is written, and that a kubeconfig stays a secret."""

from __future__ import annotations

import datetime
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Candidate, Member, Mesh
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_kubeconfig as files
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_cluster import Observed, Wanted, plan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxy

from .conftest import CLUSTER, MESH, Bench, kubeconfig, pod

NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
GOOD = Mesh(MESH, "prod", "running", "v1.24.6.64-g5c8f1f4b-aliyun")
FREE = Candidate(CLUSTER, "shop", "running", "v1.30.1-aliyun.1", "", 4)
IN = Member(CLUSTER, "shop", "running", "v1.30.1-aliyun.1")
JOIN = Wanted("present", ignore_namespace_check=True)


def observed(**changed: Any) -> Observed:
    return Observed(**{"mesh": GOOD, "cluster_id": CLUSTER, "member": None, "candidate": FREE, **changed})


@pytest.mark.parametrize(
    ("changed", "wanted", "actions", "refused"),
    [
        ({}, JOIN, ["add"], ""),
        ({}, Wanted("queried"), [], ""),
        ({"member": IN}, JOIN, [], ""),
        ({"member": Member(CLUSTER, "", "starting", "")}, JOIN, [], ""),
        ({"member": Member(CLUSTER, "", "stopping", "")}, JOIN, [], "being removed"),
        ({"member": Member(CLUSTER, "", "failed", "", "no nodes")}, JOIN, [], "no nodes"),
        ({"member": Member(CLUSTER, "", "stopped", "")}, JOIN, [], "does not work"),
        ({"candidate": None}, JOIN, ["add"], "not known"),
        ({"candidate": Candidate(CLUSTER, "", "running", "v1.30.1", "c0other", 0)}, JOIN, ["add"], "another service mesh"),
        ({"candidate": Candidate(CLUSTER, "", "stopped", "v1.30.1")}, JOIN, ["add"], "cluster is not running"),
        ({"candidate": Candidate(CLUSTER, "", "running", "v1.20.11-aliyun.1")}, JOIN, ["add"], "version of the cluster"),
        ({}, Wanted("present"), ["add"], "ignore_namespace_check"),
        ({"candidate": Candidate(CLUSTER, "", "running", "v1.30", "", 3)}, JOIN, ["add"], "address range"),
        ({"candidate": Candidate(CLUSTER, "", "running", "v1.30", "", 9)}, JOIN, ["add"], "the reason 9"),
        ({"mesh": Mesh(MESH, "", "initial", "v1.24.1")}, JOIN, ["add"], "its state is initial"),
        ({"mesh": Mesh(MESH, "", "failed", "v1.24.1", "quota")}, JOIN, ["add"], "quota"),
        ({"mesh": Mesh(MESH, "", "running", "v1.23.9.1-aliyun")}, JOIN, ["add"], "at least 1.24"),
        ({"mesh": Mesh(MESH, "", "running", "v1.9.7.107")}, JOIN, ["add"], "at least 1.24"),
        ({"mesh": Mesh(MESH, "", "failed", "v1.24.1"), "member": IN}, JOIN, [], ""),  # nothing is to be changed
        ({"member": IN, "proxies": []}, Wanted("absent"), ["remove"], ""),
        ({"member": IN}, Wanted("absent"), ["remove"], "set source"),
        ({"member": IN, "proxies": [Proxy("shop", "web-1", MESH, True)]}, Wanted("absent"), ["remove"], "shop/web-1"),
        ({"member": Member(CLUSTER, "", "stopping", "")}, Wanted("absent"), [], ""),
        ({"member": None}, Wanted("absent"), [], ""),
    ],
)
def test_plan(changed: Any, wanted: Wanted, actions: list[str], refused: str) -> None:
    made, refusals = plan(observed(**changed), wanted, NOW)
    assert [change.action for change in made.changes] == actions
    told = [f"{item.what} {item.why} {item.todo}" for item in refusals]
    assert (len(told) == 1 and refused in told[0]) if refused else not told


@pytest.mark.parametrize(
    ("text", "expires", "present", "actions", "refused"),
    [
        (kubeconfig(), "2099-01-01 00:00:00", None, ["write"], ""),
        (kubeconfig(), "", None, ["write"], ""),
        (kubeconfig(), "2026-06-30 23:59:59", None, ["write"], "expired"),
        ("", "2099-01-01 00:00:00", None, ["write"], "no kubeconfig that can be used"),
        ("kind: {", "2099-01-01 00:00:00", None, ["write"], "no kubeconfig that can be used"),
        (kubeconfig(), "2099-01-01 00:00:00", (kubeconfig(), 0o600), [], ""),
        (kubeconfig(), "2099-01-01 00:00:00", (kubeconfig(), 0o644), ["write"], ""),
        (kubeconfig(), "2099-01-01 00:00:00", (kubeconfig(key="old"), 0o600), ["write"], ""),
        (kubeconfig(), "2099-01-01 00:00:00", (kubeconfig("https://198.51.100.1:6443"), 0o600), ["write"], "no copy"),
        (kubeconfig(), "2099-01-01 00:00:00", ("notes of somebody", 0o600), ["write"], "it is no kubeconfig"),
    ],
)
def test_plan_of_the_file(text: str, expires: str, present: Any, actions: list[str], refused: str, tmp_path: Path) -> None:
    path = tmp_path / "asm"
    if present:
        path.write_text(present[0])
        path.chmod(present[1])
    seen = observed(member=IN, given=files.read(text, expires), present=files.look(str(path)))
    made, refusals = plan(seen, Wanted("present", kubeconfig_path=str(path)), NOW)
    assert [change.action for change in made.changes] == actions
    told = [f"{item.what} {item.why}" for item in refusals]
    assert (len(told) == 1 and refused in told[0]) if refused else not told
    assert "client-key-data" not in json.dumps(made.as_list())


def test_in_twice_and_out(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "kube" / "asm"
    wanted = {"cluster_id": CLUSTER, "ignore_namespace_check": True, "kubeconfig_path": str(path)}
    checked = bench.run("asm_cluster", check=True, **wanted)
    assert checked["changed"] is True and bench.writes == [] and not path.exists() and bench.journal == ""
    done = bench.run("asm_cluster", **wanted)
    assert done["plan"] == checked["plan"] and done["diff"] == checked["diff"]
    assert done["cluster"]["state"] == "running"
    assert path.read_text() == kubeconfig()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert done["kubeconfig"]["servers"] == ["https://203.0.113.7:6443"]
    again = bench.run("asm_cluster", **wanted)
    assert again["changed"] is False and bench.writes == ["AddClusterIntoServiceMesh"]
    bench.source.put(pod("web", MESH))
    source = {"host": "https://memory"}
    refused = bench.run("asm_cluster", cluster_id=CLUSTER, state="absent", source=source)
    assert refused["failed"] and "shop/web" in refused["msg"]
    bench.source.objects.clear()
    gone = bench.run("asm_cluster", cluster_id=CLUSTER, state="absent", source=source)
    assert gone["changed"] and gone["cluster"] == {"id": CLUSTER, "state": "absent"}
    assert bench.writes == ["AddClusterIntoServiceMesh", "RemoveClusterFromServiceMesh"]
    assert bench.run("asm_cluster", cluster_id=CLUSTER, state="absent", source=source)["changed"] is False


def test_only_what_this_migration_added_is_taken_out_again(bench: Bench) -> None:
    wanted = {"cluster_id": CLUSTER, "ignore_namespace_check": True, "source": {"host": "https://memory"}}
    assert bench.run("asm_cluster", state="restored", **wanted)["changed"] is False
    bench.run("asm_cluster", **wanted)
    assert bench.run("asm_cluster", state="restored", **wanted)["cluster"]["state"] == "absent"
    assert bench.writes == ["AddClusterIntoServiceMesh", "RemoveClusterFromServiceMesh"]
    # The journal knows which cluster that is, and when it knows none, ASM is not even asked.
    bench.run("asm_cluster", **wanted)
    unnamed = {"mesh_id": "", "source": wanted["source"]}
    assert bench.run("asm_cluster", state="restored", **unnamed)["cluster"] == {"id": CLUSTER, "state": "absent"}
    over = bench.run("asm_cluster", state="restored", **unnamed)
    assert (over["changed"], over["mesh"], over["cluster"]) == (False, {}, {})
    bench.run("asm_cluster", migration="other", **wanted)
    assert bench.run("asm_cluster", state="restored", **wanted)["cluster"]["state"] == "running"


def test_the_last_pods_of_a_removed_gateway_are_waited_for(bench: Bench) -> None:
    wanted = {"cluster_id": CLUSTER, "ignore_namespace_check": True, "source": {"host": "https://memory"}}
    bench.run("asm_cluster", **wanted)
    last = pod("gateway", MESH)
    last["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    bench.source.put(last)
    slow = bench.run("asm_cluster", state="absent", wait_timeout=0.2, **wanted)
    assert slow["failed"] and "shop/gateway" in slow["msg"] and "have ended" in slow["msg"]
    threading.Timer(0.3, bench.source.objects.clear).start()
    assert bench.run("asm_cluster", state="absent", **wanted)["cluster"]["state"] == "absent"


@pytest.mark.parametrize(
    ("mesh", "cluster", "options", "words"),
    [
        ({}, {}, {"mesh_id": "c0typo"}, ["ServiceMesh.NotFound", "check the id and the region"]),
        ({}, {}, {"cluster_id": "c0typo"}, ["The cluster is not known", "cluster_id"]),
        ({}, {}, {"mesh_id": " "}, ["mesh_id is empty"]),
        ({"state": "initial"}, {}, {}, ["not running", "initial"]),
        ({"version": "v1.22.6.1-aliyun"}, {}, {}, ["too old", "1.24"]),
        ({}, {"version": "v1.20.4-aliyun.1"}, {}, ["too old", "1.21"]),
        ({}, {}, {"ignore_namespace_check": False}, ["istio-system", "ignore_namespace_check"]),
        ({"kubeconfig_expires": "2020-01-01 00:00:00"}, {}, {}, ["expired", "2020-01-01"]),
        ({"kubeconfig": "{not: [a, kubeconfig"}, {}, {}, ["no kubeconfig that can be used"]),
    ],
)
def test_bad_input_is_refused_before_the_first_write(
    bench: Bench, mesh: Any, cluster: Any, options: Any, words: list[str], tmp_path: Path
) -> None:
    bench.put(mesh, cluster)
    given = {"cluster_id": CLUSTER, "ignore_namespace_check": True, "kubeconfig_path": str(tmp_path / "asm"), **options}
    answer = bench.run("asm_cluster", **given)
    assert answer["failed"] and [word for word in words if word not in answer["msg"]] == []
    assert "Nothing has been changed" in answer["msg"]
    assert bench.writes == [] and not (tmp_path / "asm").exists()


def test_a_cluster_of_another_mesh_is_left_there(bench: Bench) -> None:
    other = {"c0other": {"members": {CLUSTER: {"cluster_id": CLUSTER}}}}
    bench.cloud.lab("PUT", "/_lab/meshes", {"meshes": other})
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert answer["failed"] and "it is in c0other" in answer["msg"] and bench.writes == []


def test_a_join_that_fails_says_why_and_what_was_done(bench: Bench) -> None:
    bench.put(cluster={"join_error": "pods of istio-init cannot start"})
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert answer["failed"] and "pods of istio-init cannot start" in answer["msg"]
    assert answer["error"]["done"] == [f"add asm/{MESH}/cluster/{CLUSTER}"] and answer["changed"] is True


def test_a_run_that_was_killed_while_it_waited_is_continued(bench: Bench) -> None:
    bench.put({"join_seconds": 1.0})
    short = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True, wait_timeout=0.1)
    assert short["failed"] and "its state is starting" in short["msg"]
    again = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert again["changed"] is False and again["cluster"]["state"] == "running"
    assert bench.writes == ["AddClusterIntoServiceMesh"]


@pytest.mark.parametrize("effect", [{"status": 503, "after": True}, {"status": 503}, {"reset": True, "after": True}])
def test_a_lost_answer_adds_nothing_twice(bench: Bench, effect: dict[str, Any]) -> None:
    rule = {"target": "servicemesh", "action": "AddCluster*", "nth": 1, "effect": effect}
    bench.cloud.lab("POST", "/_lab/faults", [rule])
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert not answer.get("failed"), answer["msg"]
    assert bench.writes.count("AddClusterIntoServiceMesh") == (1 if effect.get("after") else 2)


def test_a_missing_right_is_named(bench: Bench) -> None:
    rule = {"target": "servicemesh", "action": "AddCluster*", "effect": {"status": 403}}
    bench.cloud.lab("POST", "/_lab/faults", [rule])
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert "servicemesh:AddClusterIntoServiceMesh" in answer["msg"] and answer["changed"] is False


def test_the_file_is_written_again_when_only_its_mode_is_wrong(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "asm"
    path.write_text(kubeconfig())
    path.chmod(0o644)
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, state="queried", kubeconfig_path=str(path))
    assert answer["changed"] and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert answer["cluster"]["state"] == "absent" and bench.writes == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"asm_endpoint": "127.0.0.1:1"}, ["no answer", "alibaba.asm_endpoint"]),
        ({"access_key_secret": "wrong"}, ["SignatureDoesNotMatch", "alibaba.access_key_secret"]),
        ({"access_key_id": "nobody"}, ["InvalidAccessKeyId", "alibaba.access_key_id"]),
        ({"region": ""}, ["region of the service mesh is not known", "ALIBABA_CLOUD_REGION_ID"]),
        ({"access_key_secret": None}, ["Half of an access key"]),
    ],
)
def test_a_cloud_that_cannot_be_asked(bench: Bench, changed: dict[str, Any], words: list[str]) -> None:
    given = {**bench.alibaba, **changed}
    answer = bench.run(
        "asm_cluster", cluster_id=CLUSTER, alibaba={key: value for key, value in given.items() if value is not None}
    )
    assert answer["failed"] and [word for word in words if word not in answer["msg"]] == []
    assert "Nothing has been changed" in answer["msg"] and bench.writes == []


def test_throttling_is_waited_out(bench: Bench) -> None:
    rules = [{"target": "servicemesh", "action": "*", "nth": number, "effect": {"status": 429}} for number in (1, 3, 5, 7)]
    bench.cloud.lab("POST", "/_lab/faults", rules)
    answer = bench.run("asm_cluster", cluster_id=CLUSTER, ignore_namespace_check=True)
    assert not answer.get("failed"), answer["msg"]
    assert answer["cluster"]["state"] == "running"
