# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of the CLB: answers with missing fields, pages, batches, and errors that say what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud import _clb, _sdk
from ansible_collections.servicemesh.migration.plugins.module_utils._core import _retry
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError

OPTIONS = {
    "region": "cn-hangzhou",
    "access_key_id": "id",
    "access_key_secret": "secret",
    "slb_endpoint": "127.0.0.1:1",
    "protocol": "http",
}


class Conversation:
    """Stands for the SDK: answers in turn; an Exception is raised. ``asked``: (action, query)."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def call_api(self, shape: Any, request: Any, runtime: Any) -> dict[str, Any]:
        self.asked.append((shape.action, dict(request.query)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"body": {"RequestId": "1", **answer} if isinstance(answer, dict) and "foreign" not in answer else answer}


class ApiFault(Exception):
    def __init__(self, status: int, code: str, message: str = "said the API") -> None:
        super().__init__(message)
        self.status_code, self.code, self.message = status, code, message


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``talk(answers...)`` gives (driver, conversation); pauses between attempts take no time."""
    monkeypatch.setattr(_retry.time, "sleep", lambda seconds: None)

    def make(*answers: Any, **options: Any) -> tuple[_clb.Clb, Conversation]:
        driver, said = _clb.Clb({**OPTIONS, **options}), Conversation(*answers)
        driver._api._client = said
        return driver, said

    return make


def test_fields_that_are_missing_are_empty(talk: Any) -> None:
    clb, _said = talk({"VServerGroupId": "rsp-1"}, {"Listeners": [{"ListenerPort": 80, "ListenerProtocol": "tcp"}]}, {})
    assert clb.group("lb-1", "rsp-1") == _clb.Group("rsp-1", "", (), ())
    assert clb.listeners("lb-1") == [_clb.Listener(80, "tcp", "", "", "", "")]
    assert clb.tags("lb-1") == {}


@pytest.mark.parametrize("body", [{"foreign": "sign in"}, {"foreign": 1, "RequestId": ""}, [], "<html>", None])
def test_an_answer_of_something_else_is_never_read_as_an_empty_list(talk: Any, body: Any) -> None:
    clb, said = talk(*[body] * 8)
    with pytest.raises(MigrationError, match="not one of Alibaba Cloud") as found:
        clb.listeners("lb-1")
    assert len(said.asked) == 8 and found.value.details["status"] == 0
    clb, _said = talk(body, {"Listeners": [{"ListenerPort": 80, "ListenerProtocol": "tcp"}]})
    assert len(clb.listeners("lb-1")) == 1


def test_listeners_of_all_kinds(talk: Any) -> None:
    listeners = [
        {
            "ListenerPort": 443,
            "ListenerProtocol": "https",
            "HTTPSListenerConfig": {"StickySession": "on", "StickySessionType": "insert"},
        },
        {
            "ListenerPort": 80,
            "ListenerProtocol": "tcp",
            "TCPListenerConfig": {"PersistenceTimeout": 60, "ConnectionDrain": "on", "ConnectionDrainTimeout": 300},
        },
        {"ListenerPort": 53, "ListenerProtocol": "udp", "UDPListenerConfig": {"ConnectionDrain": "off"}},
    ]
    clb, _said = talk({"Listeners": listeners})
    assert [(item.port, item.persistence, item.drain) for item in clb.listeners("lb-1")] == [
        (53, "", "off"),
        (80, "PersistenceTimeout 60 s", "on/300"),
        (443, "StickySession on (insert)", ""),
    ]


def test_pages(talk: Any) -> None:
    clb, said = talk(
        {"Listeners": [{"ListenerPort": 80}], "NextToken": "more"},
        {"Listeners": [{"ListenerPort": 81}]},
        {"TagResources": {"TagResource": [{"TagKey": "a", "TagValue": "1"}]}, "NextToken": "t"},
        {"TagResources": {"TagResource": [{"TagKey": "b"}]}},
    )
    assert [item.port for item in clb.listeners("lb-1")] == [80, 81]
    assert clb.tags("lb-1") == {"a": "1", "b": ""}
    assert [query.get("NextToken") for _action, query in said.asked] == [None, "more", None, "t"]


