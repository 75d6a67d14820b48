# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of the rules by version. That of the newest one is compared with the real istio-iptables in the integration tests."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import SINCE, Wanted, build

# What the vendor's own call gives with 1.8.4, as it was read from a kernel.
V1_8_4 = {
    "PREROUTING": ["-p tcp -j ISTIO_INBOUND"],
    "OUTPUT": ["-p tcp -j ISTIO_OUTPUT"],
    "ISTIO_INBOUND": [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -m tcp --dport 22 -j RETURN",
        "-p tcp -m tcp --dport 15020 -j RETURN",
        "-p tcp -j ISTIO_IN_REDIRECT",
    ],
    "ISTIO_IN_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15006"],
    "ISTIO_OUTPUT": [
        "-s 127.0.0.6/32 -o lo -j RETURN",
        "! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-o lo -m owner ! --uid-owner 1337 -j RETURN",
        "-m owner --uid-owner 1337 -j RETURN",
        "! -d 127.0.0.1/32 -o lo -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-o lo -m owner ! --gid-owner 1337 -j RETURN",
        "-m owner --gid-owner 1337 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.233.0.0/16 -j ISTIO_REDIRECT",
        "-j RETURN",
    ],
    "ISTIO_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15001"],
}
TUNNEL = "-p tcp -m tcp ! --dport 15008 "


def nat(**options: Any) -> dict[str, list[str]]:
    given = {"inbound_exclude": ("15020",), "outbound_cidrs": ("10.233.0.0/16",), "keep": False, **options}
    return build(Wanted(**given), 4).chains["nat"]


def test_1_8_4_is_as_it_was_seen() -> None:
    assert nat(version=(1, 8)) == V1_8_4


@pytest.mark.parametrize("version", [(1, 13), (1, 17)])
def test_from_1_13_port_22_is_excluded_because_it_is_guarded(version: tuple[int, int]) -> None:
    assert nat(version=version) == V1_8_4
    assert "-p tcp -m tcp --dport 22 -j RETURN" not in nat(version=version, guards=())["ISTIO_INBOUND"]


def test_later_versions_differ_in_the_places_that_are_known() -> None:
    from_18 = [
        spec.replace("-o lo -m owner --", f"-o lo {TUNNEL}-m owner --") if spec.startswith("!") else spec
        for spec in V1_8_4["ISTIO_OUTPUT"]
    ]
    assert nat(version=(1, 18)) == {**V1_8_4, "ISTIO_OUTPUT": from_18}
    assert nat(version=(1, 23)) == {**V1_8_4, "ISTIO_OUTPUT": from_18[:-1]}
    newest = {**V1_8_4, "ISTIO_OUTPUT": from_18[:-1], "OUTPUT": ["-j ISTIO_OUTPUT"]}
    assert nat(version=(1, 25)) == nat(version=(1, 31)) == newest


def test_drop_invalid_has_a_chain_since_1_24() -> None:
    invalid = "-m conntrack --ctstate INVALID -j "
    assert build(Wanted(version=(1, 23), drop_invalid=True), 4).chains["mangle"] == {"PREROUTING": [f"{invalid}DROP"]}
    newer = build(Wanted(version=(1, 24), drop_invalid=True), 4).chains["mangle"]
    assert newer == {"PREROUTING": [f"{invalid}ISTIO_DROP"], "ISTIO_DROP": ["-j DROP"]}


@pytest.mark.parametrize(("version", "chain"), [((1, 22), "OUTPUT"), ((1, 24), "ISTIO_OUTPUT"), ((1, 25), "ISTIO_OUTPUT_DNS")])
def test_where_names_are_captured(version: tuple[int, int], chain: str) -> None:
    rules = build(Wanted(version=version, dns_capture=True, dns_servers=("192.0.2.53",)), 4).chains
    redirect = "-d 192.0.2.53/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"
    assert [name for name, specs in rules["nat"].items() if redirect in specs] == [chain]
    assert any("-j CT --zone 2" in spec for spec in rules["raw"][chain])


def test_answers_of_name_servers_are_known_by_their_source_since_1_20() -> None:
    def answers(version: tuple[int, int]) -> list[str]:
        wanted = Wanted(version=version, dns_capture=True, dns_servers=("192.0.2.53",))
        return build(wanted, 4).chains["raw"]["PREROUTING"]

    assert answers((1, 19)) == ["-d 192.0.2.53/32 -p udp -m udp --sport 53 -j CT --zone 1"]
    assert answers((1, 20)) == ["-s 192.0.2.53/32 -p udp -m udp --sport 53 -j CT --zone 1"]


@pytest.mark.parametrize("version", [(1, 8), (1, 11), (1, 12), (1, 31)])
def test_ipv6_only_when_it_is_wanted(version: tuple[int, int]) -> None:
    assert build(Wanted(version=version), 6).tables() == []
    six = build(Wanted(version=version, ipv6=True, outbound_cidrs=("10.0.0.0/8", "fd00::/64")), 6).chains["nat"]
    assert "-d fd00::/64 -j ISTIO_REDIRECT" in six["ISTIO_OUTPUT"]
    assert "10.0.0.0" not in str(six)
    assert "-s ::6/128 -o lo -j RETURN" in six["ISTIO_OUTPUT"]


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("exclude_interfaces", {"exclude_interfaces": ("eth1",)}),
        ("dns_capture", {"dns_capture": True, "dns_all": True}),
        ("tproxy", {"tproxy": True}),
        ("drop_invalid", {"drop_invalid": True}),
        ("owner_groups", {"exclude_groups": ("100",)}),
        ("loopback_cidr", {"loopback_cidr": "127.0.0.2/32"}),
    ],
)
def test_what_a_version_cannot_do_is_refused(option: str, given: dict[str, Any]) -> None:
    major, minor = SINCE[option]
    build(Wanted(version=(major, minor), **given), 4)
    with pytest.raises(InputError, match=option):
        build(Wanted(version=(major, minor - 1), **given), 4)


def test_no_way_in_is_captured() -> None:
    wanted = Wanted(inbound_ports=("22", "2222", "8080"), guards=("22", "2222"))
    assert wanted.kept() == ["22", "2222"]
    inbound = build(wanted, 4).chains["nat"]["ISTIO_INBOUND"]
    assert inbound == ["-p tcp -m tcp --dport 15008 -j RETURN", "-p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT"]
    only_ssh = build(Wanted(inbound_ports=("22",)), 4).chains["nat"]
    assert "PREROUTING" not in only_ssh


def test_a_chain_that_is_jumped_to_is_there() -> None:
    rules = build(Wanted(tproxy=True, dns_capture=True, dns_all=True, drop_invalid=True), 4)
    for chains in rules.chains.values():
        targets = {spec.split("-j ")[1].split()[0] for specs in chains.values() for spec in specs}
        assert {name for name in targets if name.startswith("ISTIO_")} <= set(chains)
