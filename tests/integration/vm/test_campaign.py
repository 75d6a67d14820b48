# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may happen to a VM in the mesh: many exchanges, kills in the middle of them, a token that is worth nothing, a reboot."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import net, vm
from lab.kubeapi import path_of
from lab.state import Lab
from tests.integration.vm.way import ACCOUNT, NAMESPACE, ToVm, Way, differences, look, machines

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
SETTING = ["cat", "/proc/sys/net/ipv4/tcp_migrate_req"]


@pytest.fixture(scope="module")
def joined(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """A VM in the mesh, for all tests of this file."""
    with machines(lab, tmp_path_factory.mktemp("way"), Way) as one:
        one.register()
        before = look(one.one)
        played = one.play(one.identity(), one.proxy(), one.redirect())
        assert played.code == 0, played.text
        one.wait_for(200)
        yield one
        left = one.play(one.redirect(state="absent"), one.proxy(state="absent"), one.identity(state="absent"))
        assert left.code == 0, left.text
        assert differences(before, look(one.one)) == []


@pytest.fixture
def way(joined: Way) -> Iterator[Way]:
    """The VM as it was: the usual proxy, and nothing left of an exchange."""
    yield joined
    played = joined.play(joined.identity(), joined.proxy())
    assert played.code == 0, played.text
    joined.wait_for(200)


def lost(sums: dict[str, Any]) -> int:
    number = int(sums["sent"]) - int(sums["ok"])
    print({key: sums.get(key) for key in ("sent", "ok", "errors", "status", "stale_retry", "failures")})
    return number


def test_many_exchanges_lose_nothing(way: Way, lab: Lab) -> None:
    was = way.one.run(SETTING).stdout
    with ToVm(lab).running(rate=100) as load, way.outbound(100) as out:
        for number in range(6):
            played = way.play(way.proxy(image=vm.IMAGE if number % 2 else vm.NEXT_IMAGE))
            assert (played.code, played.changed) == (0, 1), played.text
        sums = load.stop()
    assert (lost(sums), lost(out)) == (0, 0), (sums, out)
    assert way.one.run(SETTING).stdout == was


def test_a_restart_does_lose_requests(way: Way, lab: Lab) -> None:
    """The yardstick: what the others count as nothing is seen when it is there."""
    with ToVm(lab).running(rate=100) as load, way.outbound(100) as out:
        played = way.play(way.proxy(image=vm.NEXT_IMAGE, replace="restart", stop_timeout=1))
        assert played.code == 0, played.text
        sums = load.stop()
    assert lost(sums) + lost(out) > 0


def test_a_run_that_is_killed_anywhere_in_an_exchange_loses_nothing(way: Way, lab: Lab) -> None:
    """Controller and module are killed; the next run completes the exchange, whatever was left of it."""
    was = way.one.run(SETTING).stdout
    chance = random.Random(7)
    images = [vm.NEXT_IMAGE, vm.IMAGE]
    with ToVm(lab).running(rate=100) as load, way.outbound(100) as out:
        for number in range(5):
            task = way.proxy(image=images[number % 2])
            with net.inside(lab):
                play = subprocess.Popen(
                    way.command(task), env=way.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            end = time.monotonic() + 60
            while not (module := modules(way)) and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 6))
            play.kill()
            play.wait()
            for pid in module or modules(way):
                way.one.run(["kill", "-9", pid], check=False)
            played = way.play(task)
            assert played.code == 0, played.text
            names = way.one.run(["docker", "ps", "-a", "--format", "{{.Names}} {{.Image}}"]).stdout.split("\n")
            assert names == [f"asm-proxy {images[number % 2]}", ""]
        sums = load.stop()
    assert (lost(sums), lost(out)) == (0, 0), (sums, out)
    assert way.one.run(SETTING).stdout == was


def modules(way: Way) -> list[str]:
    """Processes of the module on the VM."""
    return way.one.run(["pgrep", "-f", "AnsiballZ_vm_proxy"], check=False).stdout.split()


