# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The egress part of a migration: how it is described, and a client whose requests take it."""

from __future__ import annotations

from typing import Any

from lab import egress
from lab.load import Load
from lab.mesh_asm import ACK_ID


def out() -> dict[str, Any]:
    """The egress part, as its operator describes it; its VirtualServices are copied with all of Istio's configuration."""
    ours = [egress.asm_gateway(ACK_ID), *egress.outside(egress.ASM_GATEWAY, egress.ASM_GATEWAY)]
    moved = egress.inside()["metadata"]
    source, target = (egress.service(name) for name in (egress.GATEWAY, f"istio-{egress.ASM_GATEWAY}"))
    route = {"namespace": moved["namespace"], "name": moved["name"], "source": {"host": source}, "target": {"host": target}}
    return {
        "ack_to_asm_egress": [route],
        "ack_to_asm_egress_objects": [{"mesh": "target", "definition": one} for one in ours],
        "ack_to_asm_egress_steps": [10, 100],
        "ack_to_asm_shift_order": ["sidecars", "egress", "ingress"],
    }


class Caller(egress.Caller):
    """A client of the application and of the server in the internet."""

    target = (*Load.target, *egress.Caller.target)
