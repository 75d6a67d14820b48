# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P7: what `--check` of the whole role takes with many Istio objects in the source cluster."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

from lab import net
from lab.bench import Figure
from lab.bench.backup import NAMESPACES, RAW, Say, collections, measure
from lab.bench.config import LONG, SIZES, figure_of, objects
from lab.demo.stage import Stage
from lab.kubeapi import KubeError, path_of
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.mesh_source import namespace
from lab.state import Lab, LabError

WHOLE: dict[str, Any] = {
    "ack_to_asm_mesh_id": MESH_ID,
    "ack_to_asm_cluster_id": ACK_ID,
    "ack_to_asm_waves": [1, "100%"],
}
# The control planes push new objects to their proxies for a while, on the same two cores.
SETTLE_S = 20.0
_TASK = re.compile(r"^TASK \[(?:.* : )?(.*?)\] ")


class Many:
    """A lab that is up, and objects by the thousand in its source cluster."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.say = say
        self.stage = Stage(lab, lab.dir / "bench", "check", **WHOLE)

    def fill(self, size: int) -> None:
        for name in NAMESPACES:
            path = path_of("v1", "namespaces", None, name)
            if self.stage.ack.find(path) is None:
                self.stage.ack.create(path_of("v1", "namespaces"), namespace(name))
        file = self.stage.folder / "objects.jsonl"
        # Of the gateway of the lab there is one already, which these routes are bound to.
        made = [one for one in objects(size) if one["kind"] != "Gateway"]
        gateway = self.stage.ack.get(self.stage.echo_route)["spec"]["gateways"][0]
        for one in made:
            if one["kind"] == "VirtualService":
                one["spec"]["gateways"] = [f"demo/{gateway}"]
        file.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
        env = {**self.stage.env, "PYTHONPATH": str(collections(self.stage.folder))}
        measure([sys.executable, "-c", RAW, "create", self.stage.env["LAB_ACK_KUBECONFIG"], str(file)], env)

    def clear(self) -> None:
        for name in NAMESPACES:
            for plural in ("virtualservices", "destinationrules"):
                for _turn in range(5):  # a call has a minute
                    try:
                        self.stage.ack.request("DELETE", path_of("networking.istio.io/v1", plural, name))
                        break
                    except KubeError as error:
                        if error.status not in (0, 404, 500, 504):
                            raise

    def check(self) -> tuple[float, list[tuple[float, str]]]:
        """Seconds of `ansible-playbook --check`, and the longest tasks."""
        tasks: list[tuple[float, str]] = []

        def line(text: str) -> None:
            if found := _TASK.match(text):
                tasks.append((time.monotonic(), found.group(1)))

        played = self.stage.play("ack_to_asm", "--check", show=line)
        if played.code != 0 or not played.changed:
            raise LabError(f"P7: the check failed:\n{played.text[-3000:]}")
        ends = [*(moment for moment, _name in tasks[1:]), time.monotonic()]
        return played.seconds, sorted(
            ((round(end - begun, 1), name) for (begun, name), end in zip(tasks, ends, strict=True)), reverse=True
        )[:5]


def role(lab: Lab, say: Say) -> list[Figure]:
    """In a lab that is up and not yet migrated. Leaves it as it was, but for some empty namespaces."""
    figures: list[Figure] = []
    with net.inside(lab):
        many = Many(lab, say)
        try:
            for size in (*SIZES, LONG) if os.environ.get("LAB_THOROUGH") else SIZES:
                many.clear()
                many.fill(size)
                time.sleep(SETTLE_S)
                turns = [many.check() for _turn in range(2)]
                seconds, longest = min(turns)
                say(f"P7: the role with {size} objects: {seconds:.1f} s; the longest tasks: {longest}")
                figures.append(figure_of(size, f"--check of the whole role with {size:,} objects", seconds))
        finally:
            many.clear()
    return figures
