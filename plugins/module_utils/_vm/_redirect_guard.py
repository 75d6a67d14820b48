# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The way back that needs nobody: a timer on the VM, armed before the first rule is written; and the rules after a reboot.

All that is known lies in one folder of root's, mode 0700, files 0600:

- ``pending.json``    a change that is not proven yet. The timer takes it back.
- ``confirmed.json``  the change that was proven last. Its rules are known to be ours.
- ``reverted.json``   the change that was taken back last.
- ``revert.sh``       what the timer runs; ``boot.sh`` what the unit runs at boot. Plain sh and iptables: no Python, no Ansible.

A change goes from pending to confirmed or to reverted by one rename. So it is only ever one of them, however a process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import make_private
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_host import PATH, Tool, boot_id, command
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_tables import (
    CHAINS,
    Ours,
    program,
    restore,
    target,
)

TIMER = "servicemesh-redirect-revert"
UNIT = "servicemesh-redirect.service"
UNITS = pathlib.Path("/etc/systemd/system")
_RECORDS = ("pending", "confirmed", "reverted", "reverting", "waiting", "made")
_FILES = (*(f"{name}.json" for name in _RECORDS), "revert.sh", "boot.sh", "lock")
_ABOVE = "servicemesh-migration"  # the folder in which state_dir is by default
_HEADER = "#!/bin/sh\n# Written by servicemesh.migration.vm_redirect; see its documentation before you change it.\n"
_UNIT = """# Written by servicemesh.migration.vm_redirect, which also removes it.
[Unit]
Description=Redirect of this machine's traffic to its mesh proxy
Documentation=https://github.com/servicemesh-migration/servicemesh.migration
# After all that writes rules at boot, so that the order of the rules is what it was before the boot. Not after the proxy:
# without it the mesh's traffic has to wait, and ssh is not redirected.
After=network.target docker.service firewalld.service ufw.service nftables.service iptables.service netfilter-persistent.service
ConditionPathExists={script}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script}

[Install]
WantedBy=multi-user.target
"""


def has_systemd() -> bool:
    return pathlib.Path("/run/systemd/system").is_dir()


