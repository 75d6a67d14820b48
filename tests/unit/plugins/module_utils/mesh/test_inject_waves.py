# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waves and budgets: pure arithmetic, by tables and by properties."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import parse_selector, selector_of, selects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import Manners, judge, manners
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import read_waves, split, startable
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import safely


@dataclasses.dataclass(frozen=True)
class One:
    name: str
    namespace: str = "shop"
    kind: str = "Deployment"
    labels: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    cost: int = 0
    pdbs: tuple[str, ...] = ()


def waves(given_: list[Any], members: list[One]) -> list[list[str]]:
    found, rest = split(members, read_waves(given_, hold=1, max_hold=None))
    return [*([one.name for one in wave.members] for wave in found), [one.name for one in rest]]


TEN = [
    One(f"w{number}", kind="StatefulSet" if number == 3 else "Deployment", labels={"n": str(number % 2)}) for number in range(10)
]


@pytest.mark.parametrize(
    ("given_", "sizes"),
    [
        ([1, "10%", "100%"], [1, 1, 8, 0]),
        (["25%"], [3, 7]),
        ([{"percent": 0.1}], [1, 9]),
        ([20], [10, 0]),
        ([{"label_selector": "n=1"}, {"kinds": ["StatefulSet"]}, 2], [5, 0, 2, 3]),
        ([{"label_selector": "n in (0)", "percent": "50%"}], [3, 7]),
        ([{"names": ["w4", "w5"], "number": 1}], [1, 9]),
        ([{"namespaces": ["other"]}, {}], [0, 10, 0]),
    ],
)
def test_sizes(given_: list[Any], sizes: list[int]) -> None:
    assert [len(one) for one in waves(given_, TEN)] == sizes


def test_deployments_come_first_and_then_by_name() -> None:
    assert waves([2, 7], TEN)[:2] == [["w0", "w1"], ["w2", "w4", "w5", "w6", "w7", "w8", "w9"]]


