# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SDK without the package that only its asynchronous calls need; and with it, as soon as somebody makes one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._later import imported, later

SDK = """
import sys
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Asm
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
options = {"region": "cn-hangzhou", "access_key_id": "x", "access_key_secret": "y"}
Clb(options), Asm(options)
assert not [name for name in sys.modules if name.split(".")[0] == "aiohttp"], "the SDK has imported it"
products = ("alibabacloud_slb", "alibabacloud_servicemesh")
assert not [name for name in sys.modules if ".models." in name and name.startswith(products)]
from alibabacloud_slb20140515.models import DescribeLoadBalancersRequest as Request
from alibabacloud_slb20140515 import client
assert client.main_models.DescribeLoadBalancersRequest is Request, "who names a class gets the real one"
from darabonba import core
assert core.aiohttp.TCPConnector.__module__.startswith("aiohttp."), "an asynchronous call gets the real one"
import aiohttp
assert core.aiohttp.ClientSession is aiohttp.ClientSession
"""


def test_the_sdk_is_imported_without_what_only_asynchronous_calls_need() -> None:
    env = {**os.environ, "PYTHONPATH": os.environ["ANSIBLE_COLLECTIONS_PATH"]}
    done = subprocess.run([sys.executable, "-c", SDK], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("p7_heavy", "p7_user")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[name]


def write(folder: Path, heavy: str, user: str) -> None:
    (folder / "p7_heavy.py").write_text(heavy)
    (folder / "p7_user.py").write_text(user)


def test_annotations_do_not_import_it_and_use_does(packages: Path) -> None:
    write(
        packages,
        "class Thing:\n    real = True\n",
        "import p7_heavy\nfrom p7_heavy import Thing\n"
        "def see(one: p7_heavy.Thing, other: Thing):\n    pass\ndef use():\n    return p7_heavy.Thing.real\n",
    )
    user = imported("p7_user", "p7_heavy")
    assert "p7_heavy" not in sys.modules
    assert user.use() is True
    with pytest.raises(AttributeError):
        user.p7_heavy.Nothing  # noqa: B018


def test_a_version_that_needs_more_of_it_gets_it(packages: Path) -> None:
    write(packages, "LIMIT = 7\n", "import p7_heavy\nHALF = p7_heavy.LIMIT / 2\n")
    assert imported("p7_user", "p7_heavy").HALF == 3.5


def test_a_package_that_is_there_already_is_used_and_stays(packages: Path) -> None:
    write(packages, "LIMIT = 7\n", "import p7_heavy\nHALF = p7_heavy.LIMIT / 2\n")
    import p7_heavy  # type: ignore[import-not-found]

    with later("p7_heavy"):
        import p7_user  # type: ignore[import-not-found]
    assert p7_user.HALF == 3.5 and sys.modules["p7_heavy"] is p7_heavy


def test_what_is_not_installed_is_still_said(packages: Path) -> None:
    write(packages, "", "import p7_nowhere\n")
    with pytest.raises(ImportError, match="p7_nowhere"):
        imported("p7_user", "p7_heavy")
