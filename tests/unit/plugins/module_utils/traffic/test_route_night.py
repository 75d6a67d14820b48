# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""route_weight at night: secrets in headers, full disks, gateways that cannot be asked, and another run that ends just now."""

from __future__ import annotations

import contextlib
import copy
import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _route_run
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS
from tests.unit.plugins.module_utils.traffic.route_world import OLD, Both, destination, virtual_service
from tests.unit.plugins.module_utils.traffic.test_route_run import failed, gate, good


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def test_routes_with_headers_that_the_journal_may_not_hold_come_back_byte_equal(both: Both) -> None:
    told = virtual_service(
        {
            "match": [{"headers": {"token": {"exact": "s3cr3t"}, "authorization": {"prefix": "Bearer "}}}],
            "route": [destination(OLD, headers={"request": {"set": {"Authorization": "Basic s3cr3t"}}})],
        },
        {"match": [{"gateways": ["egress"], "port": 80}], "route": [destination("edition.cnn.com", 100)]},
    )
    for api in both.apis.values():
        api.put(told)
    before = [copy.deepcopy(both.spec(mesh)) for mesh in both.apis]
    good(both.run(proof="stored"))
    assert both.weights() == [[0, 100], [0, 100]]
    written = "".join(path.read_text(encoding="utf-8") for path in both.folder.rglob("*.jsonl"))
    mirrored = [item for item in both.apis["source"].items.values() if item["kind"] == "ConfigMap"]
    assert mirrored and "s3cr3t" not in written + json.dumps(mirrored)
    good(both.run(state="restored", proof="stored"))
    assert [both.spec(mesh) for mesh in both.apis] == before


def test_values_that_look_like_secrets_are_in_no_journal_and_come_back_byte_equal(both: Both) -> None:
    headers = {"request": {"set": {"x-upstream": "Bearer 0a1b2c3d4e", "x-api-key": "s3cr3t-k", "x-plain": "yes"}}}
    match = [{"headers": {"x-api-key": {"exact": "s3cr3t-k"}}}]
    for api in both.apis.values():
        api.put(virtual_service({"match": match, "route": [destination(OLD, headers=headers)]}))
    before = [copy.deepcopy(both.spec(mesh)) for mesh in both.apis]
    good(both.run(proof="stored"))
    written = "".join(path.read_text(encoding="utf-8") for path in both.folder.rglob("*.jsonl"))
    mirrored = json.dumps([item for item in both.apis["source"].items.values() if item["kind"] == "ConfigMap"])
    assert "x-plain" in mirrored and "0a1b2c3d4e" not in written + mirrored and "s3cr3t-k" not in written + mirrored
    good(both.run(state="restored", proof="stored"))
    assert [both.spec(mesh) for mesh in both.apis] == before


def test_a_header_that_was_lost_since_is_not_written_as_a_mask(both: Both) -> None:
    kept = destination(OLD, headers={"request": {"set": {"Authorization": "Basic s3cr3t"}}})
    for api in both.apis.values():
        api.put(virtual_service({"route": [kept]}))
    good(both.run(proof="stored"))
    del both.spec()["http"][0]["route"][0]["headers"]
    back = failed(both.run(state="restored", proof="stored"))
    assert "a value that the journal may not hold" in back.message
    assert "VALUE_SPECIFIED" not in json.dumps(both.spec())


def test_a_full_disk_does_not_stop_the_way_back(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    def state() -> str:
        if both.weights()[0] != [50, 50]:
            return PASS
        monkeypatch.setattr(_journal.os, "fsync", full)
        return FAIL

    done = both.run(gates=[gate(state)])
    assert "0 % is back in effect" in failed(done).message and both.weights() == [[100, 0], [100, 0]]
    assert any("No space left on device" in text for text in done.warnings)
    monkeypatch.undo()
    good(both.run(state="restored"))
    assert both.weights() == [[100], [100]]


def test_what_a_run_wrote_that_was_waited_for_is_taken_back_too(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = [copy.deepcopy(both.spec(mesh)) for mesh in both.apis], _route_run.only_one

    @contextlib.contextmanager
    def after_the_other(path: Path, *, wait: float) -> t.Iterator[None]:
        monkeypatch.setattr(_route_run, "only_one", real)
        good(both.run())
        with real(path, wait=wait):
            yield

    monkeypatch.setattr(_route_run, "only_one", after_the_other)
    good(both.run(state="restored"))
    assert [both.spec(mesh) for mesh in both.apis] == before


def test_a_mesh_that_another_run_wrote_to_meanwhile_is_not_forgotten(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _route_run.only_one

    @contextlib.contextmanager
    def after_the_other(path: Path, *, wait: float) -> t.Iterator[None]:
        monkeypatch.setattr(_route_run, "only_one", real)
        good(both.run())
        del both.apis["target"]
        with real(path, wait=wait):
            yield

    monkeypatch.setattr(_route_run, "only_one", after_the_other)
    with pytest.raises(MigrationError, match=r"not connected here.*Where: target.*run this again"):
        both.run(state="restored")


def test_the_way_back_does_not_wait_for_a_gateway_that_cannot_be_asked(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_all: t.Any) -> str:
        raise MigrationError("The API server opens no connection to a pod", transient=True)

    def state() -> str:
        if both.weights()[0] != [0, 100]:
            return PASS
        monkeypatch.setattr(both.proxies, "unaware", silent)
        return FAIL

    assert "0 % is back in effect" in failed(both.run(gates=[gate(state)])).message
    assert both.weights() == [[100, 0], [100, 0]]
    # Up it goes only to who is known to answer.
    assert "opens no connection" in failed(both.run(steps=[100])).message and both.weights() == [[100, 0], [100, 0]]


def test_a_move_that_ended_half_way_says_where_the_traffic_is(both: Both) -> None:
    """One mesh has the new weights, the other refused them: the share of before is not in effect any more."""
    good(both.run(steps=[100]))

    def refuse(_api: t.Any, what: str) -> None:
        if what == "before VirtualService cnn":
            raise MigrationError("the API server answered PATCH with 403", details={"status": 403})

    both.apis["target"].on_write = refuse
    done = both.run(steps=[50, 0], allow_down=True, on_fail="hold")
    assert failed(done) and both.weights() == [[50, 50], [0, 100]]
    assert done.result["share"] == 50 and "50 % stays in effect" in failed(done).message
    both.apis["target"].on_write = lambda _api, _what: None
    assert good(both.run(steps=[50, 0], allow_down=True)).result["share"] == 0
