# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench` measures all, `make bench P=P5,P8` some. BENCH_OUT names a file for the figures (JSON)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lab.bench import Figure, at_most, backup, config
from lab.bench.role import role
from lab.bench.shift import p5
from lab.bench.swap import p3
from lab.bench.vms import p6
from lab.demo.stage import ROOT
from lab.state import Lab, LabError

KNOWN = ("P1", "P2", "P3", "P5", "P6", "P7", "P8")
ON_DEMAND = ("GROWTH",)  # P1 and P2 at 500, 5,000 and 50,000 objects: a quarter of an hour


def say(text: str) -> None:
    print(text, flush=True)


def lab_command(*words: str) -> None:
    code = subprocess.run([str(ROOT / "bin/lab"), *words], stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise LabError(f"`lab {' '.join(words)}` ended with {code}")


def p8(lab: Lab) -> list[Figure]:
    """The time that `lab up` says of itself: the whole ACK + ASM world, everything built before."""
    timings = json.loads((lab.dir / "timings.json").read_text(encoding="utf-8"))
    parts = [Figure("P8", f"lab up: {name}", round(float(value), 2), "s", "-", True) for name, value in timings["steps"].items()]
    return [at_most("P8", "lab up, warm, all", float(timings["total"]), "s", 60.0), *parts]


def table(figures: list[Figure]) -> str:
    rows = [["id", "what", "value", "unit", "bar", "ok"]]
    rows += [[f.id, f.what, "-" if f.value is None else f"{f.value:g}", f.unit, f.bar, "yes" if f.ok else "NO"] for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    os.environ.setdefault("LAB_NAME", "bench")
    wanted = [word.strip().upper() for word in (os.environ.get("P") or ",".join(KNOWN)).split(",") if word.strip()]
    unknown = sorted(set(wanted) - {*KNOWN, *ON_DEMAND})
    if unknown:
        say(f"bench: no benchmark {', '.join(unknown)}; there are {', '.join((*KNOWN, *ON_DEMAND))}")
        return 2
    lab = Lab.current()
    figures: list[Figure] = []
    try:
        lab_command("down")
        figures += backup.measured(lab, wanted, say)
        figures += config.measured(lab, wanted, say)
        if {"P3", "P5", "P6", "P7", "P8"} & set(wanted):
            lab_command("up")
            lab = Lab.current()
        if "P8" in wanted:
            # The first start may still have built images: the second one is the warm one.
            lab_command("down")
            lab_command("up")
            figures += p8(lab)
        if "P5" in wanted:
            figures += p5(lab, say)
        if "P7" in wanted:
            figures += role(lab, say)
        if "P6" in wanted:
            figures += p6(lab, say)
        if "P3" in wanted:
            figures += p3(lab, say)
    except LabError as error:
        say(f"bench: {error}")
        return 1
    finally:
        lab_command("down")
    say("\n" + table(figures))
    out = os.environ.get("BENCH_OUT")
    if out:
        Path(out).write_text(json.dumps([figure.as_dict() for figure in figures], indent=2) + "\n", encoding="utf-8")
    return 0 if all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
