# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One run at a time, wherever it runs: a Lease beside the journal's ConfigMap, for runs whose state folders are not the same.

As in Kubernetes' own leader election no two clocks are compared: a lease has ended when nobody renewed it for as long as it
lasts, by the clock of who waits. Who renews it is another run that is at work. Every write is guarded by the resourceVersion.

It never stands in the way by itself: where leases are forbidden, or the API server does not answer, a warning says that nothing
but the state folder's own lock keeps a second run away. All calls are made before the run begins, beside it, and after it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import socket
import threading
import time
import typing as t
import uuid

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import repeated_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of

Object = dict[str, t.Any]
LEASE = kind_of("coordination.k8s.io/v1", "Lease")
#: Who holds it, in words for people.
TOLD = "servicemesh.migration/holder"
# Seconds: how long it lasts, how often it is renewed, how often another's is looked at. One that lasts longer is not believed.
_LASTS, _RENEW, _LOOK, _LONGEST = 30, 5.0, 1.0, 300.0


def holder_of(folder: pathlib.Path) -> str:
    """The name that the runs of a state folder have in common; kept in it. The caller has the folder's own lock."""
    path = folder / "holder"
    try:
        known = path.read_text(encoding="utf-8").strip()
        if known:
            return known
    except (OSError, ValueError):
        pass
    made = uuid.uuid4().hex
    with contextlib.suppress(OSError):  # without it a run that is killed is waited for until its lease ends
        path.touch(0o600)
        path.write_text(made, encoding="utf-8")
    return made


