# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The proxy's container as it is to be, and the plan that makes, exchanges or removes it. All of it is pure.

How one proxy takes the place of another without a lost request. Envoy opens its ports 15001 and 15006 with SO_REUSEPORT, so two
Envoys of the same user on one host can have them at once, and the kernel gives new connections to both. The other ports of the
second one (admin, status, metrics, DNS) are moved out of the way. So a helper of the new kind is started beside the old proxy;
when it is ready, the old one asks its clients to go, closes its ports (with net.ipv4.tcp_migrate_req the kernel hands what waits
in its queues to the helper), serves what it has, and is removed. Then the new proxy starts on the usual ports, and the helper
goes in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._engine import PODMAN_UNIT, REMOVING
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity import ISSUED_MOUNT, TOKEN_MOUNT

Object = dict[str, t.Any]
MANAGED_BY, MANAGER = "servicemesh.migration/managed-by", "vm_proxy"
CONFIG, MIGRATE = "servicemesh.migration/config", "servicemesh.migration/tcp-migrate-req"
TRAFFIC_PORTS = (15001, 15006)
SOCKET_FOLDER = "/var/run/secrets/workload-spiffe-uds"  # where the agent and Envoy meet


@dataclasses.dataclass(frozen=True)
class Ports:
    """Ports of a proxy that are its own."""

    admin: int = 15000
    status: int = 15020
    health: int = 15021
    metrics: int = 15090
    dns: int = 15053


USUAL, HELPER = Ports(), Ports(15100, 15120, 15121, 15190, 15153)


@dataclasses.dataclass
class Container:
    """What the engine says of a container."""

    image: str
    running: bool
    pid: int
    labels: dict[str, str]
    view: Object
    restarts: int = 0

    @property
    def ours(self) -> bool:
        return self.labels.get(MANAGED_BY) == MANAGER


@dataclasses.dataclass
class Observed:
    """The VM.

    :arg image: id of the wanted image, empty when it is not there.
    :arg boots: containers of this engine come back after a boot.
    :arg texts: the files that the proxy reads when it starts.
    :arg serving: the proxy has the ports; one that gave them up to a helper may still say that it is ready.
    """

    image: str = ""
    engine: str = "docker"
    boots: bool = True
    proxy: Container | None = None
    helper: Container | None = None
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    issued: bool = False
    ready: bool = False
    serving: bool = False


def helper_name(name: str) -> str:
    return f"{name}-next"


def body(options: t.Mapping[str, t.Any], seen: Observed, *, helper: bool = False) -> Object:
    """What the engine is asked to create."""
    env = {**parse_env(seen.texts.get("cluster.env", "")), **{str(k): str(v) for k, v in (options["env"] or {}).items()}}
    if helper:
        ports = HELPER
        config = _json(env.get("PROXY_CONFIG", ""))
        env["PROXY_CONFIG"] = json.dumps({**config, "proxyAdminPort": ports.admin, "statusPort": ports.status}, sort_keys=True)
        env.update(ENVOY_STATUS_PORT=str(ports.health), ENVOY_PROMETHEUS_PORT=str(ports.metrics))
        env["DNS_PROXY_ADDR"] = f"localhost:{ports.dns}"
        env.pop("OUTPUT_CERTS", None)  # two agents must not write one folder
    folder = options["path"]
    binds = [f"{folder}/certs:{TOKEN_MOUNT}", f"{folder}/certs:/opt/istio/certs"]
    if "mesh.yaml" in seen.texts:
        binds.append(f"{folder}/mesh.yaml:/etc/istio/config/mesh:ro")
    if seen.issued:
        binds.append(f"{folder}/issued:{ISSUED_MOUNT}")
    binds += [str(one) for one in options["volumes"] or []]
    host: Object = {
        "NetworkMode": "host",
        "Binds": binds,
        "CapAdd": list(options["capabilities"] or []),
        "RestartPolicy": {"Name": options["restart_policy"]},
        "LogConfig": {
            "Type": options["log_driver"],
            "Config": {} if options["log_driver"] not in ("json-file", "k8s-file", "local") else _log_limits(options),
        },
    }
    if seen.engine == "docker":
        host["Tmpfs"] = {SOCKET_FOLDER: f"rw,mode=1777,uid={_uid(options['user'])}"}
    if options["memory"]:
        host["Memory"] = size(options["memory"])
    if options["cpus"]:
        host["NanoCpus"] = round(float(options["cpus"]) * 1e9)
    made: Object = {
        "Image": options["image"],
        "Env": [f"{key}={env[key]}" for key in sorted(env)],
        "Labels": {MANAGED_BY: MANAGER},
        "HostConfig": host,
        "StopTimeout": options["stop_timeout"],
    }
    if seen.engine == "podman":
        made["Volumes"] = {SOCKET_FOLDER: {}}  # it takes no owner for a tmpfs, and gives a volume without a name to the user
    if options["args"]:
        made["Cmd"] = [str(word) for word in options["args"]]
    if options["entrypoint"]:
        made["Entrypoint"] = [str(word) for word in options["entrypoint"]]
    if options["user"]:
        made["User"] = options["user"]
    texts = {key: text for key, text in seen.texts.items() if key != "cluster.env"}  # its lines are in Env
    whole = json.dumps([made, seen.image, texts], sort_keys=True)
    made["Labels"][CONFIG] = hashlib.sha256(whole.encode()).hexdigest()[:32]
    return made


