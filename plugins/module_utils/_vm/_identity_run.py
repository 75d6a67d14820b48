# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""vm_identity on the VM: observe, apply and verify. The plan is in _identity.py, the controller's half in _cluster.py."""

from __future__ import annotations

import errno
import grp
import io
import ipaddress
import json
import os
import pathlib
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _hosts, _identity, _renewal, _token
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._alone import alone
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity import KEPT, MADE, SYSTEMD, Observed, Present

_TEMPORARY = ".servicemesh-migration-new-"
# What says that a file, or its folder, is a mount that nothing can be renamed into.
_A_MOUNT = (errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9._-]+")


def check(options: t.Mapping[str, t.Any]) -> tuple[int, int]:
    """Options that cannot be right, all before anything is read. Gives the owner of the proxy's files."""
    for name in ("namespace", "service_account", "name"):
        if not _NAME.fullmatch(str(options[name] or "")):
            raise InputError(f"The option {name} is no name of Kubernetes", where=name, why=repr(options[name]))
    if not options["path"].startswith("/") or options["path"].rstrip("/") in ("", "/opt", "/etc", "/root", "/usr", "/var"):
        raise InputError("The option path must name a folder of its own", where=options["path"], todo="use /opt/asm_proxy")
    seconds = options["expiration_seconds"]
    if not _token.SHORTEST <= seconds <= _token.LONGEST:
        why = f"the API takes {_token.SHORTEST} to {_token.LONGEST}"
        raise InputError("No token can live so long, or so short", where="expiration_seconds", why=f"{seconds}: {why}")
    for key, value in (options["env"] or {}).items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)) or "\n" in str(value):
            raise InputError("This is no environment variable", where=f"env.{key}", why="a name or a value that no file can hold")
    for one in options["hosts"] or []:
        try:
            ipaddress.ip_address(one["address"])
            if not one["names"] or not all(_HOST.fullmatch(name) for name in one["names"]):
                raise ValueError(f"a name is letters, digits, '.', '_' and '-': {one['names']!r}")
        except ValueError as error:
            raise InputError("This is no entry of a hosts file", where="hosts", why=str(error)) from error
    return _id(options["owner"], "owner"), _id(options["group"], "group")


def _id(name: str, option: str) -> int:
    if str(name).isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if option == "owner" else grp.getgrnam(name).gr_gid
    except KeyError as error:
        todo = "make the user, or give a number; 1337 is the proxy's in its image"
        raise InputError(f"The VM has no such {option}", where=str(name), why=str(error), todo=todo) from error


# -- observe -------------------------------------------------------------------------------------------------------------------


def observe(options: t.Mapping[str, t.Any], towards: str = "") -> Observed:
    """The files that are this module's affair, and nothing else."""
    path = options["path"]
    seen = Observed(python=sys.executable or "/usr/bin/python3")
    state = _present(f"{path}/{MADE}")
    if state is not None:
        seen.paths[f"{path}/{MADE}"] = state
        try:
            seen.made = {**seen.made, **json.loads(state.text or "{}")}
        except ValueError as error:
            todo = "restore it from a backup; if there is none, remove the files by hand"
            raise MigrationError(
                "It is not known what was made here", where=f"{path}/{MADE}", why=str(error), todo=todo
            ) from error
    names = [path, f"{path}/certs", f"{path}/issued", *seen.made["files"], *seen.made["folders"]]
    names += seen.made["kept"].values()
    names += [f"{path}/{name}" for name in ("cluster.env", "mesh.yaml", "certs/root-cert.pem", "certs/istio-token")]
    names += [f"{path}/{name}" for name in ("renewal.json", "renew-token", "api-ca.pem", "api-token")]
    names += [f"{SYSTEMD}/{_renewal.UNIT}.{kind}" for kind in ("service", "timer")]
    for name in names:
        found = _present(name)
        if found is not None:
            seen.paths[name] = found
    hosts = _present(options["hosts_file"])
    seen.hosts = hosts.text if hosts else None
    if seen.hosts is not None and _hosts.broken(seen.hosts):
        why, todo = f"a line {_hosts.BEGIN} has no end", "mend the block by hand"
        raise MigrationError("The hosts file cannot be edited safely", where=options["hosts_file"], why=why, todo=todo)
    if f"{path}/issued" in seen.paths:
        seen.issued = sorted(os.listdir(f"{path}/issued"))
    if f"{SYSTEMD}/{_renewal.UNIT}.timer" in seen.paths:
        states = [_systemctl(word, f"{_renewal.UNIT}.timer")[0] == 0 for word in ("is-enabled", "is-active")]
        seen.timer, seen.armed = all(states), any(states)
    seen.address = _own_address(towards) if towards else ""
    return seen


