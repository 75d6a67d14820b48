# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store's records and the scripts of the way back. What they do to a kernel is in the integration tests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_guard as guard
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_host as host
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_probe as probe
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_host import Tool, boot_id
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_options import (
    probes_of,
    redirect_spec,
    wanted_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import Wanted, build
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_tables import Ours, Place, wanted_ours

TOOL = Tool("nft", 4, "iptables-nft")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> guard.Store:
    """Without systemd, so that nothing here reaches this machine's."""
    monkeypatch.setattr(guard, "has_systemd", lambda: False)
    return guard.Store(str(tmp_path / "servicemesh-migration" / "redirect"))


def test_the_folder_is_roots_alone(store: guard.Store) -> None:
    store.write("confirmed.json", "{}")
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert (store.folder / "confirmed.json").stat().st_mode & 0o777 == 0o600
    assert store.read("confirmed") == {}
    store.write("pending.json", "{broken")
    assert store.read("pending") is None
    store.remove()
    assert not store.folder.parent.exists()


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    """An operator may give a folder that is not this module's alone."""
    (tmp_path / "shared").mkdir()
    store = guard.Store(str(tmp_path / "shared" / "state"))
    store.write("boot.sh", "#!/bin/sh\n")
    with store.locked():
        store.write("confirmed.json", "{}")
    for name in ("mine.json", ".mine.new", "notes"):
        (store.folder / name).write_text("somebody's")
    (store.folder / "sub").mkdir()
    store.remove()
    assert sorted(path.name for path in store.folder.iterdir()) == [".mine.new", "mine.json", "notes", "sub"]
    for path in store.folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    store.remove()
    assert not store.folder.exists() and store.folder.parent.is_dir(), "the folder above was there before"


def test_folders_that_were_made_for_it_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    store = guard.Store(str(tmp_path / "there" / "a" / "b"))
    for _again in range(2):
        with store.locked():
            assert store.folder.is_dir()
        assert (store.folder / "made.json").stat().st_mode & 0o777 == 0o600
        store.remove()
        assert list((tmp_path / "there").iterdir()) == []


def test_rules_of_others_may_say_anything() -> None:
    said = host.command("printf", r"-A INPUT -m comment --comment \"caf\351\" -j ACCEPT\n").stdout
    assert said.encode("utf-8", "surrogateescape").count(b"\xe9") == 1
    assert host.command("cat", stdin=said).stdout == said
    assert host.command("/etc/passwd").returncode == 126


def test_a_change_is_only_ever_one_of_pending_and_confirmed(store: guard.Store) -> None:
    store.write("pending.json", '{"change": "a"}')
    assert store.move("pending", "confirmed")
    assert not store.move("pending", "reverted"), "the timer came too late and still took it"
    assert store.read("confirmed") == {"change": "a"}


def test_two_runs_at_once(store: guard.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.time, "sleep", lambda _seconds: None)
    with store.locked(), pytest.raises(MigrationError, match="Another run"), store.locked():
        pass


def test_without_systemd_a_process_waits_and_is_stopped(store: guard.Store) -> None:
    made = guard.arm(store, "#!/bin/sh\n", {"change": "a"}, 300)
    waiting = json.loads((store.folder / "waiting.json").read_text())["pid"]
    assert made == "process"
    assert Path(f"/proc/{waiting}").exists()
    assert (store.read("pending") or {})["boot"] == boot_id()
    guard.disarm(store)
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(waiting)], capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")
    assert not (store.folder / "waiting.json").exists()


def test_a_change_that_nobody_proved_goes_before_the_next_run(store: guard.Store) -> None:
    script = (
        f"cd {store.folder} || exit 1\nmv pending.json reverting.json || exit 0\ntouch went\nmv reverting.json reverted.json\n"
    )
    guard.arm(store, script, {"change": "a"}, 300)
    assert "taken back before this run began" in guard.settle(store)
    assert (store.folder / "went").exists()
    assert "was never proven" in guard.settle(store)
    store.write("pending.json", json.dumps({"change": "b", "boot": "another boot"}))
    assert "rebooted" in guard.settle(store)
    assert store.read("pending") is None


def test_a_way_back_that_died_begins_again(store: guard.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.time, "sleep", lambda _seconds: None)
    store.write("revert.sh", f"cd {store.folder}\nmv pending.json reverting.json || exit 0\nmv reverting.json reverted.json\n")
    store.write("reverting.json", json.dumps({"change": "a", "boot": boot_id()}))
    assert "taken back" in guard.settle(store)
    assert store.read("reverted") is not None


def test_a_way_back_that_fails_is_said(store: guard.Store) -> None:
    guard.arm(store, f"mv {store.folder}/pending.json {store.folder}/reverting.json\necho no lock >&2\nexit 4\n", {}, 300)
    with pytest.raises(MigrationError, match=r"could not be taken back.*no lock"):
        guard.revert_now(store)


