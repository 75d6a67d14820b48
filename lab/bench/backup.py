# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P1: a backup beside what people use for one (`kubectl get -A -o yaml`). P2: a restore beside `kubectl create -f`.

Every contender is a process of its own; wall, CPU and peak memory come from the kernel (`wait4`). They take turns, and the best
of them counts for each, so that a busy machine is as hard for one as for the other.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab import binaries, mesh_asm, net, proc
from lab.bench import Figure, at_least, at_most
from lab.cluster import Cluster
from lab.demo.stage import ROOT
from lab.kubeapi import KubeError
from lab.state import Lab, LabError, write_atomic

Say = Callable[[str], None]
VIRTUAL, RULES, SERVICES = 5000, 1000, 1000
AWAY = 0.01  # seconds that a network takes one way
SIZES = (500, 5000, 50000)
KINDS = {
    "VirtualService": "/apis/networking.istio.io/v1/namespaces/{}/virtualservices",
    "DestinationRule": "/apis/networking.istio.io/v1/namespaces/{}/destinationrules",
    "Service": "/api/v1/namespaces/{}/services",
}
NAMESPACES = [f"bench-{i}" for i in range(10)]

# What a module does, as a process that Ansible did not have to start.
RUN = """
import importlib, json, sys
what, options = sys.argv[1], json.loads(sys.argv[2])
place = "ansible_collections.servicemesh.migration.plugins.module_utils._backup._"
room, key_spec = importlib.import_module(f"{place}{what}_run"), importlib.import_module(f"{place}backup_run").key_spec
spec = {**getattr(room, f"{what}_spec")(), **key_spec()}
outcome = room.run_module({**{name: option.get("default") for name, option in spec.items()}, **options}, False)
if outcome.failed:
    sys.exit(outcome.failed.message)
print(json.dumps(outcome.result))
"""

# The least that any client can do: the pages of the three kinds, parsed and thrown away; the objects, created by 16 threads.
RAW = """
import concurrent.futures, json, sys
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
cluster = Cluster("source", {"kubeconfig": sys.argv[2]})
kinds = {"VirtualService": "networking.istio.io/v1", "DestinationRule": "networking.istio.io/v1", "Service": "v1"}
if sys.argv[1] == "list":
    print(sum(1 for kind, version in kinds.items() for _obj in cluster.list_all(kind_of(version, kind))))
else:
    def create(line):
        obj = json.loads(line)
        cluster.create(kind_of(obj["apiVersion"], obj["kind"]), obj)
    with concurrent.futures.ThreadPoolExecutor(16) as pool, open(sys.argv[3]) as file:
        list(pool.map(create, file))
"""

# The same as people write it: 16 threads, with the client that the Kubernetes project gives for Python.
SCRIPT = """
import concurrent.futures, json, sys
from kubernetes import client, config
config.load_kube_config(sys.argv[1])
settings = client.Configuration.get_default_copy()
settings.connection_pool_maxsize = 16
api = client.ApiClient(settings)
core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
def create(line):
    obj = json.loads(line)
    namespace = obj["metadata"]["namespace"]
    if obj["kind"] == "Service":
        core.create_namespaced_service(namespace, obj)
    else:
        group, version = obj["apiVersion"].split("/")
        custom.create_namespaced_custom_object(group, version, namespace, obj["kind"].lower() + "s", obj)
with concurrent.futures.ThreadPoolExecutor(16) as pool, open(sys.argv[2]) as file:
    list(pool.map(create, file))
"""

