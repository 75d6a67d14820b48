# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `lab`: up, down, status, env, exec, logs, faults, prometheus, vm, traffic."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lab import binaries, net, proc, prometheus, traffic, vm, world, world_cloud
from lab.cluster import Cluster
from lab.kubeapi import KubeError, path_of
from lab.machine import Machine
from lab.node import Node, pod_containers
from lab.state import Lab, LabError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error (or, for `status`, something is missing), 2 a wrong command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    # argparse cannot hand on options that it does not know: what follows `traffic` is another parser's
    own = words[:1] if words[:1] == ["traffic"] else words
    options = _parser().parse_args(own)
    options.arguments = words[1:]
    try:
        status: int = options.call(Lab.current(), options) or 0
        return status
    except (LabError, KubeError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return _leave(1)
    except KeyboardInterrupt:
        print("lab: stopped; `lab down` removes what runs, `lab up` starts anew", file=sys.stderr)
        return _leave(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _leave(status: int) -> int:
    """Do not wait for threads that still wait for something that will not be."""
    if threading.active_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Real clusters, meshes and load balancers in network namespaces. LAB_NAME names the lab (default: lab).",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="bring the lab up")
    up.add_argument(
        "--nodes", type=int, default=2, choices=range(1, 10), metavar="1..9", help="nodes of the ACK cluster (default 2)"
    )
    up.add_argument(
        "--ccm", default="v2.14.0", choices=world.CCM_VERSIONS, help="version that the CCM behaves like (default v2.14.0)"
    )
    up.add_argument(
        "--roots", type=int, default=1, choices=(1, 2), help="root certificates of the two meshes: one for both, or one each"
    )
    up.add_argument(
        "--mode", default="cluster", choices=world.MODES, help="how CLBs reach the source gateway's pods (default cluster)"
    )
    up.add_argument(
        "--parts", default="all", choices=world.PARTS, help="stop after the clusters, the cloud, or the meshes (default all)"
    )
    up.set_defaults(call=_up)

    commands.add_parser("build", help="build the Go programs that are not built yet").set_defaults(
        call=lambda _lab, _options: binaries.build(binaries.FAMILIES, _say)
    )
    commands.add_parser("down", help="take it down without a trace").set_defaults(call=lambda lab, _options: world.down(lab))
    commands.add_parser("status", help="what runs, and what does not").set_defaults(call=_status)
    commands.add_parser("env", help='shell variables: eval "$(lab env)"').set_defaults(call=_env)

    run = commands.add_parser("exec", help="run a command in the cloud's network, or inside a machine")
    run.add_argument("-m", "--machine", help="a machine such as ack-0")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    run.set_defaults(call=_exec)

    logs = commands.add_parser("logs", help="logs of a process, or of a service in a machine (ack-0/kubelet)")
    logs.add_argument("name", nargs="?")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--lines", type=int, default=200)
    logs.set_defaults(call=_logs)

    _faults_parser(commands)
    metrics = commands.add_parser("prometheus", help="a Prometheus that scrapes the proxies of both meshes")
    metrics.add_argument("action", choices=("up", "down"))
    metrics.add_argument(
        "--interval", type=float, default=prometheus.INTERVAL, metavar="SECONDS", help="between two scrapes (default %(default)s)"
    )
    metrics.set_defaults(call=_prometheus)
    vms = commands.add_parser("vm", help="mesh VMs: machines with ssh, Docker and an application")
    vms.add_argument("action", choices=("up", "down"))
    vms.add_argument("count", nargs="?", type=int, default=1, help="with up: how many there are to be (default 1)")
    vms.set_defaults(call=_vm)
    commands.add_parser("traffic", help="constant load from the internet: lab traffic --help").set_defaults(call=_traffic)
    return parser


def _faults_parser(commands: Any) -> None:
    faults = commands.add_parser("faults", help="make cloud or API calls fail; kill nodes and pods")
    actions = faults.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("add", help="a rule for calls")
    add.add_argument("--id")
    add.add_argument("--target", default="*", choices=("slb", "ecs", "vpc", "servicemesh", "ack", "asm", "*"))
    add.add_argument("--action", default="*", help="glob of a cloud action, or 'VERB /path-glob' of an API server")
    add.add_argument("--nth", type=int, help="only the nth call that matches")
    add.add_argument("--rate", type=float, help="share of calls, 0 to 1")
    add.add_argument("--times", type=int, help="at most so often")
    add.add_argument("--seed", type=int)
    add.add_argument("--status", type=int, help="answer with this HTTP status")
    add.add_argument("--code", help="with --status: the error code, such as Throttling")
    add.add_argument("--message", help="with --status: the message")
    add.add_argument("--hang", type=float, metavar="SECONDS", help="do not answer for so long, then close")
    add.add_argument("--slow", type=float, metavar="SECONDS", help="answer so much later")
    add.add_argument("--reset", action="store_true", help="reset the connection")
    add.add_argument("--after", action="store_true", help="with --status or --reset: the call is done, only its answer is lost")
    add.set_defaults(call=_faults_add)
    actions.add_parser("list", help="the rules").set_defaults(
        call=lambda lab, _options: _print(cloud(lab, "GET", "/_lab/faults"))
    )
    actions.add_parser("clear", help="remove all rules").set_defaults(
        call=lambda lab, _options: _print(cloud(lab, "DELETE", "/_lab/faults"))
    )
    for name, text in (("kill-node", "pull a node's plug"), ("start-node", "switch it on again")):
        node = actions.add_parser(name, help=text)
        node.add_argument("node", help="such as ack-1")
        node.set_defaults(call=_kill_node if name == "kill-node" else _start_node)
    pod = actions.add_parser("kill-pod", help="SIGKILL the processes of a pod")
    pod.add_argument("pod", metavar="NAMESPACE/NAME")
    pod.add_argument("-c", "--container", help="only this container")
    pod.set_defaults(call=_kill_pod)


def _print(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


# --- commands -----------------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


def _up(lab: Lab, options: argparse.Namespace) -> None:
    world.up(lab, world.Options(options.nodes, options.ccm, options.mode, options.parts, options.roots), _say)


def _status(lab: Lab, _options: argparse.Namespace) -> int:
    names = proc.names(lab)
    if not names:
        print(f"lab '{lab.name}' is not up")
        return 1
    hertz, boot = os.sysconf("SC_CLK_TCK"), _boot_time()
    gone = 0
    print(f"{'NAME':24} {'STATE':8} {'PID':>8} {'SINCE':20} WHERE")
    for name in names:
        found = proc.load(lab, name)
        alive = proc.alive(lab, name)
        gone += not alive
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(boot + found.start / hertz)) if found else "?"
        where = "machine" if name.startswith("machine-") else (found.netns or "host") if found else "?"
        print(f"{name:24} {'runs' if alive else 'GONE':8} {found.pid if found else 0:8} {since:20} {where}")
    ready = world.ready_nodes(lab)
    for node in world.clusters(lab)[0].nodes:
        gone += node.name not in ready
        print(f"{'node ' + node.name:24} {'Ready' if node.name in ready else 'NOT READY'}")
    if not lab.data.get("up"):
        print("the last `lab up` did not come to its end")
        return 1
    return 1 if gone else 0


def _boot_time() -> float:
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return float(line.split()[1])


def _need_up(lab: Lab) -> None:
    if not net.exists(lab, "cloud"):
        raise LabError(f"lab '{lab.name}' is not up: run `lab up`")


def _env(lab: Lab, _options: argparse.Namespace) -> None:
    _need_up(lab)
    print((lab.dir / "env").read_text(), end="")


def _exec(lab: Lab, options: argparse.Namespace) -> NoReturn:
    _need_up(lab)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("no command given: lab exec [-m MACHINE] -- CMD")
    if options.machine:
        argv, env = Machine(lab, options.machine, "").enter(command), None
    else:
        argv = proc.in_netns(lab, "cloud", command)
        env = {**world.environment(lab), "PATH": world.full_path()}
    _become(argv, env)


def _become(argv: Sequence[str], env: dict[str, str] | None = None) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], list(argv), {**os.environ, **(env or {})})
    except OSError as error:
        raise LabError(f"`{argv[0]}` cannot be run: {error.strerror}") from error


