# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate that asks a Prometheus: its rules as tables, its answers as Prometheus' documentation gives them."""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _prometheus
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import build_gates, check_times
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, INCONCLUSIVE, PASS, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._prometheus import (
    Prometheus,
    judge_success,
    judge_value,
    number_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Rules
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._statistics import difference, wilson, z_of

#: How many times faster than ours the gate's clock runs here.
SPEED = 5
SUCCESS = {"min": 99.0, "min_requests": 100, "confidence": 95}
DROP = {"max_drop": 1.0, "min_requests": 100, "confidence": 95}


@pytest.mark.parametrize(
    ("good", "total", "state"),
    [
        (1000, 1000, PASS),
        (990, 1000, PASS),
        (985, 1000, INCONCLUSIVE),  # below, but 99 % is within what chance explains
        (970, 1000, FAIL),
        (98, 100, INCONCLUSIVE),
        (90, 100, FAIL),
        (99, 99, INCONCLUSIVE),  # too few
        (0, 0, INCONCLUSIVE),
        (0, 1000, FAIL),
    ],
)
def test_success_fails_only_when_it_is_sure(good: float, total: float, state: str) -> None:
    assert judge_success(SUCCESS, {"good": good, "total": total}).state == state


@pytest.mark.parametrize(
    ("good", "total", "base_good", "base_total", "state"),
    [
        (1000, 1000, 1000, 1000, PASS),
        (900, 1000, 900, 1000, PASS),  # both are bad: the move is not to blame
        (995, 1000, 1000, 1000, PASS),
        (98, 100, 1000, 1000, INCONCLUSIVE),
        (900, 1000, 1000, 1000, FAIL),
        (1000, 1000, 99, 99, INCONCLUSIVE),
        (1000, 1000, 0, 1000, PASS),
        (1001, 1000, 1002, 1000, PASS),  # sums that are carried on to the window's edges
    ],
)
def test_success_against_the_other_side(good: float, total: float, base_good: float, base_total: float, state: str) -> None:
    seen = {"good": good, "total": total, "baseline_good": base_good, "baseline_total": base_total}
    assert judge_success(DROP, seen).state == state


@pytest.mark.parametrize(
    ("least", "good", "state", "words"),
    [
        (None, 1000, INCONCLUSIVE, "of the baseline 3 requests, 100 are needed; without them only min could judge"),
        (99.0, 1000, PASS, "100 % of 1000 requests are good, and the other side has too few to compare"),
        (99.0, 900, FAIL, "99 % are needed"),
    ],
)
def test_without_another_side_min_judges_alone(least: float | None, good: float, state: str, words: str) -> None:
    seen = {"good": good, "total": 1000, "baseline_good": 3, "baseline_total": 3}
    verdict = judge_success({**DROP, "min": least}, seen)
    assert verdict.state == state
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("rule", "seen", "state"),
    [
        ({"max_ratio": 1.5, "min_requests": 10}, {"query": 15.1, "baseline": 10.0, "baseline_requests": 9.0}, INCONCLUSIVE),
        ({"max_ratio": 1.5, "min_requests": 10}, {"query": 15.1, "baseline": 10.0, "baseline_requests": 10.0}, FAIL),
        ({"max_ratio": 1.5, "min_requests": 10, "max": 16.0}, {"query": 15.1, "baseline": 10.0, "baseline_requests": 9.0}, PASS),
        ({"max_ratio": 1.5, "max": 16.0}, {"query": 15.1}, PASS),
        ({"max_ratio": 1.5, "max": 15.0}, {"query": 15.1}, FAIL),
        ({"max_ratio": 1.5}, {"query": 15.1}, INCONCLUSIVE),
        ({"max": 5.0}, {"query": 5.0}, PASS),
        ({"max": 5.0}, {"query": 5.1}, FAIL),
        ({"min": 5.0}, {"query": 4.9}, FAIL),
        ({"max_ratio": 1.5}, {"query": 15.0, "baseline": 10.0}, PASS),
        ({"max_ratio": 1.5}, {"query": 15.1, "baseline": 10.0}, FAIL),
        ({"max": 5.0, "min_requests": 10}, {"query": 9.0, "requests": 9.0}, INCONCLUSIVE),
        ({"max": 5.0, "min_requests": 10}, {"query": 9.0, "requests": 10.0}, FAIL),
    ],
)
def test_a_value_and_its_bounds(rule: dict[str, float], seen: dict[str, float], state: str) -> None:
    assert judge_value(rule, seen).state == state


