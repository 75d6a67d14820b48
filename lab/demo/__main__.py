# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: an ingress gateway's live traffic and all workloads move from Istio to ASM, then Istio is removed. Two load
generators say what was lost: one on the internet's side of the load balancer, one in a pod that calls the application.

ROLLBACK=1 moves the ingress only, and makes the new gateway answer 503 at the step of 25 %: a gate must notice, and the traffic
must be back at once. STRICT=1 lets the workloads take nothing but mutual TLS; the migration copies that policy, too.
DEMO_EVIDENCE names a file for the evidence (JSON). LAB_KEEP=1 leaves the lab up. Environment DEMO_HOLD: seconds a step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lab import net
from lab.asm.migrate import OBJECT
from lab.demo import evidence, streams
from lab.demo.stage import ROOT, Stage, differences, sequence
from lab.kube import path_of
from lab.load import Load
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.mesh_source import NAMESPACE as SYSTEM
from lab.state import Lab, LabError

RATE = 240.0  # requests a second over HTTP and HTTPS; the promise is 200
INSIDE = 120.0  # requests a second between workloads; the promise is 100
WORKLOADS: dict[str, Any] = {
    "ack_to_asm_mesh_id": MESH_ID,
    "ack_to_asm_cluster_id": ACK_ID,
    "ack_to_asm_waves": [1, "100%"],
    "ack_to_asm_restart_waves": ["100%"],
    "ack_to_asm_sidecar_hold": 5,
    "ack_to_asm_uninstall": True,
    "ack_to_asm_uninstall_finished": True,
}
LIMIT_S = 900.0


