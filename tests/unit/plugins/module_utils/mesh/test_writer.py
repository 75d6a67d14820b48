# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy and restore decide and write by the same functions: asked first, in order, an answer for each object."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import flow
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _planner, _writer

Object = dict[str, Any]
ROUTE = kind_of("networking.istio.io/v1", "VirtualService")


def vs(name: str = "a", **spec: Any) -> Object:
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": ROUTE.api_version, "kind": ROUTE.kind, "metadata": meta, "spec": spec}


def answered(status: int) -> MigrationError:
    return MigrationError("The API server answered", why=f"status {status}", details={"status": status})


class Server:
    """The calls of a Cluster that writers make. ``known``: fields that its schema has."""

    def __init__(self, present: Object | None = None, error: MigrationError | None = None) -> None:
        self.present, self.error = present, error
        self.calls: list[tuple[str, Object, bool]] = []

    def create(self, _kind: Any, body: Object, *, dry_run: bool = False, validate: bool = True) -> Object:
        return self._write("create", body, dry_run)

    def replace(self, _kind: Any, body: Object, *, dry_run: bool = False) -> Object:
        return self._write("replace", body, dry_run)

    def _write(self, verb: str, body: Object, dry_run: bool) -> Object:
        self.calls.append((verb, body, dry_run))
        if self.error is not None:
            raise self.error
        return {"metadata": body["metadata"], "spec": {key: value for key, value in body["spec"].items() if key != "unknown"}}

    def get(self, _kind: Any, _name: str, _namespace: str = "") -> Object | None:
        return self.present


# -- the first decision


@pytest.mark.parametrize(
    ("served", "there", "mark", "equal", "state"),
    [
        (False, True, "", True, _planner.NOT_SERVED),
        (True, False, "", False, _planner.CREATE),
        (True, True, "", True, _planner.SAME),
        (True, True, "", False, _planner.DIFFERS),
        (True, True, _planner.TERMINATING, True, _planner.CONFLICT),
        (True, True, _planner.OWNED, True, _planner.SAME),
        (True, True, _planner.OWNED, False, _planner.CONFLICT),
    ],
)
def test_the_first_decision(served: bool, there: bool, mark: str, equal: bool, state: str) -> None:
    found, why = _planner.judge(ROUTE if served else None, there, mark, lambda: equal)
    assert found == state
    assert bool(why) == (state in (_planner.CONFLICT, _planner.NOT_SERVED))


def test_many_creates_are_counted_and_none_is_forgotten() -> None:
    few, many, less = _planner.Creates(), _planner.Creates(), _planner.Creates()
    for number in range(3):
        few.add(f"g/K/n/{number}")
    for number in range(600):
        many.add(f"g/K/n/{number}")
        less.add(f"/K/n/{number}")
    few.drop("g/K/n/1")
    for number in range(300):
        less.drop(f"/K/n/{number}")

    def told(creates: _planner.Creates) -> list[tuple[str, Any]]:
        made = Plan()
        creates.tell(made, "as there", "it is not here")
        return [(change.target, change.after) for change in made.changes]

    assert told(few) == [("target/g/K/n/0", "as there"), ("target/g/K/n/2", "as there")]
    assert told(many) == [("target/g/K/n", "600 objects as there")]
    assert told(less) == [("target/K/n", "300 objects as there")], "their names were not all kept: they are counted"


# -- asked first


def test_what_the_server_would_drop_is_told_and_nothing_is_written() -> None:
    server: Any = Server()
    assert _writer.rehearse(server, ROUTE, vs(hosts=["a"], unknown=1), None)[1] == ["spec.unknown"]
    assert _writer.rehearse(server, ROUTE, vs(hosts=["a"]), vs())[1] == []
    assert [(verb, dry_run) for verb, _body, dry_run in server.calls] == [("create", True), ("replace", True)]


def test_an_object_of_a_namespace_to_come_is_checked_in_another_by_another_name() -> None:
    body = vs()
    body["metadata"]["ownerReferences"] = [{"name": "x"}]
    fresh = _writer.stand_in(body, {"shop"}, "there")
    assert fresh["metadata"]["namespace"] == "there" and fresh["metadata"]["name"].startswith("dry-run-")
    assert "ownerReferences" not in fresh["metadata"] and body["metadata"]["name"] == "a"
    assert _writer.stand_in(vs(), {"other"}) == vs()


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422, 500])
def test_a_refusal_is_told(status: int) -> None:
    assert _writer.refusal(answered(status)) == f"status {status}"


@pytest.mark.parametrize("status", [0, 401, 429, 503])
def test_no_answer_about_the_object_is_no_refusal(status: int) -> None:
    with pytest.raises(MigrationError):
        _writer.refusal(answered(status))


# -- written


@pytest.mark.parametrize("write", [_writer.create, _writer.replace])
def test_a_conflict_after_a_lost_answer_is_none_when_the_object_holds_what_was_wanted(write: Any) -> None:
    there = vs(hosts=["a"])
    assert write(Server(there, answered(409)), ROUTE, vs(hosts=["a"])) == there
    for server in (Server(vs(hosts=["b"]), answered(409)), Server(None, answered(409)), Server(there, answered(422))):
        with pytest.raises(MigrationError):
            write(server, ROUTE, vs(hosts=["a"]))


def test_a_failure_stops_the_ranks_behind_it_and_not_its_neighbours() -> None:
    written: list[str] = []

    def write(name: str) -> None:
        if name == "bad":
            raise answered(422)
        written.append(name)

    jobs = {1: ["a"], 2: ["bad", "b"], 3: ["c"]}
    answers = list(_writer.in_order([1, 2, 3], jobs.__getitem__, write, 4))
    assert sorted(written) == ["a", "b"]
    assert [(answer.item, answer.error is None) for answer in answers] == [("a", True), ("bad", False), ("b", True)]


def test_a_stream_is_read_no_further_than_it_is_worked_off() -> None:
    read, gate = [], threading.Event()

    def items() -> Any:
        for number in range(1000):
            read.append(number)
            yield number

    answers = flow(items(), lambda number: gate.wait(10) and number, workers=2)
    gate.set()
    assert next(answers).value == 0
    assert len(read) <= 10
    assert [answer.value for answer in answers] == list(range(1, 1000))
