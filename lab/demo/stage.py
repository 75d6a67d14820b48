# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo, the benchmarks and the tests do in a lab: run playbooks as a user would, send traffic, photograph the world."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import binaries, proc
from lab.kube import Api, KubeError, path_of
from lab.state import Lab, LabError

COLLECTION = "servicemesh.migration"
ROOT = Path(__file__).resolve().parents[2]
Plain = dict[str, Any]


def environment(lab: Lab) -> dict[str, str]:
    """What `lab env` prints, over the present environment."""
    found = dict(os.environ)
    for line in (lab.dir / "env").read_text(encoding="utf-8").splitlines():
        words = shlex.split(line)
        if len(words) == 2 and words[0] == "export":
            key, _, value = words[1].partition("=")
            found[key] = value.replace("$PATH", found.get("PATH", ""))
    return found


@dataclass
class Played:
    """One run of a playbook. `changed` and `failed` are the recap's numbers; None when it was killed before its recap."""

    code: int
    text: str
    seconds: float

    def _recap(self, word: str) -> int | None:
        found = re.search(rf"^localhost\s*:.*\b{word}=(\d+)", self.text, re.MULTILINE)
        return int(found.group(1)) if found else None

    @property
    def changed(self) -> int | None:
        return self._recap("changed")

    @property
    def failed(self) -> int | None:
        return self._recap("failed")


