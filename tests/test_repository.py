# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the repository as tests, one each, so that pytest's last line speaks for all of `make test`.

The table is dev/checks.py; `make lint`, `make sanity` and `make importer` run the same functions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dev.checks import CHECKS, artifact
from dev.paths import ROOT, environment
from dev.steps import StepFailed

HERE = [(group, name) for group in ("lint", "sanity", "importer") for name in CHECKS[group]]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("group", "name"), HERE, ids=[pair[1] for pair in HERE])
def test_check(group: str, name: str) -> None:
    try:
        CHECKS[group][name]()
    except StepFailed as failure:
        pytest.fail(f"{failure}\nSee the output above; `make {group}` runs it alone.", pytrace=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built artifact, installed offline into an empty folder, as a user without a Galaxy does. Returns the folder."""
    folder = tmp_path_factory.mktemp("artifact")
    tarball = artifact(folder)
    place = folder / "collections"
    ansible(place, "ansible-galaxy", "collection", "install", str(tarball), "--offline", "-p", str(place))
    return place


def ansible(place: Path, *argv: str) -> str:
    """Run an Ansible command that sees only the installed collection, outside the repository. Returns its stdout."""
    env = {**environment(), "ANSIBLE_COLLECTIONS_PATH": str(place), "ANSIBLE_LOCALHOST_WARNING": "False"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # the folder has another path each time
    env.pop("PYTHONPATH", None)
    done = subprocess.run(argv, cwd=place.parent, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def inside(installed: Path) -> Path:
    """The collection in the folder that it was installed to."""
    return installed / "ansible_collections" / "servicemesh" / "migration"


def test_artifact_carries_the_collection_and_nothing_of_the_workshop(installed: Path) -> None:
    workshop = {"lab", "bin", "dev", "tests", "ee", "requirements", "Makefile", ".ci", "pyproject.toml", ".venv-path"}
    names = {path.name for path in inside(installed).iterdir()}
    assert {"MANIFEST.json", "LICENSE", "README.md", "CHANGELOG.rst", "docs", "meta", "playbooks", "plugins", "roles"} <= names
    assert names & workshop == set()


def test_artifact_documents_every_plugin(installed: Path) -> None:
    for kind, folder in (("module", "modules"), ("filter", "filter")):
        names = [f"servicemesh.migration.{path.stem}" for path in sorted((ROOT / "plugins" / folder).glob("*.py"))]
        if names:
            shown = json.loads(ansible(installed, "ansible-doc", "--json", "-t", kind, *names))
            assert sorted(shown) == names
            assert all(shown[name]["doc"]["short_description"] for name in names)


def test_artifact_runs_in_a_playbook(installed: Path) -> None:
    """The filter plans a share, and every module can be loaded: one that is called without options says which ones it misses."""
    modules = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
    shares = "[0, 50, 100] | servicemesh.migration.share_plan(source_backends=2, target_backends=2, mode='eni')"
    planned = f"({shares} | map(attribute='planned') | list) == [0.0, 50.0, 100.0]"
    tasks: list[dict[str, object]] = [{"name": "Plan", "ansible.builtin.assert": {"that": [planned]}}]
    for module in modules:
        tasks.append({"name": module, f"servicemesh.migration.{module}": {}, "register": "tried", "ignore_errors": True})
        tasks.append(
            {
                "name": f"{module} answers",
                "ansible.builtin.assert": {
                    "that": ["tried is failed", "'Traceback' not in tried | string", "'MODULE FAILURE' not in tried.msg"],
                },
            }
        )
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "tasks": tasks,
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        }
    ]
    playbook = installed.parent / "play.yml"
    playbook.write_text(json.dumps(play))
    ansible(installed, "ansible-playbook", "-i", "localhost,", str(playbook))


def test_artifact_playbooks_are_found_by_name(installed: Path) -> None:
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        ansible(installed, "ansible-playbook", "-i", "localhost,", "--syntax-check", f"servicemesh.migration.{path.stem}")


def test_execution_environment_is_complete(installed: Path) -> None:
    """ansible-builder finds what the modules need in the installed collection, as it does in an image build."""
    found = ansible(installed, "ansible-builder", "introspect", "--sanitize", str(installed))
    for package in ("kubernetes", "alibabacloud_slb20140515"):
        assert package in found
    definition = installed.parent / "ee" / "execution-environment.yml"
    definition.parent.mkdir()
    shutil.copy(ROOT / "ee" / definition.name, definition)
    (tarball,) = (installed.parent / "out").glob("*.tar.gz")
    shutil.copy(tarball, definition.parent)
    ansible(installed, "ansible-builder", "create", "-f", str(definition), "-c", str(installed.parent / "context"))
    copied = [path.name for path in (installed.parent / "context").rglob("*.tar.gz")]
    assert copied == [tarball.name], "the definition names another version than galaxy.yml"


def test_nothing_of_the_setup_is_in_the_tree() -> None:
    """What setup makes lies outside the tree or is ignored: git sees no new file after it."""
    assert os.path.samefile(Path(environment()["ANSIBLE_COLLECTIONS_PATH"]) / "ansible_collections/servicemesh/migration", ROOT)
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    made = [".venv-path", "tests/output/", ".ansible/", "servicemesh-migration-0.1.0.tar.gz"]
    command = ["git", "-C", str(ROOT), "check-ignore", *made]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() == made
