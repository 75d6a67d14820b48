# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-test sanity without the internet: only the package index is needed.

ansible-test builds its own virtual environments, and downloads a get-pip script for them from a host that not everybody can
reach (ansible/ansible#77304 says: put it into the cache by hand). The script put there does the same with ensurepip and PyPI.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path

from dev import tree
from dev.paths import cache, environment
from dev.steps import run

#: No part of the artifact that users install (build_ignore in galaxy.yml): the tests, which ruff checks, the lab and the tools,
#: which mypy checks too, and bin/, where ansible-test takes all for Python.
NOT_THE_COLLECTION = (
    ".ci/",
    "bin/",
    "dev/",
    "lab/",
    "tests/integration/",
    "tests/unit/",
    "tests/conftest.py",
    "tests/groups.py",
    "tests/test_",
)

GET_PIP = '''\
"""In place of get-pip.py: installs the pinned pip from the package index."""
import subprocess
import sys

arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
subprocess.check_call(pip + ["pip=={version}"] + [argument for argument in arguments if not argument.startswith("pip==")])
'''


def pip_version() -> str:
    """The pip that this ansible-test wants in its environments, for example `24.2`."""
    from ansible_test._internal.python_requirements import get_venv_packages

    python = types.SimpleNamespace(version=f"{sys.version_info.major}.{sys.version_info.minor}")
    return str(get_venv_packages(python)["pip"])


def provide_get_pip(home: Path) -> None:
    """Put our script where ansible-test looks before it downloads."""
    version = pip_version()
    script = home / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP.replace("{version}", version))


def path_of_pythons(path: str) -> str:
    """PATH with the real Pythons of pyenv in place of its shims, which end with an error for versions that are not chosen."""
    kept = [folder for folder in path.split(os.pathsep) if not folder.rstrip("/").endswith("/shims")]
    versions = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin"))
    return os.pathsep.join([*kept, *map(str, versions)])


def main() -> None:
    """Run all sanity tests on a real copy of the project, on every Python at hand that ansible-core supports."""
    env = environment()
    home = cache() / "ansible-test"
    provide_get_pip(home)
    env.update(HOME=str(home), PATH=path_of_pythons(env["PATH"]))
    # Its copy of the tree has another path each time: what is compiled of that goes with the copy, not into our cache.
    for name in ("ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_HOME", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV"):
        env.pop(name)
    with tempfile.TemporaryDirectory(prefix="servicemesh-") as folder:
        place = tree.copy(Path(folder), NOT_THE_COLLECTION)
        run(["ansible-test", "sanity", "--venv", "--color", "no"], cwd=place, env=env)
