# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository as a collection below its name, servicemesh/migration.

Ansible, pytest and ansible-lint take a symbolic link, so what is edited is what runs. ansible-test does not (it resolves the
working directory and then finds no `ansible_collections` above it): it gets a real copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from dev.paths import NAME, NAMESPACE, ROOT, cache

#: Names of folders and ends of names of files, as in .gitignore.
LEFT_BEHIND = (
    ".git",
    ".ansible",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    "output",
    ".pyc",
    ".venv-path",
    ".tar.gz",
)


def link() -> Path:
    """Make (once) a folder for ANSIBLE_COLLECTIONS_PATH whose collection is a link to this repository. Returns the folder."""
    if ROOT.parts[-3:] == ("ansible_collections", NAMESPACE, NAME):
        return ROOT.parents[2]
    top = cache() / "collections" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    place = top / "ansible_collections" / NAMESPACE / NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink() or os.readlink(place) != str(ROOT):
        fresh = place.with_name(f".{NAME}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(ROOT)
        fresh.replace(place)  # in one step: another process may look right now
    return top


def files() -> list[str]:
    """The files of the project, as paths from the root: what git knows, and new files that it does not ignore.

    An unpacked archive has no history: there, and where git is missing, all files but the ones that tools leave behind.
    """
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    else:
        listed = []
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [name for name in folders if name not in LEFT_BEHIND]
            listed += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names if not name.endswith(LEFT_BEHIND)]
    return sorted(path for path in set(listed) if path and os.path.lexists(ROOT / path))


def copy(top: Path, without: tuple[str, ...] = ()) -> Path:
    """Copy the project's files, except those below the folders `without`, to the collection's place below `top`. Returns it."""
    place = top / "ansible_collections" / NAMESPACE / NAME
    for path in files():
        if path.startswith(without):
            continue
        goal = place / path
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, goal, follow_symlinks=False)
    return place