class Store:
    """The folder. Only root looks in."""

    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)
        self._lock: t.IO[str] | None = None

    def read(self, name: str) -> dict[str, t.Any] | None:
        try:
            data = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def write(self, name: str, text: str) -> None:
        """So that a reader, or a crash, sees the old text or the new one; on the disk before the next step."""
        temp = self.folder / f".{name}.new"
        try:
            self._make()
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temp, self.folder / name)
        except OSError as error:
            raise MigrationError(
                "The redirect's state cannot be written", where=str(self.folder / name), why=str(error), todo="make room for it"
            ) from error

    def _make(self) -> None:
        """The folder, and a note of those above it that were not there before: they go with it."""
        made = [str(folder) for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        make_private(self.folder)
        if made:
            note = self.folder / "made.json"
            note.touch(0o600)
            note.write_text(json.dumps({"folders": made}), encoding="utf-8")

    def move(self, old: str, new: str) -> bool:
        """Rename a record. False when it is not there any more: the timer, or another run, was faster."""
        try:
            os.replace(self.folder / f"{old}.json", self.folder / f"{new}.json")
        except FileNotFoundError:
            return False
        return True

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """One run at a time works on this machine's redirect."""
        self._make()
        with open(self.folder / "lock", "w", encoding="utf-8") as stream:
            os.chmod(self.folder / "lock", 0o600)
            for _dummy in range(150):
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                raise MigrationError(
                    "Another run works on this machine's redirect",
                    where=str(self.folder / "lock"),
                    todo="wait for it to end; two plays must not change one machine at once",
                    transient=True,
                )
            yield

    def remove(self) -> None:
        """Take away what this module wrote, the folder when it is empty then, and those above it that it made."""
        above = [str(self.folder.parent)] if self.folder.parent.name == _ABOVE else []
        made = (self.read("made") or {}).get("folders", [])
        for name in _FILES:
            for path in (self.folder / name, self.folder / f".{name}.new"):
                path.unlink(missing_ok=True)
        for folder in dict.fromkeys((str(self.folder), *made, *above)):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


# --- scripts -------------------------------------------------------------------------------------------------------------------


def _words(spec: str) -> str:
    """A rule of iptables-save as words of a shell."""
    return shlex.join(shlex.split(spec))


def _take_away(tool: Tool, parts: t.Sequence[Ours]) -> list[str]:
    """Lines that remove our rules whatever of them is there. Hooks first: from then on traffic goes its plain way."""
    ipt = f"{tool.name} -w 30" if tool.backend == "legacy" else tool.name
    lines = []
    for table in sorted({table for part in parts for table in part.tables()}):
        counts: dict[tuple[str, str], int] = {}
        for part in parts:
            for chain, specs in part.hooks(table).items():
                for spec in specs:
                    counts[(chain, spec)] = max(counts.get((chain, spec), 0), specs.count(spec))
        for (chain, spec), count in counts.items():
            delete = f"{ipt} -t {table} -D {chain} {_words(spec)} 2>/dev/null"
            if target(spec) in CHAINS:
                lines.append(f"while {delete}; do :; done")
            else:
                lines += [f"{delete}"] * count
        chains = sorted({chain for part in parts for chain in part.chains.get(table, {})})
        lines += [f"{ipt} -t {table} -{flag} {chain} 2>/dev/null" for flag in "FX" for chain in chains]
    return lines


def _give(tool: Tool, *ways: t.Mapping[str, t.Sequence[str]]) -> list[str]:
    """Lines that load a program, the next one when that fails."""
    wait = " -w 30" if tool.backend == "legacy" else ""
    loads = [f"{tool.name}-restore --noflush{wait} <<'RULES{number}'" for number in range(len(ways))]
    return [" || ".join(loads), *(f"{restore(lines)}RULES{number}" for number, lines in enumerate(ways))]


def revert_script(store: Store, before: t.Mapping[Tool, Ours], after: t.Mapping[Tool, Ours], routes: t.Sequence[str]) -> str:
    """From whatever a change has reached back to what was before. `routes` are words for ip that undo the routes."""
    lines = [f"cd {shlex.quote(str(store.folder))} || exit 1", "mv pending.json reverting.json || exit 0"]
    for tool in dict.fromkeys([*before, *after]):
        old, new = before.get(tool, Ours()), after.get(tool, Ours())
        lines += _take_away(tool, [new, old])
        if old:
            # to their old places; when somebody else's rules have gone meanwhile, and with them the places, to the end
            lines += _give(tool, program(Ours(), old, places=True), program(Ours(), old))
    lines += [f"ip {words} 2>/dev/null" for words in routes]
    lines += ["mv reverting.json reverted.json", "logger -t servicemesh-redirect 'the redirect was taken back' 2>/dev/null"]
    return f"{_HEADER}PATH={PATH}\nexport PATH LC_ALL=C\n" + "\n".join([*lines, "exit 0", ""])


def boot_script(
    after: t.Mapping[Tool, Ours], tops: t.Mapping[Tool, t.Mapping[tuple[str, str], int]], routes: t.Sequence[str]
) -> str:
    """The proven rules, for a machine that has just booted. Started again it gives the same."""
    lines: list[str] = []
    for tool, part in after.items():
        if part:
            lines += [*_take_away(tool, [part]), *_give(tool, program(Ours(), part, tops.get(tool))), "status=$((status + $?))"]
    lines += [f"ip {words} 2>/dev/null" for words in routes]
    return f"{_HEADER}PATH={PATH}\nexport PATH LC_ALL=C\nstatus=0\n" + "\n".join([*lines, "exit $status", ""])


# --- the timer -----------------------------------------------------------------------------------------------------------------


def arm(store: Store, script: str, record: dict[str, t.Any], seconds: int) -> str:
    """Arm the timer and make the change pending; gives what kind of timer it is. Nothing of the change is written before."""
    disarm(store)
    store.write("revert.sh", script)
    store.write("pending.json", json.dumps({**record, "boot": boot_id(), "armed": time.time(), "seconds": seconds}))
    path = str(store.folder / "revert.sh")
    if has_systemd():
        words = [f"--unit={TIMER}", f"--on-active={seconds}", "--timer-property=AccuracySec=100ms"]
        done = command("systemd-run", *words, "--description=Takes an unproven redirect back", "/bin/sh", path)
        active = command("systemctl", "is-active", f"{TIMER}.timer")
        if done.returncode == 0 and active.stdout.strip() == "active":
            return "systemd"
        why = " ".join(done.stderr.split()) or f"the timer is {active.stdout.strip()}"
        store.move("pending", "reverted")
        raise MigrationError("The timer that takes the redirect back cannot be armed", where=f"{TIMER}.timer", why=why)
    # No systemd: a process of its own session outlives this one and the connection.
    waiting = f"sleep {seconds}; exec /bin/sh {shlex.quote(path)}"
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(
        ["/bin/sh", "-c", waiting], start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", close_fds=True
    )
    store.write("waiting.json", json.dumps({"pid": child.pid}))
    return "process"


def disarm(store: Store) -> None:
    """Stop the timer. Whether it was too late is not known by this, but by the rename of the record."""
    if has_systemd():
        for kind in ("timer", "service"):
            command("systemctl", "stop", f"{TIMER}.{kind}")
            command("systemctl", "reset-failed", f"{TIMER}.{kind}")
    waiting = store.read("waiting")
    if waiting is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            pid = int(waiting["pid"])
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
            if str(store.folder / "revert.sh") in line:
                os.killpg(pid, signal.SIGTERM)
        store.forget("waiting")


def revert_now(store: Store) -> bool:
    """Take the pending change back at once. False when there was none any more."""
    if store.read("pending") is None and not (store.folder / "pending.json").exists():
        return False
    if has_systemd():
        command("systemctl", "stop", f"{TIMER}.timer")
    done = command("/bin/sh", str(store.folder / "revert.sh"))
    disarm(store)
    if (store.folder / "reverting.json").exists() or done.returncode != 0:
        raise MigrationError(
            "The unproven redirect could not be taken back",
            where=str(store.folder / "revert.sh"),
            why=" ".join(done.stderr.split())[-300:] or f"status {done.returncode}",
            todo="run this task with `state: absent`",
            done=["a part of the redirect"],
        )
    return True


def settle(store: Store) -> str:
    """Before anything else: an earlier run's change that was never proven goes. Gives a note about it, or ""."""
    for _dummy in range(50):  # the timer may be at work in this very moment
        if not (store.folder / "reverting.json").exists():
            break
        time.sleep(0.2)
    else:
        store.move("reverting", "pending")  # it died on its way; it begins again
    pending = store.read("pending")
    if pending is None:
        last = store.read("reverted")
        told = last is not None and (store.folder / "reverted.json").stat().st_mtime
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(told)) if told else ""
        return f"the last change was taken back at {when}, because it was never proven" if when else ""
    if pending.get("boot") != boot_id():
        store.move("pending", "reverted")
        disarm(store)
        return "an earlier run's change was never proven; the machine has been rebooted since, which took it back"
    revert_now(store)
    return "an earlier run's change was never proven; it was taken back before this run began"