def _present(path: str) -> Present | None:
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            why, todo = "it is a symbolic link", "put a file or a folder there"
            raise MigrationError("This is not written to", where=path, why=why, todo=todo)
        if stat.S_ISDIR(found.st_mode):
            text = None
        else:  # to the byte: lines may end with CR, texts may be in any code
            text = pathlib.Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Present(stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid), text)


def _own_address(towards: str) -> str:
    """The address that this VM has on its way to istiod; no packet is sent for that."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
        except OSError as error:
            todo = "check the routes of the VM, or name its address in the option address"
            raise MigrationError("The VM has no way to istiod", where=towards, why=str(error), todo=todo) from error


def _systemctl(*words: str) -> tuple[int, str]:
    return _output("systemctl", *words)


def _output(*words: str, timeout: float = 60) -> tuple[int, str]:
    """Status and what a program said; 255 and why when it did not end."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
    except (OSError, subprocess.SubprocessError) as error:
        return 255, str(error)
    return done.returncode, (done.stderr or done.stdout).strip()


# -- apply ---------------------------------------------------------------------------------------------------------------------


def apply(
    options: t.Mapping[str, t.Any],
    seen: Observed,
    made: Plan,
    files: t.Mapping[str, _identity.File],
    folders: t.Mapping[str, _identity.File],
    done: list[str],
) -> None:
    """In the order of the plan. What is made is written down right before it is made, and not earlier: a run that is killed can
    be taken back, and what it had not come to is still somebody else's."""
    state = f"{options['path']}/{MADE}"
    book = seen.made
    if options["state"] == "present":
        for change in made.changes:
            if change.action == "make":
                book["folders"] = sorted({*book["folders"], change.target})
            elif change.action == "set" and change.target not in book["folders"]:
                was = seen.paths[change.target]
                book["modes"].setdefault(change.target, [was.mode, *was.owner])
    units = False
    for change in made.changes:
        name, action = change.target, change.action
        if action in ("write", "delete") and name.startswith(SYSTEMD):
            units = True
        if action in ("enable", "disable"):
            _timer(action, units)
        elif action in ("make", "set"):
            if os.path.isdir(options["path"]):
                _write_down(state, book)
            _folder(name, folders[name])
            _write_down(state, book)
        elif action == "set back":
            mode, uid, gid = book["modes"][name]
            os.chown(name, uid, gid)
            os.chmod(name, mode)
        elif action == "keep":
            book["kept"][name] = name + KEPT
            _write_down(state, book)
            if not os.path.lexists(name + KEPT):  # a second time: the first is what was there before
                os.rename(name, name + KEPT)
        elif action == "write":
            book["files"] = sorted({*book["files"], name})
            _write_down(state, book)
            text = files[name].text
            _write(name, _stays(name) if text is None else text, files[name].mode, files[name].owner)
        elif action == "edit":
            _edit(name, change)
        elif action == "delete":
            pathlib.Path(name).unlink(missing_ok=True)
        elif action == "restore":
            book["files"] = [one for one in book["files"] if one != name]  # from here on it is somebody else's again
            _write_down(state, book)
            os.rename(name + KEPT, name)
        elif action == "remove":
            for leftover in pathlib.Path(name).glob(_renewal.HALF):
                leftover.unlink()  # of a timer's run that was killed: a token
            try:
                os.rmdir(name)
            except FileNotFoundError:
                pass
            except OSError:
                made.notes.append(f"{name} is not empty and stays")
        done.append(str(change))
    if units:
        _systemctl("daemon-reload")
    if options["state"] == "present" and os.path.isdir(options["path"]) and made.changed:
        book["files"] = [one for one in book["files"] if os.path.lexists(one)]
        _write_down(state, book)