class Stage:
    """A lab with a migration described. Everything is run with this process inside the lab's cloud namespace (lab.net.inside)."""

    def __init__(self, lab: Lab, folder: Path, name: str = "demo", **variables: Any) -> None:
        self.lab = lab
        self.env = environment(lab)
        self.folder = folder
        self.name = name
        self.state_dir = folder / "state"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "migration.yml"
        self.variables = {**self._describe(), **variables}
        self.describe()
        self.healthy: Plain = {}
        self.breaking: tuple[threading.Thread, threading.Event] | None = None
        self.ack = Api.from_kubeconfig(self.env["LAB_ACK_KUBECONFIG"])
        self.asm = Api.from_kubeconfig(self.env["LAB_ASM_KUBECONFIG"])

    def describe(self) -> None:
        """Write the description down as the variables are now."""
        self.file.write_text(yaml.safe_dump(self.variables, sort_keys=False, width=120), encoding="utf-8")

    def _describe(self) -> Plain:
        """The migration as its operator writes it: about twenty-five lines."""
        env = self.env
        return {
            "ack_to_asm_name": self.name,
            "ack_to_asm_state_dir": str(self.state_dir),
            "ack_to_asm_source": {"kubeconfig": env["LAB_ACK_KUBECONFIG"], "cluster_uid": env["LAB_ACK_UID"]},
            "ack_to_asm_target": {"kubeconfig": env["LAB_ASM_KUBECONFIG"], "cluster_uid": env["LAB_ASM_UID"]},
            "ack_to_asm_alibaba": {"region": "cn-hangzhou"},
            "ack_to_asm_gateways": [{"source_service": "istio-ingressgateway", "target_gateway": "ingressgateway-asm"}],
            "ack_to_asm_steps": [1, 5, 25, 50, 100],
            "ack_to_asm_hold": 20,
            "ack_to_asm_max_hold": 120,
            "ack_to_asm_drain_seconds": 10,
            "ack_to_asm_ccm_version": env["LAB_CCM_VERSION"],
            "ack_to_asm_gates": [
                {
                    "name": "https through the load balancer",
                    "probe": {
                        "url": f"https://{env['LAB_HOST']}/",
                        "connect": env["LAB_CLB_ADDRESS"],
                        "ca_cert": env["LAB_CA"],
                        "interval": 0.05,
                        "window": 5,
                        "min_requests": 50,
                        "min_success": 99,
                    },
                }
            ],
        }

    # -- playbooks -----------------------------------------------------------------------------------------------

    def start(self, playbook: str, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """ansible-playbook, in a session of its own, with what a user would have in the environment."""
        env = {**self.env, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
        env.setdefault("ANSIBLE_LOCALHOST_WARNING", "false")
        env.setdefault("ANSIBLE_INVENTORY_UNPARSED_WARNING", "false")
        return subprocess.Popen(
            ["ansible-playbook", f"{COLLECTION}.{playbook}", "-e", f"@{self.file}", *arguments],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **popen,
        )

    def play(self, playbook: str, *arguments: str, timeout: float = 900, show: Callable[[str], None] | None = None) -> Played:
        """Run a playbook to its end. `show` gets each line as it comes."""
        begun = time.monotonic()
        child = self.start(playbook, *arguments)
        timer = threading.Timer(timeout, lambda: self.kill(child))
        timer.start()
        lines: list[str] = []
        try:
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line)
                if show is not None:
                    show(line.rstrip("\n"))
            code = child.wait()
        finally:
            timer.cancel()
            if child.poll() is None:
                self.kill(child)
        return Played(code, "".join(lines), time.monotonic() - begun)

    @staticmethod
    def kill(child: subprocess.Popen[str]) -> None:
        """SIGKILL to the playbook and all that it started (its own session, so nothing else)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    @property
    def echo_route(self) -> str:
        """Path of the sample application's VirtualService, on either API server."""
        return path_of("networking.istio.io/v1", "virtualservices", "demo", "echo")

    @property
    def journal(self) -> Path:
        return self.state_dir / self.name / "journal.jsonl"

    @property
    def progress(self) -> Path:
        return self.state_dir / self.name / "progress.jsonl"

    def shift(self) -> Plain:
        """The result of the last traffic_shift, {} when there is none."""
        return self._report("shift")

    def waves(self) -> list[Plain]:
        """The waves of workloads in the last run that moved some."""
        return list(self._report("sidecars").get("waves", []))

    def _report(self, name: str) -> Plain:
        try:
            found: Plain = json.loads((self.state_dir / self.name / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def holding(self) -> list[float]:
        """The shares (percent, as asked) whose hold has begun in the present shift."""
        found: list[float] = []
        try:
            lines = self.progress.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return found
        for text in lines:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if line.get("event") == "hold":
                    found.append(line["asked"])
        return found

    # -- traffic -------------------------------------------------------------------------------------------------

    def traffic(
        self,
        rate: float,
        seconds: float,
        *,
        bucket: str = "100ms",
        new_ratio: float = 0.5,
        tag: str = "traffic",
        streams: bool = False,
    ) -> Path:
        """Start the load generator on the internet side of the CLB, HTTP and HTTPS; returns the file that grows.

        :arg streams: one answer of each goes on all the time (see lab.demo.streams).
        """
        out, end = self.folder / f"{tag}.jsonl", self.folder / f"{tag}.stop"
        out.unlink(missing_ok=True)
        end.unlink(missing_ok=True)
        host, address = self.env["LAB_HOST"], self.env["LAB_CLB_ADDRESS"]
        argv: list[str | Path] = [
            binaries.path("traffic"),
            *("-rate", f"{rate}", "-duration", f"{seconds:.0f}s", "-bucket", bucket, "-new-ratio", f"{new_ratio}"),
            *("-target", f"http=http://{host}/", "-target", f"https=https://{host}/", "-resolve", f"{host}={address}"),
            *("-ca", self.env["LAB_CA"], "-timeout", "10s", "-out", out, "-stop-file", end),
        ]
        if streams:
            argv += [f"-stream={scheme}={scheme}://{host}/stream" for scheme in ("http", "https")]
        proc.spawn(self.lab, tag, argv, netns="net", ready=out.exists, timeout=10)
        return out

    def end_traffic(self, tag: str = "traffic", timeout: float = 30) -> None:
        """Ask the generator to end, and wait for its summary."""
        (self.folder / f"{tag}.stop").touch()
        until = time.monotonic() + timeout
        while proc.alive(self.lab, tag):
            if time.monotonic() > until:
                proc.stop(self.lab, tag)
                raise LabError(f"the load generator did not end in {timeout:g} s")
            time.sleep(0.05)
        proc.stop(self.lab, tag)  # it has ended; or the lab would count it as a part that is gone

    # -- faults --------------------------------------------------------------------------------------------------

    def _admin(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.env['LAB_CLOUD_ENDPOINT']}/_lab/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Rules of the cloud server and of the API servers' fault proxies (see docs/lab.md)."""
        self._admin("POST", "faults", list(rules))

    def lift_faults(self) -> None:
        self._admin("DELETE", "faults")

    def with_faulty_api_servers(self) -> Stage:
        """The same migration, its API servers reached through the fault proxies."""
        variables = dict(self.variables)
        for word, name in (("source", "ACK"), ("target", "ASM")):
            key = f"ack_to_asm_{word}"
            variables[key] = {**variables[key], "kubeconfig": self.env[f"LAB_{name}_KUBECONFIG_FAULTY"]}
        return Stage(self.lab, self.folder, self.name, **variables)

    def asm_route(self, spec: Plain | None = None) -> Plain:
        """The sample application's VirtualService in ASM (its spec); with `spec`, put that one there if the object exists."""
        try:
            if spec:
                self.asm.patch(self.echo_route, {"spec": {"http": spec["http"]}})
            found: Plain = self.asm.get(self.echo_route)["spec"]
        except KubeError as error:
            if error.status != 404:
                raise
            return {}
        return found

    def break_at(self, share: float, held_s: float = 1.0, limit_s: float = 600.0) -> threading.Thread:
        """Once the step of `share` has been held for a moment, ASM's gateway answers every request with 503."""

        over = threading.Event()

        def wait_and_break() -> None:
            until = time.monotonic() + limit_s
            while time.monotonic() < until and not over.is_set():
                if share in self.holding():
                    if over.wait(held_s):
                        return
                    fault = {"fault": {"abort": {"httpStatus": 503, "percentage": {"value": 100}}}}
                    self.healthy = self.asm_route()
                    self.asm_route({"http": [{**route, **fault} for route in self.healthy["http"]]})
                    return
                time.sleep(0.05)

        thread = threading.Thread(target=wait_and_break, name="break", daemon=True)
        thread.start()
        self.breaking = thread, over
        return thread

    def mend(self) -> None:
        """Put the route back if `break_at` changed it (a rollback leaves alone what others edited); it changes none later."""
        if self.breaking is not None:
            thread, over = self.breaking
            over.set()
            thread.join()
            self.breaking = None
        if self.healthy:
            self.asm_route(self.healthy)
            self.healthy = {}

    # -- the world -----------------------------------------------------------------------------------------------

    def cloud(self, path: str = "state") -> Any:
        """What the cloud server says of itself (its admin interface)."""
        with urllib.request.urlopen(f"http://{self.env['LAB_CLOUD_ENDPOINT']}/_lab/{path}", timeout=10) as answer:
            return json.load(answer)

    def world(self) -> Plain:
        """Everything that a migration could leave behind, as plain data: load balancer, Services, gateways, routes.

        Left out: what changes by itself (resourceVersion, times, managed fields, status conditions) and the journal's mirror.
        """
        state = self.cloud("state")
        for group in state["groups"].values():
            # a set: their order says who came first
            group["backends"].sort(key=lambda one: (one["description"].split("/", 2)[-1], one["server_id"], one["server_ip"]))
        found: Plain = {"clb": {part: state[part] for part in ("load_balancers", "groups")}}
        for cluster, api, kinds in (
            ("ack", self.ack, [("v1", "services"), ("apps/v1", "deployments"), ("autoscaling/v2", "horizontalpodautoscalers")]),
            ("asm", self.asm, [("v1", "namespaces"), ("istio.alibabacloud.com/v1beta1", "istiogateways")]),
        ):
            for version, plural in kinds:
                for item in api.get(path_of(version, plural))["items"]:
                    found[f"{cluster}/{plural}/{_key(item)}"] = _still(item)
            for plural in ("gateways", "virtualservices", "destinationrules"):
                for item in api.get(path_of("networking.istio.io/v1", plural))["items"]:
                    found[f"{cluster}/{plural}/{_key(item)}"] = _still(item)
        return found

    def shares(self) -> set[float]:
        """The target's share on each listener, computed from the weights that the CLB holds right now (percent)."""
        found, state = set(), self.cloud("state")
        for balancer in state["load_balancers"].values():
            for listener in balancer["listeners"].values():
                weights = {True: 0, False: 0}
                for backend in state["groups"][listener["vserver_group_id"]]["backends"]:
                    weights["/istio-ingressgateway-asm/" in backend["description"]] += backend["weight"]
                found.add(round(100 * weights[True] / (sum(weights.values()) or 1), 3))
        return found

    def sidecars(self, namespace: str = "demo") -> set[str]:
        """The meshes of the application's sidecars, as the pods themselves say; Istio's have no id."""
        found = set()
        for pod in self.ack.get(path_of("v1", "pods", namespace))["items"]:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                if one["name"] == "istio-proxy":
                    found.add(next((item["value"] for item in one["env"] if item["name"] == "ASM_ID"), ""))
        return found

    def forget_mirror(self) -> None:
        """Remove the journal's mirror, as if this migration had never been run."""
        with contextlib.suppress(KubeError):
            self.ack.delete(path_of("v1", "configmaps", "istio-system", f"servicemesh-migration-{self.name}"))

    def comparable(self, one: Plain, other: Plain) -> list[str]:
        """Differences that matter between two runs: without what each run gets anew from the API server and the kubelets."""
        return differences(_timeless(one), _timeless(other))


#: What each run gets anew: node ports and addresses of the API server, the CCM's hash, the time in the migration's own mark.
_FRESH = re.compile(r"[nN]odePort|clusterIP|service.beta.kubernetes.io/hash|servicemesh.migration/touched|CreateTime")


def _timeless(value: Any, key: str = "") -> Any:
    """The same without what each run gets anew."""
    if _FRESH.search(key) or (key == "port" and isinstance(value, int) and value >= 30000):
        return "*"
    if isinstance(value, Mapping):
        return {name: _timeless(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return re.sub(r"^k8s/\d+/", "k8s/*/", value) if isinstance(value, str) else value


def _key(item: Mapping[str, Any]) -> str:
    meta = item["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _still(item: Mapping[str, Any]) -> Plain:
    meta = item["metadata"]
    kept = {key: meta[key] for key in ("annotations", "labels", "finalizers") if meta.get(key)}
    return {"metadata": kept, "spec": item.get("spec") or {}}


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two worlds differ, a line each."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines = []
        for key in sorted({*before, *after}, key=str):
            lines += differences(before.get(key), after.get(key), f"{path}/{key}")
        return lines
    return [] if before == after else [f"{path}: {json.dumps(before)} -> {json.dumps(after)}"]


def sequence(items: Sequence[str], limit: int = 12) -> str:
    """Some lines for a message, and how many more there are."""
    more = f"\n  … and {len(items) - limit} more" if len(items) > limit else ""
    return "\n".join(f"  {item}" for item in items[:limit]) + more