# --- after a reboot ------------------------------------------------------------------------------------------------------------


def unit_text(store: Store) -> str:
    return _UNIT.format(script=store.folder / "boot.sh")


def persisted(store: Store, script: str) -> bool:
    """Whether a boot would bring the very same rules."""
    try:
        same = (UNITS / UNIT).read_text() == unit_text(store) and (store.folder / "boot.sh").read_text() == script
    except OSError:
        return False
    return same and (UNITS / "multi-user.target.wants" / UNIT).is_symlink()


def persist(store: Store, script: str) -> None:
    store.write("boot.sh", script)
    temp = UNITS / f".{UNIT}.new"
    try:
        temp.write_text(unit_text(store))
        temp.chmod(0o644)
        temp.replace(UNITS / UNIT)
    except OSError as error:
        raise MigrationError("The unit cannot be written", where=str(UNITS / UNIT), why=str(error)) from error
    command("systemctl", "daemon-reload")
    done = command("systemctl", "enable", UNIT)
    if done.returncode != 0:
        raise MigrationError("The unit cannot be enabled", where=UNIT, why=" ".join(done.stderr.split()))


def unpersist() -> None:
    if not (UNITS / UNIT).exists() and not (UNITS / "multi-user.target.wants" / UNIT).is_symlink():
        return
    command("systemctl", "disable", UNIT)
    for path in (UNITS / UNIT, UNITS / "multi-user.target.wants" / UNIT):
        path.unlink(missing_ok=True)
    command("systemctl", "daemon-reload")
    command("systemctl", "reset-failed", UNIT)
