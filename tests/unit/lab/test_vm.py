# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh VMs: names, addresses, inventory, what is refused, and copies of an engine's store."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import binaries, vm
from lab.cluster import Cluster
from lab.node import clone
from lab.state import Lab, LabError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(binaries, "path", lambda name: tmp_path / "bin" / name)
    found = Lab("one")
    found.update(vms=2, options={"parts": "all"})
    return found


def test_each_vm_has_a_name_and_an_address_outside_of_the_nodes(lab: Lab) -> None:
    assert [(one.name, one.address) for one in vm.machines(lab)] == [("vm-0", "10.10.20.10"), ("vm-1", "10.10.20.11")]
    assert all(len(f"m-{vm.machine(lab, i).name}") <= 15 for i in range(vm.MOST))  # it names an interface
    assert len({vm.machine(lab, i).address for i in range(vm.MOST)}) == vm.MOST


def test_the_inventory_checks_the_host_keys(lab: Lab) -> None:
    group = vm.inventory(lab)["mesh_vms"]
    assert group["hosts"]["vm-1"]["ansible_host"] == "10.10.20.11"
    assert "StrictHostKeyChecking=yes" in group["vars"]["ansible_ssh_common_args"]
    assert str(lab.dir / "vm" / "known_hosts") in group["vars"]["ansible_ssh_common_args"]


@pytest.mark.parametrize("count", [0, -1, vm.MOST + 1])
def test_a_wrong_number_is_refused(lab: Lab, count: int) -> None:
    with pytest.raises(LabError, match="there can be 1 to"):
        vm.up(lab, Cluster(lab, "ack", 1), count)


def test_without_a_mesh_there_is_nothing_to_join(lab: Lab) -> None:
    lab.update(options={"parts": "cloud"})
    with pytest.raises(LabError, match="nothing to join"):
        vm.up(lab, Cluster(lab, "ack", 1), 1)


def test_a_copied_store_shares_layers_and_no_database(tmp_path: Path) -> None:
    source = tmp_path / "store"
    files = ["overlay2/abc/diff/bin/envoy", "network/files/local-kv.db", "volumes/metadata.db", "io.containerd.x/meta.db"]
    files.append("containerd/daemon/io.containerd.metadata.v1.bolt/meta.db")
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    clone(source, tmp_path / "copy")
    shared = [name for name in files if (source / name).stat().st_ino == (tmp_path / "copy" / name).stat().st_ino]
    assert shared == ["overlay2/abc/diff/bin/envoy"]
    assert all((tmp_path / "copy" / name).read_text() == name for name in files)
