# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of vm_identity: what the VM is sent, and when a token is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.servicemesh.migration.plugins.action import vm_identity
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan

Object = dict[str, Any]
ARGS = {
    "namespace": "vmns",
    "service_account": "vmsa",
    "source": {"kubeconfig": "/secret/kubeconfig", "api_key": "key-of-the-cluster"},
}


class Half(vm_identity.ActionModule):  # type: ignore[misc]
    """The action with a VM that answers as it is told, and a record of what it was sent."""

    def __init__(self, args: Object, answers: list[Object], check: bool = False) -> None:
        self._task = SimpleNamespace(args=args, check_mode=check, async_val=0, action="vm_identity")
        self.answers, self.sent = answers, list[tuple[bool, Object]]()

    def _execute_module(self, *, module_args: Object, **_more: Any) -> Object:
        self.sent.append((self._task.check_mode, dict(module_args)))
        return dict(self.answers[min(len(self.sent), len(self.answers)) - 1])

    def go(self) -> Object:
        return self.run(task_vars={"inventory_hostname": "Web_1.example.com"})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Object:
    """A cluster that counts the tokens that it makes."""
    seen: Object = {"tokens": [], "plan": Plan(), "objects": [], "guarded": 0}

    def guard() -> None:
        seen["guarded"] += 1

    def token(_cluster: Any, _options: Object, audiences: list[str]) -> str:
        seen["tokens"].append(audiences)
        return "fresh-token"

    monkeypatch.setattr(vm_identity.ActionBase, "run", lambda *args, **more: {})
    monkeypatch.setattr(vm_identity, "Cluster", lambda name, options: SimpleNamespace(guard=guard))
    facts = SimpleNamespace(as_dict=lambda: {"addresses": ["192.0.2.9"]})
    monkeypatch.setattr(vm_identity._cluster, "observe", lambda *args: facts)
    monkeypatch.setattr(vm_identity._cluster, "plan", lambda *args: (seen["plan"], seen["objects"]))
    monkeypatch.setattr(vm_identity._cluster, "token", token)
    return seen


def due(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "reason": "none yet"} for name in names]


def test_nothing_of_the_cluster_is_sent_to_the_vm(cluster: Object) -> None:
    half = Half(ARGS, [{"changed": True, "due": due("token")}, {"changed": True, "due": []}])
    result = half.go()
    assert [check for check, _words in half.sent] == [True, False]
    assert all("source" not in words for _check, words in half.sent)
    assert "key-of-the-cluster" not in str(half.sent) and "kubeconfig" not in str(half.sent)
    assert half.sent[0][1].get("token") is None and half.sent[1][1]["token"] == "fresh-token"
    assert half.sent[1][1]["name"] == "web-1-example-com"
    assert "fresh-token" not in str(result) and cluster["guarded"] == 1


def test_a_token_is_asked_for_only_when_it_is_due(cluster: Object) -> None:
    half = Half(ARGS, [{"changed": True, "due": []}])
    half.go()
    assert cluster["tokens"] == [] and len(half.sent) == 2
    idle = Half(ARGS, [{"changed": False, "due": []}])
    assert idle.go()["changed"] is False and len(idle.sent) == 1
    both = Half(ARGS, [{"changed": True, "due": due("token", "renewal_token")}])
    both.go()
    assert cluster["tokens"] == [["istio-ca"], []]


def test_check_mode_asks_the_vm_once_and_nobody_for_a_token(cluster: Object) -> None:
    half = Half(ARGS, [{"changed": True, "due": due("token")}], check=True)
    assert half.go()["changed"] is True
    assert cluster["tokens"] == [] and [check for check, _words in half.sent] == [True]


def test_leaving_does_not_need_the_cluster(cluster: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_identity, "Cluster", lambda *args: pytest.fail("the cluster was asked"))
    half = Half({**ARGS, "state": "absent"}, [{"changed": True, "due": []}])
    assert half.go()["changed"] is True