class Lease:
    """See the module's docstring. ``lost``: who has taken it, once somebody has; ``warnings``: for the operator."""

    def __init__(
        self,
        cluster: Cluster,
        migration: str,
        folder: pathlib.Path,
        run: str,
        *,
        namespace: str = "istio-system",
        every: float = _RENEW,
        monotonic: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster, self._folder, self._namespace = cluster, folder, namespace
        self._name = f"servicemesh-migration-{migration}"[:253]
        self._told = f"{socket.gethostname()}, process {os.getpid()}, run {run}, state in {folder}"
        self._every, self._monotonic, self._sleep = every, monotonic, sleep
        self._mine, self._version = "", ""
        self._ended = threading.Event()
        self.lost = ""
        self.warnings: list[str] = []

    @property
    def where(self) -> str:
        return self._cluster.where(LEASE, self._name, self._namespace)

    @contextlib.contextmanager
    def held(self, *, wait: float, among: bool = False) -> t.Iterator[None]:
        """Hold it for the block, and renew it meanwhile. Another run that is at work is waited for ``wait`` seconds.

        :arg among: several of these may be at work at once: it is only seen to that nobody else holds it.
        """
        self._mine = holder_of(self._folder)
        taken = self._take(wait, among)
        thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        if taken:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            if taken:
                self._release()

    # -- before ------------------------------------------------------------------------------------------------------

    def _take(self, wait: float, among: bool) -> bool:
        began = since = self._monotonic()
        seen, alive = "", False
        while True:
            try:
                found = self._cluster.get(LEASE, self._name, self._namespace)
                spec: Object = (found or {}).get("spec") or {}
                other = str(spec.get("holderIdentity") or "")
                if found is None or other in ("", self._mine):
                    return not among and self._write(found)
                version = str(found["metadata"].get("resourceVersion"))
                if version != seen:
                    alive, seen, since = seen != "", version, self._monotonic()
                if self._monotonic() - since >= _lasts(spec):
                    return not among and self._write(found)
            except MigrationError as error:
                if error.details.get("status") != 409 or self._monotonic() - began >= 2 * _LONGEST:
                    self.warnings.append(
                        "whether another run of this migration is at work elsewhere is not known, only this state_dir is locked: "
                        f"{error.message}"
                    )
                    return False
                self._sleep(_LOOK)
                continue  # somebody was faster: who?
            if alive and self._monotonic() - began >= wait:
                raise self._refusal(found, spec)
            self._sleep(_LOOK)

    def _write(self, found: Object | None) -> bool:
        """Take what nobody holds, or nobody renewed. 409 when somebody else did so just now."""
        now = _text(_now())
        spec: Object = {"holderIdentity": self._mine, "leaseDurationSeconds": _LASTS, "acquireTime": now, "renewTime": now}
        meta: Object = {"annotations": {TOLD: self._told}}
        if found is None:
            meta.update(name=self._name, namespace=self._namespace)
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}
            made = self._cluster.create(LEASE, body)
        else:
            meta["resourceVersion"] = found["metadata"]["resourceVersion"]
            spec["leaseTransitions"] = int((found.get("spec") or {}).get("leaseTransitions") or 0) + 1
            made = self._cluster.patch(LEASE, self._name, self._namespace, {"metadata": meta, "spec": spec})
        self._version = str(made["metadata"].get("resourceVersion", ""))
        return True

    def _refusal(self, found: Object, spec: Object) -> MigrationError:
        lasts = _lasts(spec)
        return MigrationError(
            "Another run of this migration is at work elsewhere",
            where=self.where,
            why=f"{_holder(found)} holds it since {spec.get('acquireTime')}, until {_until(spec, lasts)}, and renews it",
            todo="let it end, or end it there: write abort (or rollback) into the file control of its state folder; when it was "
            f"killed, its lease ends {lasts:g} s after it was last renewed: run again then",
            details={"holder": _holder(found), "until": _until(spec, lasts)},
        )

    # -- meanwhile ---------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self.lost and not self._ended.wait(self._every):
            with contextlib.suppress(MigrationError):  # the next one; it lasts for several
                self.renew()

    def renew(self) -> None:
        """Once more. Whoever has taken it meanwhile is in ``lost`` then. Raises MigrationError when there was no answer."""
        if not self._patch({"renewTime": _text(_now())}):
            found = self._cluster.get(LEASE, self._name, self._namespace)
            self.lost = f"{self.where}, which {_holder(found or {})} has taken, because it was not renewed in time"

    def _release(self) -> None:
        if self.lost:
            return
        with contextlib.suppress(MigrationError), repeated_until(time.monotonic(), self._cluster):  # else it ends by itself
            self._patch({"holderIdentity": None, "renewTime": None, "acquireTime": None})

    def _patch(self, spec: Object) -> bool:
        """Whether it was still ours. A version that another try of ours wrote is ours, too."""
        for _try in range(3):
            guard = {"resourceVersion": self._version}
            try:
                made = self._cluster.patch(LEASE, self._name, self._namespace, {"metadata": guard, "spec": spec})
                self._version = str(made["metadata"].get("resourceVersion", ""))
                return True
            except MigrationError as error:
                if error.details.get("status") not in (404, 409):
                    raise
            found = self._cluster.get(LEASE, self._name, self._namespace)
            if found is None or str((found.get("spec") or {}).get("holderIdentity") or "") != self._mine:
                return False
            self._version = str(found["metadata"].get("resourceVersion", ""))
        return True  # ours, and written to all the time


def _lasts(spec: Object) -> float:
    return min(float(spec.get("leaseDurationSeconds") or _LASTS), _LONGEST)


def _holder(found: Object) -> str:
    notes = (found.get("metadata") or {}).get("annotations") or {}
    return str(notes.get(TOLD) or (found.get("spec") or {}).get("holderIdentity") or "nobody")


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.timezone.utc)  # noqa: UP017 (Python 3.9)


def _text(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _until(spec: Object, lasts: float) -> str:
    """When it ends if nobody renews it, by the clock of who wrote it."""
    try:
        renewed = datetime.datetime.fromisoformat(str(spec.get("renewTime")).replace("Z", "+00:00"))
    except ValueError:
        return f"{lasts:g} s after its last renewal"
    return _text(renewed + datetime.timedelta(seconds=lasts))
