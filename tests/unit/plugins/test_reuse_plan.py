# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of clb_reuse for hand-written states: the order of the steps is what keeps the traffic alive."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm as ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse import (
    describe,
    keys_of,
    originals,
    plan_absent,
    plan_present,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_checks import (
    absent_problems,
    last_failure,
    present_problems,
)
from tests.unit.plugins import clb_world as world

PROTECT, SCHEDULE, TAG, FREEZE, RENAME, UNTAG, THAW, RESTORE = (
    "set_delete_protection",
    "set_scheduler",
    "tag",
    "annotate",
    "rename_group",
    "untag",
    "touch",
    "restore_annotations",
)


def kinds(view: PairView) -> list[str]:
    return [step.kind for step in plan_present(view, "now")]


def with_tags(view: PairView, **tags: str) -> PairView:
    named = {key.replace("__", "."): value for key, value in tags.items()}
    return dataclasses.replace(view, balancer=dataclasses.replace(view.balancer, tags=named))


def kept_of(view: PairView) -> dict[str, Any]:
    return originals(view, {})[0]


def test_the_one_safe_order() -> None:
    steps = plan_present(world.fresh(), "now")
    assert [step.kind for step in steps] == [FREEZE, SCHEDULE, SCHEDULE, RENAME, RENAME, UNTAG, THAW]
    assert steps[0].value == {**world.REUSED, ccm.TOUCHED: "frozen now"}
    assert [step.value for step in steps if step.kind == RENAME] == ["shared-80", "shared-443"]
    assert steps[5].value == sorted(world.MADE_TAGS)


def test_nothing_is_left_to_do() -> None:
    assert kinds(world.reused()) == []
    assert describe(world.reused(), ccm.rules("v2.14.0"))["reusable"]
    assert not describe(world.fresh(), ccm.rules(""))["reusable"]


def test_protection_comes_first() -> None:
    view = world.fresh()
    open_ = dataclasses.replace(view, balancer=dataclasses.replace(view.balancer, delete_protection="off"))
    assert kinds(open_)[0] == PROTECT


def test_from_the_middle() -> None:
    fresh, done = world.fresh(), world.reused()
    half = dataclasses.replace(done, balancer=fresh.balancer, groups=(done.groups[0], fresh.groups[1]))
    # Annotated and one group renamed: frozen again by a touch, because nobody knows whether the CCM has seen it.
    assert kinds(half) == [FREEZE, RENAME, UNTAG, THAW]
    assert next(step.value for step in plan_present(half, "now")) == {ccm.TOUCHED: "frozen now"}
    # All renamed, tags still on.
    assert kinds(dataclasses.replace(done, balancer=fresh.balancer)) == [UNTAG, THAW]
    # Untagged, but the CCM has not looked yet: its tag is missing, or its weights are.
    assert kinds(with_tags(done)) == [THAW]
    assert kinds(dataclasses.replace(world.reused(source=100))) == [THAW]


def test_tags_that_are_gone_too_early_are_put_back_first() -> None:
    """The vendor's own order: without the tags, a group that is renamed makes the CCM create another one."""
    view = with_tags(world.fresh())
    assert kinds(view) == [TAG, FREEZE, SCHEDULE, SCHEDULE, RENAME, RENAME, UNTAG, THAW]
    assert plan_present(view, "now")[0].value == world.MADE_TAGS


def test_a_weight_in_use_is_not_touched() -> None:
    assert kinds(world.reused(source=30, weight="60")) == []
    # Without the groups' names the CCM reads no weight, so it means nothing yet.
    view = world.annotated(world.fresh(), weight="60")
    assert plan_present(view, "now")[0].value[ccm.WEIGHT] == "100"


def test_a_name_that_is_taken_gets_the_services_name() -> None:
    view = world.fresh()
    other = dataclasses.replace(view.groups[0], id="rsp-9", name="shared-80", listeners=(), backends=())
    steps = plan_present(dataclasses.replace(view, groups=(*view.groups, other)), "now")
    assert [step.value for step in steps if step.kind == RENAME] == ["shared-80-gw", "shared-443"]


