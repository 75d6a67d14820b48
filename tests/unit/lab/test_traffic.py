# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python side of the load generator: its command, following a run, what is printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import proc, traffic
from lab.state import Lab, LabError

BUCKET: dict[str, Any] = {
    "t": 1000.0, "duration_s": 1.0, "rate": 200.0, "sent": 200, "ok": 198, "failed": 2,
    "status": {"200": 198, "503": 1}, "errors": {"reset": 1},
    "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0}, "idle_closed": 1, "stale_retry": 0, "new": 100, "kept": 100,
    "served": [
        {"target": "http", "conn": "new", "gateway": "istio-ingressgateway", "version": "v1", "status": 200, "n": 75},
        {"target": "https", "conn": "kept", "gateway": "istio-ingressgateway", "version": "v2", "status": 200, "n": 75},
        {"target": "http", "conn": "new", "gateway": "asm-ingressgateway", "version": "v1", "status": 200, "n": 50},
    ],
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab whose load generator is a shell script, run outside of any namespace."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "traffic"
    script.write_text(
        """#!/bin/bash
for word in "$@"; do case $word in -out=*) out=${word#-out=};; -stop-file=*) stop=${word#-stop-file=};; esac; done
echo '{"t": 1}' > "$out"
for i in $(seq 200); do [ -e "$stop" ] && break; sleep 0.02; done
printf '{"t": 2}\\n{"t": 1, "sum' >> "$out"; sleep 0.1; echo 'mary": true, "failed": 0}' >> "$out"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("LAB_BIN", str(programs))
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(proc, "in_netns", lambda lab, netns, argv: list(argv))
    lab = Lab("traffic")
    lab.update(clb_address="198.51.100.9")
    yield lab
    proc.stop_all(lab, proc.names(lab), 0)


def test_address_is_the_load_balancers(lab: Lab) -> None:
    assert traffic.address(lab) == "198.51.100.9"


def test_command_is_complete(lab: Lab) -> None:
    argv = traffic.command(
        lab,
        "198.51.100.9",
        traffic.targets(),
        rate=250,
        seconds=1.5,
        new_ratio=0.25,
        bucket=0.1,
        timeout=2,
        out=Path("o"),
        stop_file=Path("s"),
    )
    assert argv[1:4] == ["-rate=250", "-duration=1.5s", "-new-ratio=0.25"]
    assert {"-bucket=0.1s", "-timeout=2s", "-out=o", "-stop-file=s", "-resolve=echo.lab.test=198.51.100.9"} <= set(argv)
    assert argv[-2:] == ["-target=http=http://echo.lab.test:80/", "-target=https=https://echo.lab.test:443/"]
    certificate = next(word for word in argv if word.startswith("-ca=")).removeprefix("-ca=")
    assert "BEGIN CERTIFICATE" in Path(certificate).read_text()


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"seconds": 3601.0}, {"rate": 0.0}, {"new_ratio": 1.1}, {"bucket": 0.0}])
def test_wrong_values_are_refused_before_anything_starts(lab: Lab, wrong: dict[str, float]) -> None:
    with pytest.raises(LabError):
        traffic.start(lab, **wrong)  # type: ignore[arg-type]
    assert not traffic.Run(lab, "traffic").alive()


def test_a_run_is_followed_to_its_end_and_lines_are_never_cut(lab: Lab) -> None:
    run = traffic.start(lab, seconds=5)
    assert run.summary() is None
    with pytest.raises(LabError, match="under way"):
        traffic.start(lab)
    lines = run.lines()
    assert next(lines) == {"t": 1}
    run.stop_file.touch()
    assert list(lines) == [{"t": 2}, {"t": 1, "summary": True, "failed": 0}]
    assert traffic.stop(lab) == {"t": 1, "summary": True, "failed": 0}
    assert not run.stop_file.exists()


def test_a_killed_run_has_no_summary(lab: Lab) -> None:
    run = traffic.start(lab)
    found = proc.load(lab, "traffic")
    assert found is not None
    subprocess.run(["kill", "-9", str(found.pid)], check=True)
    with pytest.raises(LabError, match="no summary"):
        run.stop()


def test_shares_by_gateway() -> None:
    assert traffic.shares(BUCKET) == {"asm-ingressgateway": 25.0, "istio-ingressgateway": 75.0}
    assert traffic.shares({"served": []}) == {}


def test_lines_say_what_matters() -> None:
    line = traffic.describe(BUCKET)
    for part in ("200.0/s", "failed 2", "200:198", "503:1", "reset:1", "p99 3.0", "asm 25.0 %", "istio 75.0 %"):
        assert part in line
    summary = traffic.describe({**BUCKET, "summary": True, "ended": "signal"})
    assert "sent 200, new 100, kept 100; closed while idle 1" in summary
    failure = json.loads('{"t": 1, "failure": "status", "target": "http", "status": 503, "gateway": "asm-ingressgateway"}')
    assert "FAILED http: status: status 503 of asm-ingressgateway" in traffic.describe(failure)
