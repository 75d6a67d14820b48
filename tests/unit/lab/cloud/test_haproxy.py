# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy is told for a world, without a HAProxy."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lab.cloud.dataplane import HAProxy
from lab.cloud.haproxy import View, configuration, effective_weight, parse_state, state_file, view_of
from lab.cloud.model import Backend, Instance, Listener, LoadBalancer, VServerGroup, World
from lab.cloud.slb_listener import SETTINGS


def world(scheduler: str = "wrr", protocol: str = "tcp", status: str = "running", **weights: int) -> World:
    made = World(instances={k: Instance(k, f"10.10.1.{n}") for n, k in enumerate(weights, 10)})
    listener = Listener(protocol, 80, status, scheduler=scheduler, vserver_group_id="rsp-1", settings=dict(SETTINGS[protocol]))
    made.load_balancers["lb-1"] = LoadBalancer("lb-1", "x", "198.51.100.10", "cn-hangzhou", listeners={listener.key(): listener})
    made.groups["rsp-1"] = VServerGroup("rsp-1", "lb-1", "g", [Backend(k, 30080, w) for k, w in weights.items()])
    return made


def weights_of(view: View) -> list[int]:
    (proxy,) = view.proxies.values()
    return [s.weight for s in proxy.servers.values()]


@given(st.sampled_from(["wrr", "rr", "wlc", "sch", "tch"]), st.integers(0, 100))
def test_zero_means_none_and_nothing_else_does(scheduler: str, weight: int) -> None:
    assert (effective_weight(scheduler, weight) == 0) == (weight == 0)


def test_the_scheduler_decides_what_a_weight_means() -> None:
    assert weights_of(view_of(world("wrr", a=30, b=3, c=0))) == [30, 3, 0]
    assert weights_of(view_of(world("rr", a=30, b=3, c=0))) == [1, 1, 0]


def test_rr_to_wrr_needs_no_reload_but_a_timeout_does() -> None:
    rr, wrr, longer = world("rr", a=1), world("wrr", a=1), world("wrr", a=1)
    longer.load_balancers["lb-1"].listeners["tcp:80"].settings["EstablishedTimeout"] = 10
    heads = [next(iter(view_of(w).proxies.values())).head for w in (rr, wrr, longer)]
    assert heads[0] == heads[1] != heads[2]


def test_only_running_listeners_with_a_data_plane_are_served() -> None:
    assert view_of(world(status="stopped", a=1)).proxies == {}
    assert view_of(world(protocol="udp", a=1)).proxies == {}
    assert view_of(world(protocol="https", a=1)).proxies == {}
    inactive = world(a=1)
    inactive.load_balancers["lb-1"].status = "inactive"
    assert view_of(inactive).proxies == {}
    assert view_of(inactive).addresses == {"198.51.100.10"}
    assert "mode http" in configuration(view_of(world(protocol="http", a=1)))


def test_a_backend_without_an_address_is_left_out() -> None:
    made = world(a=1, b=1)
    del made.instances["a"]
    made.groups["rsp-1"].backends.append(Backend("eni-1", 8080, 5, "eni", "10.21.0.5"))
    (proxy,) = view_of(made).proxies.values()
    assert [s.address for s in proxy.servers.values()] == ["10.10.1.11:30080", "10.21.0.5:8080"]


def test_the_configuration_says_what_it_must() -> None:
    made = world("sch", a=30, b=0)
    settings = made.load_balancers["lb-1"].listeners["tcp:80"].settings
    settings["PersistenceTimeout"] = 60
    text = configuration(view_of(made), 500)
    for line in (
        "    maxconn 500", "    nbthread 1", "    retries 0", "listen lb-1.80", "    bind 198.51.100.10:80", "    balance source",
        "    hash-type consistent", "    stick on src", "    timeout client 900s",
        "    server s10_10_1_11_30080 10.10.1.11:30080 weight 0 check inter 500ms fastinter 200ms fall 3 rise 1",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    settings["HealthCheck"] = "off"
    assert " check inter" not in configuration(view_of(made))


LINE = "2 lb-1.80 1 s10_10_1_10_30080 10.10.1.10 2 0 7 30 9 6 3 4 6 0 0 0 - 30080 - 0 0 - - 0"


def test_the_state_of_servers_is_read_and_carried_over_a_reload() -> None:
    (seen,) = parse_state(f"1\n# be_id be_name\n{LINE}\n\n")
    assert (seen.proxy, seen.name, seen.address) == ("lb-1.80", "s10_10_1_10_30080", "10.10.1.10:30080")
    assert (seen.running, seen.maintenance, seen.weight) == (True, False, 7)
    text = state_file(view_of(world(a=50, b=3)), [seen])
    known, new = parse_state(text)
    assert (known.running, known.weight, known.maintenance) == (True, 50, False), "health is kept, the weight is the one wanted"
    assert (new.name, new.running, new.weight) == ("s10_10_1_11_30080", False, 3), "a new one is down until its first good check"


def test_a_server_in_maintenance_comes_back_from_a_reload() -> None:
    fields = LINE.split()
    fields[6] = "1"
    (seen,) = parse_state(" ".join(fields))
    assert seen.maintenance
    (carried,) = parse_state(state_file(view_of(world(a=50)), [seen]))
    assert not carried.maintenance


def test_capacity_is_added_before_it_is_taken_away(tmp_path: Path) -> None:
    plane = HAProxy(tmp_path, "clb0")
    plane.live = dict(view_of(world(a=100, b=0, c=5)).proxies)
    wanted = world(a=0, b=100, d=7)
    wanted.instances["d"] = Instance("d", "10.10.1.13")
    commands = plane._difference(view_of(wanted))
    up, down = "set server lb-1.80/s10_10_1_11_30080 weight 100", "set server lb-1.80/s10_10_1_10_30080 weight 0"
    new, gone = "set server lb-1.80/s10_10_1_13_30080 weight 7", "set server lb-1.80/s10_10_1_12_30080 state maint"
    assert max(commands.index(up), commands.index(new)) < min(commands.index(down), commands.index(gone))
    assert plane.leaving == {("lb-1.80", "s10_10_1_12_30080")}


def test_a_server_that_returns_before_it_was_deleted_is_taken_back(tmp_path: Path) -> None:
    plane = HAProxy(tmp_path, "clb0")
    plane.live = dict(view_of(world(a=1)).proxies)
    plane.leaving = {("lb-1.80", "s10_10_1_11_30080")}
    commands = plane._difference(view_of(world(a=1, b=9)))
    assert commands == ["set server lb-1.80/s10_10_1_11_30080 weight 9", "set server lb-1.80/s10_10_1_11_30080 state ready"]
    assert plane.leaving == set()
