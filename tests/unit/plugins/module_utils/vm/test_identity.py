# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a VM on a disk of its own: what is made, what is kept, what comes back, and what nobody may see."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import (
    _alone,
    _hosts,
    _identity,
    _identity_run,
    _renewal,
    _token,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity_spec import identity_spec

FACTS = {
    "root_cert": "ROOT\n",
    "addresses": ["192.0.2.9"],
    "cluster_id": "Kubernetes",
    "mesh_id": "mesh1",
    "network": "",
    "trust_domain": "cluster.local",
    "proxy_config": {"concurrency": 2},
    "api_server": "https://192.0.2.8:6443",
    "api_ca": "API CA\n",
}
DAY = 86400


def token(
    subject: str = "system:serviceaccount:vmns:vmsa", audience: str = "istio-ca", life: float = 30 * DAY, age: float = 0
) -> str:
    now = time.time()
    body = {"sub": subject, "aud": [audience], "iat": int(now - age), "exp": int(now - age + life)}
    return f"head.{base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip('=')}.secretsignature"


class Disk:
    """A VM that is a folder, owned by whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")

    def options(self, **more: Any) -> dict[str, Any]:
        words = {
            "namespace": "vmns",
            "service_account": "vmsa",
            "name": "vm-0",
            "address": "192.0.2.1",
            "path": str(self.folder / "asm_proxy"),
            "hosts_file": str(self.hosts),
            "owner": str(os.getuid()),
            "group": str(os.getgid()),
            "facts": FACTS,
            **more,
        }
        checked = ArgumentSpecValidator(identity_spec()).validate(words)
        assert checked.error_messages == []
        return dict(checked.validated_parameters)

    def run(self, check: bool = False, **more: Any) -> Outcome:
        return _identity_run.run_module(self.options(**more), check)

    def tree(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            stat = path.lstat()
            found[str(path)] = (oct(stat.st_mode), stat.st_uid, None if path.is_dir() else path.read_text())
        return found


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("run", "vm", "systemd"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(_alone, "FOLDER", tmp_path / "run")
    monkeypatch.setattr(_identity_run, "SYSTEMD", str(tmp_path / "systemd"))
    return Disk(tmp_path / "vm")


def test_a_vm_gets_its_files_and_a_second_run_changes_nothing(disk: Disk) -> None:
    disk.run(token=token(), labels={"app": "shop", "version": "v1"})
    folder = disk.folder / "asm_proxy"
    modes = {
        name: oct((folder / name).stat().st_mode)[-4:] for name in ("cluster.env", "mesh.yaml", "certs/istio-token", "certs")
    }
    assert modes == {"cluster.env": "0600", "mesh.yaml": "0600", "certs/istio-token": "0600", "certs": "0700"}
    env = dict(line.split("=", 1) for line in (folder / "cluster.env").read_text().splitlines())
    assert env["INSTANCE_IP"] == "192.0.2.1"
    assert env["ISTIO_META_WORKLOAD_NAME"] == "shop"
    assert json.loads(env["ISTIO_METAJSON_LABELS"]) == {"app": "shop", "version": "v1"}
    mesh = json.loads((folder / "mesh.yaml").read_text())
    assert mesh["defaultConfig"] == {"concurrency": 2, "discoveryAddress": "istiod.istio-system.svc:15012"}
    assert "192.0.2.9 istiod.istio-system.svc\n" in disk.hosts.read_text()
    assert not disk.run(labels={"app": "shop", "version": "v1"}).plan.changed


def test_leaving_leaves_nothing_and_brings_back_what_was_there(disk: Disk) -> None:
    old = disk.folder / "asm_proxy" / "certs" / "istio-token"
    old.parent.mkdir(parents=True)
    old.write_text("a token by hand")
    old.chmod(0o744)
    (disk.folder / "asm_proxy" / "asm_proxy.env").write_text("NS=vmns\n")
    before = disk.tree()
    disk.run(token=token())
    (disk.folder / "asm_proxy" / "issued" / "key.pem").write_text("the agent's")
    disk.run(state="absent", facts=None)
    assert disk.tree() == before
    assert not disk.run(state="absent", facts=None).plan.changed


def test_leaving_leaves_no_half_token_of_the_timer(disk: Disk) -> None:
    assert f'prefix="{_renewal.HALF[:-1]}"' in _renewal.SCRIPT
    before = disk.tree()
    disk.run(token=token())
    for name in ("certs/.token.abc", ".token.def"):
        (disk.folder / "asm_proxy" / name).write_text(token())
    disk.run(state="absent", facts=None)
    assert disk.tree() == before


def test_leaving_leaves_what_it_does_not_know(disk: Disk) -> None:
    disk.run(token=token())
    (disk.folder / "asm_proxy" / "issued" / "mine.txt").write_text("x")
    outcome = disk.run(state="absent", facts=None)
    assert (disk.folder / "asm_proxy" / "issued" / "mine.txt").exists()
    assert any("mine.txt" in note for note in outcome.plan.notes)
    assert not (disk.folder / "asm_proxy" / "certs").exists()


def test_no_token_is_ever_told(disk: Disk) -> None:
    fresh, other = token(), token(life=60 * DAY)
    first = disk.run(token=fresh)
    due = disk.run(check=True, audience="another")
    second = disk.run(audience="istio-ca", renew_before=40 * DAY, token=other, env={"A": "b"})
    told = json.dumps([(one.plan.as_list(), one.plan.diff(), one.result) for one in (first, due, second)], default=str)
    assert "secretsignature" not in told
    assert [item["name"] for item in due.result["due"]] == ["token"] and "another" in due.result["due"][0]["reason"]


def test_check_mode_needs_no_token_and_writes_nothing(disk: Disk) -> None:
    before = disk.tree()
    assert disk.run(check=True).plan.changed
    assert disk.tree() == before


def test_a_token_that_is_due_and_was_not_given_is_an_error_before_any_write(disk: Disk) -> None:
    before = disk.tree()
    with pytest.raises(MigrationError, match="none was given"):
        disk.run()
    assert disk.tree() == before


@pytest.mark.parametrize("at", range(16))
def test_a_run_that_is_killed_anywhere_is_taken_back_or_completed(disk: Disk, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = disk.tree()
    steps = []
    for name in ("_folder", "_write", "_edit"):
        real = getattr(_identity_run, name)

        def cut(*args: Any, real: Any = real) -> None:
            steps.append(args)
            if len(steps) == at:
                raise KeyboardInterrupt
            real(*args)

        monkeypatch.setattr(_identity_run, name, cut)
    try:
        disk.run(token=token())
    except KeyboardInterrupt:
        pass
    at = -1
    half = disk.tree()
    disk.run(token=token())
    assert not disk.run().plan.changed
    disk.run(state="absent", facts=None)
    left = {path: found for path, found in disk.tree().items() if path not in before}
    assert set(left) <= {str(disk.folder / "asm_proxy")} & set(half), (
        "at most the empty folder that was made just before the kill"
    )
    assert disk.hosts.read_text() == "127.0.0.1 localhost\n"


class Killed(BaseException):
    """SIGKILL: what would clean up does nothing any more."""


def killed(disk: Disk, monkeypatch: pytest.MonkeyPatch, at: int, **words: Any) -> bool:
    """One run that is killed before its call number ``at`` that changes the disk; whether it got that far."""
    calls = 0

    def cut(real: Any) -> Any:
        def instead(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= at:
                raise Killed
            return real(*args, **more)

        return instead

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "rmdir", "mkdir", "chmod", "chown"):
            patch.setattr(os, name, cut(getattr(os, name)))
        patch.setattr(Path, "unlink", cut(Path.unlink))
        try:
            disk.run(**words)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("again", [False, True])
def test_files_of_others_come_back_wherever_a_run_is_killed(disk: Disk, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """By hand, as the vendor's manual has it: with a token that still counts, readable by all."""
    folder, at, held = disk.folder / "asm_proxy", 0, token()
    while True:
        at += 1
        (folder / "certs").mkdir(parents=True, exist_ok=True)
        for name, text in (("cluster.env", "NS=mine\n"), ("mesh.yaml", "mine: true\n"), ("certs/istio-token", held)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o744)
        (folder / "certs").chmod(0o755)
        before = disk.tree()
        cut = killed(disk, monkeypatch, at)
        if again:
            disk.run(token=held)
            assert not disk.run().plan.changed
        cut_too = killed(disk, monkeypatch, at, state="absent", facts=None)
        disk.run(state="absent", facts=None)
        assert disk.tree() == before, f"killed at call {at}"
        if not cut and not cut_too:
            break
    assert at > 15