@given(whole=st.integers(1, 10_000), data=st.data(), confidence=st.floats(50, 99.9))
def test_intervals_hold_the_sample_and_grow_with_confidence(whole: int, data: Any, confidence: float) -> None:
    part = data.draw(st.integers(0, whole))
    low, high = wilson(part, whole, z_of(confidence))
    assert -1e-9 <= low <= 100 * part / whole + 1e-9
    assert 100 * part / whole - 1e-9 <= high <= 100 + 1e-9
    wider = wilson(part, whole, z_of(confidence + (100 - confidence) / 2))
    assert wider[0] <= low + 1e-9
    assert wider[1] >= high - 1e-9
    least, most = difference((part, whole), (part, whole), z_of(confidence))
    assert least <= 1e-9
    assert most >= -1e-9


def test_intervals_are_the_published_ones() -> None:
    """Newcombe 1998: Wilson 81/263 is 0.2553 to 0.3662; method 10 for 56/70 - 48/80 is 0.0524 to 0.3339."""
    z = z_of(95)
    assert wilson(81, 263, z) == pytest.approx((25.53, 36.62), abs=0.01)
    assert difference((56, 70), (48, 80), z) == pytest.approx((5.24, 33.39), abs=0.01)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "2.5"]}]}}, 2.5),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}}, 7.0),
    ],
)
def test_one_number(answer: Any, number: float) -> None:
    assert number_of(answer) == number


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "no such series"),
        ({"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "1"]}] * 2}}, "2 series"),
        ({"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "NaN"]}]}}, "NaN"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "matrix"),
        ({"status": "error", "error": "x"}, "not that of a Prometheus"),
        ([], "not that of a Prometheus"),
    ],
)
def test_no_number(answer: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        number_of(answer)


GOOD = {"success": {"good": "g[$window]", "total": "t", "min": 99.0}}


def options(url: str = "http://127.0.0.1:9", **more: Any) -> dict[str, Any]:
    """What AnsibleModule makes of the option."""
    whole = {"url": url, "token": None, "headers": {}, "ca_cert": None, "validate_certs": True, "report_only": False}
    whole["skip_baseline"] = False
    whole.update({"interval": 0.5, "timeout": 1.0, "window": 60, "min_window": 1, "success": None, "value": None}, **more)
    for kind, defaults in (("success", {"min_requests": 100, "confidence": 95}), ("value", {"min_requests": 100})):
        if whole[kind]:
            whole[kind] = {**defaults, **whole[kind]}
    return whole


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "it has 0 rules"),
        ({**GOOD, "value": {"query": "q", "max": 1}}, "it has 2 rules"),
        ({**GOOD, "url": "prometheus:9090"}, "no scheme"),
        ({**GOOD, "min_window": 61}, "min_window is 61"),
        ({**GOOD, "min_window": 0}, "min_window is 0"),
        ({**GOOD, "interval": 0.1}, "interval is 0.1"),
        ({"success": {"good": "g", "total": "t"}}, "no threshold"),
        ({"success": {"good": "g", "total": "t", "min": 1, "max_drop": 1}}, "baseline is not whole"),
        ({"success": {"good": "g", "total": "t", "baseline_good": "b", "max_drop": 1}}, "baseline is not whole"),
        ({"success": {"good": "g", "total": "t", "min": 1, "confidence": 100}}, "confidence is 100"),
        ({"success": {"good": "g", "total": "t", "min": 1, "min_requests": 0}}, "min_requests is 0"),
        ({"value": {"query": "q", "max": 1, "baseline_requests": "r"}}, "baseline is not whole"),
        ({"value": {"query": "q"}}, "no threshold"),
        ({"value": {"query": "q", "baseline": "b", "max": 1}}, "baseline is not whole"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build_gates([{"name": "p", "prometheus": options(**more)}], False)


NO_SERIES = "no series"


class Server(http.server.ThreadingHTTPServer):
    numbers: dict[str, str]
    asked: list[tuple[str, str]]
    moments: list[tuple[str, str]]
    clock: float


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        query = form["query"][0]
        self.server.asked.append((query, self.headers.get("Authorization") or ""))
        self.server.moments.append((query, form.get("time", [""])[0]))
        self.server.clock += 1  # each query comes at another moment of its clock
        at = float(form.get("time", [self.server.clock])[0])
        text = self.server.numbers.get(query.partition("[")[0], "")
        body: dict[str, Any] = {"status": "error", "errorType": "bad_data", "error": "parse error"}
        if text:
            series = [] if text == NO_SERIES else [{"metric": {}, "value": [at, text]}]
            body = {"status": "success", "data": {"resultType": "vector", "result": series}}
        self.send_response(200 if text else 400)
        self.end_headers()
        self.wfile.write(text[1:].encode() if text.startswith("!") else json.dumps(body).encode())

    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.numbers, made.asked, made.moments, made.clock = {"g": "1000", "t": "1000"}, [], [], 5000.0
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class Fast:
    """A module of the standard library for a gate whose seconds are short; the rest is what it is, patched or not."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self._module = module
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Event(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout / SPEED)


@pytest.fixture(autouse=True)
def short_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is a second at least, and so long each case would wait for its first figures."""
    monkeypatch.setattr(_prometheus, "time", Fast(time, monotonic=lambda: SPEED * time.monotonic()))
    monkeypatch.setattr(_prometheus, "threading", Fast(threading, Event=Event))


def wait_for(gate: Prometheus, state: str, words: str = "") -> Verdict:
    until = time.monotonic() + 10
    while (said := gate.verdict()).state != state or words not in said.reason:
        assert time.monotonic() < until, said
        time.sleep(0.02)
    return said


def test_it_asks_decides_and_forgets_what_was_before_a_fresh_start(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Prometheus("p", options(f"http://127.0.0.1:{server.server_port}", token="secret", **GOOD))
    assert gate.verdict().state == INCONCLUSIVE
    gate.start()
    try:
        wait_for(gate, PASS)
        query, token = server.asked[0]
        assert query == "g[1s]"  # no longer than the hold
        assert token == "Bearer secret"
        server.numbers["g"] = "900"
        wait_for(gate, FAIL, "90 % of 1000 requests are good")
        now = time.monotonic()
        with monkeypatch.context() as standing:
            standing.setattr(_prometheus, "time", Fast(time, monotonic=lambda: SPEED * now))
            gate.start()
            assert gate.verdict().state == INCONCLUSIVE
        wait_for(gate, FAIL)
        del server.numbers["g"]
        wait_for(gate, INCONCLUSIVE, "good: HTTP 400: parse error")
    finally:
        gate.stop()


def test_a_prometheus_that_is_down_holds(server: Server) -> None:
    gate = Prometheus("p", options("http://127.0.0.1:9", **GOOD))
    gate.start()
    try:
        wait_for(gate, INCONCLUSIVE, "no answer from http://127.0.0.1:9")
    finally:
        gate.stop()


def test_old_figures_hold(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Prometheus("p", options(f"http://127.0.0.1:{server.server_port}", **GOOD))
    gate.start()
    wait_for(gate, PASS)
    gate.stop()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 30)
    assert gate.verdict().state == INCONCLUSIVE
    assert "s old" in gate.verdict().reason


@pytest.mark.parametrize("jump", [-3600.0, 3600.0], ids=["back", "on"])
def test_a_clock_that_is_set_in_the_night_changes_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    real = time.time
    gate = Prometheus("p", options(f"http://127.0.0.1:{server.server_port}", **{**GOOD, "window": 60}))
    gate.start()
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    try:
        wait_for(gate, PASS)
        assert "g[60s]" not in {query for query, _token in server.asked}  # no longer than the hold
        gate.stop()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 30)
        assert gate.verdict().state == INCONCLUSIVE
    finally:
        gate.stop()


@pytest.mark.parametrize("off", [-3600.0, 3600.0], ids=["behind", "ahead"])
def test_all_queries_of_a_judgement_mean_one_moment_of_the_clock_of_prometheus(
    server: Server, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    """The controller's clock may be anywhere: it would have another hour judged."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off)
    server.numbers.update(bg="990", bt="1000")
    gate = running(server, success=SIDES)
    try:
        wait_for(gate, PASS)
    finally:
        gate.stop()
    assert [query.partition("[")[0] for query, _at in server.moments[:4]] == ["g", "t", "bg", "bt"]
    assert [at for _query, at in server.moments[:4]] == ["", "5001.000", "5001.000", "5001.000"]


def test_where_the_first_query_has_no_series_the_next_one_tells_the_moment(server: Server) -> None:
    server.numbers.update(g=NO_SERIES, bg="990", bt="1000")
    gate = running(server, success=SIDES)
    try:
        wait_for(gate, FAIL, "0 % of 1000 requests are good")
    finally:
        gate.stop()
    assert [at for _query, at in server.moments[:4]] == ["", "", "5002.000", "5002.000"]


def test_report_only_never_holds(server: Server) -> None:
    server.numbers["g"] = "0"
    gate = Prometheus("p", options(f"http://127.0.0.1:{server.server_port}", report_only=True, **GOOD))
    gate.start()
    try:
        wait_for(gate, PASS, "only reported, would be fail")
    finally:
        gate.stop()


def running(server: Server, **more: Any) -> Prometheus:
    gate = Prometheus("p", options(f"http://127.0.0.1:{server.server_port}", **more))
    gate.start()
    return gate


def test_no_series_of_good_requests_is_no_silence(server: Server) -> None:
    """A target that answers nothing but errors has no series of good answers, and must fail."""
    server.numbers["g"] = NO_SERIES
    gate = running(server, **GOOD)
    try:
        wait_for(gate, FAIL, "0 % of 1000 requests are good")
        server.numbers["t"] = NO_SERIES
        wait_for(gate, INCONCLUSIVE, "good: there is no such series (yet)")
    finally:
        gate.stop()


SIDES = {"good": "g", "total": "t", "baseline_good": "bg", "baseline_total": "bt", "max_drop": 1.0}


def test_the_other_side_is_remembered_when_it_has_no_requests_any_more(server: Server) -> None:
    server.numbers.update(bg="990", bt="1000")
    gate = running(server, success=SIDES)
    try:
        wait_for(gate, PASS)
        server.numbers.update(bg="0", bt="0", g="900")
        wait_for(gate, FAIL, "90 % of 1000 requests are good, 99 % of the other side's (as it was")
        gate.start()  # the last step: a fresh observation, and all traffic on the target
        server.numbers.update(bg=NO_SERIES, bt=NO_SERIES, g="1000")
        numbers = wait_for(gate, PASS).numbers
        assert numbers["baseline_total"] == 1000
        assert numbers["baseline_age_s"] > 0
    finally:
        gate.stop()


def test_without_another_side_from_the_start_it_is_undecided(server: Server) -> None:
    server.numbers.update(bg=NO_SERIES, bt="0")
    gate = running(server, success=SIDES)
    try:
        wait_for(gate, INCONCLUSIVE, "of the baseline 0 requests")
    finally:
        gate.stop()


def test_a_value_of_the_other_side_is_remembered_too(server: Server) -> None:
    server.numbers.update(q="15", b="10", n="200")
    gate = running(server, value={"query": "q", "baseline": "b", "baseline_requests": "n", "max_ratio": 2.0})
    try:
        wait_for(gate, PASS)
        server.numbers.update(q="19", b="1", n="3")  # three requests say nothing of a quantile
        wait_for(gate, PASS, "it is 19")
        server.numbers.update(q="21", b="NaN", n="0")
        wait_for(gate, FAIL, "more than 2 times the other side's 10 (as it was")
    finally:
        gate.stop()


@pytest.mark.parametrize(
    ("most", "number", "state", "words"),
    [
        (20.0, "NaN", PASS, "the other side has too few requests to compare"),
        (None, "NaN", INCONCLUSIVE, "baseline: the query gives NaN"),
        (20.0, NO_SERIES, INCONCLUSIVE, "baseline: there is no such series"),  # perhaps a wrong name
    ],
)
def test_a_bound_judges_alone_when_the_other_side_is_idle(
    server: Server, most: float | None, number: str, state: str, words: str
) -> None:
    server.numbers.update(q="15", b=number)
    gate = running(server, value={"query": "q", "baseline": "b", "max_ratio": 2.0, "max": most})
    try:
        wait_for(gate, state, words)
    finally:
        gate.stop()


@pytest.mark.parametrize(
    "body", ["!<html>sign in</html>", '!{"status":"success","data":{"resultType":"vector","result":[1]}}', "!"]
)
def test_whatever_comes_the_gate_goes_on_asking(server: Server, body: str) -> None:
    server.numbers["g"] = body
    gate = running(server, **GOOD)
    try:
        wait_for(gate, INCONCLUSIVE, "good: ")
        server.numbers["g"] = "1000"
        wait_for(gate, PASS)
    finally:
        gate.stop()


def test_a_token_in_the_address_is_in_no_message() -> None:
    with pytest.raises(InputError) as caught:
        Prometheus("p", options("user:word@prometheus.example.com/t0ken", **GOOD))
    assert "no scheme" in caught.value.message
    assert "t0ken" not in caught.value.message and "word" not in caught.value.message
    gate = Prometheus("p", options("http://user:word@127.0.0.1:9/api/v1/prometheus/t0ken", **GOOD))
    gate.start()
    try:
        wait_for(gate, INCONCLUSIVE, "no answer from http://127.0.0.1:9:")
        said = gate.verdict().reason
        assert "t0ken" not in said
        assert "word" not in said
    finally:
        gate.stop()


@pytest.mark.parametrize(
    ("more", "rules", "reason"),
    [
        ({}, {"baseline": 30.0}, ""),
        ({}, {"baseline": 15.0}, "baseline_timeout is 15 s"),
        ({"skip_baseline": True}, {"baseline": 15.0}, "baseline_timeout is 15 s"),  # asked there in a run that goes on
        ({"report_only": True}, {"baseline": 15.0}, ""),
        ({}, {"soak": 5.0, "soak_max": 10.0}, "is 10 s"),
        ({}, {"soak": 0.0, "soak_max": 10.0}, ""),
        ({"min_window": 60}, {"baseline": 90.0}, "the max_hold of step 1 is 60 s"),
    ],
)
def test_a_gate_that_could_never_pass_in_time_is_refused(more: dict[str, Any], rules: dict[str, float], reason: str) -> None:
    gates = build_gates([{"name": "p", "prometheus": options(**{"min_window": 15, **GOOD, **more})}], False)
    if not reason:
        check_times(gates, Rules(**rules), {"step 1": 60})
        return
    with pytest.raises(InputError, match=f"The gate p could never pass: .*{reason}"):
        check_times(gates, Rules(**rules), {"step 1": 60})
