# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Set up what the targets of the Makefile need: `python3 -m dev.setup [system] [venv] [programs]`.

Each part looks first and does only what is missing, so it can be stopped and repeated at any time. One setup runs at a time.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.paths import REQUIREMENTS, ROOT, VENV_PATH_FILE, cache, environment, tool, venv
from dev.steps import StepFailed, run, step

#: Marks a file of ours, so that one that an interrupted run left behind is known and removed.
POLICY_FILE = Path("/usr/sbin/policy-rc.d")
POLICY = "#!/bin/sh\n# made by servicemesh.migration: no service starts while its packages are installed\nexit 101\n"


def wanted_packages() -> list[str]:
    """The Debian packages of lab/apt.txt."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "lab" / "apt.txt").read_text().splitlines())
    return [line for line in lines if line]


def missing_packages(packages: list[str]) -> list[str]:
    """Those that are not installed."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    present = {line.split()[0] for line in lines if line.endswith(" installed")}
    return [package for package in packages if package not in present]


@contextmanager
def no_service_starts() -> Iterator[None]:
    """The lab starts its own programs; a haproxy, docker or named that Debian starts would only disturb the user's machine."""
    if POLICY_FILE.exists() and POLICY_FILE.read_text() != POLICY:
        yield
        return
    POLICY_FILE.write_text(POLICY)
    POLICY_FILE.chmod(0o755)
    try:
        yield
    finally:
        POLICY_FILE.unlink(missing_ok=True)


def install(packages: list[str]) -> None:
    """Install the Debian packages that are missing; when none is, this takes no time and needs no root."""
    if not shutil.which("dpkg-query"):
        raise StepFailed("the lab is set up on Debian 12; here is no dpkg. The packages it needs are listed in lab/apt.txt.")
    missing = missing_packages(packages)
    if not missing:
        return
    with step(f"Debian packages: {' '.join(missing)}", "up to 3 minutes"):
        if os.geteuid() != 0:
            raise StepFailed(f"only root can install them: apt-get install --no-install-recommends {' '.join(missing)}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        options = ["-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
        with no_service_starts():
            run(["apt-get", *options, "update"], env=env, attempts=3)
            run(["apt-get", *options, "install", "--no-install-recommends", *missing], env=env, attempts=3)


def system() -> None:
    """Debian packages."""
    install(wanted_packages())


def python() -> None:
    """The virtual environment. Its name is the hash of the requirements, and a mark in it says that it is complete."""
    place, mark = venv(), venv() / ".complete"
    if not mark.exists():
        if not importlib.util.find_spec("ensurepip"):
            install(["python3-venv"])  # Debian's Python comes without what makes environments
        with step(f"Python packages into {place}", "about 1 minute"):
            run([sys.executable, "-m", "venv", "--clear", str(place)])
            pip = [tool("python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "--retries", "5"]
            files = [str(ROOT / "requirements" / name) for name in REQUIREMENTS]
            lists = [argument for name in files[:-1] for argument in ("-r", name)]
            run([*pip, "-c", files[-1], *lists], attempts=3)
            mark.touch()
    if not VENV_PATH_FILE.exists() or VENV_PATH_FILE.read_text() != f"{place}\n":
        VENV_PATH_FILE.write_text(f"{place}\n")


def programs() -> None:
    """The Go programs. bin/lab knows which of them are built already."""
    if not os.environ.get("LAB_BIN") and not shutil.which("go"):
        raise StepFailed("no `go` in PATH. Install Go 1.26, or name a folder with the programs in LAB_BIN (docs/lab.md).")
    with step("Go programs", "about 9 minutes the first time"):
        run([str(ROOT / "bin" / "lab"), "build"], env=environment())


PARTS = {"system": system, "venv": python, "programs": programs}


def main() -> int:
    """Do the parts that were asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all when none is given")
    asked = parser.parse_args().parts or list(PARTS)
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("== another setup is running; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for name, part in PARTS.items():
            if name in asked:
                try:
                    part()
                except StepFailed as failure:
                    print(f"setup: {failure}", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nsetup: stopped; the same command continues it")