def test_the_lines_of_a_hosts_file_stay_as_they_are_whatever_they_end_with(disk: Disk) -> None:
    odd = b"127.0.0.1 localhost\r\n10.0.0.1 caf\xe9\x0cx\r\n# lone \r end"
    disk.hosts.write_bytes(odd)
    disk.run(token=token())
    assert disk.hosts.read_bytes().startswith(odd + b"\n")
    disk.run(state="absent", facts=None)
    assert disk.hosts.read_bytes() == odd


def test_a_word_in_a_comment_is_no_block() -> None:
    text = f"10.0.0.1 a # see {_hosts.BEGIN}\n"
    now = _hosts.with_block(text, ["10.0.0.2 b"])
    assert _hosts.with_block(now, ["10.0.0.3 c"]) == now.replace("10.0.0.2 b", "10.0.0.3 c")
    assert _hosts.without(now) == text and not _hosts.broken(now)


def test_two_runs_at_once_on_one_vm(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_alone, "PATIENCE", 0.0)
    before = disk.tree()
    with _alone.alone("identity", "x"):
        with pytest.raises(MigrationError, match="Another run"):
            disk.run(token=token())
        disk.run(check=True)
    assert disk.tree() == before
    disk.run(token=token())
    assert list(_alone.FOLDER.iterdir()) == []


