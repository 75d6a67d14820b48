# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small controller runtime for the lab's own controllers, and (re-exported from lab.kubeapi) the client under it.

`Controller` is list + watch of several collections, a queue of keys without duplicates, and retries with a delay per key;
a change reaches `reconcile` within milliseconds. `Recorder` writes Events.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lab.kubeapi import Api, KubeError, Object, key_of, path_of

__all__ = [
    "Api",
    "Controller",
    "KubeError",
    "Object",
    "Queue",
    "Recorder",
    "Watch",
    "exponential",
    "key_of",
    "own_key",
    "path_of",
]

log = logging.getLogger("lab.kube")


class Recorder:
    """Writes Events about objects; the same event again raises its count, as client-go's recorder does.

    Writing is done by a thread of its own: a reconcile never waits for an event, nor fails because of one.
    """

    def __init__(self, api: Api, component: str) -> None:
        self._api = api
        self._component = component
        self._waiting: queue.SimpleQueue[tuple[Object, str, str, str] | None] = queue.SimpleQueue()
        self._known: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def emit(self, obj: Object, kind: str, reason: str, message: str) -> None:
        """kind: Normal | Warning. `obj` needs apiVersion, kind and metadata with name and uid."""
        self._waiting.put((obj, kind, reason, message))

    def close(self, timeout: float = 2.0) -> None:
        self._waiting.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._write(*event)
            except KubeError as error:
                log.warning("event %s: %s", event[2], error)

    def _write(self, obj: Object, kind: str, reason: str, message: str) -> None:
        meta = obj["metadata"]
        namespace = meta.get("namespace") or "default"
        now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = (str(meta.get("uid")), reason, message)
        if key in self._known:
            name, count = self._known[key]
            self._known[key] = (name, count + 1)
            self._api.patch(path_of("v1", "events", namespace, name), {"count": count + 1, "lastTimestamp": now})
            return
        name = f"{meta['name']}.{time.time_ns():x}"
        self._api.create(
            path_of("v1", "events", namespace),
            {
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": obj.get("apiVersion"),
                    "kind": obj.get("kind"),
                    "namespace": meta.get("namespace"),
                    "name": meta["name"],
                    "uid": meta.get("uid"),
                    "resourceVersion": meta.get("resourceVersion"),
                },
                "type": kind,
                "reason": reason,
                "message": message[:1024],
                "source": {"component": self._component},
                "count": 1,
                "firstTimestamp": now,
                "lastTimestamp": now,
            },
        )
        self._known[key] = (name, 1)