def test_without_a_valid_token_the_certificate_renews_itself(way: Way, lab: Lab) -> None:
    """Its account is made anew, so the token is worth nothing. Certificates live 40 s here, traffic goes on."""
    played = way.play(way.identity(env={"SECRET_TTL": "40s"}), way.proxy())
    assert played.code == 0, played.text
    path = path_of("v1", "serviceaccounts", NAMESPACE, ACCOUNT)
    with ToVm(lab).running(rate=50) as load, way.outbound(50) as out:
        account = way.ack.api.get(path)
        way.ack.api.delete(path)
        way.ack.apply_object("v1", "serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
            "name": ACCOUNT, "namespace": NAMESPACE, "labels": account["metadata"].get("labels") or {}}})  # fmt: skip
        serials = {serial(way)}
        for _part in range(8):
            time.sleep(15)
            serials.add(serial(way))
        sums = load.stop()
    assert (lost(sums), lost(out)) == (0, 0), (sums, out)
    assert len(serials) >= 4, "the certificate was renewed again and again"
    # a restart gets its next certificate by the one on disk
    way.one.run(["docker", "restart", "-t", "1", "asm-proxy"])
    way.wait_for(200, 60)
    # off for longer than a certificate lives: now only a token helps, and the module brings it
    way.one.run(["docker", "stop", "-t", "1", "asm-proxy"])
    time.sleep(45)
    again = way.play(way.identity(env={"SECRET_TTL": "40s"}), way.proxy())
    assert (again.code, again.changed) == (0, 2), again.text
    way.wait_for(200, 60)


def serial(way: Way) -> str:
    """Which certificate the agent has written down."""
    return way.one.run(["openssl", "x509", "-noout", "-serial", "-in", "/opt/asm_proxy/issued/cert-chain.pem"]).stdout.strip()


def test_a_timer_renews_both_tokens_and_can_do_nothing_else(way: Way) -> None:
    played = way.play(way.identity(renewal={"method": "timer"}))
    assert played.code == 0, played.text
    token = "/opt/asm_proxy/certs/istio-token"
    before = way.one.run(["sha256sum", token, "/opt/asm_proxy/api-token"]).stdout
    way.one.run(["python3", "/opt/asm_proxy/renew-token", "--now"])
    after = way.one.run(["sha256sum", token, "/opt/asm_proxy/api-token"]).stdout
    assert not {*before.split()[::2]} & {*after.split()[::2]}
    assert way.one.run(["stat", "-c", "%a %u", token, "/opt/asm_proxy/api-token"]).stdout == "600 1337\n600 0\n"
    for path, wanted in (
        (f"/api/v1/namespaces/{NAMESPACE}/pods", "403"),
        ("/api/v1/namespaces/kube-system/secrets", "403"),
    ):
        script = f'curl -s -o /dev/null -w "%{{http_code}}" --cacert /opt/asm_proxy/api-ca.pem {way.ack.server}{path} -H @-'
        bearer = 'printf "Authorization: Bearer %s" "$(cat /opt/asm_proxy/api-token)"'
        assert way.one.run(["sh", "-c", f"{bearer} | {script}"]).stdout == wanted
    again = way.play(way.identity(renewal={"method": "timer"}))
    assert (again.code, again.changed) == (0, 0), again.text
    back = way.play(way.identity())
    assert back.code == 0, back.text
    assert "asm-proxy-token" not in way.one.run(["systemctl", "list-timers", "--all", "--no-legend"]).stdout


def test_a_reboot_changes_nothing(way: Way) -> None:
    played = way.play({"name": "Reboot", "ansible.builtin.reboot": {"reboot_timeout": 120}})
    assert played.code == 0, played.text
    way.wait_for(200, 60)
    assert way.from_vm()["caller"].endswith(f"/ns/{NAMESPACE}/sa/{ACCOUNT}")
    assert way.plain() == 0
    again = way.play(way.identity(), way.proxy(), way.redirect())
    assert (again.code, again.changed) == (0, 0), again.text
