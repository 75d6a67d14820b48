# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the repository, by name: `python -m dev.checks lint sanity importer molecule`, or single ones.

tests/test_repository.py runs the same table, one test per check, so that `make test` and the single targets cannot disagree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from dev import sanity, tree
from dev.paths import ROOT, cache, environment
from dev.steps import StepFailed, run, step

Check = Callable[[], None]


def command(*argv: str) -> Check:
    """A check that is one command in the root of the repository."""
    return lambda: run(argv, cwd=ROOT, env=environment())


def mypy() -> None:
    """Strict types: the lab and the tools by their names, the collection by its full name through the collection tree."""
    env = environment()
    top = Path(env["ANSIBLE_COLLECTIONS_PATH"])
    packages = [name for name in ("lab", "dev") if any((ROOT / name).glob("*.py"))]
    calls = [(["mypy", *(word for name in packages for word in ("-p", name))], ROOT, env)]
    inside = "ansible_collections/servicemesh/migration/plugins/"
    kinds = ("module_utils", "modules", "filter", "action")
    folders = [inside + kind for kind in kinds if any((ROOT / "plugins" / kind).rglob("*.py"))]
    if folders:
        calls.append((["mypy", "--config-file", str(ROOT / "pyproject.toml"), *folders], top, {**env, "MYPYPATH": str(top)}))
    failures = []
    for argv, cwd, variables in calls:
        try:
            run(argv, cwd=cwd, env=variables)
        except StepFailed as failure:
            failures.append(str(failure))
    if failures:
        raise StepFailed("; ".join(failures))


def go() -> None:
    """The lab's own Go programs: formatted, vetted, tested."""
    module = ROOT / "lab" / "go"
    if not shutil.which("go") or not (module / "go.mod").exists():
        print("   skipped: no go, or no lab/go")
        return
    if unformatted := subprocess.run(
        ["gofmt", "-l", "."], cwd=module, capture_output=True, text=True, check=False
    ).stdout.strip():
        raise StepFailed(f"gofmt would change: {unformatted}")
    for verb in ("vet", "test"):
        run(["go", verb, "./..."], cwd=module, env=environment())


def shell() -> None:
    """Shell scripts parse."""
    for path in tree.files():
        file = ROOT / path
        if file.is_file() and not file.is_symlink() and file.read_bytes().startswith((b"#!/usr/bin/env bash\n", b"#!/bin/sh\n")):
            run(["bash", "-n", path], cwd=ROOT)


def artifact(folder: Path) -> Path:
    """Build the artifact from a copy of the project's files, as a release is built from a clean clone. Returns the tarball."""
    place = tree.copy(folder)
    out = folder / "out"
    run(["ansible-galaxy", "collection", "build", "--output-path", str(out)], cwd=place, env=environment())
    (tarball,) = out.glob("*.tar.gz")
    return tarball


def importer() -> None:
    """What Galaxy does with an upload, as strict as Automation Hub; ansible-lint and ansible-test are checks of their own."""
    with tempfile.TemporaryDirectory(prefix="servicemesh-") as name:
        folder = Path(name)
        config = folder / "galaxy-importer.cfg"
        config.write_text(
            "[galaxy-importer]\nCHECK_REQUIRED_TAGS=True\nRUN_ANSIBLE_LINT=False\nRUN_FLAKE8=False\nRUN_ANSIBLE_TEST=False\n"
        )
        tarball = artifact(folder)
        # What is compiled of a copy, whose path is another one each time, is of no use to anybody later.
        env = {**environment(), "GALAXY_IMPORTER_CONFIG": str(config), "PYTHONDONTWRITEBYTECODE": "1"}
        run([sys.executable, "-m", "galaxy_importer.main", str(tarball)], cwd=folder, env=env)


def molecule() -> None:
    """All scenarios, in the lab that is up, or in one of their own. VMs: in the lab's network: tests/integration/vm."""
    run(["molecule", "test", "--all", "--exclude", "vm_asm_proxy", "--report"], cwd=ROOT, env={**environment(), "NO_COLOR": "1"})


CHECKS: dict[str, dict[str, Check]] = {
    "lint": {
        "ruff": command("ruff", "check", "--quiet", "."),
        "mypy": mypy,
        "yamllint": command("yamllint", "--strict", "."),
        "ansible-lint": command("ansible-lint", "--offline", "--nocolor", "-q"),
        "changelog": command("antsibull-changelog", "lint"),
        "shell": shell,
        "go": go,
    },
    "sanity": {"ansible-test": sanity.main},
    "importer": {"galaxy-importer": importer},
    "molecule": {"molecule": molecule},
}


def main(asked: list[str]) -> int:
    """Run the checks of the given groups or names; go on after a failure, and say at the end which ones failed."""
    pairs = [(group, name) for group, checks in CHECKS.items() for name in checks]
    table = {name: CHECKS[group][name] for group, name in pairs if not asked or {group, name} & {*asked}}
    unknown = {*asked} - {*CHECKS} - {*table}
    if unknown:
        print(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    cache().mkdir(parents=True, exist_ok=True)
    failed = []
    for name, check in table.items():
        try:
            with step(name):
                check()
        except StepFailed as failure:
            print(f"{name}: {failure}", file=sys.stderr)
            failed.append(name)
    print(f"== {len(table) - len(failed)} of {len(table)} checks passed{': failed ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