def _logs(lab: Lab, options: argparse.Namespace) -> None:
    if not options.name:
        for path in sorted(lab.logs.glob("*.log")):
            print(f"{path.stem:24} {path.stat().st_size:10} bytes  {path}")
        return
    follow = ["-f"] if options.follow else []
    if "/" in options.name:
        name, _slash, unit = options.name.partition("/")
        _become(
            Machine(lab, name, "").enter(
                ["journalctl", "--no-pager", "-o", "short-iso", "-u", unit, "-n", str(options.lines), *follow]
            )
        )
    path = lab.logs / f"{options.name}.log"
    if not path.exists():
        raise LabError(f"no log of '{options.name}': `lab logs` lists them")
    _become(["tail", "-n", str(options.lines), *follow, str(path)])


def _traffic(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    return traffic.main(lab, arguments)


def _prometheus(lab: Lab, options: argparse.Namespace) -> None:
    _need_up(lab)
    if options.action == "up":
        prometheus.up(lab, *world.clusters(lab), options.interval)
        print(f"{prometheus.URL} in the cloud's network")
    else:
        prometheus.down(lab, *world.clusters(lab))
    world.write_environment(lab)


def _vm(lab: Lab, options: argparse.Namespace) -> None:
    _need_up(lab)
    if options.action == "up":
        vm.up(lab, world.clusters(lab)[0], options.count)
        for one in vm.machines(lab):
            print(f"{one.name:8} {one.address}")
        print(f"inventory: {vm.inventory_file(lab)}")
    else:
        vm.down(lab, world.clusters(lab)[0])
    world.write_environment(lab)


# --- faults -------------------------------------------------------------------------------------------------------------------


def cloud(lab: Lab, method: str, path: str, body: Any = None) -> Any:
    """One call of the cloud server's admin interface; JSON in, JSON out."""
    _need_up(lab)
    host, port = world_cloud.ENDPOINT.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        with net.inside(lab):
            connection.connect()
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except OSError as error:
        raise LabError(f"the lab's cloud server does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise LabError(f"the lab's cloud server answered {answer.status}: {text[:500]}")
    return json.loads(text) if text else {}


def _faults_add(lab: Lab, options: argparse.Namespace) -> None:
    effect: dict[str, Any] = {}
    for name in ("status", "code", "message", "hang", "slow"):
        if getattr(options, name) is not None:
            effect[name] = getattr(options, name)
    if options.reset:
        effect["reset"] = True
    if options.after:
        effect["after"] = True
    if not effect.keys() - {"after", "code", "message"}:
        raise LabError("a rule needs an effect: --status, --hang, --slow or --reset")
    rule = {name: getattr(options, name) for name in ("id", "target", "action", "nth", "rate", "times", "seed")}
    _print(
        cloud(lab, "POST", "/_lab/faults", {**{key: value for key, value in rule.items() if value is not None}, "effect": effect})
    )


def _node(lab: Lab, name: str) -> tuple[Cluster, Node]:
    _need_up(lab)
    for cluster in world.clusters(lab):
        for node in cluster.nodes:
            if node.name == name:
                return cluster, node
    raise LabError(f"the lab has no node '{name}'")


def _kill_node(lab: Lab, options: argparse.Namespace) -> None:
    _cluster, node = _node(lab, options.node)
    node.machine.stop()
    print(f"{node.name} is off")


def _start_node(lab: Lab, options: argparse.Namespace) -> None:
    cluster, node = _node(lab, options.node)
    cluster.start_node(node)
    print(f"{node.name} starts")


def _kill_pod(lab: Lab, options: argparse.Namespace) -> None:
    _need_up(lab)
    namespace, _slash, name = options.pod.partition("/")
    if not name:
        raise LabError("name the pod as NAMESPACE/NAME")
    pod = world.clusters(lab)[0].api.get(path_of("v1", "pods", namespace, name))
    containers = pod_containers(pod, options.container)
    if not containers:
        raise LabError(f"pod {options.pod} has no such running container")
    _cluster, node = _node(lab, pod["spec"]["nodeName"])
    for container in containers:
        node.kill_container(container)
    print(f"killed {len(containers)} container(s) of {options.pod} on {node.name}")
