# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What the istioctl of the installed version would remove. It is only ever asked (--dry-run), never told, and never to purge.

It deletes in the order of its kinds and asks nothing of the pods; so its list is taken, and its hands are not.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_objects import Key

# "apps/v1, Kind=Deployment/istiod.istio-system", and in older versions "Deployment:istio-system:istiod".
_NEW = re.compile(r"\S*, Kind=(?P<kind>\w+)/(?P<name>\S+)\.(?P<namespace>[a-z0-9-]*)")
_OLD = re.compile(r"(?P<kind>\w+):(?P<namespace>[a-z0-9-]*):(?P<name>\S+)")
_LINE = re.compile(r"Not pruning object (.+) because of dry run\.?")
_VERSION = re.compile(r"\b(\d+)\.(\d+)\.\d+")
_TIMEOUT = 120
NO_REVISION = "could not find target revision"


def parse(text: str) -> list[Key]:
    """The objects in the answer of a dry run. Raises ValueError for a line that cannot be read."""
    found = []
    for said in _LINE.findall(text):
        match = _NEW.fullmatch(said.strip()) or _OLD.fullmatch(said.strip())
        if match is None:
            raise ValueError(said)
        found.append((match["kind"], match["namespace"], match["name"]))
    return found


def same_minor(one: str, other: str) -> bool:
    """Whether two versions are of one release (1.24.3 and v1.24.6-aliyun are); what is no version is no difference."""
    first, second = _VERSION.search(one), _VERSION.search(other)
    return first is None or second is None or first.groups() == second.groups()


class Istioctl:
    """:arg program: its path. :arg source: the options of the source cluster. :arg namespace: of the mesh."""

    def __init__(self, program: str, source: t.Mapping[str, t.Any], namespace: str) -> None:
        self._program, self._namespace = program, namespace
        kubeconfig = source.get("kubeconfig")
        if not kubeconfig or any(source.get(name) for name in ("host", "api_key", "client_cert", "client_key", "proxy")):
            raise InputError(
                "istioctl cannot be asked",
                where=program,
                why="it takes a kubeconfig and a context, and source is described in another way",
                todo="set source.kubeconfig (and source.context) only, or leave istioctl out",
            )
        self._cluster = ["--kubeconfig", os.path.expanduser(str(kubeconfig)), "--istioNamespace", namespace]
        self._cluster += ["--context", str(source["context"])] if source.get("context") else []

    def check_version(self, installed: str) -> str:
        """Its version. Raises InputError when that is of another release than ``installed``."""
        done = self._run(["version", "--remote=false", "--short"])
        found = _VERSION.search(done.stdout)
        if done.returncode or found is None:
            raise self._failed(done)
        if not same_minor(found[0], installed):
            raise InputError(
                "This istioctl is of another version than the installed Istio",
                where=self._program,
                why=f"it is {found[0]}, and istiod is {installed}: it could name too much or too little",
                todo=f"give the istioctl of {installed}, or leave istioctl out",
            )
        return found[0]

    def objects(self, revisions: t.Sequence[str]) -> list[Key]:
        """What an uninstallation of these revisions would remove. Raises MigrationError."""
        command, found = self._command(), []
        for revision in revisions:
            words = [*command, "--revision", revision, "--dry-run", "--skip-confirmation", *self._cluster]
            done = self._run(words)
            if done.returncode:
                raise self._failed(done)
            try:
                found += parse(done.stdout + done.stderr)
            except ValueError as error:
                raise MigrationError(
                    "istioctl's answer cannot be read", where=self._program, why=f"it names {error}", todo="leave istioctl out"
                ) from error
        return sorted(set(found))

    def _command(self) -> list[str]:
        """The command has moved out of ``experimental`` in time. One that knows no dry run is never called."""
        for words in (["uninstall"], ["experimental", "uninstall"]):
            done = self._run([*words, "--help"])
            if done.returncode == 0 and "--dry-run" in done.stdout and "--revision" in done.stdout:
                return words
        raise MigrationError(
            "This istioctl has no dry run of an uninstallation",
            where=self._program,
            todo="leave istioctl out: labels are used then",
        )

    def _run(self, words: t.Sequence[str]) -> subprocess.CompletedProcess[str]:
        """With an empty configuration: ~/.istioctl may name another namespace or flags. KUBECONFIG is said by a flag."""
        with tempfile.NamedTemporaryFile(suffix=".yaml") as empty:
            env = {**os.environ, "ISTIOCONFIG": empty.name}
            env.pop("KUBECONFIG", None)
            try:
                return subprocess.run(
                    [self._program, *words],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    timeout=_TIMEOUT,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                why = f"no answer in {_TIMEOUT} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
                raise InputError(
                    "istioctl cannot be run", where=self._program, why=why, todo="check the option istioctl"
                ) from error

    def _failed(self, done: subprocess.CompletedProcess[str]) -> MigrationError:
        said = (done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}")[-300:]
        return MigrationError(
            "istioctl does not say what it would remove",
            where=self._program,
            why=said,
            todo="check it by hand, or leave istioctl out",
            details={"no_revision": NO_REVISION in said},
        )
