# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's evidence tells the truth, and notices when it is bad."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.demo import evidence


def bucket(
    t: float, *, istio: int = 0, asm: int = 0, asm_bad: int = 0, istio_bad: int = 0, kept_istio: int = 0
) -> dict[str, Any]:
    served = [
        {"target": "http", "conn": "new", "gateway": evidence.SOURCE, "version": "v1", "status": 200, "n": istio},
        {"target": "http", "conn": "new", "gateway": evidence.TARGET, "version": "v1", "status": 200, "n": asm},
        {"target": "http", "conn": "new", "gateway": evidence.TARGET, "version": "", "status": 503, "n": asm_bad},
        {"target": "http", "conn": "new", "gateway": evidence.SOURCE, "version": "", "status": 503, "n": istio_bad},
        {"target": "http", "conn": "kept", "gateway": evidence.SOURCE, "version": "v1", "status": 200, "n": kept_istio},
    ]
    failed = asm_bad + istio_bad
    sent = istio + asm + failed + kept_istio
    return {"t": t, "duration_s": 1.0, "sent": sent, "failed": failed, "served": [s for s in served if s["n"]]}


def summary(buckets: list[dict[str, Any]], rate: float = 250.0) -> dict[str, Any]:
    sent, failed = sum(b["sent"] for b in buckets), sum(b["failed"] for b in buckets)
    return {"summary": True, "sent": sent, "failed": failed, "ok": sent - failed, "rate": rate}


def told(asked: float, planned: float, started: float, ended: float) -> dict[str, Any]:
    end = datetime.fromtimestamp(ended, tz=UTC).isoformat(timespec="milliseconds")
    return {"asked": asked, "planned": planned, "held_s": ended - started, "ended": end}


def test_share_counts_new_connections_in_the_window_only() -> None:
    inside = [bucket(10, istio=75, asm=25, kept_istio=100), bucket(11, istio=75, asm=25)]
    buckets = [bucket(0, istio=100), *inside, bucket(20, asm=100)]
    made = evidence.step(buckets, told(25, 25.0, 9.4, 12.0))
    assert (made["observed"], made["requests"], made["error"]) == (25.0, 200, 0.0)
    assert made["observed_all"] == pytest.approx(100 * 50 / 300, abs=0.001)
    assert made["ci95"][0] < 25.0 < made["ci95"][1]


def test_the_interval_is_right_at_both_ends() -> None:
    assert evidence.wilson(0, 0) == (0.0, 100.0)
    assert evidence.wilson(0, 1000)[0] == 0.0
    assert evidence.wilson(1000, 1000)[1] == 100.0
    low, high = evidence.wilson(250, 1000)
    assert (round(low, 1), round(high, 1)) == (22.4, 27.8)


@pytest.mark.parametrize(
    ("changed", "verdicts", "words"),
    [
        ({}, ["pass", "pass"], []),
        ({"failed": 2}, ["pass"], ["2 of 900 requests between workloads failed"]),
        ({"least_rate": 20}, ["pass"], ["only 20 requests a second were sent between workloads"]),
        ({}, ["pass", "error"], ["not all waves"]),
        ({}, [], ["not all waves"]),
    ],
)
def test_traffic_between_workloads_is_judged_too(changed: dict[str, int], verdicts: list[str], words: list[str]) -> None:
    found: dict[str, Any] = {"requests": {"sent": 1, "failed": 0, "rate": 240}, "steps": []}
    inside = {"sent": 900, "failed": 0, "least_rate": 110, **changed}
    wrong = evidence.problems({**found, "inside": inside, "waves": [{"verdict": one} for one in verdicts]})
    assert [line for line in wrong if line != "no step was made"] == [line for line in wrong if any(w in line for w in words)]
    assert all(any(word in line for line in wrong) for word in words)


def test_a_clean_run_has_no_problems() -> None:
    buckets = [bucket(float(i), istio=150, asm=50) for i in range(60)]
    found = evidence.gather(buckets, summary(buckets), {"steps": [told(25, 25.0, 0.0, 60.0)]}, [])
    assert found["requests"] == {"sent": 12000, "failed": 0, "rate": 250.0, "ok": 12000}
    assert evidence.problems(found) == []
    assert "25.00" in evidence.table(found)


@pytest.mark.parametrize(
    ("buckets", "shift", "rate", "words"),
    [
        ([bucket(1.0, istio=99, istio_bad=1)], {"steps": []}, 250.0, ["1 of 100 requests failed", "no step was made"]),
        (
            [bucket(float(i), istio=180, asm=20) for i in range(30)],
            {"steps": [told(25, 25.0, 0, 30)]},
            250.0,
            ["10.0 % were seen"],
        ),
        ([bucket(1.0, istio=100, asm=100)], {"steps": [told(50, 50.0, 0.0, 3.0)]}, 150.0, ["only 150.0 requests"]),
        ([bucket(1.0, istio=100)], {"steps": [told(50, 50.0, 7.0, 9.0)]}, 250.0, ["no request was seen"]),
    ],
)
def test_each_broken_promise_is_named(buckets: list[Any], shift: dict[str, Any], rate: float, words: list[str]) -> None:
    text = "\n".join(evidence.problems(evidence.gather(buckets, summary(buckets, rate), shift, [])))
    for word in words:
        assert word in text


def test_a_rollback_counts_the_bad_targets_errors_apart() -> None:
    buckets = [bucket(float(i), istio=150, asm=50) for i in range(10)] + [bucket(10.0, istio=150, asm_bad=50)]
    shift = {"steps": [told(25, 25.0, 0, 10)], "rolled_back": True, "timings": {"verdict_to_weights_s": 0.4}}
    found = evidence.gather(buckets, summary(buckets), shift, [])
    assert found["rollback"]["target_errors"] == 50
    assert evidence.problems(found) == []
    buckets.append(bucket(11.0, istio_bad=3, istio=100))
    shift["timings"] = {"verdict_to_weights_s": 1.4}
    text = "\n".join(evidence.problems(evidence.gather(buckets, summary(buckets), shift, [])))
    assert "3 requests failed that the bad target had not answered" in text
    assert "1.4 s, more than 1 s" in text


def test_the_line_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(json.dumps(bucket(1.0, istio=1)) + "\n" + '{"failure": true}\n' + '{"t": 2.0, "serv')
    buckets, end = evidence.read(file)
    assert len(buckets) == 1
    assert end == {}