def asked(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def say(text: str = "") -> None:
    print(text, flush=True)


def lab(*words: str) -> None:
    """The lab's command, as a user calls it."""
    code = subprocess.run([str(ROOT / "bin/lab"), *words], stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise LabError(f"`lab {' '.join(words)}` ended with {code}")


class Watcher(threading.Thread):
    """Shows the traffic beside the playbook's own lines, and breaks the new gateway on demand."""

    def __init__(self, stage: Stage, file: Path, every: float = 5.0) -> None:
        super().__init__(name="watcher", daemon=True)
        self._stage, self._file, self._every = stage, file, every
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(self._every):
            buckets, _ = evidence.read(self._file)
            window = buckets[-int(self._every * 10) :]
            sent, failed = sum(b["sent"] for b in window), sum(b["failed"] for b in window)
            seen = evidence.share(window, "new")["share"]
            seconds = sum(b["duration_s"] for b in window) or 1.0
            line = f"{sent / seconds:6.1f} requests/s, {failed} failed, {seen} % of new connections went to ASM"
            say(f"        traffic: {line}")

    def stop(self) -> None:
        self._end.set()
        self.join()


def istio_is_gone(stage: Stage) -> bool:
    """No control plane and no gateway of Istio's is left, every sidecar is ASM's, and ASM's migration is at its end."""
    left = [stage.ack.find(path_of("apps/v1", "deployments", SYSTEM, name)) for name in ("istiod", "istio-ingressgateway")]
    state = (stage.asm.get(OBJECT).get("status") or {}).get("state")
    return left == [None, None] and stage.sidecars() == {MESH_ID} and state == "Finished"


def migrate(stage: Stage, rollback: bool) -> dict[str, Any]:
    """The migration under traffic; returns the evidence."""
    phases: list[dict[str, Any]] = []

    def phase(name: str, playbook: str, *arguments: str, may_fail: bool = False, quiet: bool = False) -> Any:
        say(f"\n== {name}\n   ansible-playbook servicemesh.migration.{playbook} -e @migration.yml {' '.join(arguments)}")
        begun = time.time()
        done = stage.play(playbook, *arguments, show=None if quiet else lambda line: say(f"   {line}") if line else None)
        phases.append({"name": name, "started": begun, "ended": time.time(), "code": done.code, "changed": done.changed})
        if done.code != 0 and not may_fail:
            tail = "\n".join(done.text.splitlines()[-30:]) if quiet else ""
            raise LabError(f"{name} failed, see above\n{tail}")
        return done

    load = None if rollback else Load(Lab(stage.lab.name))  # what it knows of its nodes is of after `lab up`
    if load is not None:
        load.start(INSIDE, strict=asked("STRICT"), copied=False, streams=True)
    before = stage.world()
    endings = streams.Endings(stage.ack, ("demo", "istio-system"))
    endings.start()
    file = stage.traffic(RATE, LIMIT_S, streams=True)
    watcher = Watcher(stage, file)
    watcher.start()
    notes: dict[str, Any] = {}
    try:
        time.sleep(3)
        phase("What would be done (--check --diff)", "ack_to_asm", "--check", "--diff", quiet=True)
        notes["check_changed_nothing"] = not differences(before, stage.world())
        if rollback:
            stage.break_at(25, held_s=3.0)
            done = phase("The migration, with a target that goes bad at 25 %", "ack_to_asm", may_fail=True)
            notes["playbook_failed_as_it_should"] = done.code != 0
            stage.mend()
            phase("Everything taken back", "ack_to_asm_rollback")
            left = differences(before, stage.world())
            notes["original_state_restored"] = not left
            if left:
                say("what the rollback left behind:\n" + sequence(left))
        else:
            phase("The migration", "ack_to_asm")
            notes["istio_is_gone_and_asm_says_finished"] = istio_is_gone(stage)
            again = phase("The same again: nothing may change", "ack_to_asm", quiet=True)
            notes["second_run_changed"] = again.changed
        time.sleep(5)
    finally:
        watcher.stop()
        stage.end_traffic()
    buckets, summary = evidence.read(file)
    found = evidence.gather(buckets, summary, stage.shift(), phases)
    if load is not None:
        found["inside"] = load.stop()
        found["waves"] = stage.waves()
    ended = endings.stop()
    found["streams"] = {"through the load balancer": streams.judge(streams.lines_of(file), ended, "istio-ingressgateway")}
    if load is not None:
        found["streams"]["between workloads"] = streams.judge(load.streams(), ended)
    found["checks"] = notes
    return found


def report(found: dict[str, Any]) -> list[str]:
    """The table and the figures for people; returns what was promised and not shown."""
    wrong = evidence.problems(found)
    checks = found["checks"]
    wrong += [f"the check {name} did not hold" for name, value in checks.items() if value is False]
    if checks.get("second_run_changed"):
        wrong.append(f"the second run changed {checks['second_run_changed']} things")
    requests = found["requests"]
    for name, one in found["streams"].items():
        wrong += streams.problems(name, one)
    say("\n" + evidence.table(found))
    say(
        f"\n{requests['sent']} requests at {requests['rate']:g}/s: {requests['ok']} answered, {requests['failed']} failed; "
        f"latency p50 {found['latency_ms'].get('p50')} ms, p99 {found['latency_ms'].get('p99')} ms"
    )
    inside = found.get("inside")
    if inside:
        say(
            f"{inside['sent']} requests between workloads, never fewer than {inside['least_rate']:g}/s over ten seconds: "
            f"{inside['ok']} answered, {inside['failed']} failed; {len(found['waves'])} waves of workloads changed their sidecars"
        )
    for name, one in found["streams"].items():
        say(streams.told(name, one))
    back = found.get("rollback")
    if back:
        say(
            f"from the gate's verdict to the last weight: {back['verdict_to_weights_s']} s; answered by the bad target: "
            f"{back['target_errors']}; lost otherwise: {back['other_errors']}"
        )
    for name, value in checks.items():
        say(f"{name.replace('_', ' ')}: {value}")
    return wrong


def main() -> int:
    os.environ.setdefault("LAB_NAME", "demo")
    rollback = asked("ROLLBACK")
    here = Lab.current()
    code = 1
    try:
        lab("down")
        lab("up")
        with net.inside(here):
            hold = float(os.environ.get("DEMO_HOLD") or 15)
            stage = Stage(here, here.dir / "demo", ack_to_asm_hold=hold, **({} if rollback else WORKLOADS))
            say(f"\nThe migration is described in {stage.file}:\n" + stage.file.read_text(encoding="utf-8"))
            found = migrate(stage, rollback)
        wrong = report(found)
        found["problems"] = wrong
        target = os.environ.get("DEMO_EVIDENCE")
        if target:
            Path(target).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            say(f"evidence: {target}")
        say("\n" + ("\n".join(f"NOT SHOWN: {line}" for line in wrong) if wrong else "Everything that was promised was shown."))
        code = 1 if wrong else 0
    except (LabError, OSError) as error:
        say(f"demo: {error}")
    except KeyboardInterrupt:
        say("demo: interrupted")
    finally:
        if not asked("LAB_KEEP"):
            lab("down")
        else:
            say(f"the lab stays up: LAB_NAME={here.name} bin/lab status; bin/lab down ends it")
    return code


if __name__ == "__main__":
    sys.exit(main())