PEAK = """
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


@dataclass
class Used:
    """Seconds of wall clock and CPU, peak memory in MB."""

    wall: float
    cpu: float
    memory: float


def measure(argv: list[str], env: dict[str, str], out: Path | None = None) -> Used:
    """Run a process to its end. LabError when it fails."""
    began = time.monotonic()
    target = out or Path(os.devnull)
    with target.open("wb") as file, open(os.devnull) as nothing:
        child = subprocess.Popen(argv, env=env, stdin=nothing, stdout=file, stderr=subprocess.PIPE)
        assert child.stderr
        said = child.stderr.read()
        _pid, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise LabError(f"{argv[0]} failed: {said.decode(errors='replace')[-1500:]}")
    return Used(time.monotonic() - began, used.ru_utime + used.ru_stime, _peak(used, said))


def _peak(used: resource.struct_rusage, said: bytes) -> float:
    """MB. A child begins with the peak of its parent, so Python children tell their own."""
    told = [line.split()[1] for line in said.decode(errors="replace").splitlines() if line.startswith("VmHWM:")]
    return int(told[-1]) / 1024 if told else used.ru_maxrss / 1024


def objects(count: int, others: int) -> list[dict[str, Any]]:
    """`count` VirtualServices of 2.5 KB, as the API server answers them, `others` DestinationRules and Services each."""
    made: list[dict[str, Any]] = []

    def add(kind: str, version: str, i: int, spec: dict[str, Any]) -> None:
        meta = {"name": f"{kind.lower()}-{i}", "namespace": NAMESPACES[i % len(NAMESPACES)], "labels": {"app": f"shop-{i}"}}
        made.append({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})

    for i in range(count):
        host = f"service-{i % max(1, others)}"
        split = [{"destination": {"host": host, "subset": s}, "weight": w} for s, w in (("v1", 80), ("v2", 20))]
        http = [{"match": [{"uri": {"prefix": f"/{n}"}}], "route": split, "timeout": "3s"} for n in range(8)]
        add("VirtualService", "networking.istio.io/v1", i, {"hosts": [f"h{i}.example.com"], "http": http})
    for i in range(others):
        subsets = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
        add("DestinationRule", "networking.istio.io/v1", i, {"host": f"service-{i}", "subsets": subsets})
        headless = {"clusterIP": "None", "selector": {"app": f"shop-{i}"}, "ports": [{"name": "http", "port": 80}]}
        add("Service", "v1", i, headless)
    return made


class Bench:
    """An API server of its own, without nodes."""

    def __init__(self, lab: Lab, say: Say, name: str = "bk", index: int = 3) -> None:
        self.lab, self.say = lab, say
        self.cluster = Cluster(lab, name, index)
        self.folder = lab.dir / f"bench-{name}"
        self.near = self.kubeconfig = self.cluster.kubeconfig
        self.env = {**os.environ, "HOME": str(self.folder), "PYTHONPATH": str(collections(self.folder))}
        # Installed Python has its bytecode; the first turn makes it, and the best turn counts.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self.env["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")

    def up(self) -> None:
        shutil.rmtree(self.cluster.dir, ignore_errors=True)  # of a run that was killed
        self.cluster.up(nodes=0)
        proc.stop(self.lab, self.cluster.proc_name("kcm"))  # it would watch every object, and make slices of every Service
        for crd in mesh_asm.istio_crds(self.lab):
            self.cluster.apply_object("apiextensions.k8s.io/v1", "customresourcedefinitions", crd)
        self.cluster.wait(
            "Istio's kinds", lambda: self.cluster.api.list(KINDS["VirtualService"].format("default"))["items"] == []
        )
        for name in NAMESPACES:
            self.cluster.apply_object("v1", "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def move_away(self) -> None:
        """From now on all contenders speak to the API server over a network: AWAY one way."""
        port, server = 20400 + self.cluster.index, self.cluster.server
        argv = [sys.executable, "-m", "lab.bench.relay", str(port), server.removeprefix("https://"), str(AWAY)]
        ready = partial(self._answers, port)
        proc.spawn(self.lab, "bench-relay", argv, env={"PYTHONPATH": str(ROOT)}, ready=ready, timeout=20)
        self.kubeconfig = self.folder / "away.kubeconfig"
        write_atomic(self.kubeconfig, self.near.read_text().replace(server, f"https://127.0.0.1:{port}"))

    @staticmethod
    def _answers(port: int) -> bool:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    def python(self, code: str, *words: str, out: Path | None = None) -> Used:
        return measure([sys.executable, "-c", code + PEAK, *words], self.env, out)

    def kubectl(self, *words: str, out: Path | None = None) -> Used:
        return measure([str(binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *words], self.env, out)

    def lines(self, made: list[dict[str, Any]]) -> Path:
        path = self.folder / "objects.jsonl"
        path.write_text("".join(json.dumps(obj) + "\n" for obj in made))
        return path

    def fill(self, count: int, others: int) -> Used:
        """Objects, created as fast as 16 threads can."""
        return self.python(RAW, "create", str(self.kubeconfig), str(self.lines(objects(count, others))))

    def clear(self) -> None:
        api = self.cluster.client(timeout=90)
        for path in KINDS.values():
            for name in NAMESPACES:
                # 5,000 objects of a namespace may take longer than the minute that an API server gives a call: it goes on then
                for last in (*[False] * 9, True):
                    try:
                        api.request("DELETE", path.format(name))
                        break
                    except KubeError as error:
                        if last or error.status not in (0, 500, 504):
                            raise

    def backup(self, tag: str) -> tuple[Used, Path]:
        dest = self.folder / tag
        shutil.rmtree(dest, ignore_errors=True)
        options = {"source": {"kubeconfig": str(self.kubeconfig)}, "dest": str(dest)}
        used = self.python(RUN, "backup", json.dumps(options))
        (archive,) = dest.glob("*.tar.zst")
        return used, archive

    def restore(self, archive: Path) -> Used:
        options = {"target": {"kubeconfig": str(self.kubeconfig)}, "archive": str(archive)}
        return self.python(RUN, "restore", json.dumps({**options, "undo_dir": str(self.folder / "undo")}))

    def down(self) -> None:
        proc.stop_all(self.lab, ["bench-relay", *(self.cluster.proc_name(part) for part in ("kcm", "apiserver", "etcd"))])
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.cluster.dir, ignore_errors=True)


def collections(folder: Path) -> Path:
    """The collection below its name."""
    place = folder / "collections" / "ansible_collections" / "servicemesh"
    place.mkdir(parents=True, exist_ok=True)
    link = place / "migration"
    if not link.is_symlink():
        link.symlink_to(ROOT)
    return folder / "collections"


def _best(turns: list[Used]) -> Used:
    return Used(min(t.wall for t in turns), min(t.cpu for t in turns), min(t.memory for t in turns))


def _on(lab: Lab, say: Say, work: Callable[[Bench], list[Figure]]) -> list[Figure]:
    bench = Bench(lab, say)
    with net.inside(lab):
        try:
            bench.up()
            return work(bench)
        except KubeError as error:
            raise LabError(f"the API server of the bench: {error}") from error
        finally:
            bench.down()


def p1(lab: Lab, say: Say) -> list[Figure]:
    """A backup of 5,000 VirtualServices and 2,000 others."""

    def work(bench: Bench) -> list[Figure]:
        total = VIRTUAL + RULES + SERVICES
        say(f"P1: {total} objects")
        bench.fill(VIRTUAL, RULES)
        yaml = bench.folder / "all.yaml"
        contenders = {
            "raw": lambda: bench.python(RAW, "list", str(bench.kubeconfig)),
            "ours": lambda: bench.backup("p1")[0],
            "kubectl": lambda: bench.kubectl("get", "virtualservices,destinationrules,services", "-A", "-o", "yaml", out=yaml),
        }
        used: dict[str, list[Used]] = {name: [] for name in contenders}
        # Every third large list or so takes the API server longer: in one order always that of the same contender.
        orders = list(itertools.permutations(contenders))
        for turn, order in enumerate(orders):
            say(f"P1: turn {turn + 1} of {len(orders)}: {', '.join(order)}")
            for name in order:
                used[name].append(contenders[name]())
        mine, kube, bare = (_best(used[name]) for name in ("ours", "kubectl", "raw"))
        say(f"P1: ours {mine}, kubectl {kube}, raw {bare}")
        return [
            at_least("P1", "backup against kubectl get -A -o yaml: wall clock", kube.wall / mine.wall, "times faster", 3.0),
            at_least("P1", "backup against kubectl: CPU", kube.cpu / mine.cpu, "times less", 10.0),
            at_least("P1", "backup against kubectl: peak memory", kube.memory / mine.memory, "times less", 15.0),
            at_most("P1", "backup against a raw paged LIST: wall clock", mine.wall / bare.wall, "times", 1.5),
            Figure("P1", "backup of 7,000 objects, proven", round(mine.wall, 2), "s", "-", True),
        ]

    return _on(lab, say, work)


@dataclass
class Race:
    """The contenders of P2: our restore; creates by 16 threads, by a script and as lean as ours; kubectl's, one by one."""

    ours: Used
    script: Used
    lean: Used
    kubectl: Used