def test_protection_by_annotation() -> None:
    view = world.annotated(world.fresh(), delete_protection="off")
    assert plan_present(view, "now")[0].value[ccm.DELETE_PROTECTION] == "on"
    assert kept_of(view)[keys_of(view).annotations][ccm.DELETE_PROTECTION] == "off"


# -- the way back --------------------------------------------------------------------------------------------------


def test_the_way_back() -> None:
    kept = kept_of(world.fresh())
    steps, notes = plan_absent(world.reused(), kept, "now")
    assert [step.kind for step in steps] == [TAG, FREEZE, SCHEDULE, SCHEDULE, RENAME, RENAME, UNTAG, RESTORE]
    assert notes == []
    assert steps[0].value == world.MADE_TAGS
    assert [step.value for step in steps if step.kind == RENAME] == [world.owner(30080, "gw"), world.owner(30443, "gw")]
    assert steps[6].value == [ccm.TAG_REUSED]
    # Every annotation of ours is taken away; the touch of the frozen state, too.
    assert steps[-1].value == dict.fromkeys((*world.REUSED, ccm.TOUCHED))


def test_nothing_to_take_back() -> None:
    assert plan_absent(world.fresh(), kept_of(world.fresh()), "now") == ([], [])


def test_the_way_back_from_a_run_that_only_annotated() -> None:
    kept, view = kept_of(world.fresh()), world.fresh()
    noted = world.annotated(
        view, id=world.LB, weight="100", vgroup_port="rsp-80:80,rsp-443:443", force_override_listeners="false"
    )
    assert [step.kind for step in plan_absent(noted, kept, "now")[0]] == [RESTORE]


def test_without_annotations_the_ccm_is_stopped_by_the_id_first() -> None:
    """GitOps took the annotations away while groups are renamed: a touch alone would not stop the CCM."""
    view = dataclasses.replace(world.reused(), source=world.fresh().source)
    steps, _notes = plan_absent(view, kept_of(world.fresh()), "now")
    assert [step.kind for step in steps][:2] == [TAG, FREEZE]
    assert steps[1].value == {ccm.TOUCHED: "frozen now", ccm.ID: world.LB}
    assert steps[-1].value == {ccm.TOUCHED: None, ccm.ID: None}


def test_originals_are_derived_when_the_journal_is_lost() -> None:
    found, notes = originals(world.reused(), {})
    first = kept_of(world.fresh())
    keys = keys_of(world.reused())
    assert found[keys.tags] == world.MADE_TAGS
    assert {key: value for key, value in found.items() if "/group/" in key} == {
        key: value for key, value in first.items() if "/group/" in key
    }
    assert found[keys.annotations] == dict.fromkeys(found[keys.annotations])
    assert len(notes) == 4
    # What the journal knows is never replaced.
    assert originals(world.reused(), first) == ({}, [])


def test_a_service_that_was_made_anew_gets_the_tag_and_names_that_its_ccm_looks_for() -> None:
    kept = kept_of(world.fresh())
    view = world.reused()
    again = copy.deepcopy(view.source)
    assert again is not None
    again["metadata"]["uid"] = "00000000-1111-2222-3333-444444444444"
    again["spec"]["ports"][0]["nodePort"] = 31111
    steps, notes = plan_absent(dataclasses.replace(view, source=again), kept, "now")
    assert steps[0].value[ccm.TAG_OWNER] == "a0000000011112222333344444444444"
    assert next(step.value for step in steps if step.kind == RENAME) == world.owner(31111, "gw")
    assert len(notes) == 2


# -- what is refused -------------------------------------------------------------------------------------------------


def problems(view: PairView, version: str = "v2.14.0", **more: Any) -> str:
    return "; ".join(
        present_problems(view, more.get("kept", {}), ccm.rules(version), more.get("events", []), more.get("twins", []))
    )


def changed_source(view: PairView, path: str, value: Any) -> PairView:
    source: Any = copy.deepcopy(view.source)
    place = source
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    return dataclasses.replace(view, source=source)


