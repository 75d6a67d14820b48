# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens of ten minutes, the least that the API gives, are lived through to their end, without any clock being moved.

Each VM's certificate lives a minute and is asked for by the token, not by the certificate before it. So a VM without a valid
token is out of the mesh two minutes after the token's end: that is what happens to the third one, which nobody renews.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.state import Lab
from tests.integration.vm.way import ToVm, Way, differences, look, machines

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1500)]
LIFE = 600
LEEWAY = 60  # an API server still takes a token that ended so many seconds ago
CERTIFICATE = 60
TIMER, PLAY, NOBODY = range(3)  # who renews the token of which VM
TOKEN = "/opt/asm_proxy/certs/istio-token"
CLAIMS = f"import base64, json; b = open('{TOKEN}').read().split('.')[1]; print(base64.urlsafe_b64decode(b + '===').decode())"


class Witness:
    """What is seen of one VM over time: its tokens, its proxy's certificates, and whether its proxy is still the same."""

    def __init__(self, way: Way, number: int) -> None:
        self.one = way.vms[number]
        self.tokens: dict[int, float] = {}  # end of a token -> when it was first seen
        self.certificates: dict[str, float] = {}
        self.proxies: set[str] = set()

    def look(self) -> None:
        now = time.time()
        claims = json.loads(self.one.run(["python3", "-c", CLAIMS]).stdout)
        assert claims["exp"] - claims["iat"] == LIFE, claims
        self.tokens.setdefault(claims["exp"], now)
        said = json.loads(self.one.run(["curl", "-s", "-m", "5", "http://127.0.0.1:15000/certs"]).stdout)
        for one in said["certificates"]:
            for cert in one.get("cert_chain") or []:
                self.certificates.setdefault(cert["serial_number"], now)
        self.proxies.add(self.one.run(["docker", "inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", "asm-proxy"]).stdout)

    def since(self, moment: float) -> int:
        """Certificates that were new after a moment."""
        return sum(1 for seen in self.certificates.values() if seen > moment)


@pytest.fixture
def way(lab: Lab, tmp_path: Path) -> Iterator[Way]:
    with machines(lab, tmp_path, Way, 3) as one:
        yield one


def identity(way: Way, number: int) -> dict[str, object]:
    method = {"method": "timer" if number == TIMER else "none"}
    short = {"SECRET_TTL": f"{CERTIFICATE}s"}
    return way.identity(expiration_seconds=LIFE, renewal=method, keep_certificates=False, env=short)


def test_traffic_flows_over_the_end_of_tokens(way: Way, lab: Lab) -> None:
    way.register({TIMER: "v1", PLAY: "v1"})
    before = [look(one) for one in way.vms]
    for number in (TIMER, PLAY, NOBODY):
        joined = way.play(identity(way, number), way.proxy(), way.redirect(), options=("--limit", f"vm-{number}"))
        assert joined.code == 0, joined.text
    way.wait_for(200)
    seen = [Witness(way, number) for number in (TIMER, PLAY, NOBODY)]
    for one in seen:
        one.look()
    firsts = [next(iter(one.tokens)) for one in seen]
    over = max(firsts) + LEEWAY  # from here on none of the first tokens is worth anything
    assert way.from_vm(way.vms[NOBODY]).get("caller"), "the third VM was never in the mesh"

    renewed = False
    with ToVm(lab).running(rate=60) as load, way.outbound(40) as out:
        while time.time() < over + 1.6 * CERTIFICATE:
            time.sleep(5)
            for one in seen:
                one.look()
            if not renewed and time.time() > firsts[PLAY] - LIFE / 2:
                again = way.play(identity(way, PLAY), way.proxy(), options=("--limit", f"vm-{PLAY}"))
                assert (again.code, again.changed) == (0, 1), again.text
                renewed = True
        alone = way.from_vm(way.vms[NOBODY])
        sums = load.stop()
    for name, one in zip(("timer", "play", "nobody"), seen, strict=True):
        left = [round(firsts[0] - moment) for moment in one.tokens.values()]
        print(f"{name}: tokens seen {left} s before the end, {len(one.certificates)} certificates, {one.since(over)} after it")
    print({key: (sums[key], out[key]) for key in ("sent", "ok", "failed")})
    assert sums["failed"] == 0 and sums["ok"] == sums["sent"] > 600 * 60 * 0.8, sums
    assert out["failed"] == 0 and out["ok"] == out["sent"] > 600 * 40 * 0.8, out
    for number in (TIMER, PLAY):
        one = seen[number]
        assert len(one.tokens) >= 2 and list(one.tokens.values())[1] < firsts[number] - 120, "renewed in good time"
        assert one.since(over) >= 2, "the proxy asks for certificates with its new token"
        assert len(one.proxies) == 1, "nothing restarted"
    assert len(seen[NOBODY].tokens) == 1 and seen[NOBODY].since(over + 10) == 0 and not alone.get("caller"), "the yardstick"

    absent = (way.redirect(state="absent"), way.proxy(state="absent"), way.identity(state="absent"))
    left_all = way.play(*absent)
    assert left_all.code == 0, left_all.text
    assert [differences(old, look(one)) for old, one in zip(before, way.vms, strict=True)] == [[], [], []]