@pytest.mark.parametrize(
    "bad",
    [[], [0], [-1], ["0%"], ["101%"], ["ten"], [True], [1.5], [{"numbr": 1}], [{"number": 1, "percent": 1}], [{"number": "x"}],
     [{"name": "a"}, {"name": "a"}], [{"hold": -1}], [{"hold": "inf"}], [{"hold": 5, "max_hold": 1}],
     [{"label_selector": "a=b=c"}]],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(bad: list[Any]) -> None:
    with pytest.raises(InputError):
        read_waves(bad, hold=1, max_hold=None)


MEMBERS = st.lists(
    st.builds(
        One,
        name=st.text("abc", min_size=1, max_size=4),
        namespace=st.sampled_from(["a", "b"]),
        kind=st.sampled_from(["Deployment", "StatefulSet", "DaemonSet"]),
        labels=st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
        cost=st.integers(0, 3),
        pdbs=st.lists(st.sampled_from(["p", "q", "r"]), unique=True, max_size=2).map(tuple),
    ),
    max_size=25,
    unique_by=lambda one: (one.kind, one.namespace, one.name),
)
RULES = st.lists(
    st.one_of(
        st.integers(1, 9),
        st.integers(1, 100).map(lambda number: f"{number}%"),
        st.fixed_dictionaries(
            {}, optional={"namespaces": st.just(["a"]), "label_selector": st.sampled_from(["x=1", "y", "!y,x!=2"])}
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(MEMBERS, RULES, st.randoms())
@settings(max_examples=200, deadline=None)
def test_waves_partition_the_set_in_the_same_order_always(members: list[One], rules: list[Any], random: Any) -> None:
    first = waves(rules, members)
    names = sorted(name for wave in first for name in wave)
    assert names == sorted(one.name for one in members)
    shuffled = list(members)
    random.shuffle(shuffled)
    assert waves(rules, shuffled) == first


@given(MEMBERS, st.dictionaries(st.sampled_from(["p", "q", "r"]), st.integers(0, 4)), st.integers(1, 6), st.randoms())
@settings(max_examples=300, deadline=None)
def test_no_budget_is_ever_exceeded(members: list[One], capacity: dict[str, int], concurrency: int, random: Any) -> None:
    """Rollouts begin and end in any order, and each takes away all that it may: a budget's capacity always does."""
    queue, flying, steps = list(members), [], 0

    def away(pdb: str) -> int:
        return sum(one.cost for one in flying if pdb in one.pdbs)

    while steps < 200:
        steps += 1
        # The API server says what is left: between all of it (nothing is away yet) and what is left when all is away.
        said = {pdb: max(0, allowed - random.randint(0, away(pdb))) for pdb, allowed in capacity.items()}
        begun = startable(queue, flying, said, concurrency)
        queue = [one for one in queue if one not in begun]
        flying += begun
        assert len(flying) <= concurrency
        for pdb in "pqr":
            assert away(pdb) <= capacity.get(pdb, 0)
        if not flying:
            break
        flying.remove(random.choice(flying))
    # What is left could never go: alone it would take more than a budget has.
    assert all(one.cost > min(capacity.get(pdb, 0) for pdb in one.pdbs) for one in queue)


@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 6),
    st.lists(st.integers(0, 5), max_size=2),
)
@settings(max_examples=500, deadline=None)
def test_a_last_ready_pod_never_goes(replicas: int, ready: int, unavailable: int, surge: int, allowed: list[int]) -> None:
    own = Manners(replicas, min(ready, replicas), min(unavailable, replicas), surge)
    cost, guard, trouble = safely(own, allowed)
    if trouble or replicas == 0:
        return
    effective = guard if guard is not None else own.unavailable
    assert effective == cost
    assert replicas - effective >= 1
    assert all(cost <= one for one in allowed)
    # Without a surge something must be away at some moment, or nothing would ever move.
    assert surge > 0 or cost > 0 or own.unavailable == 0


def deployment(replicas: int, surge: Any, unavailable: Any, ready: int | None = None) -> dict[str, Any]:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {
        "kind": "Deployment",
        "metadata": {"generation": 3, "name": "w"},
        "spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}},
        "status": {"readyReplicas": replicas if ready is None else ready},
    }


@pytest.mark.parametrize(
    ("workload", "cost", "guard", "refused"),
    [
        (deployment(1, "25%", "25%"), 0, None, ""),
        (deployment(4, "25%", "25%"), 1, None, ""),
        (deployment(1, 1, 1), 0, 0, ""),
        (deployment(1, 0, 1), 1, None, "last ready pod"),
        (deployment(2, 0, 0), 1, None, ""),
        (deployment(3, 0, "100%"), 3, None, "last ready pod"),
        (deployment(3, 1, 2, ready=2), 0, 0, ""),
        (deployment(3, 0, 2, ready=2), 2, None, "last ready pod"),
    ],
)
def test_what_a_deployment_takes_away(workload: dict[str, Any], cost: int, guard: int | None, refused: str) -> None:
    found = safely(manners(workload), [])
    assert found[:2] == (cost, guard) and refused in found[2] and bool(refused) == bool(found[2])


def test_a_budget_that_lets_nothing_go() -> None:
    assert safely(manners(deployment(4, 1, 1)), [0]) == (0, 0, "")
    assert "disruption budget lets 0" in safely(manners(deployment(4, 0, 1)), [2, 0])[2]


def status(kind: str, total: int, updated: int, available: int, seen: int = 3) -> dict[str, Any]:
    """A workload of two wanted pods in generation 3."""
    numbers: dict[str, Any] = {"replicas": total, "updatedReplicas": updated, "availableReplicas": available}
    if kind == "StatefulSet":
        numbers.update(currentRevision="b" if updated == 2 else "a", updateRevision="b")
    if kind == "DaemonSet":
        numbers = {"desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available}
    meta, spec = {"name": "w", "generation": 3}, {"replicas": 2}
    return {"kind": kind, "metadata": meta, "spec": spec, "status": {"observedGeneration": seen, **numbers}}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
@pytest.mark.parametrize(
    ("total", "updated", "available", "seen", "done"),
    [(2, 2, 2, 2, False), (2, 2, 2, 3, True), (2, 1, 2, 3, False), (2, 2, 1, 3, False), (2, 0, 2, 3, False)],
)
def test_a_rollout_has_ended(kind: str, total: int, updated: int, available: int, seen: int, done: bool) -> None:
    assert judge(status(kind, total, updated, available, seen)).done is done
    assert judge(None).hopeless


def test_a_deployment_with_an_old_pod_left_has_not_ended() -> None:
    assert not judge(status("Deployment", 3, 2, 3)).done
    asleep = status("Deployment", 0, 0, 0)
    asleep["spec"]["replicas"] = 0
    assert judge(asleep).done


def test_a_rollout_that_gave_up_is_not_waited_for() -> None:
    item = deployment(2, 1, 0)
    failed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    item["status"] = {"observedGeneration": 3, "replicas": 3, "updatedReplicas": 1, "conditions": [failed]}
    assert judge(item).hopeless == "ProgressDeadlineExceeded: late"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", True),
        ("a=1", True),
        ("a==2", False),
        ("a!=2, b", True),
        ("!c,a in (1, 2)", True),
        ("a notin (1)", False),
        ("c notin (1)", True),
        ("c", False),
        ("example.com/x=y.z", True),
    ],
)
def test_selectors_as_kubectl_reads_them(text: str, chosen: bool) -> None:
    assert selects(parse_selector(text), {"a": "1", "b": "", "example.com/x": "y.z"}) is chosen


def test_selectors_of_objects() -> None:
    expressions = [{"key": "t", "operator": "NotIn", "values": ["x"]}, {"key": "b", "operator": "DoesNotExist"}]
    assert selects(selector_of({"matchLabels": {"a": "1"}, "matchExpressions": expressions}), {"a": "1"})
    assert not selects(selector_of({"matchLabels": {"a": "1"}, "matchExpressions": expressions}), {"a": "1", "t": "x"})
    assert selects(selector_of({}), {"any": "thing"}) and not selects(selector_of(None), {})