def test_scripts_are_shell(store: guard.Store) -> None:
    """Rules of others may have quotes and dollars in their comments; ours are read back from the kernel, so they might, too."""
    ours = wanted_ours(build(Wanted(tproxy=True, virtual_interfaces=("virbr0",)), 4))
    ours.places.append(Place("nat", "OUTPUT", 9, '-m comment --comment "it\'s $(reboot) `x` \\"q\\"" -j ISTIO_OUTPUT'))
    texts = [
        guard.revert_script(store, {TOOL: ours}, {TOOL: Ours()}, ["-4 rule del fwmark 1337 lookup 133"]),
        guard.revert_script(store, {}, {TOOL: ours}, []),
        guard.boot_script({TOOL: ours}, {}, ["-4 rule add fwmark 1337 lookup 133"]),
    ]
    for text in texts:
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    # what the shell makes of the words, with iptables in the place of a program that prints them
    lines = [line for line in texts[1].splitlines() if "reboot" in line and line.startswith("while")]
    shown = lines[0].removeprefix("while iptables-nft").removesuffix(" 2>/dev/null; do :; done")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n'{shown}"], capture_output=True, text=True, check=False)
    assert 'it\'s $(reboot) `x` "q"' in done.stdout.splitlines()


def test_a_proof_whose_answer_was_lost_is_not_told_as_taken_back(store: guard.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redirect.host, "need_root", lambda: None)
    monkeypatch.setattr(_redirect, "_stale", lambda _pending: "")
    guard.arm(store, "#!/bin/sh\n", {"change": "a", "boot_script": ""}, 300)
    words = params(state_dir=str(store.folder), probes=[], confirm={"change": "a", "failure": ""})
    first = _redirect.vm_redirect(words, False)
    assert first.result["confirmed"] and not (store.folder / "waiting.json").exists()
    assert _redirect.vm_redirect(words, False).result["confirmed"], "the second try of the controller"
    with pytest.raises(MigrationError, match="taken back before"):
        _redirect.vm_redirect({**words, "confirm": {"change": "b", "failure": ""}}, False)


# --- options --------------------------------------------------------------------------------------------------------------------


def params(**given: Any) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in redirect_spec().items()}
    return {**defaults, "version": "1.18.7-r2", **given}


@pytest.mark.parametrize(
    ("text", "version"), [("1.8.4", (1, 8)), ("1.18.7-r2", (1, 18)), ("v1.31.0", (1, 31)), ("1.32-alpha.0", (1, 32))]
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert wanted_of(params(version=text), ["22"]).version == version


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"version": "1.7.3"}, "1.8 on"),
        ({"version": "latest"}, "1.8 on"),
        ({"proxy_port": 0}, "1 to 65535"),
        ({"ssh_ports": [70000]}, "1 to 65535"),
        ({"inbound_ports": ["*", "80"]}, "alone"),
        ({"inbound_ports": ["http"]}, "number from 1"),
        ({"inbound_exclude_ports": ["22 -j ACCEPT"]}, "number from 1"),
        ({"outbound_ports": ["1:70000"]}, "number from 1"),
        ({"outbound_cidrs": ["10.0.0.0/40"]}, "network"),
        ({"outbound_exclude_cidrs": ["*"]}, "network"),
        ({"proxy_uids": []}, "own traffic"),
        ({"proxy_uids": ["-1"]}, "number or the name"),
        ({"exclude_groups": ["a b"]}, "number or the name"),
        ({"include_groups": [str(gid) for gid in range(65)]}, "64 at most"),
        ({"exclude_interfaces": ["eth0 -j DROP"]}, "interface"),
        ({"virtual_interfaces": ["averyveryverylongname"]}, "interface"),
        ({"loopback_cidr": "10.0.0.1/32"}, "127.0.0.0/8"),
        ({"loopback_cidr": "127.0.0.1/4"}, "127.0.0.0/8"),
        ({"dns_capture": True, "dns_servers": ["dns.example.com"]}, "by its address"),
        ({"dns_capture": True, "dns_servers": []}, "no name server"),
        ({"tproxy_mark": -1}, "above 0"),
        ({"revert_after": 5}, "15 s at least"),
        ({"probes": [{"url": None, "tcp": None}]}, "either url or tcp"),
        ({"probes": [{"url": "ftp://x/", "tcp": None}]}, "http or https"),
        ({"probes": [{"url": "http://127.0.0.1:99999/", "tcp": None}]}, "http or https"),
        ({"probes": [{"url": "http://[::1/", "tcp": None}]}, "http or https"),
        ({"probes": [{"url": None, "tcp": "db"}]}, "host:port"),
        ({"version": "1.8.4", "drop_invalid": True}, "since 1.13"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        wanted_of(params(**given), ["22"])
    assert "Nothing has been changed" in str(caught.value)


def test_an_address_is_a_network_of_one() -> None:
    assert wanted_of(params(outbound_exclude_cidrs=["169.254.169.254"]), []).outbound_exclude_cidrs == ("169.254.169.254/32",)


def test_the_probe_without_options_is_the_proxys_readiness() -> None:
    assert probes_of(params()) == [probe.READY]
    assert probes_of(params(probes=[])) == []


def test_a_name_that_nobody_can_be_asked_for_is_no_traceback() -> None:
    (found,) = probe.prove([{"url": f"http://{'a' * 70}.example/", "timeout": 1, "from": "vm"}], 0)
    assert found["ok"] is False and found["why"]


def test_a_probe_says_what_is_wrong_and_no_secret() -> None:
    asked = {"url": "http://user:secret@127.0.0.1:1/x?token=secret", "timeout": 1, "from": "vm"}
    (found,) = probe.prove([asked], 0)
    assert found["ok"] is False
    assert "refused" in found["why"]
    assert "secret" not in json.dumps(found)
