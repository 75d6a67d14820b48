# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of streams: a cut counts as drained only while a pod that it went through had its grace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.demo.streams import Ending, ending_of, judge, lines_of, problems

GATEWAY, SERVER = Ending("istio-ingressgateway-7d-a", 1000.0, 30.0), Ending("echo-v1-x", 2000.0, 10.0)


def line(how: str, moment: float, pod: str = "echo-v1-x", opened: float = 900.0) -> dict[str, Any]:
    return {"t": moment, "stream": "s", "how": how, "opened": opened, "pod": pod, "lines": 3, "gap_ms": 210.0}


@pytest.mark.parametrize(
    ("seen", "gateways", "what"),
    [
        (line("open", 3000.0), "", "survived"),
        (line("drained", 3000.0), "", "drained"),
        (line("eof", 2009.0), "", "cut_in_grace"),
        (line("reset", 2012.5), "", "cut_in_grace"),
        (line("eof", 2014.0), "", "cut"),
        (line("eof", 1990.0), "", "cut"),
        (line("eof", 2005.0, pod="echo-v2-y"), "", "cut"),
        (line("eof", 1020.0), "istio-ingressgateway", "cut_in_grace"),
        (line("eof", 1020.0), "", "cut"),
        (line("timeout", 1500.0), "istio-ingressgateway", "cut"),
        (line("status 503", 1500.0, opened=0), "", "refused"),
    ],
)
def test_each_end_has_its_place(seen: dict[str, Any], gateways: str, what: str) -> None:
    found = judge([seen], [GATEWAY, SERVER], gateways)
    places = {
        key: value if isinstance(value, int) else len(value) for key, value in found.items() if key not in ("gap_ms", "longest_s")
    }
    assert {key for key, number in places.items() if number} == {what} | ({"opened"} if what != "refused" else set())
    assert bool(problems("there", found)) == (what in ("cut", "refused"))


def test_no_stream_at_all_is_a_problem_and_one_that_the_run_ended_before_it_began_is_none() -> None:
    found = judge([line("open", 1.0, opened=0)], [])
    assert found["opened"] == 0 and not found["refused"]
    assert problems("outside", found) == ["no stream was open outside"]


def test_the_time_of_a_deletion_is_the_end_of_its_grace() -> None:
    meta = {"name": "a", "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}
    found = ending_of({"metadata": meta})
    assert found is not None and found.asked == 1767225600.0 and found.covers(1767225631.0) and not found.covers(1767225640.0)
    assert ending_of({"metadata": {"name": "a"}}) is None


def test_lines_of_a_generator(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text('{"t": 1, "served": []}\n{"t": 2, "stream": "s", "how": "open"}\n{"summary": true, "streams": {}}\n{"stre')
    assert [one["how"] for one in lines_of(file)] == ["open"]
