# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe's options, its window as a table, and the panel of all gates."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Panel,
    Verdict,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe import Window
from tests.unit.plugins.module_utils.traffic.probe_defaults import options

# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "ftp://x/"}, "has no scheme http or https"),
        ({"url": "x"}, "has no scheme http or https"),
        ({"url": "http://"}, "has no host"),
        ({"url": "http://bad host/"}, "has no host"),
        ({"url": "http://x:99999/"}, "Port out of range"),
        ({"url": "http://user:pw@x/"}, "holds a user or a password"),
        ({"url": "http://x/a b"}, "spaces or control characters"),
        ({"url": "http://x/\r\nX: y"}, "spaces or control characters"),
        ({"connect": "http://x"}, "is no address"),
        ({"connect": "x/y"}, "is no address"),
        ({"connect": "1.2.3.4:x"}, "connect '1.2.3.4:x'"),
        ({"host": "a b"}, "is no host name"),
        ({"host": "https://x"}, "is no host name"),
        ({"method": "GET x"}, "is no HTTP method"),
        ({"interval": 0}, "interval is 0"),
        ({"interval": float("nan")}, "interval is nan"),
        ({"timeout": -1}, "timeout is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"min_requests": 0}, "min_requests is 0"),
        ({"min_success": 101}, "min_success is 101"),
        ({"consecutive_failures": -1}, "consecutive_failures is -1"),
        ({"window": 4.9}, "it could never pass"),
        ({"status": []}, "status is empty"),
        ({"status": ["600"]}, "is no HTTP status"),
        ({"status": ["ok"]}, "is no HTTP status"),
        ({"status": ["299-200"]}, "runs backwards"),
        ({"headers": {"X Y": "1"}}, "the header 'X Y' cannot be sent"),
        ({"headers": {"X": "a\r\nY: b"}}, "the header 'X' cannot be sent"),
        ({"url": "https://x/", "ca_cert": "/no/such/file"}, "/no/such/file is no file here"),
    ],
)
def test_bad_options_are_found_before_anything_runs(given: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        options(**{"url": "http://echo.lab.test/", **given})
    assert said in caught.value.message
    assert "web" in caught.value.message


def test_a_file_that_is_no_certificate_is_found_before_anything_runs(tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate\n")
    with pytest.raises(InputError, match="The CA file of the gate web cannot be used"):
        options("https://x/", ca_cert=str(bad))


def test_the_value_of_a_bad_header_stays_unsaid() -> None:
    with pytest.raises(InputError) as caught:
        options(headers={"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "address", "port", "host_header", "sni"),
    [
        ({"url": "http://a.test"}, "a.test", 80, "a.test", "a.test"),
        ({"url": "https://a.test/"}, "a.test", 443, "a.test", "a.test"),
        ({"url": "https://a.test:8443/"}, "a.test", 8443, "a.test:8443", "a.test"),
        ({"url": "https://a.test/", "connect": "198.51.100.1"}, "198.51.100.1", 443, "a.test", "a.test"),
        ({"url": "https://a.test/", "connect": "198.51.100.1:444"}, "198.51.100.1", 444, "a.test", "a.test"),
        ({"url": "http://198.51.100.1/", "host": "a.test"}, "198.51.100.1", 80, "a.test", "a.test"),
        ({"url": "http://a.test/", "connect": "[::1]:81"}, "::1", 81, "a.test", "a.test"),
        ({"url": "http://a.test/", "connect": "::1"}, "::1", 80, "a.test", "a.test"),
        ({"url": "http://[::1]:81/"}, "::1", 81, "[::1]:81", "::1"),
    ],
)
def test_where_the_request_goes(given: dict[str, t.Any], address: str, port: int, host_header: str, sni: str) -> None:
    found = options(**given)
    assert (found.address, found.port, found.host_header, found.sni) == (address, port, host_header, sni)


def test_statuses() -> None:
    found = options(status=["200", "3xx", "401-403"])
    assert [status for status in range(100, 600) if found.expects(status)] == [200, *range(300, 400), 401, 402, 403]


# -- the window --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "more", "state", "said"),
    [
        ("", {}, INCONCLUSIVE, "no answer yet"),
        ("." * 9, {}, INCONCLUSIVE, "10 are needed"),
        ("." * 10, {}, PASS, "10 of 10"),
        ("." * 9 + "x", {}, PASS, "9 of 10"),  # 90 % is not below 90 %
        ("." * 8 + "x.x", {}, FAIL, "9 of 11"),
        ("x" * 4, {}, INCONCLUSIVE, "0 of 4"),  # too few to judge, and not yet five in a row
        ("x" * 5, {}, FAIL, "5 requests in a row failed (last: 503)"),
        ("." * 100 + "x" * 5, {}, FAIL, "5 requests in a row"),  # at 95 % still
        ("." * 100 + "xxxx.xxxx.", {}, PASS, "102 of 110"),
        ("x" * 9, {"consecutive_failures": 0}, INCONCLUSIVE, "0 of 9"),
        ("x" * 10, {"consecutive_failures": 0}, FAIL, "0 of 10"),
        ("x" * 10, {"consecutive_failures": 0, "min_success": 0}, PASS, "0 of 10"),
    ],
)
def test_window(answers: str, more: dict[str, t.Any], state: str, said: str) -> None:
    window = Window(options(**{"min_requests": 10, "min_success": 90, "window": 1000, **more}))
    for number, answer in enumerate(answers):
        window.add(number, answer == ".", "200" if answer == "." else "503", 0.001 * number)
    verdict = window.verdict(len(answers))
    assert verdict.state == state
    assert said in verdict.reason
    assert verdict.numbers["requests"] == len(answers)
    assert verdict.numbers["failed"] == answers.count("x")


def test_the_window_slides() -> None:
    window = Window(options(min_requests=10, window=10, consecutive_failures=0))
    for number in range(10):
        window.add(number, False, "503", 0.01)
    for number in range(10, 30):
        window.add(number, True, "200", 0.01)
    assert window.verdict(15).state == FAIL
    verdict = window.verdict(29.5)
    assert (verdict.state, verdict.numbers["requests"], verdict.numbers["total_failed"]) == (PASS, 10, 10)
    # Nothing came for a while: silence never passes.
    assert window.verdict(60).state == INCONCLUSIVE


# -- the panel ---------------------------------------------------------------------------------------------------


class Said:
    def __init__(self, name: str, state: str | Exception, start: Exception | None = None) -> None:
        self.name, self._state, self._start = name, state, start
        self.stopped = False

    def start(self) -> None:
        if self._start is not None:
            raise self._start

    def verdict(self) -> Verdict:
        if isinstance(self._state, Exception):
            raise self._state
        return Verdict(self._state, f"said {self._state}", {"n": 1})

    def stop(self) -> None:
        self.stopped = True
        raise RuntimeError("stop of a gate fails")


@pytest.mark.parametrize(
    ("states", "whole", "said"),
    [
        ([], PASS, "there are no gates"),
        ([PASS], PASS, "g0: said pass"),
        ([PASS, PASS], PASS, "g1: said pass"),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE, "g1: said inconclusive"),
        ([INCONCLUSIVE, FAIL, PASS], FAIL, "g1: said fail"),
        ([PASS, ValueError("bad answer")], INCONCLUSIVE, "g1: the gate is broken: bad answer"),
        ([FAIL, ValueError("bad answer")], FAIL, "g0: said fail"),
        (["maybe"], INCONCLUSIVE, "which is no verdict"),
    ],
)
def test_panel(states: list[t.Any], whole: str, said: str) -> None:
    gates = [Said(f"g{number}", state) for number, state in enumerate(states)]
    panel = Panel(gates)
    panel.start()
    verdict = panel.verdict()
    assert verdict.state == whole
    assert said in verdict.reason
    assert set(verdict.numbers) == {gate.name for gate in gates}
    panel.stop()
    assert all(gate.stopped for gate in gates)


def test_a_gate_that_cannot_start_is_inconclusive() -> None:
    panel = Panel([Said("good", PASS), Said("bad", PASS, start=OSError("no route"))])
    panel.start()
    verdict = panel.verdict()
    assert verdict.state == INCONCLUSIVE
    assert "no route" in verdict.reason
