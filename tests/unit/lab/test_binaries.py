# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lab import binaries, cli
from lab.state import LabError, cache_root

ROOT = Path(binaries.__file__).resolve().parents[1]
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo "${FAKE_VERSION:-go1.99.0}"; exit; fi
echo "$*" >> "$FAKE_LOG"
[ -z "$FAKE_FAIL" ] || { echo "x.go:1: no such thing" >&2; exit 1; }
while [ "$1" != -o ]; do shift; done
out=$2; shift 2
for package in "$@"; do
    name=${package##*/}; [ "$name" = v3 ] && name=server
    printf '#!/bin/sh\\necho %s\\n' "$name" > "$out$name"; chmod 755 "$out$name"
done
${FAKE_AFTER:-true}
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Go toolchain that writes down what it was asked to build; gives that list's file."""
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "builds"
    log.touch()
    monkeypatch.setenv("FAKE_LOG", str(log))
    forget(monkeypatch)
    return log


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    binaries.key.cache_clear()
    binaries.go_version.cache_clear()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def test_built_once_and_renamed(builds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etcd = binaries.path("etcd")
    assert subprocess.run([etcd], capture_output=True, text=True, check=True).stdout == "server\n"
    assert binaries.path("etcd") == etcd
    assert len(builds.read_text().splitlines()) == 1
    assert "typically 30 s" in capsys.readouterr().out
    assert sorted(path.name for path in etcd.parent.iterdir()) == ["etcd"]


def test_flags(builds: Path) -> None:
    binaries.path("kubelet")
    line = builds.read_text()
    assert "-s -w" in line
    assert "k8s.io/component-base/version.gitVersion=v1.36.3" in line
    assert "k8s.io/component-base/version.gitMinor=36" in line
    assert binaries.GO_ENV == {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath"}


def test_time_of_the_last_build_is_told(builds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(binaries.path("coredns").parent)
    binaries.path("coredns")
    assert "0 s last time" in capsys.readouterr().out


def test_a_failed_build_leaves_nothing(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "1")
    with pytest.raises(LabError, match=r"etcd does not build:\nx\.go:1: no such thing"):
        binaries.path("etcd")
    assert [path.name for path in (cache_root() / "bin").iterdir()] == [".etcd.lock"]
    monkeypatch.delenv("FAKE_FAIL")
    assert binaries.path("etcd").exists()


def test_what_a_killed_build_left_is_removed(builds: Path) -> None:
    stale = cache_root() / "bin" / ".etcd-abc"
    stale.mkdir(parents=True)
    (stale / "server").touch()
    binaries.path("etcd")
    assert not stale.exists()


def test_two_processes_build_once(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AFTER", "sleep 0.5")
    argv = [sys.executable, "-c", "from lab import binaries; print(binaries.path('etcd'))"]
    both = [subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-1, text=True) for _ in range(2)]
    said = {one.communicate(timeout=30)[0].splitlines()[-1] for one in both}
    assert len(said) == 1
    assert len(builds.read_text().splitlines()) == 1


def test_another_go_version_is_another_build(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = binaries.path("etcd")
    forget(monkeypatch)
    monkeypatch.setenv("FAKE_VERSION", "go1.99.1")
    assert binaries.path("etcd") != first
    assert len(builds.read_text().splitlines()) == 2


def test_key_follows_what_goes_in(builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "lab"
    shutil.copytree(ROOT / "lab/go", tree / "go")
    shutil.copytree(ROOT / "lab/tools/etcd", tree / "tools/etcd")
    monkeypatch.setattr(binaries, "HERE", tree)

    def keys() -> tuple[str, str]:
        forget(monkeypatch)
        return binaries.key("etcd"), binaries.key("lab")

    before = keys()
    (tree / "go/cmd/echo/main_test.go").write_text("package main // tests are not in the program\n")
    (tree / "tools/etcd/notes.go").write_text("package x // only go.mod and go.sum count where the sources are not ours\n")
    assert keys() == before
    with open(tree / "go/cmd/echo/main.go", "a") as stream:
        stream.write("// changed\n")
    after = keys()
    assert after[0] == before[0]
    assert after[1] != before[1]
    with open(tree / "tools/etcd/go.sum", "a") as stream:
        stream.write("\n")
    assert keys()[0] != before[0]


def test_own_binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no Go is needed
    monkeypatch.setenv("LAB_BIN", str(tmp_path))
    (tmp_path / "etcd").write_text("")
    with pytest.raises(LabError, match="no executable 'etcd'"):
        binaries.path("etcd")
    (tmp_path / "etcd").chmod(0o755)
    assert binaries.path("etcd") == tmp_path / "etcd"
    binaries.build()
    assert binaries.search_path() == [str(tmp_path)]


def test_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    with pytest.raises(LabError, match="LAB_BIN"):
        binaries.path("etcd")


def test_unknown_program() -> None:
    with pytest.raises(LabError, match="no program 'cheese'"):
        binaries.path("cheese")


def test_every_program_is_a_pinned_tool() -> None:
    """What is built is exactly what the go.mod files name, at the versions that the flags claim."""
    for name, family in binaries.FAMILIES.items():
        mod = json.loads(
            subprocess.run(
                ["go", "mod", "edit", "-json"], cwd=binaries.HERE / family.folder, capture_output=True, check=True
            ).stdout
        )
        if not family.sources:
            assert sorted(tool["Path"] for tool in mod["Tool"]) == sorted(family.packages), name
    text = (binaries.HERE / "tools/kubernetes/go.mod").read_text()
    assert f"k8s.io/kubernetes {binaries.KUBERNETES}" in text, textwrap.shorten(text, 200)


def test_setup_has_a_command_that_builds_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make setup` calls `bin/lab build`."""
    asked: list[str] = []
    monkeypatch.setattr(binaries, "build", lambda families, _say: asked.extend(families))
    assert cli.main(["build"]) in (0, None)
    assert asked == list(binaries.FAMILIES)