def _restores(bench: Bench, where: str, turns: int, archive: Path, file: Path) -> Race:
    """They take turns; kubectl takes long enough to be measured once."""
    ours, script, lean = [], [], []
    lines = bench.lines(objects(VIRTUAL, RULES))
    for turn in range(turns):
        bench.say(f"P2: {where}, turn {turn + 1} of {turns}")
        bench.clear()
        ours.append(bench.restore(archive))
        bench.clear()
        script.append(bench.python(SCRIPT, str(bench.kubeconfig), str(lines)))
        bench.clear()
        lean.append(bench.fill(VIRTUAL, RULES))
    bench.clear()
    race = Race(_best(ours), _best(script), _best(lean), bench.kubectl("create", "-f", str(file)))
    bench.say(f"P2: {where}: {race}")
    return race


def p2(lab: Lab, say: Say) -> list[Figure]:
    """A restore of the same objects, the dry run of all of them before the first write included: over a network, and beside
    the API server on the same two cores."""

    def rows(race: Race, where: str) -> list[tuple[str, float, str]]:
        mine = race.ours.wall
        return [
            (f"restore against kubectl create -f, {where}", race.kubectl.wall / mine, "times faster"),
            (f"restore against a bare create with 16 threads, {where}", 100 * race.lean.wall / mine, "% of its speed"),
            (
                f"restore against a create with 16 threads of the Python client, {where}",
                100 * race.script.wall / mine,
                "% of its speed",
            ),
            (f"restore of 7,000 objects, rehearsed, {where}", mine, "s"),
        ]

    def work(bench: Bench) -> list[Figure]:
        bench.fill(VIRTUAL, RULES)
        _used, archive = bench.backup("p2")
        file = bench.folder / "create.yaml"
        file.write_text("".join("---\n" + json.dumps(obj) + "\n" for obj in objects(VIRTUAL, RULES)))
        near = rows(_restores(bench, "same machine", 1, archive, file), "same machine")
        bench.move_away()
        where = f"{1000 * AWAY:g} ms away"
        far = rows(_restores(bench, where, 2, archive, file), where)
        judged = [at_least("P2", *row, bar) for row, bar in zip(far, (4.0, 60.0), strict=False)]
        return [*judged, *(Figure("P2", what, round(value, 2), unit, "-", True) for what, value, unit in [*far[2:], *near])]

    return _on(lab, say, work)