def _uid(user: str) -> str:
    """Whose the folder of the agent's sockets is. Its mode does not last: runc gives it that of the mount point at a restart."""
    word = str(user or "").partition(":")[0]
    return word if word.isdigit() else "1337"


def _log_limits(options: t.Mapping[str, t.Any]) -> Object:
    found = {"max-size": options["log_max_size"]}
    if options["log_driver"] != "k8s-file":
        found["max-file"] = str(options["log_max_files"])
    return found


def view(one: Object, image: str) -> Object:
    """The part of a container, wanted or present, that is compared and shown in a diff."""
    host = one.get("HostConfig") or {}
    config = one.get("Config") or one
    return {
        "image": image,
        "name": config.get("Image"),
        "env": sorted(config.get("Env") or []),
        "args": list(config.get("Cmd") or []),
        "user": config.get("User") or "",
        "mounts": sorted(host.get("Binds") or []),
        "capabilities": sorted(str(cap).replace("CAP_", "") for cap in host.get("CapAdd") or []),
        "restart": (host.get("RestartPolicy") or {}).get("Name") or "no",
        "memory": host.get("Memory") or 0,
        "cpus": (host.get("NanoCpus") or 0) / 1e9,
        "logs": {"driver": (host.get("LogConfig") or {}).get("Type"), **((host.get("LogConfig") or {}).get("Config") or {})},
    }


_SECRET = re.compile(r"pass|secret|token|credential|private|api_?key|access_?key", re.I)


def told(one: Object) -> Object:
    """A view as it is shown: without the values of variables that by their names are secrets."""
    pairs = [word.partition("=") for word in one["env"]]
    return {**one, "env": [f"{key}={MASK if _SECRET.search(key) and value else value}" for key, _equals, value in pairs]}


def plain_id(text: str) -> str:
    """An id without the name of its hash, which podman leaves out."""
    return text.partition(":")[2] or text


def container(found: Object | None) -> Container | None:
    """From the engine's answer. One that is being removed counts as gone."""
    state = (found or {}).get("State") or {}
    if found is None or state.get("Status") in REMOVING:
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    return Container(
        image=plain_id(str(found.get("Image") or "")),
        running=bool(state.get("Running")) and not state.get("Restarting"),
        pid=int(state.get("Pid") or 0),
        labels=dict(labels),
        view=view(found, plain_id(str(found.get("Image") or ""))),
        restarts=int(found.get("RestartCount") or 0),
    )


