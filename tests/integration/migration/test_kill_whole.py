# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 at moments by chance in a migration of ingress, workloads and egress, and in its rollback; nothing is lost on any way.

A cycle is one migration that dies several times and is run again each time, and its rollback, which dies as well: right after a
line of the journal, or a moment later. What is there in the end must be what an undisturbed run leaves. Cycles with an odd seed
go back from where the last kill left them.

LAB_KILL_SEEDS=1,2,3 chooses the cycles (one, when it is not set), LAB_KILL_POINTS=5 how often each way dies. The undisturbed run
is remembered in the lab's folder, so a campaign can be run in portions. LAB_KILL_REPORT names a file that gets a line for each.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import apps, egress
from lab.asm.migrate import OBJECT, OWN_HOOK_PATH
from lab.cluster import Cluster
from lab.demo import evidence
from lab.demo.stage import Stage, sequence
from lab.kube import path_of
from lab.mesh_asm import MESH_ID
from lab.state import Lab
from tests.integration.migration.outward import Caller, out
from tests.integration.migration.test_kill import end, lines, run_and_kill
from tests.integration.migration.whole import SHIFT, UNJUDGED, whole_stage

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(7200)]
SEEDS = [int(word) for word in os.environ.get("LAB_KILL_SEEDS", "1").split(",")]
_ASKED = os.environ.get("LAB_KILL_POINTS", "").removeprefix("x")
POINTS = int(_ASKED) if _ASKED.isdecimal() else 3
_OWN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=snapshot/)[0-9a-f]+")  # of this run alone
RESTARTED = "servicemesh.migration/restarted"


@contextmanager
def described(lab: Lab, folder: Path) -> Iterator[Stage]:
    """All of it, in a lab in which no migration has been: the sidecars know one mesh only, and have to be restarted."""
    with whole_stage(lab, folder, "killed", **out(), **UNJUDGED) as stage, egress.running(lab):
        deployments = path_of("apps/v1", "deployments", apps.NAMESPACE)
        for item in stage.ack.get(deployments)["items"]:
            if RESTARTED in (item["spec"]["template"]["metadata"].get("annotations") or {}):
                edit = {"spec": {"template": {"metadata": {"annotations": {RESTARTED: None}}}}}
                stage.ack.patch(f"{deployments}/{item['metadata']['name']}", edit)
        Cluster(lab, "ack", 1).wait("sidecars that know one mesh only", lambda: not restarted(stage), 120)
        yield stage


def restarted(stage: Stage) -> list[str]:
    """The application's pods whose sidecars a migration has restarted, or that are ending."""
    pods = stage.ack.get(path_of("v1", "pods", apps.NAMESPACE))["items"]
    return [pod["metadata"]["name"] for pod in pods if "PROXY_CONFIG_XDS_AGENT" in str(pod["spec"]) or _ending(pod)]


