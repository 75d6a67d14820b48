# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are: the repository, the cache, the virtual environment, and the environment that the tools run in."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE, NAME = "servicemesh", "migration"
REQUIREMENTS = ("runtime.txt", "lab.txt", "test.txt", "constraints.txt")
#: A file in the tree that holds the path of the virtual environment, for shells and for bin/lab.
VENV_PATH_FILE = ROOT / ".venv-path"


def cache() -> Path:
    """The folder outside the tree for all that is costly to make. LAB_CACHE moves it."""
    return Path(os.environ.get("LAB_CACHE") or Path.home() / ".cache" / "servicemesh-lab")


def venv() -> Path:
    """The virtual environment of these requirements and this Python; other requirements get another one."""
    digest = hashlib.sha256()
    for name in REQUIREMENTS:
        digest.update((ROOT / "requirements" / name).read_bytes())
    digest.update(f"{sys.implementation.cache_tag} {platform.machine()} {sys.base_prefix}".encode())
    return cache() / f"venv-{digest.hexdigest()[:12]}"


def tool(name: str) -> str:
    """The path of a program of the virtual environment."""
    return str(venv() / "bin" / name)


def environment() -> dict[str, str]:
    """The environment of every tool: the virtual environment first, the collection found by its name, caches outside the tree."""
    from dev import tree

    caches = cache() / "tools"
    env = dict(os.environ)
    env.update(
        PATH=f"{venv() / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}",
        VIRTUAL_ENV=str(venv()),
        ANSIBLE_COLLECTIONS_PATH=str(tree.link()),
        ANSIBLE_HOME=str(caches / "ansible"),
        ANSIBLE_NOCOLOR="1",
        HYPOTHESIS_STORAGE_DIRECTORY=str(caches / "hypothesis"),
        MYPY_CACHE_DIR=str(caches / "mypy"),
        PYTHONPYCACHEPREFIX=str(caches / "pycache"),
        RUFF_CACHE_DIR=str(caches / "ruff"),
    )
    env.pop("PYTHONHOME", None)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # or every start of Ansible and of a module compiles all that it imports
    return env
