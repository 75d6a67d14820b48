# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that keep the project one house: layers, sizes, licences, and what every module must say about itself."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import tree
from dev.paths import environment

ROOT = Path(__file__).resolve().parents[2]
FQCN = "servicemesh.migration."
PACKAGE = "ansible_collections.servicemesh.migration."
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
FILES = [path for path in tree.files() if (ROOT / path).is_file() and not (ROOT / path).is_symlink()]
CODE = [path for path in FILES if path.endswith((".py", ".go")) or path in ("bin/lab", ".ci/run")]

#: The rooms of plugins/module_utils, lowest first. A room may import from itself and from rooms of a lower floor.
FLOORS = {"_core": 0, "_k8s": 1, "_cloud": 1, "_mesh": 2, "_backup": 3, "_vm": 3, "_traffic": 3, "_audit": 4}
MODULE_LINES = 120
FILE_LINES = 500


def imported(path: Path) -> Iterator[str]:
    """Full dotted names that a file imports; a relative import raises, because the house uses none in plugins."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(dotted: str) -> str | None:
    """The room of module_utils that a dotted name lies in."""
    prefix = f"{PACKAGE}plugins.module_utils."
    return dotted[len(prefix) :].split(".")[0] if dotted.startswith(prefix) else None


def upward_imports(path: Path, own: str) -> list[str]:
    """Imports of a file in the room `own` that do not run downwards."""
    rooms = ((name, room(name)) for name in imported(path))
    return [name for name, other in rooms if other and other != own and FLOORS[other] >= FLOORS[own]]


def code_lines(source: str) -> int:
    """Lines of code of a module: without its documentation, comments and empty lines."""
    documentation: set[int] = set()
    for node in ast.parse(source).body:
        names = {getattr(target, "id", "") for target in node.targets} if isinstance(node, ast.Assign) else set()
        if names & {"DOCUMENTATION", "EXAMPLES", "RETURN"}:
            documentation.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for number, line in lines if number not in documentation and line.strip() and not line.strip().startswith("#"))


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What `ansible-doc --json` says of every module, with the doc fragments merged in."""
    names = [FQCN + path.stem for path in MODULES if path.stem != "__init__"]
    if not names:
        return {}
    command = ["ansible-doc", "--json", "-t", "module", *names]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def options(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All options with their suboptions, each with its path."""
    for name, option in found.items():
        yield f"{path}{name}", option
        yield from options(option.get("suboptions") or option.get("contains") or {}, f"{path}{name}.")


# --- layers ---------------------------------------------------------------------------------------------------------------------


def test_module_utils_imports_run_downwards() -> None:
    wrong = {}
    for path in sorted((ROOT / "plugins" / "module_utils").rglob("*.py")):
        own = path.relative_to(ROOT / "plugins" / "module_utils").parts[0]
        assert own in FLOORS, f"{own}: a new room needs its floor in this test and in docs/architecture.md"
        if upward := upward_imports(path, own):
            wrong[str(path.relative_to(ROOT))] = upward
    assert wrong == {}


def test_the_rule_about_imports_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "_x.py"
    utils = f"{PACKAGE}plugins.module_utils"
    file.write_text(f"from {utils}._mesh import _names\nfrom {utils}._core._plan import Plan\n")
    assert upward_imports(file, "_cloud") == [f"{PACKAGE}plugins.module_utils._mesh._names"]
    assert upward_imports(file, "_traffic") == []


def test_the_lab_and_the_collection_share_no_code() -> None:
    """A lab that shared code with what is tested in it would agree with its mistakes. lab/bench only measures."""
    wrong = []
    sources = [path for path in FILES if path.endswith(".py") and path.startswith(("lab/", "plugins/"))]
    for path in (path for path in sources if not path.startswith("lab/bench/")):
        names = re.findall(r"^\s*(?:from|import) (\S+)", (ROOT / path).read_text(), re.M)
        banned = ("ansible_collections", "plugins") if path.startswith("lab/") else ("lab", "dev", "tests")
        wrong += [f"{path}: {name}" for name in names if name.split(".")[0] in banned]
    assert wrong == []


def test_logic_does_not_end_the_module() -> None:
    """Logic returns and raises. Only _core/_run.py, the frame around every module, calls exit_json and fail_json."""
    top, callers = ROOT / "plugins" / "module_utils", set()
    for path in top.rglob("*.py"):
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        if called & {"exit_json", "fail_json"}:
            callers.add(str(path.relative_to(top)))
    assert callers - {"_core/_run.py"} == set()


# --- sizes and licences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_thin(path: Path) -> None:
    lines = code_lines(path.read_text())
    assert lines <= MODULE_LINES, f"{lines} lines of code; move what thinks to module_utils"


def test_code_lines_leaves_out_documentation_and_comments() -> None:
    assert code_lines('# c\nDOCUMENTATION = r"""\na: b\n"""\n\nimport os\n\n\ndef main():\n    # why\n    return os\n') == 3


def test_no_file_is_too_long() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in CODE}
    assert {path: length for path, length in lengths.items() if length > FILE_LINES} == {}


def test_every_file_says_its_licence() -> None:
    reuse = tomllib.loads((ROOT / "REUSE.toml").read_text())
    elsewhere = [pattern.removeprefix("**/") for entry in reuse["annotations"] for pattern in entry["path"]] + ["LICENSE"]
    missing = []
    for path in FILES:
        if any(fnmatch(path, pattern) or fnmatch(os.path.basename(path), pattern) for pattern in elsewhere):
            continue
        try:
            head = (ROOT / path).read_text(encoding="utf-8")[:600]
        except UnicodeDecodeError:
            head = ""
        if "SPDX-License-Identifier: GPL-3.0-or-later" not in head:
            missing.append(path)
    assert missing == []


def test_package_files_are_empty_or_licensed() -> None:
    """REUSE.toml covers __init__.py because ansible-test wants those of the plugins empty; one with code must say it itself."""
    texts = {path: (ROOT / path).read_text() for path in FILES if path.endswith("__init__.py")}
    assert [path for path, text in texts.items() if text and "SPDX-License-Identifier" not in text] == []


# --- what every module says about itself ----------------------------------------------------------------------------------------


def test_the_action_group_lists_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    assert sorted(runtime["action_groups"]["migration"]) == [path.stem for path in MODULES if path.stem != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_documented_completely(path: Path, documented: dict[str, Any]) -> None:
    found = documented[FQCN + path.stem]
    doc = found["doc"]
    for field in ("short_description", "description", "author", "version_added", "attributes"):
        assert doc.get(field), f"no {field}"
    for attribute in ("check_mode", "diff_mode", "idempotent", "action_group"):
        support = doc["attributes"].get(attribute, {}).get("support")
        assert support in ("full", "partial", "none", "N/A"), f"attribute {attribute} says no support"
    assert doc["attributes"]["check_mode"]["support"] == "full", "every module of this collection has check mode"
    assert FQCN + "migration" in doc["attributes"]["action_group"]["membership"]
    for name, option in options(doc.get("options") or {}):
        assert option.get("description") and option.get("type"), f"option {name} lacks a description or a type"
        assert option["type"] != "list" or option.get("elements"), f"option {name} lacks elements"
    assert found["return"], "no RETURN"
    for name, value in options(found["return"]):
        assert value.get("description") and value.get("type"), f"returned {name} lacks a description or a type"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_examples_of_a_module_are_tasks_that_use_it(path: Path, documented: dict[str, Any]) -> None:
    tasks = yaml.safe_load(documented[FQCN + path.stem]["examples"])
    accepted = set(documented[FQCN + path.stem]["doc"]["options"])
    calls = [task[FQCN + path.stem] for task in tasks if FQCN + path.stem in task]
    assert calls, "no example uses the module by its full name"
    assert all(task.get("name") for task in tasks), "an example has no name"
    assert [set(call or {}) - accepted for call in calls if set(call or {}) - accepted] == [], (
        "an example uses an option that is not there"
    )


def test_required_packages_are_the_same_everywhere(documented: dict[str, Any]) -> None:
    """What the modules document is what an execution environment installs, and requirements/runtime.txt pins one that fits."""
    lines = (ROOT / "meta" / "ee-requirements.txt").read_text().splitlines()
    installed = dict(line.split(">=") for line in lines if ">=" in line)
    pinned = dict(line.split("==") for line in (ROOT / "requirements" / "runtime.txt").read_text().splitlines() if "==" in line)
    told = {need for found in documented.values() for need in found["doc"].get("requirements", [])}
    packages = {match[1]: match[2] for need in told if (match := re.fullmatch(r"(\S+) \(Python package\) >= (\S+)", need))}
    assert {name: installed.get(name) for name in packages} == packages
    assert set(installed) == set(pinned)
    number = re.compile(r"\d+")
    for name, least in installed.items():
        assert [int(part) for part in number.findall(pinned[name])] >= [int(part) for part in number.findall(least)], name


def test_the_changelog_knows_every_plugin() -> None:
    """`make changelog` takes new plugins in."""
    releases = yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())["releases"].values()
    parts = [
        part
        for release in releases
        for part in (release.get("plugins", {}), release.get("modules", []), release.get("objects", {}))
    ]
    known = {
        entry["name"] for part in parts for entries in (part.values() if isinstance(part, dict) else [part]) for entry in entries
    }
    plugins = {path.stem for kind in ("modules", "filter") for path in (ROOT / "plugins" / kind).glob("*.py")}
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    assert (plugins | roles) - known == set()
