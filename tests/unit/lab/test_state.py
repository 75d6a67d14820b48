# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lab.state import Lab, LabError, write_atomic


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    return Lab("one")


@pytest.mark.parametrize("name", ["a", "lab", "lab-2", "0", "a" * 20])
def test_names_that_can_be_used(lab: Lab, name: str) -> None:
    assert Lab(name).netns("cloud") == f"sml-{name}-cloud"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "a" * 21, "ü", "a\n", "a-m", "m", "a-m-b"])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(LabError, match="no name for a lab"):
        Lab(name)


def test_no_namespace_of_one_lab_is_one_of_another(lab: Lab) -> None:
    parts = ["cloud", "net", "m-cloud", "m-net", "m-a", "m-a-m-b", "m-m-cloud"]
    labs = [Lab(name) for name in ("a", "b", "a-b", "b-a", "cloud", "net", "a-cloud", "mm", "a-mm")]
    names = [one.netns(part) for one in labs for part in parts]
    assert len(set(names)) == len(names)


def test_current_lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Lab.current().name == "lab"
    monkeypatch.setenv("LAB_NAME", "two")
    assert Lab.current().dir == lab.dir.parent / "two"


def test_data_is_kept(lab: Lab) -> None:
    lab.data["a"] = [1]
    lab.save()
    assert Lab("one").data == {"a": [1]}
    assert lab.file.stat().st_mode & 0o777 == 0o600


def test_update_keeps_what_others_wrote(lab: Lab) -> None:
    other = Lab("one")
    lab.update(a=1)
    other.update(b=2)
    assert other.data == Lab("one").data == {"a": 1, "b": 2}


def test_updates_at_once(lab: Lab) -> None:
    threads = [threading.Thread(target=lambda i=i: Lab("one").update(**{f"k{i}": i})) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Lab("one").data == {f"k{i}": i for i in range(20)}


@pytest.mark.parametrize("text", ["{", "", "[]", "null"])
def test_broken_state_is_said(lab: Lab, text: str) -> None:
    write_atomic(lab.file, text)
    with pytest.raises(LabError, match=r"lab\.json"):
        Lab("one")


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "new\ud800")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    write_atomic(target, json.dumps(1), 0o644)
    assert target.stat().st_mode & 0o777 == 0o644


def test_lock_is_exclusive(lab: Lab) -> None:
    with lab.lock("x") as mine:
        assert mine
        with Lab("one").lock("x", wait=False) as other:
            assert not other
    with lab.lock("x", wait=False) as again:
        assert again