def _stays(name: str) -> str:
    """The text of a file that only gets other rights: as it is now, or in its copy when it was moved out of the way."""
    found = _present(name) or _present(name + KEPT)
    return (found.text or "") if found else ""


def _write_down(state: str, book: t.Mapping[str, t.Any]) -> None:
    """What was made, before it is made; nothing when that stands there already."""
    text, now = json.dumps(book, indent=1, sort_keys=True) + "\n", _present(state)
    if now is None or now.text != text:
        _write(state, text, 0o600, (0, 0))


def _timer(action: str, units: bool) -> None:
    if units:
        _systemctl("daemon-reload")
    status, said = _systemctl(action, "--now", f"{_renewal.UNIT}.timer")
    if status:
        todo = "look at `systemctl status`, then run again; without systemd renew by a scheduled playbook (renewal.method=none)"
        raise MigrationError(f"The timer cannot be {action}d", where=f"{_renewal.UNIT}.timer", why=said, todo=todo)


def _folder(name: str, wanted: _identity.File) -> None:
    os.makedirs(os.path.dirname(name), exist_ok=True)
    if not os.path.isdir(name):
        os.mkdir(name, 0o700)
    os.chown(name, *wanted.owner)
    os.chmod(name, wanted.mode)


def _write(name: str, text: str, mode: int, owner: tuple[int, int]) -> None:
    """Whoever reads it, now or after a crash, gets the old file or the new one."""
    fd, temp = tempfile.mkstemp(dir=os.path.dirname(name), prefix=_TEMPORARY)
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(fd, mode)
            os.fchown(fd, *owner)
            stream.write(text.encode("utf-8", "surrogateescape"))
            stream.flush()
            os.fsync(fd)
        os.replace(temp, name)
    except BaseException:
        pathlib.Path(temp).unlink(missing_ok=True)
        raise


def _edit(name: str, change: Change) -> None:
    """The hosts file: other lines and its rights stay. Some containers have it as a mount that cannot be replaced."""
    now = _present(name)
    before = now.text or "" if now else ""
    begin = [i for i, line in enumerate(change.after) if line.startswith(_hosts.BEGIN)]
    lines = change.after[begin[0] + 1 : change.after.index(_hosts.END, begin[0])] if begin else []
    data = _hosts.with_block(before, lines).encode("utf-8", "surrogateescape")
    temp = ""
    try:
        fd, temp = tempfile.mkstemp(dir=os.path.dirname(name), prefix=_TEMPORARY)
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(fd)  # a machine that loses its power right after has the old file or the new one, and no empty one
        if now:
            shutil.copystat(name, temp)
            os.chown(temp, *now.owner)
        else:
            os.chmod(temp, 0o644)
        os.replace(temp, name)
    except OSError as error:
        if temp:
            pathlib.Path(temp).unlink(missing_ok=True)
        if now is None or error.errno not in _A_MOUNT:
            raise  # a full disk would take the file away from who writes over it
        _write_over(name, before.encode("utf-8", "surrogateescape"), data)


def _write_over(name: str, before: bytes, data: bytes) -> None:
    """For a file that cannot be replaced. It is never empty in between; when there is no room it is as it was before."""
    with open(name, "r+b", buffering=0) as stream:
        try:
            _all(stream, data)
        except OSError:
            _all(stream, before)
            raise


def _all(stream: io.FileIO, data: bytes) -> None:
    stream.seek(0)
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
    stream.truncate(len(data))
    os.fsync(stream.fileno())


# -- verify, run ---------------------------------------------------------------------------------------------------------------