def test_what_goes_wrong_in_the_cluster_is_told_without_secrets(cluster: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: Any) -> None:
        raise MigrationError("Not allowed", why="key-of-the-cluster is not welcome")

    monkeypatch.setattr(vm_identity._cluster, "observe", refused)
    result = Half(ARGS, []).go()
    assert result["failed"] and "Not allowed" in result["msg"] and "key-of-the-cluster" not in str(result)


def test_leaving_tells_what_was_done_on_the_vm_when_the_cluster_refuses(cluster: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Plan()
    found = [(SimpleNamespace(), name, "uid") for name in ("role", "account")]
    for _kind, name, _uid in found:
        there.add("delete", f"source/vmns/X/{name}", {}, None)

    def delete(_kind: Any, name: str, _namespace: str, uid: str) -> None:
        if name == "account":
            raise MigrationError("Not allowed", details={"status": 403})

    monkeypatch.setattr(vm_identity, "Cluster", lambda *args: SimpleNamespace(guard=lambda: None, delete=delete))
    monkeypatch.setattr(vm_identity._cluster, "plan_absent", lambda *args: (there, found))
    words = {**ARGS, "state": "absent", "remove_service_account": True}
    gone = [{"action": "delete", "target": "/opt/asm_proxy/cluster.env"}]
    result = Half(words, [{"changed": True, "due": [], "plan": gone}]).go()
    assert result["failed"] and result["changed"]
    assert result["error"]["done"] == ["delete /opt/asm_proxy/cluster.env", "delete source/vmns/X/role"]
    assert result["error"]["not_done"] == ["delete source/vmns/X/account"]


def test_an_answer_that_nobody_expected_is_a_sentence(cluster: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_args: Any) -> None:
        raise KeyError("metadata")

    monkeypatch.setattr(vm_identity._cluster, "observe", odd)
    result = Half(ARGS, []).go()
    assert result["failed"] and "KeyError: 'metadata' (at test_vm_identity_action.py:" in result["msg"]


@pytest.mark.parametrize("name", ["facts", "token", "renewal_token"])
def test_what_is_not_for_playbooks_is_refused(cluster: Object, name: str) -> None:
    with pytest.raises(AnsibleActionFail, match=name):
        Half({**ARGS, name: {"a": 1} if name == "facts" else "x"}, []).go()


def test_options_that_are_wrong_are_told_before_anything(cluster: Object) -> None:
    with pytest.raises(AnsibleActionFail, match="renewal"):
        Half({**ARGS, "renewal": {"method": "cron"}}, []).go()


@pytest.mark.parametrize(("host", "name"), [("10.1.2.3", "10-1-2-3"), ("web_1", "web-1"), ("VM-0", "vm-0"), ("a.b.c", "a-b-c")])
def test_a_host_has_a_name_that_the_mesh_takes(host: str, name: str) -> None:
    assert vm_identity.plain_name(host) == name


@pytest.mark.parametrize(
    ("batch", "play", "wished", "removes"),
    [
        (["b"], ["a", "b"], True, True),
        (["a"], ["a", "b"], True, False),
        (["b"], ["b"], True, False),  # a, of an earlier wave, failed: it is in the mesh by this account still
        (["b"], ["a", "b"], False, False),
    ],
)
def test_the_role_takes_the_account_away_with_the_last_vm_and_not_when_one_failed(
    batch: list[str], play: list[str], wished: bool, removes: bool
) -> None:
    file = Path(__file__).parents[4] / "roles" / "vm_asm_proxy" / "tasks" / "identity.yml"
    text = yaml.safe_load(file.read_text())[0]["servicemesh.migration.vm_identity"]["remove_service_account"]
    words = {"vm_asm_proxy_remove_service_account": wished, "vm_asm_proxy_keep_services": False}
    hosts = {"ansible_play_hosts_all": ["a", "b"], "ansible_play_batch": batch, "ansible_play_hosts": play}
    made = Templar(loader=DataLoader(), variables={**words, **hosts}).template(trust_as_template(text))
    assert made is removes