# What the engine can be told to change without a label of ours changing (docker update).
_DRIFT = ("image", "memory", "cpus", "restart")


def differs(present: Container, wanted: Object, image: str) -> list[str]:
    """Fields in which a container is not as it is to be."""
    want = view(wanted, image)
    found = [key for key in _DRIFT if present.view.get(key) != want[key]]
    if present.labels.get(CONFIG) != wanted["Labels"][CONFIG] and not found:
        found = [key for key in want if key not in ("args", "user") and present.view.get(key) != want[key]]
        found = found or ["configuration"]
    return found


def plan(options: t.Mapping[str, t.Any], seen: Observed) -> Plan:
    """Nothing is planned for a proxy that is as it is to be, runs and is ready."""
    made = Plan()
    name, helper = options["name"], helper_name(options["name"])
    if options["state"] == "absent":
        return _plan_absent(made, options, seen)
    if not seen.image or options["pull"] == "always":
        made.add("pull", options["image"], {"id": seen.image} if seen.image else None, {}, "")
    if not seen.boots:
        made.notes.append(f"podman starts nothing when the VM boots: `systemctl enable {PODMAN_UNIT}` lets it")
    wanted = body(options, seen)
    shown = told(view(wanted, seen.image))
    if seen.proxy is None:
        made.add("create", name, None, shown, "")
        made.add("start", name, {"running": False}, {"running": True}, "")
    elif changed := differs(seen.proxy, wanted, seen.image):
        reason = f"changed: {', '.join(changed)}"
        if options["replace"] == "seamless" and seen.proxy.running:
            reason += "; the old one goes when the new one is ready"
        made.add("replace", name, told(seen.proxy.view), shown, reason)
    elif seen.proxy.running and seen.helper is not None and not seen.serving:
        made.add("replace", name, told(seen.proxy.view), shown, "it gave its ports to a helper in an exchange that was cut short")
    elif not seen.proxy.running:
        made.add("start", name, {"running": False}, {"running": True}, "it is there and does not run")
    if seen.helper is not None and not any(change.action == "replace" for change in made.changes):
        made.add("remove", helper, {}, None, "the helper of an exchange that was cut short")
    return made


def _plan_absent(made: Plan, options: t.Mapping[str, t.Any], seen: Observed) -> Plan:
    for name, one in ((helper_name(options["name"]), seen.helper), (options["name"], seen.proxy)):
        if one is not None:
            made.add("remove", name, told(one.view), None, "with the volumes that it made")
    if options["remove_image"] and seen.image:
        made.add("remove image", options["image"], {"id": seen.image}, None, "")
    return made


# -- words ---------------------------------------------------------------------------------------------------------------------


def parse_env(text: str) -> dict[str, str]:
    """An env file as Docker reads it. Quotes around a whole value are those of a shell, and not meant."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or not key.strip() or key.lstrip().startswith("#"):
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[key.strip()] = value
    return found


def size(text: str) -> int:
    """Bytes of 512m, 1g, 1073741824. Raises ValueError."""
    word = str(text).strip().lower().removesuffix("b")
    units = {"k": 2**10, "m": 2**20, "g": 2**30}
    return int(float(word[:-1]) * units[word[-1]]) if word[-1:] in units else int(word)


def spiffe(texts: t.Mapping[str, str]) -> str:
    """The identity that the proxy must have."""
    env = parse_env(texts.get("cluster.env", ""))
    words = [env.get(key, "") for key in ("TRUST_DOMAIN", "POD_NAMESPACE", "SERVICE_ACCOUNT")]
    return f"spiffe://{words[0]}/ns/{words[1]}/sa/{words[2]}" if all(words) else ""


def istiod_port(texts: t.Mapping[str, str]) -> int:
    """The port of istiod that mesh.yaml names; what vm_identity writes there is JSON."""
    address = str((_json(texts.get("mesh.yaml", "")).get("defaultConfig") or {}).get("discoveryAddress") or "")
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() else 15012


def _json(text: str) -> Object:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
