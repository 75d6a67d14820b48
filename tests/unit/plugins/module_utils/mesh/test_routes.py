# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The weights of routes: what a share gives, which route is meant, and what stays as it is."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._routes import Ask, Destination, choose

Object = dict[str, Any]
ASK = Ask("shop", "vs", Destination("old"), Destination("new"))


def one(host: str, weight: int | None = None, **more: Any) -> Object:
    return {"destination": {"host": host, **more}, **({} if weight is None else {"weight": weight})}


def service(*routes: Object) -> Object:
    meta = {"name": "vs", "namespace": "shop", "resourceVersion": "7", "annotations": {}}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": {"http": list(routes)}}


def route(*destinations: Object, **more: Any) -> Object:
    return {"route": list(destinations), **more}


@pytest.mark.parametrize("seed", range(40))
def test_whole_weights_come_nearest_and_neither_side_is_emptied_on_the_way(seed: int) -> None:
    rng = random.Random(seed)
    rest = [one(f"other-{number}", rng.randint(0, 20)) for number in range(rng.randint(0, 3))]
    source, target = rng.randint(1, 40), rng.randint(1, 40)
    obj = service(route(one("old", source), *rest, one("new", target)))
    (found,) = choose(obj, [ASK], "here")
    total = found.total
    assert total == (source + target if rest else 100)
    last = -1
    for share in sorted({0.0, 100.0, *(rng.uniform(0, 100) for _number in range(20))}):
        plan = found.plan(share)
        assert plan.source + plan.target == total and last <= plan.target
        assert abs(plan.share - share) <= 50 / total + 1e-9 or min(plan.source, plan.target) == 1
        assert (plan.target == 0) is (share == 0) and (plan.source == 0) is (share == 100)
        last = plan.target
        after = service(found.moved(share))
        (again,) = choose(after, [ASK], "here")
        assert again.settled(share) and again.present == plan
        assert [row for row in after["spec"]["http"][0]["route"] if row["destination"]["host"].startswith("other")] == rest


@pytest.mark.parametrize(
    ("weights", "share", "settled"), [((1, 1), 50, True), ((9, 1), 10, True), ((100, 0), 0, True), ((9, 1), 11, False)]
)
def test_weights_that_mean_the_same_are_left_as_they_are(weights: tuple[int, int], share: float, settled: bool) -> None:
    (found,) = choose(service(route(one("old", weights[0]), one("new", weights[1]))), [ASK], "here")
    assert found.settled(share) is settled


def test_a_target_alone_in_its_route_can_go_back() -> None:
    (found,) = choose(service(route(one("new.shop.svc.cluster.local", port={"number": 80}))), [ASK], "here")
    assert found.present.share == 100
    assert found.moved(0)["route"] == [
        {"destination": {"host": "new.shop.svc.cluster.local", "port": {"number": 80}}, "weight": 0},
        {"destination": {"host": "old", "port": {"number": 80}}, "weight": 100},
    ]


def test_a_weight_of_one_cannot_be_divided() -> None:
    (found,) = choose(service(route(one("old", 1), one("own", 99))), [ASK], "here")
    assert found.refusals(50) and not found.refusals(100)
    (empty,) = choose(service(route(one("old", 0), one("own", 99))), [ASK], "here")
    assert "nothing to move" in empty.refusals(100)[0]


def test_what_is_not_clear_is_refused() -> None:
    twice = service(route(one("old", 50, port={"number": 80}), one("old", 50, port={"number": 81})))
    with pytest.raises(MigrationError, match="more than once"):
        choose(twice, [ASK], "here")
    narrow = Ask("shop", "vs", Destination("old", port=81), Destination("new"))
    assert choose(twice, [narrow], "here")[0].present.source == 50
    with pytest.raises(MigrationError, match="named twice"):
        choose(service(route(one("old"))), [ASK, Ask("shop", "vs", Destination("old"), Destination("newer"))], "here")


def test_redirects_and_delegates_are_not_routes() -> None:
    obj = service({"redirect": {"uri": "/"}}, {"delegate": {"name": "x"}}, route(one("old")))
    assert [(found.protocol, found.index) for found in choose(obj, [ASK], "here")] == [("http", 2)]


def test_the_original_comes_back_only_into_its_own_routes() -> None:
    original = service(route(one("old"), name="a"), route(one("own"), name="b"))
    moved = _routes.with_routes(original, {("http", 0): choose(original, [ASK], "here")[0].moved(30)})
    assert _routes.restored(moved, original) == original
    kept = copy.deepcopy(moved)
    kept["spec"]["http"][0]["timeout"] = "3s"
    assert _routes.restored(kept, original)["spec"]["http"][0] == {**original["spec"]["http"][0], "timeout": "3s"}
    moved["spec"]["http"].reverse()
    with pytest.raises(MigrationError, match="not the same"):
        _routes.restored(moved, original)


def test_a_patch_holds_only_what_changes_and_is_refused_after_another_write() -> None:
    original = service(route(one("old")))
    moved = _routes.with_routes(original, {("http", 0): choose(original, [ASK], "here")[0].moved(30)})
    body = _routes.patch_of(original, moved, "m 1")
    assert body["metadata"] == {"resourceVersion": "7", "annotations": {_routes.MARK: "m 1"}}
    assert list(body["spec"]) == ["http"]
    assert "spec" not in _routes.patch_of(original, original, None)