def test_writes_name_exactly_what_they_change(talk: Any) -> None:
    clb, said = talk(*[{}] * 6)
    clb.untag("lb-1", ["b", "a"])
    clb.tag("lb-1", {"k": "v"})
    clb.rename_group("lb-1", "rsp-1", "shared-80")
    clb.set_scheduler("lb-1", _clb.Listener(443, "https", "rr", "rsp-1", "running", ""), "wrr")
    clb.set_delete_protection("lb-1", "on")
    asked = [(action, {key: value for key, value in query.items() if key != "RegionId"}) for action, query in said.asked]
    assert asked == [
        ("UntagResources", {"ResourceType": "instance", "ResourceId.1": "lb-1", "TagKey.1": "a", "TagKey.2": "b"}),
        ("TagResources", {"ResourceType": "instance", "ResourceId.1": "lb-1", "Tag.1.Key": "k", "Tag.1.Value": "v"}),
        ("SetVServerGroupAttribute", {"VServerGroupId": "rsp-1", "VServerGroupName": "shared-80"}),
        ("SetLoadBalancerHTTPSListenerAttribute", {"LoadBalancerId": "lb-1", "ListenerPort": "443", "Scheduler": "wrr"}),
        ("SetLoadBalancerDeleteProtection", {"LoadBalancerId": "lb-1", "DeleteProtection": "on"}),
    ]


def test_backends_go_in_batches(talk: Any) -> None:
    clb, said = talk({}, {}, {})
    backends = [_clb.Backend(f"i-{index}", 80, 1, "ecs", "", "k8s/80/a/b/c") for index in range(45)]
    clb.set_backends("lb-1", "rsp-1", backends)
    sizes = [len(json.loads(query["BackendServers"])) for _action, query in said.asked]
    assert sizes == [20, 20, 5]
    assert "ServerIp" not in json.loads(said.asked[0][1]["BackendServers"])[0]


def test_a_backend_that_is_there_already_is_no_error(talk: Any) -> None:
    clb, _said = talk(ApiFault(400, "BackendServer.AlreadyExist"))
    clb.add_backends("lb-1", "rsp-1", [_clb.Backend("i-1", 80, 1, "eni", "10.0.0.1", "")])


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (ApiFault(429, "Throttling.User"), 3),
        (ApiFault(400, "Throttling"), 3),
        (ApiFault(503, "ServiceUnavailable"), 3),
        (ApiFault(400, "OperationBusy"), 3),
        (ConnectionResetError("reset"), 3),
        (ApiFault(403, "Forbidden.RAM"), 1),
        (ApiFault(404, "InvalidLoadBalancerId.NotFound"), 1),
        (ApiFault(400, "InvalidParameter"), 1),
    ],
)
def test_what_may_pass_is_tried_again(talk: Any, fault: Exception, attempts: int) -> None:
    clb, said = talk(fault, fault, fault, attempts=3)
    with pytest.raises(MigrationError) as caught:
        clb.tags("lb-1")
    assert len(said.asked) == attempts
    assert caught.value.transient == (attempts == 3)
    clb, said = talk(fault, {}, attempts=3)
    if attempts == 3:
        assert clb.tags("lb-1") == {}


@pytest.mark.parametrize(
    ("fault", "todo"),
    [
        (ApiFault(403, "Forbidden.RAM"), "slb:ListTagResources"),
        (ApiFault(404, "InvalidAccessKeyId.NotFound"), "access_key_id"),
        (ApiFault(400, "SignatureDoesNotMatch"), "access_key_secret"),
        (ApiFault(400, "InvalidSecurityToken.Expired"), "get a new one"),
        (ApiFault(400, "InvalidLoadBalancerId.NotFound"), "this was asked in cn-hangzhou"),
        (ConnectionRefusedError("refused"), "slb_endpoint"),
        (ApiFault(429, "Throttling"), "attempts"),
    ],
)
def test_every_error_says_what_to_do(talk: Any, fault: Exception, todo: str) -> None:
    clb, _said = talk(fault, attempts=1)
    with pytest.raises(MigrationError) as caught:
        clb.tags("lb-1")
    assert todo in caught.value.todo
    assert caught.value.where.startswith("clb/lb-1/tags")
    assert "secret" not in caught.value.message.replace("access_key_secret", "")


def test_options() -> None:
    with pytest.raises(InputError, match="region"):
        _sdk.Api({})
    for half in ({"access_key_id": "id"}, {"access_key_secret": "s"}):
        with pytest.raises(InputError, match="Half"):
            _sdk.Api({"region": "cn-hangzhou", **half})
    assert "slb" in _sdk.Api({**OPTIONS, "slb_endpoint": None}).endpoint
    assert _sdk.Api(OPTIONS).endpoint == "127.0.0.1:1"
