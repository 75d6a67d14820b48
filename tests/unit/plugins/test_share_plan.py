# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of weights: properties that hold for every gateway, and the table of the real CCM's sums."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.filter.share_plan import share_plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import Member, capacity, weights
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import Side, choose, parse_share, side_of

SHARES = st.one_of(
    st.integers(0, 100),
    st.decimals(0, 100, places=2).map(str),
    st.fractions(0, 100, max_denominator=50),
)


@st.composite
def sides(draw: st.DrawFn) -> Side:
    mode = draw(st.sampled_from(["cluster", "eni", "local"]))
    if mode == "local":
        nodes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
        virtual = draw(st.integers(0, 4))
        members = [Member(f"i-{index}", "ecs", pods) for index, pods in enumerate(nodes)]
        members += [Member(f"10.0.0.{index}", "eci") for index in range(virtual)]
        return Side(mode, tuple(members))
    count = draw(st.integers(1, 130))
    return Side(mode, tuple(Member(f"b-{index}", "eni" if mode == "eni" else "ecs") for index in range(count)))


@given(sides(), sides(), SHARES)
def test_never_both_zero_and_never_all_by_accident(source: Side, target: Side, share: object) -> None:
    plan, asked = choose(source, target, share), parse_share(share)
    assert 0 <= plan.source_weight <= 100
    assert 0 <= plan.target_weight <= 100
    assert plan.source_capacity + plan.target_capacity > 0
    if asked == 0:
        assert (plan.source_weight, plan.target_weight, plan.planned) == (100, 0, 0)
    elif asked == 100:
        assert (plan.source_weight, plan.target_weight, plan.planned) == (0, 100, 100)
    else:
        assert plan.source_capacity > 0
        assert plan.target_capacity > 0


@given(sides(), sides(), st.lists(SHARES, min_size=2, max_size=6))
def test_monotone(source: Side, target: Side, shares: list[object]) -> None:
    planned = [choose(source, target, share).planned for share in sorted(shares, key=parse_share)]
    assert planned == sorted(planned)


@given(sides(), sides(), st.integers(1, 99))
def test_no_achievable_share_is_nearer_and_no_equal_one_is_larger(source: Side, target: Side, share: int) -> None:
    plan = choose(source, target, share)
    mine = Fraction(100 * plan.target_capacity, plan.source_capacity + plan.target_capacity)
    assert float(mine) == pytest.approx(plan.planned, abs=1e-5)
    right = [target.capacity(weight) for weight in range(101)]
    for left in {source.capacity(weight) for weight in range(101)}:
        for size in set(right):
            if left <= 0 or size <= 0:
                continue
            other = Fraction(100 * size, left + size)
            assert abs(mine - share) <= abs(other - share)
            if abs(mine - share) == abs(other - share):
                assert plan.source_capacity + plan.target_capacity >= left + size


@given(sides(), sides(), st.integers(0, 100), st.randoms(use_true_random=False))
def test_order_of_backends_does_not_matter(source: Side, target: Side, share: int, chance: random.Random) -> None:
    def shuffled(side: Side) -> Side:
        members = list(side.members)
        chance.shuffle(members)
        return Side(side.mode, tuple(members))

    assert choose(source, target, share) == choose(shuffled(source), shuffled(target), share)


# facts: sums of clamped weights that the CCM's own code gives for W = 1, 5, 10, 50, 90, 100
TABLE = [
    ("eni", [1], (1, 5, 10, 50, 90, 100)),
    ("cluster", [1] * 3, (3, 3, 9, 48, 90, 99)),
    ("eni", [1] * 7, (7, 7, 7, 49, 84, 98)),
    ("cluster", [1] * 30, (30, 30, 30, 30, 90, 90)),
    ("local", [2, 1], (2, 4, 9, 49, 90, 99)),
    ("local", [2, 2, 2, 1], (4, 4, 7, 49, 87, 98)),
    ("local", [2] * 15, (15, 15, 15, 45, 90, 90)),
]


@pytest.mark.parametrize(("mode", "pods", "sums"), TABLE)
def test_the_formula_gives_the_sums_of_the_real_ccm(mode: str, pods: list[int], sums: tuple[int, ...]) -> None:
    members = [Member(f"i-{index}", "eni" if mode == "eni" else "ecs", count) for index, count in enumerate(pods)]
    assert tuple(capacity(mode, members, weight) for weight in (1, 5, 10, 50, 90, 100)) == sums
    assert capacity(mode, members, 0) == 0


def test_the_formula_of_the_upstream_tests() -> None:
    two = [Member("a", "eni"), Member("b", "eni")]
    assert weights("eni", two, 60) == {"a": 30, "b": 30}
    assert weights("eni", two, None) == {"a": 100, "b": 100}
    assert weights("eni", two, None, default=75) == {"a": 75, "b": 75}
    nodes = [Member("i-1", "ecs", 2), Member("i-2", "ecs", 1)]
    assert weights("local", nodes, None) == {"i-1": 2, "i-2": 1}
    # Pods on virtual nodes are divided without a lower end in Local mode.
    assert weights("local", [Member("i-1", "ecs", 2), Member("10.0.0.1", "eci")], 1) == {"i-1": 1, "10.0.0.1": 0}
    assert weights("cluster", [], 50) == {}


def test_ten_percent_of_thirty_nodes_is_never_ten_percent_by_the_obvious_weights() -> None:
    nodes = side_of("cluster", 30)
    assert nodes.capacity(10) / (nodes.capacity(10) + nodes.capacity(90)) == 0.25
    plan = choose(nodes, nodes, 10)
    assert (plan.source_weight, plan.target_weight, plan.planned) == (100, 30, 25.0)
    assert plan.error == 15.0


def test_no_backends() -> None:
    nothing, some = Side("eni", ()), side_of("eni", 2)
    with pytest.raises(MigrationError, match="target gateway has no backends"):
        choose(some, nothing, 1)
    with pytest.raises(MigrationError, match="source gateway has no backends"):
        choose(nothing, some, 99)
    assert choose(some, nothing, 0).target_weight == 0
    assert choose(nothing, some, 100).source_weight == 0


@pytest.mark.parametrize("bad", [-1, 101, "ten", "", None, True, float("nan"), float("inf"), [5], "1/0"])
def test_bad_shares_are_refused(bad: object) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        parse_share(bad)


def test_the_filter() -> None:
    plans = share_plan([1, 5, 25], 2, 2)
    assert [plan["asked"] for plan in plans] == [1, 5, 25]
    assert plans[2]["planned"] == pytest.approx(25, abs=0.5)
    assert share_plan("50", [2, 1], 1, "local")["planned"] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0, 2), "1..10000"),
        ((5, "two", 2), "1..10000"),
        ((5, [1, 2], 2), "pods per node"),
        ((5, 2, 2, "nat"), "not known"),
        ((101, 2, 2), "not in 0..100"),
    ],
)
def test_the_filter_refuses(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        share_plan(*arguments)  # type: ignore[arg-type]
