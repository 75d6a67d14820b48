# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The developers' tools: what is set up, copied and checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import checks, clean, paths, sanity, setup, steps, tree
from tests import groups


def program(folder: Path, name: str, text: str) -> None:
    """A small shell program in a folder of the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


# --- the collection tree --------------------------------------------------------------------------------------------------------


def test_the_tree_is_this_repository_below_its_name() -> None:
    place = tree.link() / "ansible_collections" / "servicemesh" / "migration"
    assert place.samefile(paths.ROOT)
    assert tree.link() == tree.link()


def test_a_stale_link_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    place = tree.link() / "ansible_collections" / "servicemesh" / "migration"
    place.unlink()
    place.symlink_to("/nowhere")
    tree.link()
    assert place.samefile(paths.ROOT)


def test_a_copy_has_new_files_and_no_ignored_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    (root / "bin").mkdir(parents=True)
    for name in ("kept.py", "gone.py", "new.py", "ignored.tmp", "bin/x"):
        (root / name).write_text(name)
    (root / ".gitignore").write_text("*.tmp\n")
    (root / "link").symlink_to("kept.py")
    monkeypatch.setattr(tree, "ROOT", root)
    for command in (["init", "-q"], ["add", "kept.py", "gone.py", "bin", "link"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "gone.py").unlink()
    place = tree.copy(tmp_path / "top", ("bin/",))
    assert place == tmp_path / "top" / "ansible_collections" / "servicemesh" / "migration"
    assert {path.name for path in place.iterdir()} == {".gitignore", "kept.py", "new.py", "link"}
    assert (place / "link").is_symlink()
    # An archive without history: the same, as far as names can tell.
    subprocess.run(["rm", "-rf", str(root / ".git")], check=True)
    assert {"kept.py", "new.py", "bin/x"} <= set(tree.files())


# --- setup ----------------------------------------------------------------------------------------------------------------------


def test_other_requirements_get_another_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in paths.REQUIREMENTS:
        (tmp_path / "requirements" / name).write_text("a==1\n")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    before = paths.venv()
    assert before == paths.venv()
    (tmp_path / "requirements" / "lab.txt").write_text("a==2\n")
    assert before != paths.venv()


def test_what_a_tool_imports_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Makefile keeps Python from writing into the tree; the tools write below the cache."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "imported.py").write_text("")
    subprocess.run([sys.executable, "-c", "import imported"], cwd=tmp_path, env=paths.environment(), check=True)
    (compiled,) = tmp_path.rglob("imported.*.pyc")
    assert compiled.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/unit/test_dev.py::test_x", "tests/unit/test_dev.py"),
        ("tests/test_repository.py::test_check[mypy]", "tests/test_repository.py::test_check[mypy]"),
        ("tests/integration/test_molecule.py::test_scenarios", groups.STILL),
        ("tests/integration/collection/test_gateway.py::test_x", groups.STILL),
        ("tests/integration/collection/test_inject.py::test_x", groups.LAB),
        ("tests/integration/collection/test_shift.py::test_x", groups.PLANE),
        ("tests/integration/ccm/test_own.py::test_x", groups.PLANE),
        ("tests/integration/backup/test_odd.py::test_x", groups.BACKUP),
        ("tests/integration/vm/test_redirect_kernel.py::test_x", groups.VM),
        ("tests/integration/vm/test_way.py::test_x", groups.LAB),
        ("tests/integration/cloud/test_data_plane.py::test_x", "tests/integration/cloud/test_data_plane.py"),
    ],
)
def test_tests_that_share_a_world_are_of_one_group(nodeid: str, group: str) -> None:
    assert groups.group(nodeid) == group
    assert (groups.nice(nodeid) == 0) == (group == groups.LAB)


def test_only_missing_packages_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "POLICY_FILE", tmp_path / "policy-rc.d")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    program(tmp_path / "bin", "dpkg-query", 'echo "here installed"; echo "removed config-files"; exit 1')
    program(tmp_path / "bin", "apt-get", f'echo "$@" >> {tmp_path}/calls; test -x {tmp_path}/policy-rc.d')
    setup.install(["here", "removed", "absent"])
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends removed absent")
    assert not (tmp_path / "policy-rc.d").exists()
    setup.install(["here"])
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_without_root_the_command_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    program(tmp_path / "bin", "dpkg-query", "exit 1")
    with pytest.raises(steps.StepFailed, match="apt-get install --no-install-recommends absent"):
        setup.install(["absent"])


def test_a_policy_of_the_machine_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(setup, "POLICY_FILE", policy)
    policy.write_text("#!/bin/sh\nexit 101\n")
    with setup.no_service_starts():
        pass
    assert policy.read_text() == "#!/bin/sh\nexit 101\n"
    # One of ours that a killed run left behind goes.
    policy.write_text(setup.POLICY)
    with setup.no_service_starts():
        assert policy.exists()
    assert not policy.exists()


def test_clean_removes_only_what_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clean, "VENV_PATH_FILE", tmp_path / ".venv-path")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    for name in ("venv-1", "bin", "mine"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    clean.main()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine"]


# --- steps and checks -----------------------------------------------------------------------------------------------------------


def test_a_command_is_tried_again_and_then_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(steps.time, "sleep", lambda _seconds: None)
    program(tmp_path, "flaky", f'echo x >> {tmp_path}/calls; test "$(wc -l < {tmp_path}/calls)" -ge "$1"')
    steps.run([str(tmp_path / "flaky"), "2"], attempts=3)
    with pytest.raises(steps.StepFailed, match="ended with 1"):
        steps.run([str(tmp_path / "flaky"), "9"], attempts=2)
    with pytest.raises(steps.StepFailed, match="there is no"):
        steps.run(["no-such-program"])


def test_a_failing_check_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> None:
        raise steps.StepFailed("it is so")

    done: list[str] = []
    monkeypatch.setattr(checks, "CHECKS", {"lint": {"bad": bad, "good": lambda: done.append("good")}})
    assert checks.main(["lint"]) == 1
    assert done == ["good"]
    captured = capsys.readouterr()
    assert "1 of 2 checks passed: failed bad" in captured.out
    assert "bad: it is so" in captured.err
    assert checks.main(["good"]) == 0
    assert checks.main(["unknown"]) == 2


# --- ansible-test ---------------------------------------------------------------------------------------------------------------


def test_get_pip_is_where_this_ansible_test_looks(tmp_path: Path) -> None:
    """The name and the place are those in ansible-test's own bootstrap code, and the script installs the version asked for."""
    import ansible_test

    bootstrap = (Path(ansible_test.__file__).parent / "_util" / "target" / "setup" / "requirements.py").read_text()
    assert "~/.ansible/test/cache/get_pip_%s.py" in bootstrap
    sanity.provide_get_pip(tmp_path)
    version = sanity.pip_version()
    script = tmp_path / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
    compile(script.read_text(), script.name, "exec")
    assert f'"pip=={version}"' in script.read_text()


def test_shims_of_pyenv_leave_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin"
    real.mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert sanity.path_of_pythons(f"/a{os.pathsep}{tmp_path}/.pyenv/shims{os.pathsep}/b").split(os.pathsep) == [
        "/a",
        "/b",
        str(real),
    ]


def test_run_says_what_to_do_when_nothing_is_installed(tmp_path: Path) -> None:
    env = {**os.environ, "LAB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "dev.run", "true"], cwd=paths.ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "make setup" in done.stderr