def test_a_file_that_somebody_writes_at_the_same_time_is_told(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _identity_run._edit

    def other(*args: Any) -> None:
        real(*args)
        (disk.folder / "asm_proxy" / "mesh.yaml").write_text("{}")

    monkeypatch.setattr(_identity_run, "_edit", other)
    with pytest.raises(MigrationError, match="not as it was written"):
        disk.run(token=token())


def full(*_args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_hosts_file(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_identity_run.os, "fsync", full)
    change = _identity_run.Change("edit", str(disk.hosts), [], [_hosts.BEGIN, "10.0.0.1 a", _hosts.END])
    with pytest.raises(OSError, match="No space left"):
        _identity_run._edit(str(disk.hosts), change)
    assert disk.hosts.read_text() == "127.0.0.1 localhost\n" and sorted(os.listdir(disk.folder)) == ["hosts"]


def test_a_hosts_file_that_is_a_mount_is_written_over_and_never_lost(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def mounted(*_args: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(_identity_run.os, "replace", mounted)
    change = _identity_run.Change("edit", str(disk.hosts), [], [_hosts.BEGIN, "10.0.0.1 a", _hosts.END])
    real, room = io.FileIO.write, [4]

    class Small(io.FileIO):
        """A disk with little room beyond what the file has already."""

        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 20 + room[0]:
                full()
            return real(self, data)

    monkeypatch.setattr(_identity_run, "open", lambda name, *args, **more: Small(name, "r+"), raising=False)
    with pytest.raises(OSError, match="No space left"):
        _identity_run._edit(str(disk.hosts), change)
    assert disk.hosts.read_text() == "127.0.0.1 localhost\n"
    room[0] = 1000
    _identity_run._edit(str(disk.hosts), change)
    assert disk.hosts.read_text() == f"127.0.0.1 localhost\n{_hosts.BEGIN}\n10.0.0.1 a\n{_hosts.END}\n"
    short = _identity_run.Change("edit", str(disk.hosts), [], [])
    _identity_run._edit(str(disk.hosts), short)
    assert disk.hosts.read_text() == "127.0.0.1 localhost\n"


def test_a_timer_that_runs_or_is_enabled_is_taken_away(disk: Disk) -> None:
    seen = _identity.Observed(timer=False, armed=True)
    timer = f"{_identity.SYSTEMD}/{_renewal.UNIT}.timer"
    seen.made["files"].append(timer)
    seen.paths[timer] = _identity.Present(0o644, (0, 0), "")
    made = _identity.plan_absent(disk.options(state="absent"), seen)
    assert made.changes[0].action == "disable"


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (None, "no token yet"),
        (token("system:serviceaccount:vmns:other"), "is one of system:serviceaccount:vmns:other"),
        (token(audience="kubernetes"), "and not for istio-ca"),
        (token(life=DAY, age=2 * DAY), "expired at"),
        (token(life=30 * DAY, age=25 * DAY), "sooner than in"),
        (token(life=30 * DAY, age=10 * DAY), ""),
        # an API server that shortens tokens to an hour is not asked at each run
        (token(life=3600, age=600), ""),
        (token(life=3600, age=1900), "sooner than in"),
    ],
)
def test_a_token_is_replaced_in_time_and_not_before(present: str | None, reason: str) -> None:
    claims = _token.read(present) if present else None
    found = _token.stale(claims, "system:serviceaccount:vmns:vmsa", "istio-ca", 10 * DAY, time.time())
    assert (reason in found) if reason else found == ""


def test_a_token_of_an_account_that_was_made_anew_is_replaced() -> None:
    claims = _token.Claims("s", ("a",), int(time.time()), int(time.time()) + DAY, "uid-1")
    assert "made anew" in _token.stale(claims, "s", "a", 60, time.time(), "uid-2")
    assert _token.stale(claims, "s", "a", 60, time.time(), "uid-1") == _token.stale(claims, "s", "a", 60, time.time()) == ""


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.e30", "a.!!!.c", "a.W10.c"])
def test_what_is_no_token_says_nothing_wrong(text: str) -> None:
    claims = _token.read(text)
    assert claims is None or claims.expires == 0


LINES = st.lists(st.sampled_from(["10.0.0.1 a", "# note", "", "::1 ip6-localhost"]), max_size=5)


@given(LINES, st.booleans(), st.lists(LINES.map(tuple), min_size=1, max_size=3))
def test_the_hosts_file_comes_back_byte_for_byte(lines: list[str], newline: bool, blocks: list[tuple[str, ...]]) -> None:
    text = "\n".join(lines) + ("\n" if newline and lines else "")
    now = text
    for block in blocks:
        now = _hosts.with_block(now, block)
        assert _hosts.with_block(now, block) == now
    assert _hosts.without(now) == text


def test_lines_that_were_added_behind_the_block_stay() -> None:
    now = _hosts.with_block("a", ["b"]) + "c\n"
    assert _hosts.with_block(now, ["d"]).endswith("c\n")
    assert _hosts.without(now) == "a\nc\n"


def test_half_a_block_is_not_touched(disk: Disk) -> None:
    disk.hosts.write_text(f"{_hosts.BEGIN}\n10.0.0.1 a\n")
    with pytest.raises(MigrationError, match="cannot be edited safely"):
        disk.run(token=token())


BAD = [
    ({"namespace": "VMNS"}, "namespace"),
    ({"namespace": ""}, "namespace"),
    ({"service_account": "../x"}, "service_account"),
    ({"name": "a b"}, "name"),
    ({"path": "/etc"}, "folder of its own"),
    ({"path": "/"}, "folder of its own"),
    ({"expiration_seconds": 599}, "600 to"),
    ({"expiration_seconds": 2**33}, "600 to"),
    ({"env": {"A B": "x"}}, "environment variable"),
    ({"env": {"A": "x\ny"}}, "environment variable"),
    ({"owner": "nobody-of-this-name"}, "no such owner"),
    ({"group": "nobody-of-this-name"}, "no such group"),
    ({"hosts": [{"address": "10.0.0.1\n0.0.0.0", "names": ["a"]}]}, "no entry of a hosts file"),
    ({"hosts": [{"address": "10.0.0.1", "names": ["a\n10.0.0.2 b"]}]}, "no entry of a hosts file"),
    ({"hosts": [{"address": "10.0.0.1", "names": []}]}, "no entry of a hosts file"),
    ({"facts": None}, "Nobody said"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_bad_input_is_refused_before_anything_is_written(disk: Disk, words: dict[str, Any], says: str) -> None:
    before = disk.tree()
    with pytest.raises(MigrationError, match=says):
        disk.run(token=token(), **words)
    assert disk.tree() == before


def test_a_symbolic_link_is_not_followed(disk: Disk) -> None:
    (disk.folder / "elsewhere").write_text("x")
    (disk.folder / "asm_proxy").mkdir()
    (disk.folder / "asm_proxy" / "cluster.env").symlink_to(disk.folder / "elsewhere")
    with pytest.raises(MigrationError, match="symbolic link"):
        disk.run(token=token())


def test_the_timer_may_make_tokens_of_one_account_and_nothing_else() -> None:
    role, binding = _renewal.rights("vmns", "vmsa")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["vmsa"], "verbs": ["create"]}
    ]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "vmsa", "namespace": "vmns"}]


def test_the_program_of_the_timer_compiles_on_an_old_python() -> None:
    compile(_renewal.SCRIPT, "renew-token", "exec", dont_inherit=True)
    assert "match " not in _renewal.SCRIPT and ":=" not in _renewal.SCRIPT


def test_istiod_by_revision_and_without_hosts_entry(disk: Disk) -> None:
    options = disk.options(revision="1-18", hosts_entry=False, hosts=[{"address": "10.0.0.7", "names": ["a.b.svc", "a"]}])
    assert _identity.istiod_host(options) == "istiod-1-18.istio-system.svc"
    assert _identity.hosts_lines(options, FACTS) == ["10.0.0.7 a.b.svc a"]
