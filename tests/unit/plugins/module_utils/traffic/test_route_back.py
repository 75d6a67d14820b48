# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""route_weight's way back with several VirtualServices: one that cannot go holds up no other, and each is told by itself."""

from __future__ import annotations

import copy
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import Taken
from tests.unit.plugins.module_utils.traffic.route_world import OLD, ROUTE, Api, Both, Followers, destination, virtual_service
from tests.unit.plugins.module_utils.traffic.test_route_run import entry, failed, given, good

ELSEWHERE = "second-egress.istio-system.svc.cluster.local"
# By name: the first one is the one that cannot go.
ROUTES = [{**ROUTE, "name": "a", "source": {"host": ELSEWHERE}}, {**ROUTE, "name": "b"}, {**ROUTE, "name": "c"}]
FIRST = {"source/shop/VirtualService/a", "target/shop/VirtualService/a"}


@pytest.fixture
def both(tmp_path: Path) -> Both:
    made = Both(tmp_path)
    made.service("second-egress")
    for api in made.apis.values():
        for name, host in (("a", ELSEWHERE), ("b", OLD), ("c", OLD)):
            api.put(virtual_service({"route": [destination(host)]}, name=name))
    return made


def specs(both: Both) -> dict[str, t.Any]:
    return {f"{mesh}/{name}": copy.deepcopy(both.spec(mesh, name)) for mesh in both.apis for name in "abc"}


def rows(done: t.Any) -> dict[str, tuple[str, str]]:
    return {row["target"]: (row["state"], row["reason"]) for row in done.result["restored"]}


def refusing(both: Both) -> t.Callable[[], None]:
    def refuse(_api: Api, what: str) -> None:
        if what == "before VirtualService a" and forbidden:
            raise MigrationError("The API server answered PATCH with 403", why="no right", details={"status": 403})

    forbidden = ["a"]
    for api in both.apis.values():
        api.on_write = refuse
    return forbidden.clear


def down(both: Both) -> t.Callable[[], None]:
    both.service("second-egress", pods=0)
    return lambda: both.service("second-egress")


@pytest.mark.parametrize(("trouble", "why"), [(down, "has no ready pod"), (refusing, "no right")], ids=["down", "refused"])
def test_one_that_cannot_go_back_holds_up_no_other(
    both: Both, trouble: t.Callable[[Both], t.Callable[[], None]], why: str
) -> None:
    before = specs(both)
    good(both.run(routes=ROUTES, objects=[given("source", entry())]))
    mend = trouble(both)
    back = both.run(routes=ROUTES, state="restored")
    assert {key for key, spec in specs(both).items() if spec != before[key]} == {"source/a", "target/a"}
    problem = failed(back)
    assert set(problem.not_done) == FIRST and problem.message.count(why) == 2
    assert problem.what.startswith("2 of 6 VirtualServices cannot be put back; what they need is not taken away")
    assert len(problem.done) == 4 and not any("VirtualService/a" in text for text in problem.done)
    others = {f"{mesh}/shop/VirtualService/{name}" for mesh in both.apis for name in "bc"}
    assert {change.target for change in back.plan.changes} == others
    told = rows(back)
    assert {key for key, (state, _why) in told.items() if state == "not_restored"} == FIRST
    assert all(why in told[key][1] for key in FIRST)
    assert {told[key] for key in set(told) - FIRST} == {("restored", "")}
    assert ("ServiceEntry", "shop", "cnn-entry") in both.apis["source"].items
    kept = {key for key in both.journal().originals() if key.startswith("route/")}
    assert kept == {"route/source/shop/a", "route/target/shop/a"}
    mend()
    again = good(both.run(routes=ROUTES, state="restored"))
    assert specs(both) == before and set(rows(again)) == FIRST
    assert ("ServiceEntry", "shop", "cnn-entry") not in both.apis["source"].items and both.journal().originals() == {}


def test_one_that_proxies_do_not_take_holds_up_no_proof(both: Both) -> None:
    before = specs(both)
    good(both.run(routes=ROUTES, objects=[given("source", entry())]))

    class Stubborn(Followers):
        def taken(self, mesh: str, obj: t.Any, pairs: t.Any, planned: t.Collection[float]) -> Taken:
            if (mesh, obj["metadata"]["name"]) == ("source", "a"):
                return Taken(1, True, [100.0], ["proxy: it has 100 %"])
            return super().taken(mesh, obj, pairs, planned)

    both.proxies = Stubborn(both.apis)
    back = both.run(routes=ROUTES, state="restored")
    assert specs(both) == before
    told = rows(back)
    assert [key for key, (state, _why) in told.items() if state == "not_proven"] == ["source/shop/VirtualService/a"]
    assert {state for key, (state, _why) in told.items() if key != "source/shop/VirtualService/a"} == {"restored"}
    problem = failed(back)
    assert "1 of 6 have their weights back, and proxies were not seen to have taken them" in problem.what
    assert problem.not_done == [] and len(problem.done) == 6 and "proxies that were asked do not have the weights" in problem.why
    assert ("ServiceEntry", "shop", "cnn-entry") in both.apis["source"].items
    assert both.journal().originals("route/").keys() == {"route/source/shop/a"}


def test_what_is_gone_or_back_already_is_told(both: Both) -> None:
    before = specs(both)
    good(both.run(routes=ROUTES))
    del both.apis["target"].items["VirtualService", "shop", "b"]
    item = both.apis["source"].items["VirtualService", "shop", "c"]
    item["spec"] = before["source/c"]
    del item["metadata"]["annotations"]
    told = rows(good(both.run(routes=ROUTES, state="restored")))
    assert told["target/shop/VirtualService/b"] == ("gone", "") and told["source/shop/VirtualService/c"] == ("as_before", "")