# --- the controller runtime -------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """One collection that a controller follows. `keys(event, old, new)` names what to reconcile.

    event: "ADDED" | "MODIFIED" | "DELETED". `old` is None for a new object, `new` None for a deleted one. After a broken watch
    objects are compared with the cache by resourceVersion, so no change is missed and none is told twice.
    """

    api: Api
    path: str
    keys: Callable[[str, Object | None, Object | None], Iterable[str]]
    params: Mapping[str, Any] = field(default_factory=dict)
    cache: dict[str, Object] = field(default_factory=dict)
    synced: threading.Event = field(default_factory=threading.Event)


def own_key(event: str, old: Object | None, new: Object | None) -> list[str]:
    """The usual `keys`: the object itself."""
    return [key_of(new or old or {})]


def exponential(first: float, most: float) -> Callable[[int, Exception], float]:
    """Retry delays first, 2*first, 4*first ... at most `most` seconds (as client-go's per-item rate limiter)."""
    return lambda failures, error: float(min(first * 2 ** min(failures - 1, 30), most))


class Queue:
    """Keys to work on: no key twice, none on two workers at once; a key may come back after a delay."""

    def __init__(self) -> None:
        self._ready: dict[str, None] = {}  # ordered set
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._later: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._closed = False

    def add(self, key: str, delay: float = 0.0) -> None:
        with self._changed:
            if delay > 0:
                heapq.heappush(self._later, (time.monotonic() + delay, key))
            elif key in self._busy:
                self._again.add(key)
            else:
                self._ready[key] = None
            self._changed.notify()

    def get(self) -> str | None:
        """The next key; waits for one. None when the queue is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    key = heapq.heappop(self._later)[1]
                    if key in self._busy:
                        self._again.add(key)
                    else:
                        self._ready[key] = None
                if self._ready:
                    key = next(iter(self._ready))
                    del self._ready[key]
                    self._busy.add(key)
                    # the run that starts now makes a waiting retry needless
                    self._later = [entry for entry in self._later if entry[1] != key]
                    heapq.heapify(self._later)
                    return key
                self._changed.wait(self._later[0][0] - now if self._later else None)
            return None

    def done(self, key: str) -> None:
        with self._changed:
            self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._ready[key] = None
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Controller:
    """Runs `reconcile(key)` for every key that a watch names.

    reconcile returns None (done) or seconds after which the key is looked at again; an exception is logged and the key retried
    after `backoff(failures, error)` seconds (failures counts from 1 and is forgotten after a success). A change of the object
    starts the next try at once.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        reconcile: Callable[[str], float | None],
        *,
        backoff: Callable[[int, Exception], float] | None = None,
        workers: int = 2,
        name: str = "controller",
    ) -> None:
        self.watches = list(watches)
        self.queue = Queue()
        self._reconcile = reconcile
        self._backoff = backoff or exponential(0.2, 30.0)
        self._workers = workers
        self._name = name
        self._stopping = threading.Event()
        self._failures: dict[str, int] = {}
        self._open: dict[int, Any] = {}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """List everything first, then work: a reconcile may trust all caches."""
        for index, watch in enumerate(self.watches):
            self._thread(self._follow, index, watch)
        for _ in range(self._workers):
            self._thread(self._work)

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=self._name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def synced(self, timeout: float = 30.0) -> bool:
        """True when every collection has been listed once (waits at most `timeout` seconds)."""
        end = time.monotonic() + timeout
        return all(watch.synced.wait(max(0.0, end - time.monotonic())) for watch in self.watches)

    def stop(self, timeout: float = 5.0) -> None:
        """No new work; waits for what runs."""
        self._stopping.set()
        self.queue.close()
        for answer in list(self._open.values()):
            with contextlib.suppress(Exception):  # the watch may be ending by itself
                answer.shutdown()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _follow(self, index: int, watch: Watch) -> None:
        version = ""
        pause = 0.2
        while not self._stopping.is_set():
            try:
                if not version:
                    version = self._list(watch)
                    watch.synced.set()
                for event in watch.api.watch(
                    watch.path, version, on_open=lambda answer: self._open.__setitem__(index, answer), **watch.params
                ):
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._event(watch, event["type"], event["object"])
                    if self._stopping.is_set():
                        return
                pause = 0.2
            except KubeError as error:
                if self._stopping.is_set():
                    return
                if error.status == 410:
                    version = ""
                    continue
                if error.status >= 400:  # 404: its CRD is not there yet; 403: its role is not
                    version = ""
                log.warning("%s: %s: %s", self._name, watch.path, error)
                self._stopping.wait(pause)
                pause = min(pause * 2, 5.0)
            except Exception:
                log.exception("%s: %s", self._name, watch.path)
                version = ""
                self._stopping.wait(1.0)

    def _list(self, watch: Watch) -> str:
        answer = watch.api.list(watch.path, **watch.params)
        seen = set()
        for item in answer["items"]:
            key = key_of(item)
            seen.add(key)
            old = watch.cache.get(key)
            if old is None or old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._event(watch, "ADDED" if old is None else "MODIFIED", item)
        for key in [key for key in watch.cache if key not in seen]:
            self._event(watch, "DELETED", watch.cache[key])
        return str(answer["metadata"]["resourceVersion"])

    def _event(self, watch: Watch, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK":
            return
        key = key_of(obj)
        old = watch.cache.get(key)
        new = None if kind == "DELETED" else obj
        if new is None:
            watch.cache.pop(key, None)
            old = old or obj
        else:
            watch.cache[key] = new
        for wanted in watch.keys(kind, old, new):
            self.queue.add(wanted)

    def _work(self) -> None:
        while not self.synced(timeout=0.05):
            if self._stopping.is_set():
                return
        while (key := self.queue.get()) is not None:
            try:
                again = self._reconcile(key)
                self._failures.pop(key, None)
                if again is not None:
                    self.queue.add(key, max(again, 0.001))
            except Exception as error:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = self._backoff(failures, error)
                trace = not isinstance(error, KubeError)
                log.warning("%s: %s: %s (again in %.1f s)", self._name, key, error, delay, exc_info=trace)
                self.queue.add(key, delay)
            finally:
                self.queue.done(key)
