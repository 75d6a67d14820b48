# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P7: what `mesh_config --check` takes for many objects, with nothing of them in the target yet, and with all of them there."""

from __future__ import annotations

import json
import os
from typing import Any

from lab import net
from lab.bench import Figure, at_most
from lab.bench.backup import NAMESPACES, RAW, Bench, Say, Used
from lab.kubeapi import KubeError
from lab.state import Lab, LabError

SIZES = (500, 5000)
LONG = 50000  # on demand: LAB_THOROUGH=1
BAR = 15.0
GATEWAY = "ingressgateway"

# The module's work, as a process that Ansible did not have to start.
RUN = """
import json, sys
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config_run import config_spec, run_module
options = json.loads(sys.argv[1])
outcome = run_module({**{name: option.get("default") for name, option in config_spec().items()}, **options}, options.pop("check"))
if outcome.failed:
    sys.exit(outcome.failed.message)
told = {"changed": outcome.plan.changed, "plan": outcome.plan.as_list(), "diff": outcome.plan.diff()}
print(json.dumps({**outcome.result, **told}))
"""


def objects(count: int) -> list[dict[str, Any]]:
    """A Gateway, and for ten objects eight VirtualServices of 2.5 KB bound to it and two DestinationRules of their hosts."""
    api = "networking.istio.io/v1"
    server = {"hosts": ["*"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}
    made = [_object(api, "Gateway", "public", "istio-system", {"selector": {"istio": GATEWAY}, "servers": [server]})]
    rules = max(1, count // 5)
    for i in range(count - rules):
        host = f"service-{i % rules}.{NAMESPACES[(i % rules) % len(NAMESPACES)]}.svc.cluster.local"
        split = [{"destination": {"host": host, "subset": s}, "weight": w} for s, w in (("v1", 80), ("v2", 20))]
        http = [{"match": [{"uri": {"prefix": f"/{n}"}}], "route": split, "timeout": "3s"} for n in range(8)]
        spec = {"hosts": [f"h{i}.example.com"], "gateways": ["istio-system/public"], "http": http}
        made.append(_object(api, "VirtualService", f"route-{i}", NAMESPACES[i % len(NAMESPACES)], spec))
    for i in range(rules):
        subsets = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
        spec = {"host": f"service-{i}", "subsets": subsets}
        made.append(_object(api, "DestinationRule", f"rule-{i}", NAMESPACES[i % len(NAMESPACES)], spec))
    return made


def _object(api: str, kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


class Pair:
    """Two API servers, the gateway's Service and Deployment in the first."""

    def __init__(self, lab: Lab, say: Say) -> None:
        self.lab, self.say = lab, say
        self.source, self.target = Bench(lab, say), Bench(lab, say, "bt", 4)

    def up(self) -> None:
        labels = {"istio": GATEWAY}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "istio-proxy", "image": "proxy"}]}}
        for bench in (self.source, self.target):
            bench.folder.mkdir(parents=True, exist_ok=True)
            bench.up()
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}
            bench.cluster.apply_object("v1", "namespaces", namespace)
        service = {"type": "LoadBalancer", "selector": labels, "ports": [{"port": 80}]}
        self.source.cluster.apply_object("v1", "services", _object("v1", "Service", "istio-gw", "istio-system", service))
        deployment = {"selector": {"matchLabels": labels}, "template": pod}
        body = _object("apps/v1", "Deployment", "istio-gw", "istio-system", deployment)
        self.source.cluster.apply_object("apps/v1", "deployments", body)

    def fill(self, bench: Bench, size: int) -> Used:
        return bench.python(RAW, "create", str(bench.kubeconfig), str(bench.lines(objects(size))))

    def config(self, check: bool, rehearse: str = "sample") -> tuple[Used, dict[str, Any]]:
        options = {
            "source": {"kubeconfig": str(self.source.kubeconfig)},
            "target": {"kubeconfig": str(self.target.kubeconfig)},
            "gateways": [{"namespace": "istio-system", "source_service": "istio-gw", "target_gateway": "gw-asm"}],
            "alibaba": {},
            "migration": "bench",
            "state_dir": str(self.source.folder / "state"),
            "rehearse": rehearse,
            "check": check,
        }
        out = self.source.folder / "answer.json"
        used = self.source.python(RUN, json.dumps(options), out=out)
        return used, json.loads(out.read_text())

    def clear(self) -> None:
        for bench in (self.source, self.target):
            for plural in ("virtualservices", "destinationrules", "gateways"):
                for name in [*NAMESPACES, "istio-system"]:
                    bench.cluster.api.request("DELETE", f"/apis/networking.istio.io/v1/namespaces/{name}/{plural}")

    def down(self) -> None:
        self.source.down()
        self.target.down()


def p7(lab: Lab, say: Say) -> list[Figure]:
    """Seconds at 500 and 5,000 objects (LAB_THOROUGH=1: 50,000), the best of two for each."""
    figures: list[Figure] = []
    pair = Pair(lab, say)
    try:
        pair.up()
        for size in (*SIZES, LONG) if os.environ.get("LAB_THOROUGH") else SIZES:
            pair.clear()
            pair.fill(pair.source, size)
            new = [pair.config(True) for _turn in range(2)]
            every = [pair.config(True, "all")]
            if any(answer["counts"]["only_in_source"] != size + 1 for _used, answer in (*new, *every)):
                raise LabError(f"P7: not all of {size + 1} objects are to be created: {new[0][1]['counts']}")
            if not all(answer["rehearsal"]["complete"] for _used, answer in every):
                raise LabError(f"P7: not all objects were asked about: {every[0][1]['rehearsal']}")
            pair.fill(pair.target, size)
            meta = {"spec": {"selector": {"istio": "gw-asm"}}}  # as the copy has it
            path = "/apis/networking.istio.io/v1/namespaces/istio-system/gateways/public"
            pair.target.cluster.api.patch(path, meta)
            there = [pair.config(True) for _turn in range(2)]
            if any(answer["counts"]["same"] != size + 1 or answer["changed"] for _used, answer in there):
                raise LabError(f"P7: not all of {size + 1} objects are the same: {there[0][1]['counts']}")
            for what, turns in (("all only in the source", new), ("all of them asked about", every), ("all the same", there)):
                used = min((used for used, _answer in turns), key=lambda used: used.wall)
                say(f"P7: {size} objects, {what}: {used}")
                figures.append(figure_of(size, f"mesh_config --check of {size:,} objects, {what}", used.wall))
    except KubeError as error:
        raise LabError(f"the API servers of the bench: {error}") from error
    finally:
        pair.down()
    return figures


def figure_of(size: int, what: str, seconds: float) -> Figure:
    return at_most("P7", what, seconds, "s", BAR) if size == 5000 else Figure("P7", what, round(seconds, 2), "s", "-", True)


def measured(lab: Lab, wanted: list[str], say: Say) -> list[Figure]:
    """In a lab that is down. Leaves it down."""
    if "P7" not in wanted:
        return []
    lab.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    net.up(lab)
    try:
        with net.inside(lab):
            return p7(lab, say)
    finally:
        net.down(lab)