def growth(lab: Lab, say: Say) -> list[Figure]:
    """P1 and P2 at 500, 5,000 and 50,000 objects: seconds grow like the objects, memory does not."""

    def work(bench: Bench) -> list[Figure]:
        saved: dict[int, Used] = {}
        restored: dict[int, Used] = {}
        for size in SIZES:
            say(f"P1, P2: {size} objects")
            bench.clear()
            bench.fill(size, 0)
            saved[size], archive = bench.backup(f"g{size}")
            bench.clear()
            restored[size] = bench.restore(archive)
            say(f"P1, P2: {size}: backup {saved[size]}, restore {restored[size]}")
        figures = []
        for ident, what, used in (("P1", "backup", saved), ("P2", "restore", restored)):
            # ten times the objects may take at most 13 times as long, and 1.5 times the memory
            figures.append(
                at_most(ident, f"{what}: 50,000 against 5,000 objects", used[50000].wall / used[5000].wall, "times", 13.0)
            )
            memory = used[50000].memory / used[5000].memory
            figures.append(at_most(ident, f"{what}: memory, 50,000 against 5,000", memory, "times", 1.5))
        return figures

    return _on(lab, say, work)


WORKS = {"P1": p1, "P2": p2, "GROWTH": growth}


def measured(lab: Lab, wanted: list[str], say: Say) -> list[Figure]:
    """Those of P1, P2 and GROWTH that are wanted, in a lab that is down: nothing else of it runs meanwhile. Leaves it down."""
    figures: list[Figure] = []
    if WORKS.keys() & set(wanted):
        lab.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        net.up(lab)
        try:
            for name, work in WORKS.items():
                if name in wanted:
                    figures += work(lab, say)
        finally:
            net.down(lab)
    return figures
