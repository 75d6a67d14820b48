# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load generator saw, set beside what the migration says of itself. Pure code: lines in, evidence out.

The generator's lines are buckets of time (see lab/go/internal/traffic): `t` start in epoch seconds, `duration_s`, `sent`,
`failed`, `served` [{target, conn, gateway, version, status, n}]. A step of the shift has `ended` (ISO 8601), `held_s` and the
shares `asked` and `planned` in percent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
SOURCE, TARGET = "istio-ingressgateway", "asm-ingressgateway"
# A weight that the load balancer has just taken may meet connections that were accepted a moment before.
SETTLE_S = 0.5


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Buckets in order, and the summary ({} while the run goes on)."""
    buckets: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the line that is being written right now
        if line.get("summary"):
            summary = line
        elif "served" in line:
            buckets.append(line)
    return buckets, summary


def between(buckets: Iterable[Line], start: float, end: float) -> list[Line]:
    """The buckets that lie wholly between two times."""
    return [line for line in buckets if line["t"] >= start and line["t"] + line["duration_s"] <= end]


def count(buckets: Iterable[Line], *, gateway: str | None = None, conn: str | None = None, bad: bool | None = None) -> int:
    """Answers, by who gave them, on which connections, good or bad (status >= 400)."""
    total = 0
    for line in buckets:
        for served in line["served"]:
            if gateway is not None and served["gateway"] != gateway:
                continue
            if conn is not None and served["conn"] != conn:
                continue
            if bad is not None and (served["status"] >= 400) != bad:
                continue
            total += served["n"]
    return total


def wilson(part: int, whole: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share, in percent (Wilson's score interval: also right near 0 and 100)."""
    if whole == 0:
        return 0.0, 100.0
    p, n = part / whole, float(whole)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def share(buckets: Sequence[Line], conn: str | None) -> dict[str, Any]:
    """The target's share in percent over the answers of both gateways, with its confidence interval."""
    target = count(buckets, gateway=TARGET, conn=conn)
    whole = target + count(buckets, gateway=SOURCE, conn=conn)
    low, high = wilson(target, whole)
    seen = round(100 * target / whole, 3) if whole else None
    return {"share": seen, "requests": whole, "ci95": [round(low, 3), round(high, 3)]}


def step(buckets: Sequence[Line], told: Mapping[str, Any]) -> dict[str, Any]:
    """One step of the evidence. A load balancer deals out connections: `observed` counts the requests on new ones.

    Requests on connections that live on stay where they were opened; with them it is `observed_all`.
    """
    end = datetime.fromisoformat(told["ended"]).timestamp()
    window = between(buckets, end - told["held_s"] + SETTLE_S, end)
    fresh, every = share(window, "new"), share(window, None)
    planned = told["planned"]
    return {
        "asked": told["asked"],
        "planned": planned,
        "observed": fresh["share"],
        "error": None if fresh["share"] is None else round(fresh["share"] - planned, 3),
        "requests": fresh["requests"],
        "ci95": fresh["ci95"],
        "observed_all": every["share"],
        "requests_all": every["requests"],
        "failed": sum(line["failed"] for line in window),
        "seconds": round(told["held_s"], 1),
    }


def gather(buckets: Sequence[Line], summary: Line, shift: Line, phases: Sequence[Line]) -> dict[str, Any]:
    """The whole evidence. `shift` is the result of the module traffic_shift, `phases` what the demo did and when."""
    steps = [step(buckets, told) for told in shift.get("steps", []) if told.get("ended") and told.get("planned") is not None]
    evidence: dict[str, Any] = {
        "requests": {"sent": summary["sent"], "failed": summary["failed"], "rate": summary["rate"], "ok": summary["ok"]},
        "errors": summary.get("errors", {}),
        "status": summary.get("status", {}),
        "latency_ms": summary.get("latency_ms", {}),
        "stale_retry": summary.get("stale_retry", 0),
        "steps": steps,
        "phases": list(phases),
    }
    if shift.get("rolled_back"):
        bad = count(buckets, gateway=TARGET, bad=True)
        evidence["rollback"] = {
            "verdict_to_weights_s": (shift.get("timings") or {}).get("verdict_to_weights_s"),
            "reason": shift.get("reason"),
            "target_errors": bad,
            # What failed and was not answered by the bad target: nothing may stand here.
            "other_errors": summary["failed"] - bad,
        }
    return evidence


def problems(evidence: Mapping[str, Any], *, points: float = 2.0, rate: float = 200.0) -> list[str]:
    """What the demo promises and this run did not show, in words."""
    found = []
    requests = evidence["requests"]
    back = evidence.get("rollback")
    if back is None and requests["failed"]:
        found.append(f"{requests['failed']} of {requests['sent']} requests failed")
    if back is not None and back["other_errors"]:
        found.append(f"{back['other_errors']} requests failed that the bad target had not answered")
    if back is not None and (back["verdict_to_weights_s"] is None or back["verdict_to_weights_s"] > 1.0):
        found.append(f"from the verdict to the last weight it took {back['verdict_to_weights_s']} s, more than 1 s")
    inside = evidence.get("inside")
    if inside is not None and inside["failed"]:
        found.append(f"{inside['failed']} of {inside['sent']} requests between workloads failed")
    if inside is not None and inside["least_rate"] < 100:
        found.append(f"for ten seconds only {inside['least_rate']} requests a second were sent between workloads, not 100")
    if inside is not None and [wave["verdict"] for wave in evidence["waves"]] != ["pass"] * len(evidence["waves"] or [1]):
        found.append("not all waves of workloads have passed")
    if requests["rate"] < rate:
        found.append(f"only {requests['rate']} requests a second were sent, not {rate:g}")
    if not evidence["steps"]:
        found.append("no step was made")
    for made in evidence["steps"]:
        if made["observed"] is None:
            found.append(f"step {made['asked']} %: no request was seen")
        elif abs(made["error"]) > points and not made["ci95"][0] <= made["planned"] <= made["ci95"][1]:
            found.append(f"step {made['asked']} %: {made['observed']} % were seen, {made['planned']} % were planned")
    return found


def table(evidence: Mapping[str, Any]) -> str:
    """The steps as a table for people."""
    head = ["asked %", "planned %", "observed %", "95 % interval", "requests", "failed", "all conns %", "held s"]
    rows = [
        [
            f"{made['asked']:g}",
            f"{made['planned']:.2f}",
            "-" if made["observed"] is None else f"{made['observed']:.2f}",
            f"{made['ci95'][0]:.2f} - {made['ci95'][1]:.2f}",
            str(made["requests"]),
            str(made["failed"]),
            "-" if made["observed_all"] is None else f"{made['observed_all']:.2f}",
            f"{made['seconds']:g}",
        ]
        for made in evidence["steps"]
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])
