# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove what setup and the tools made outside the tree. Only that: LAB_CACHE may name a folder with other things in it."""

from __future__ import annotations

import shutil

from dev.paths import VENV_PATH_FILE, cache

#: What lies in the cache: ours (dev/) and the lab's (lab/binaries.py, lab/images).
NAMES = ("venv-*", "tools", "collections", "ansible-test", "setup.lock", "bin", "images", "stores", "istio-*.json")


def main() -> None:
    """Remove the known names, and the folder itself when it is empty then."""
    VENV_PATH_FILE.unlink(missing_ok=True)
    for found in sorted(path for name in NAMES for path in cache().glob(name)):
        print(f"== removing {found}", flush=True)
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    left = sorted(path.name for path in cache().glob("*"))
    if left:
        print(f"left in {cache()}, not ours: {', '.join(left)}")
    elif cache().is_dir():
        cache().rmdir()


if __name__ == "__main__":
    main()