def verify(options: t.Mapping[str, t.Any], files: t.Mapping[str, _identity.File], renewal: bool) -> Observed:
    """Read again what was written; the timer's program renews once, for a right that nobody used may not be one."""
    seen = observe(options)
    for name, wanted in files.items():
        found = seen.paths.get(name)
        other = found is not None and not wanted.secret and wanted.text not in (None, found.text)
        if found is None or other or (found.mode, found.owner) != (wanted.mode, wanted.owner):
            where, todo = name, "see who else writes it, then run again"
            raise MigrationError("A file of the identity is not as it was written", where=where, todo=todo)
    if renewal:
        status, said = _output(seen.python, f"{options['path']}/renew-token", "--now", timeout=120)
        if status:
            raise MigrationError(
                "The VM cannot renew its token by itself",
                where=f"{options['path']}/renew-token",
                why=said[-500:],
                todo="let the VM reach renewal.server, or use renewal.method=none and renew by a scheduled playbook",
            )
        seen = observe(options)
    return seen


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of vm_identity on the VM. Raises MigrationError."""
    owner = check(params)
    if os.geteuid() != 0:
        raise InputError("This needs root on the VM", why=f"it runs as uid {os.geteuid()}", todo="set become: true")
    facts: t.Mapping[str, t.Any] = params["facts"] or {}
    if params["state"] == "present" and not facts:
        raise InputError(
            "Nobody said what the cluster knows", todo="use the module as servicemesh.migration.vm_identity in a task"
        )
    if check_mode:
        return _run(params, facts, owner, check_mode=True)
    with alone("identity", params["path"]):
        _sweep(params)
        return _run(params, facts, owner, check_mode=False)


def _sweep(options: t.Mapping[str, t.Any]) -> None:
    """Half files of a run that was killed while it wrote: one of them may hold a token."""
    path = options["path"]
    for folder in (path, f"{path}/certs", SYSTEMD, os.path.dirname(options["hosts_file"])):
        for leftover in pathlib.Path(folder).glob(f"{_TEMPORARY}*"):
            leftover.unlink(missing_ok=True)


def _run(params: t.Mapping[str, t.Any], facts: t.Mapping[str, t.Any], owner: tuple[int, int], *, check_mode: bool) -> Outcome:
    seen = observe(params, facts["addresses"][0] if facts and not params["address"] else "")
    address = params["address"] or seen.address
    due: dict[str, str] = {}
    if params["state"] == "present":
        due = _identity.tokens_due(params, seen, time.time(), str(facts.get("account_uid") or ""))
        tokens = (params["token"] or "", params["renewal_token"] or "")
        files = _identity.wanted_files(params, facts, seen, owner, tokens)
        made = _identity.plan(params, seen, files, owner, _identity.hosts_lines(params, facts), due)
    else:
        files, made = {}, _identity.plan_absent(params, seen)
    done: list[str] = []
    if not check_mode and made.changed:
        missing = [name for name in due if not params[name]]
        if missing:
            raise MigrationError(
                "A token is due and none was given", why=f"{', '.join(missing)}: {due[missing[0]]}", todo="run again"
            )
        try:
            apply(params, seen, made, files, _identity.folders(params, owner), done)
            renewal = any(change.action == "enable" for change in made.changes)
            seen = verify(params, files, renewal) if params["state"] == "present" else seen
        except (MigrationError, OSError) as error:
            failure = error if isinstance(error, MigrationError) else _os_error(error)
            failure.done = [*failure.done, *done]
            failure.not_done = [str(change) for change in made.changes if str(change) not in done]
            raise failure from error
    held = _identity.claims(seen, f"{params['path']}/certs/istio-token")
    # a list: what stands under a key of that name is taken for a secret
    result: dict[str, t.Any] = {"due": [{"name": name, "reason": why} for name, why in due.items()], "folder": params["path"]}
    if params["state"] == "present":
        result["credential"] = held.as_dict() if held else {}
        result["istiod"] = list(facts["addresses"])
        result["address"] = address
        result["restart_needed"] = any(
            change.action == "write" and change.target.endswith(("cluster.env", "mesh.yaml")) for change in made.changes
        )
    return Outcome(made, result)


def _os_error(error: OSError) -> MigrationError:
    return MigrationError(
        "A file of the identity cannot be written",
        where=str(error.filename or ""),
        why=str(error.strerror),
        todo="mend it, run again",
    )