FRESH = world.fresh()
REFUSED = [
    (dataclasses.replace(FRESH, source=None), "is not there"),
    (changed_source(FRESH, "spec.type", "NodePort"), "no LoadBalancer of the CCM"),
    (changed_source(FRESH, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z"), "is being deleted"),
    (changed_source(FRESH, "status.loadBalancer.ingress", [{"ip": "198.51.100.99"}]), "has the address 198.51.100.99"),
    (changed_source(FRESH, "status.loadBalancer.ingress", [{"ip": "198.51.100.10"}, {"ip": "10.0.0.1"}]), "several addresses"),
    (world.annotated(FRESH, force_override_listeners="true"), "force-override-listeners"),
    (world.annotated(world.reused(), weight="101"), "no integer in 0..100"),
    (world.annotated(FRESH, vgroup_port="rsp-80:80, rsp-443:443"), "has spaces"),
    (dataclasses.replace(FRESH, nodes=(*FRESH.nodes, world.node("c", ""))), "node c has no usable spec.providerID"),
    (dataclasses.replace(FRESH, listeners=FRESH.listeners[:1]), "port 443 has no listener"),
    (dataclasses.replace(FRESH, groups=FRESH.groups[:1]), "listener 443 has no vServer group"),
    (
        dataclasses.replace(
            FRESH, listeners=tuple(dataclasses.replace(item, persistence="StickySession on") for item in FRESH.listeners)
        ),
        "session persistence",
    ),
    (
        dataclasses.replace(FRESH, listeners=tuple(dataclasses.replace(item, protocol="udp") for item in FRESH.listeners)),
        "is UDP",
    ),
]


@pytest.mark.parametrize(("view", "reason"), REFUSED, ids=[case[1][:30] for case in REFUSED])
def test_refused(view: PairView, reason: str) -> None:
    assert reason in problems(view)


def test_nothing_is_refused_without_a_reason() -> None:
    assert problems(world.fresh()) == ""
    assert problems(world.reused()) == ""
    assert absent_problems(world.reused(), {}) == []


def test_versions_and_twins() -> None:
    assert "too old" in problems(world.fresh(), "v2.3.0")
    assert "another load balancer too: lb-2" in problems(world.fresh(), twins=["lb-1", "lb-2"])


def test_a_load_balancer_that_the_ccm_did_not_make() -> None:
    view = with_tags(world.fresh())
    stranger = dataclasses.replace(view, balancer=dataclasses.replace(view.balancer, name="mine"))
    assert "was not made by the CCM for this Service" in problems(stranger)
    assert problems(stranger, kept={keys_of(stranger).tags: dict(world.MADE_TAGS)}) == ""
    assert "the journal knows no original values" in "; ".join(absent_problems(stranger, {}))


def test_the_target_must_be_gone_before_the_way_back() -> None:
    state = world.moving(100, 0)
    assert "remove the target gateway first" in "; ".join(absent_problems(state.view, {}))
    gone = world.reused()
    still = dataclasses.replace(gone, target=state.view.target)
    assert "still names this load balancer" in "; ".join(absent_problems(still, {}))


def event(reason: str, second: int, version: int, message: str = "no") -> dict[str, Any]:
    stamp = f"2026-01-01T00:00:{second:02}Z"
    return {"reason": reason, "lastTimestamp": stamp, "message": message, "metadata": {"resourceVersion": str(version)}}


@pytest.mark.parametrize(
    ("events", "failure"),
    [
        ([], ""),
        ([event("SyncLoadBalancerFailed", 1, 5, "why")], "why"),
        ([event("SyncLoadBalancerFailed", 1, 5), event("EnsuredLoadBalancer", 2, 4)], ""),
        ([event("SyncLoadBalancerFailed", 2, 5, "why"), event("EnsuredLoadBalancer", 1, 6)], "why"),
        ([event("SyncLoadBalancerFailed", 1, 5), event("EnsuredLoadBalancer", 1, 6)], ""),
        ([event("SyncLoadBalancerFailed", 1, 7, "why"), event("EnsuredLoadBalancer", 1, 6)], "why"),
    ],
)
def test_the_newest_event_counts(events: list[dict[str, Any]], failure: str) -> None:
    assert last_failure(events) == failure


def test_a_failure_stops_only_a_run_that_has_not_begun() -> None:
    failed = [event("SyncLoadBalancerFailed", 1, 5, "can not be reused")]
    assert "cannot reconcile the Service as it is" in problems(world.fresh(), events=failed)
    begun = {keys_of(world.fresh()).annotations: {}}
    assert problems(world.fresh(), events=failed, kept=begun) == ""