def _ending(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def world(stage: Stage) -> dict[str, Any]:
    """What a migration could leave behind: also sidecars, all of Istio's configuration, and what the journal still holds."""
    found = stage.world()
    found["sidecars"] = sorted(stage.sidecars())
    found["asm/state"] = ((stage.asm.find(OBJECT) or {}).get("status") or {}).get("state")
    found["ack/hook"] = stage.ack.find(OWN_HOOK_PATH) is not None
    for group, plural in (("networking", "serviceentries"), ("security", "peerauthentications")):
        for name, api in (("ack", stage.ack), ("asm", stage.asm)):
            for item in api.get(path_of(f"{group}.istio.io/v1", plural))["items"]:
                found[f"{name}/{plural}/{item['metadata']['name']}"] = item["spec"]
    mirror = stage.ack.find(path_of("v1", "configmaps", "istio-system", f"servicemesh-migration-{stage.name}")) or {}
    kept = json.loads((mirror.get("data") or {}).get("originals.json") or "{}")
    found["originals"] = sorted({_OWN.sub("*", key) for key in kept})
    for key, item in found.items():
        # What stays: the number of rollouts, and the mark of the restart, which is made once.
        if key.startswith("ack/deployments/"):
            (item["metadata"].get("annotations") or {}).pop("deployment.kubernetes.io/revision", None)
            (item["spec"]["template"]["metadata"].get("annotations") or {}).pop(RESTARTED, None)
            if not item["spec"]["template"]["metadata"].get("annotations"):
                item["spec"]["template"]["metadata"].pop("annotations", None)
    return dict(json.loads(json.dumps(found)))


def left(stage: Stage) -> dict[str, Any]:
    """The world after a rollback, when ASM has taken its part away."""
    gone = lambda: stage.asm.find(OBJECT) is None and not stage.ack.find(OWN_HOOK_PATH)  # noqa: E731
    Cluster(stage.lab, "ack", 1).wait("the end of ASM's part", gone, 60)
    return world(stage)


def same(stage: Stage, one: Any, other: Any, what: str) -> None:
    assert not (found := stage.comparable(one, other)), f"{what}:\n{sequence(found)}"


def undisturbed(lab: Lab, folder: Path) -> dict[str, Any]:
    """``{"there", "back": worlds, "lines": [of the way there, of the way back]}``; run once in a lab."""
    file = lab.dir / "undisturbed.json"
    identity = str(lab.data.get("ack_uid"))
    if file.exists() and (known := json.loads(file.read_text(encoding="utf-8")))["lab"] == identity:
        return dict(known)
    with described(lab, folder) as stage, Caller(lab).running(strict=True, copied=False):
        end(stage, "ack_to_asm", *SHIFT)
        there, whole = world(stage), lines(stage)
        assert there["sidecars"] == [MESH_ID] and stage.shares() == {100.0}
        end(stage, "ack_to_asm_rollback")
        found = {"lab": identity, "there": there, "back": left(stage), "lines": [whole, lines(stage) - whole]}
        assert found["back"]["sidecars"] == [""] and stage.shares() == {0.0}
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def die(stage: Stage, playbook: str, rng: random.Random, whole: int, *arguments: str) -> list[int]:
    """Die at some of the lines that are to come; each run after the first goes on with what the one before it left."""
    died: list[int] = []
    begun = lines(stage)
    for place in sorted(rng.sample(range(1, whole), min(POINTS, whole - 1))):
        # Between two lines there is a write to the outside, or a wait for what came of it.
        later = rng.choice([0.0, 0.0, 0.02, 0.1, 0.5, 2.0])
        if not run_and_kill(stage, playbook, max(begun + place, lines(stage) + 1), *arguments, timeout=400, later=later):
            break
        died.append(lines(stage) - begun)
    return died


def cycle(lab: Lab, stage: Stage, known: dict[str, Any], seed: int) -> dict[str, Any]:
    rng, began = random.Random(seed), time.monotonic()
    file = stage.traffic(100, 3000)
    with Caller(lab).running(strict=True, copied=False) as load:
        try:
            there = die(stage, "ack_to_asm", rng, known["lines"][0], *SHIFT)
            if seed % 2 == 0:
                end(stage, "ack_to_asm", *SHIFT)
                same(stage, known["there"], world(stage), f"seed {seed}: died after lines {there}, then run to its end")
            part = 1.0 if seed % 2 == 0 or not there else there[-1] / known["lines"][0]
            back = die(stage, "ack_to_asm_rollback", rng, max(2, round(part * known["lines"][1])))
            end(stage, "ack_to_asm_rollback")
            same(stage, known["back"], left(stage), f"seed {seed}: died after lines {there}, and after {back} on the way back")
        finally:
            stage.end_traffic()
        told = load.stop()
    _buckets, summary = evidence.read(file)
    found = {"seed": seed, "there": there, "back": back, "seconds": round(time.monotonic() - began)}
    found |= {"north_south": [summary["sent"], summary["failed"]], "east_west": [told["sent"], told["failed"]]}
    failed = [line for line in file.read_text(encoding="utf-8").splitlines() if '"failure"' in line]
    found["failures"] = [*told["failures"][:5], *failed[:5]]
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_dies_and_goes_on(lab: Lab, tmp_path: Path, seed: int) -> None:
    known = undisturbed(lab, tmp_path / "undisturbed")
    with described(lab, tmp_path / "killed") as stage:
        found = cycle(lab, stage, known, seed)
    line = json.dumps(found)
    print(line)
    if report := os.environ.get("LAB_KILL_REPORT"):
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    assert (found["north_south"][1], found["east_west"][1]) == (0, 0), line
    assert found["there"] or found["back"]
