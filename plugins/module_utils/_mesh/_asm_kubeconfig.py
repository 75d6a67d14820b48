# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The kubeconfig of an ASM instance as a file: mode 0600, replaced in one step, and never a word of it anywhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import os
import pathlib
import stat
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import make_private
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal

MODE = 0o600
# How ASM writes the end of a certificate; its documentation has both a 'T' and a space in examples.
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S %z")


@dataclasses.dataclass(frozen=True)
class Kubeconfig:
    """What ASM gives. Only the fields behind the text may be told.

    :arg servers: the API servers it names. :arg fingerprint: of the text, to see whether a file holds the same.
    """

    text: str = dataclasses.field(repr=False)
    expires: str
    servers: tuple[str, ...]
    fingerprint: str

    def as_dict(self) -> dict[str, t.Any]:
        return {"servers": list(self.servers), "expires": self.expires, "fingerprint": self.fingerprint}


@dataclasses.dataclass(frozen=True)
class Present:
    """What lies at the path now. :arg problem: why it may not be replaced, empty when it may."""

    fingerprint: str = ""
    mode: int = 0
    servers: tuple[str, ...] = ()
    problem: str = ""


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def servers_of(text: str) -> tuple[str, ...]:
    """The API servers that a kubeconfig names; empty when it is none. Never raises, so that no parser quotes a secret."""
    import yaml  # pylint: disable=import-outside-toplevel

    try:
        clusters = yaml.safe_load(text)["clusters"]
        return tuple(sorted(str(item["cluster"]["server"]) for item in clusters))
    except Exception:  # pylint: disable=broad-exception-caught  # whatever is wrong: it is no kubeconfig
        return ()


def expiry(text: str) -> datetime.datetime | None:
    for form in _FORMATS:
        with contextlib.suppress(ValueError):
            found = datetime.datetime.strptime(text.strip(), form)
            return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return None


def read(text: str, expires: str) -> Kubeconfig:
    return Kubeconfig(text, expires, servers_of(text), fingerprint(text))


def look(path: str) -> Present:
    """What is at the path. Raises InputError when it cannot be a file of ours."""
    file = pathlib.Path(path).expanduser()
    try:
        info = file.lstat()
    except FileNotFoundError:
        return Present()
    except OSError as error:
        raise InputError("The path of the kubeconfig cannot be used", where=str(file), why=str(error)) from error
    if not stat.S_ISREG(info.st_mode):
        return Present(problem="it is no plain file")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return Present(problem="it cannot be read as text")
    servers = servers_of(text)
    return Present(fingerprint(text), stat.S_IMODE(info.st_mode), servers, "" if servers else "it is no kubeconfig")


def refusals(path: str, given: Kubeconfig, present: Present, now: datetime.datetime, mesh_id: str) -> list[Refusal]:
    """Why the file may not be written."""
    found, where = [], f"asm/{mesh_id}/kubeconfig"
    ends = expiry(given.expires)
    if not given.servers:
        found.append(
            Refusal("ASM gave no kubeconfig that can be used", where, "it names no API server", "look at it in the console")
        )
    if ends is not None and ends <= now:
        why = f"its certificate ended at {given.expires}"
        found.append(Refusal("The kubeconfig of the mesh is expired", where, why, "renew it in ASM's console, then run again"))
    problem = present.problem
    if not problem and present.servers and not set(present.servers) & set(given.servers):
        problem = f"it is a kubeconfig of {', '.join(present.servers)}, and this mesh is {', '.join(given.servers)}"
    if problem:
        found.append(Refusal("The file would be overwritten, and there is no copy of it", path, problem, "name another path"))
    return found


def write(path: str, text: str) -> None:
    """Write the file with mode 0600 in one step; there is no moment at which others can read it or half of it is there."""
    file = pathlib.Path(path).expanduser()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        make_private(file.parent)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), MODE)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as handle:
                os.fchmod(fd, MODE)
                handle.write(text)
                handle.flush()
                os.fsync(fd)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise MigrationError(
            "The kubeconfig cannot be written", where=str(file), why=why, todo="make room, or name another path"
        ) from error
