# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM joins a mesh that takes only mutual TLS, its proxy is exchanged under load, and leaves as if it had never been there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import vm
from lab.state import Lab
from tests.integration.vm.way import ACCOUNT, NAMESPACE, ToVm, Way, differences, look, machines

SPIFFE = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/{ACCOUNT}"


@pytest.fixture
def way(lab: Lab, tmp_path: Path) -> Iterator[Way]:
    with machines(lab, tmp_path, Way) as one:
        one.register()
        yield one


def test_a_vm_joins_serves_is_upgraded_and_leaves(way: Way, lab: Lab) -> None:
    before = look(way.one)
    tried = way.play(way.identity(), check=True)
    assert (tried.code, differences(before, look(way.one))) == (0, []), tried.text

    joined = way.play(way.identity(), way.proxy(), way.redirect())
    assert joined.code == 0, joined.text
    way.wait_for(200)
    answer = way.from_pod()
    assert answer["headers"]["X-Lab-Pod"] == ["vm-0"]
    assert answer["headers"]["X-Lab-Caller"] == ["spiffe://cluster.local/ns/demo/sa/echo"]
    assert way.from_vm()["caller"] == SPIFFE
    assert way.plain() == 0, "STRICT: nobody without a certificate gets in"

    again = way.play(way.identity(), way.proxy(), way.redirect())
    assert (again.code, again.changed) == (0, 0), again.text

    with ToVm(lab).running(rate=60) as load, way.outbound() as out:
        upgraded = way.play(way.proxy(image=vm.NEXT_IMAGE))
        assert (upgraded.code, upgraded.changed) == (0, 1), upgraded.text
        sums = load.stop()
    assert sums["failed"] == 0 and sums["ok"] == sums["sent"] > 0, sums
    assert out["failed"] == 0 and out["ok"] == out["sent"] > 0, out
    assert vm.NEXT_IMAGE in way.one.run(["docker", "ps", "--format", "{{.Image}}"]).stdout

    left = way.play(way.redirect(state="absent"), way.proxy(state="absent"), way.identity(state="absent"))
    assert left.code == 0, left.text
    assert differences(before, look(way.one)) == []
