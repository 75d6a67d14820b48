# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image archives: what container runtimes demand of them, and that the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from lab import images
from lab.images import catalog, docker
from lab.images.layer import Directory, Entry, File, Link, write_layer
from lab.state import Lab, LabError


def layer(entries: list[Entry]) -> bytes:
    stream = io.BytesIO()
    write_layer(stream, entries)
    return stream.getvalue()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("pause", "echo", "traffic", "pilot-discovery", "coredns"):
        (programs / name).write_bytes(f"program {name}".encode())
        (programs / name).chmod(0o755)
    monkeypatch.setenv("LAB_BIN", str(programs))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    return Lab("images")


def read(path: Path) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    with tarfile.open(path) as tar:
        files = {member.name: stream.read() for member in tar if (stream := tar.extractfile(member))}
    return json.loads(files["manifest.json"]), files


def test_layer_is_sorted_dated_zero_and_has_all_parents() -> None:
    entries: list[Entry] = [
        Link("usr/bin/b", "a"),
        File("usr/bin/a", b"x", 0o755),
        Directory("tmp", 0o1777),
        File("usr/bin.d/z", b""),
    ]
    data = layer(entries)
    assert data == layer(entries[::-1])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == ["tmp", "usr", "usr/bin", "usr/bin/a", "usr/bin/b", "usr/bin.d", "usr/bin.d/z"]
    assert {(member.mtime, member.uname, member.gname) for member in members} == {(0, "", "")}
    assert members[0].mode == 0o1777
    assert members[3].mode == 0o755
    assert members[4].linkname == "a"


@pytest.mark.parametrize("path", ["/etc/passwd", "../passwd", "a/../../b"])
def test_layer_refuses_paths_that_leave_it(path: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        layer([File(path, b"")])


def test_layer_refuses_a_path_twice() -> None:
    with pytest.raises(ValueError, match="distinct"):
        layer([File("a", b""), Link("a", "b")])


@pytest.mark.parametrize("name", ["pause", "echo", "istiod", "coredns"])
def test_archive_is_what_a_runtime_expects(lab: Lab, name: str) -> None:
    manifest, files = read(images.archive(lab, name))
    assert [entry["RepoTags"] for entry in manifest] == [images.TAGS[name]]
    config_name, layers = str(manifest[0]["Config"]), manifest[0]["Layers"]
    assert isinstance(layers, list)
    assert config_name == hashlib.sha256(files[config_name]).hexdigest() + ".json"
    config = json.loads(files[config_name])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files[one]).hexdigest()}" for one in layers]
    program = config["config"]["Entrypoint"][0].lstrip("/")
    with tarfile.open(fileobj=io.BytesIO(files[layers[-1]])) as tar:
        assert tar.getmember(program).mode == 0o755


def test_archive_is_built_once_and_anew_when_a_program_changes(lab: Lab) -> None:
    first = images.archive(lab, "echo")
    stamp, content = first.stat().st_mtime_ns, first.read_bytes()
    assert images.archive(lab, "echo") == first
    assert first.stat().st_mtime_ns == stamp
    first.unlink()
    assert images.archive(lab, "echo").read_bytes() == content
    (Path(os.environ["LAB_BIN"]) / "echo").write_bytes(b"another")
    second = images.archive(lab, "echo")
    assert second != first
    assert second.read_bytes() != content
    assert not list(first.parent.glob("*.tmp"))


def test_key_depends_on_names_and_user(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    with docker._Hashes(lab.cache / "hashes.json") as hashes:
        content = catalog.Image([[File("a", b"a")]], ["/a"])
        keys = {
            docker._key(content, ["x"], hashes),
            docker._key(content, ["y"], hashes),
            docker._key(catalog.Image([[File("a", b"a")]], ["/a"], "1:1"), ["x"], hashes),
            docker._key(catalog.Image([[File("a", b"a", 0o600)]], ["/a"]), ["x"], hashes),
            docker._key(catalog.Image([[Directory("a")]], ["/a"]), ["x"], hashes),
        }
    assert len(keys) == 5


def test_unknown_image(lab: Lab) -> None:
    with pytest.raises(LabError, match="no image 'nginx'; it makes pause, echo, proxyv2, istiod, coredns"):
        images.archive(lab, "nginx")


def test_libraries_of_a_program_of_this_host() -> None:
    entries = catalog._libraries(Path("/bin/ls"))
    assert any("libc.so" in entry.path for entry in entries)
    assert any("/ld-" in f"/{entry.path}" for entry in entries)
    assert all(not entry.path.startswith("/") for entry in entries)


def test_iptables_answers_to_all_its_names() -> None:
    entries, programs = catalog._iptables()
    names = {entry.path for entry in entries}
    assert {"usr/sbin/iptables", "usr/sbin/iptables-restore", "usr/sbin/ip6tables-save", "usr/sbin/iptables-legacy-save"} <= names
    assert any(name.endswith(("xtables/libxt_REDIRECT.so", "xtables/libipt_REDIRECT.so")) for name in names)
    assert len(programs) == 2


def test_names_are_those_that_istio_and_asm_use() -> None:
    assert images.TAGS["proxyv2"] == [
        "docker.io/istio/proxyv2:1.31.0",
        "registry-vpc.cn-hangzhou.aliyuncs.com/acs/proxyv2:v1.31.0-lab-aliyun",
    ]
    assert images.TAGS["istiod"] == ["docker.io/istio/pilot:1.31.0"]
