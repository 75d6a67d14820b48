# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Go programs of the lab: pinned in lab/tools/*/go.mod, built once per version into the cache.

A family's folder is CACHE/bin/<family>-<hash>/, the hash being over go.mod, go.sum, flags, Go version and, for our own
programs (lab/go), their sources. LAB_BIN names a folder with binaries of the user's own; then nothing is built.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.state import LabError, cache_root, write_atomic

HERE = Path(__file__).resolve().parent
STRIP = "-s -w"
GO_ENV = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath"}
KUBERNETES = "v1.36.3"
ISTIO = "1.31.0"


@dataclass(frozen=True)
class Family:
    """Programs of one go.mod. `typical` is the seconds of a cold build on two cores; `renamed` maps Go's name to ours."""

    folder: str
    packages: tuple[str, ...]
    typical: int
    ldflags: str = STRIP
    renamed: dict[str, str] = field(default_factory=dict)
    sources: bool = False  # hash *.go too: the sources are ours and change

    @property
    def names(self) -> list[str]:
        """Names of the programs as the lab calls them."""
        return [self.renamed.get(last, last) for last in (package.rsplit("/", 1)[-1] for package in self.packages)]


def _kubernetes_flags() -> str:
    version = "k8s.io/component-base/version"
    major, minor, _patch = KUBERNETES[1:].split(".")
    return f"{STRIP} -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"


FAMILIES: dict[str, Family] = {
    "etcd": Family("tools/etcd", ("go.etcd.io/etcd/server/v3",), 30, renamed={"v3": "etcd"}),
    "kubernetes": Family(
        "tools/kubernetes",
        tuple(
            f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
        ),
        240,
        ldflags=_kubernetes_flags(),
    ),
    "coredns": Family("tools/coredns", ("github.com/coredns/coredns",), 120),
    "istio": Family(
        "tools/istio",
        (
            "istio.io/istio/pilot/cmd/pilot-discovery",
            "istio.io/istio/pilot/cmd/pilot-agent",
            "istio.io/istio/istioctl/cmd/istioctl",
        ),
        200,
        ldflags=f"{STRIP} -X istio.io/istio/pkg/version.buildVersion={ISTIO}",
    ),
    "kwok": Family("tools/kwok", ("sigs.k8s.io/kwok/cmd/kwok",), 45),
    "lab": Family("go", ("./cmd/echo", "./cmd/pause", "./cmd/traffic"), 15, sources=True),
}
WORLD = ("etcd", "kubernetes", "coredns", "istio", "lab")  # what `lab up` needs; kwok is built when asked for


def _bin() -> Path:
    return cache_root() / "bin"


@functools.lru_cache(maxsize=1)
def go_version() -> str:
    """Version of the Go toolchain on PATH, such as go1.26.8."""
    try:
        done = subprocess.run(
            ["go", "env", "GOVERSION"], capture_output=True, text=True, env=os.environ | GO_ENV, cwd=HERE / "tools/etcd"
        )
    except OSError as error:
        raise LabError("no Go toolchain (1.26 or newer) on PATH; install it, or name a folder of binaries in LAB_BIN") from error
    if done.returncode:
        raise LabError(f"`go env GOVERSION` failed: {done.stderr.strip()}")
    return done.stdout.strip()


@functools.cache
def key(name: str) -> str:
    """Hash that names a family's folder in the cache: 12 hex digits."""
    family = FAMILIES[name]
    folder = HERE / family.folder
    files = [folder / "go.mod", folder / "go.sum"]
    if family.sources:
        files += sorted(path for path in folder.rglob("*.go") if not path.name.endswith("_test.go"))
    digest = hashlib.sha256()
    for path in files:
        if path.exists():
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    digest.update(json.dumps([family.packages, family.ldflags, family.renamed, GO_ENV, go_version()]).encode())
    return digest.hexdigest()[:12]


def folder(name: str) -> Path:
    """Where a family's programs are, once built."""
    return _bin() / f"{name}-{key(name)}"


def _own(name: str) -> Path | None:
    own = os.environ.get("LAB_BIN")
    return Path(own) / name if own else None


def family_of(program: str) -> str:
    """The family that a program belongs to."""
    for name, family in FAMILIES.items():
        if program in family.names:
            return name
    raise LabError(f"the lab knows no program '{program}'")


def path(program: str) -> Path:
    """Absolute path of a program such as "etcd" or "istioctl"; built now if it was not.

    :raises LabError: unknown program, missing in LAB_BIN, or it does not build.
    """
    family = family_of(program)
    if own := _own(program):
        if not os.access(own, os.X_OK):
            raise LabError(f"LAB_BIN={own.parent} has no executable '{program}'")
        return own.absolute()
    target = folder(family) / program
    if not target.exists():
        build([family])
    return target


def built(name: str) -> bool:
    """Whether nothing is to be built for this family."""
    return "LAB_BIN" in os.environ or folder(name).is_dir()


def search_path(families: Iterable[str] = WORLD) -> list[str]:
    """Folders to put first on PATH."""
    if own := os.environ.get("LAB_BIN"):
        return [str(Path(own).absolute())]
    return [str(folder(name)) for name in families]


def build(families: Iterable[str] = WORLD, say: Callable[[str], None] = print) -> None:
    """Build what is not built yet. Two processes never build the same family at once; a stopped build leaves nothing behind.

    :raises LabError: with the compiler's last lines.
    """
    for name in families:
        if built(name):
            continue
        with _locked(name):
            if not built(name):
                _build(name, say)


def _build(name: str, say: Callable[[str], None]) -> None:
    family, target = FAMILIES[name], folder(name)
    times = _bin() / "times.json"
    last = _times(times).get(name)
    took = f"{last:.0f} s last time" if last is not None else f"typically {family.typical} s on 2 cores when nothing is cached"
    say(f"building {name} ({', '.join(family.names)}): {took}")
    began = time.monotonic()
    temp = Path(tempfile.mkdtemp(dir=_bin(), prefix=f".{name}-"))
    try:
        argv = ["go", "build", "-ldflags", family.ldflags, "-o", f"{temp}/", *family.packages]
        done = subprocess.run(argv, cwd=HERE / family.folder, env=os.environ | GO_ENV, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{name} does not build:\n{done.stderr.strip()[-3000:]}")
        _rename(temp, family)
        temp.chmod(0o755)
        for program in temp.iterdir():
            program.chmod(0o755)
        temp.rename(target)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    seconds = time.monotonic() - began
    write_atomic(times, json.dumps(_times(times) | {name: round(seconds, 1)}), 0o644)
    say(f"built {name} in {seconds:.0f} s")


def _rename(temp: Path, family: Family) -> None:
    """Go names a program after its package (etcd's is `server`): give it the name that the lab uses."""
    for package, wanted in zip(family.packages, family.names, strict=True):
        if not (temp / wanted).exists():
            parts = [part for part in package.split("/") if not (part.startswith("v") and part[1:].isdigit())]
            (temp / parts[-1]).rename(temp / wanted)


def _times(file: Path) -> dict[str, float]:
    try:
        times: dict[str, float] = json.loads(file.read_text())
        return times
    except (OSError, ValueError):
        return {}


@contextmanager
def _locked(name: str) -> Iterator[None]:
    _bin().mkdir(parents=True, exist_ok=True)
    with open(_bin() / f".{name}.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for stale in _bin().glob(f".{name}-*"):
            shutil.rmtree(stale, ignore_errors=True)  # from a build that was killed; we hold the lock, so nobody uses it
        yield
