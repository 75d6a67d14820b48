# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a VM needs to be somebody in the mesh, as files; and the plan that makes or removes them. All of it is pure.

<path>/cluster.env      environment of the proxy's container
<path>/mesh.yaml        the proxy's configuration
<path>/certs/           istio-token and root-cert.pem: a folder, so that a new token gets into the container as it is
<path>/issued/          where the agent keeps its certificate, by which it can get the next one without any token
<path>/renew-token ...  only with renewal by a timer
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _hosts, _renewal, _token

Object = dict[str, t.Any]
SYSTEMD = "/etc/systemd/system"
MADE = ".servicemesh-migration.json"
KEPT = ".before-servicemesh-migration"
ISSUED_FILES = ("cert-chain.pem", "key.pem", "root-cert.pem")
# Where the container has what these folders hold (vm_proxy mounts them so). Not /etc/certs: what an agent finds there at its
# start it takes for certificates that somebody else renews.
TOKEN_MOUNT, ISSUED_MOUNT = "/var/run/secrets/tokens", "/etc/asm-proxy-issued"


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it is to be. ``text`` None: whatever is in it may stay. ``secret``: nothing of it is ever shown."""

    text: str | None
    mode: int
    owner: tuple[int, int]
    secret: bool = False


@dataclasses.dataclass(frozen=True)
class Present:
    """A file or folder as it is."""

    mode: int
    owner: tuple[int, int]
    text: str | None = None  # None: a folder


@dataclasses.dataclass
class Observed:
    """The VM. ``made`` is what this module says that it made: files, folders, and what it moved out of the way.

    :arg timer: it is enabled and runs. :arg armed: one of both.
    """

    paths: dict[str, Present] = dataclasses.field(default_factory=dict)
    hosts: str | None = None
    timer: bool = False
    armed: bool = False
    address: str = ""
    python: str = "/usr/bin/python3"
    made: Object = dataclasses.field(default_factory=lambda: {"files": [], "folders": [], "kept": {}, "modes": {}})
    issued: list[str] = dataclasses.field(default_factory=list)


def environment(options: t.Mapping[str, t.Any], facts: t.Mapping[str, t.Any], address: str) -> dict[str, str]:
    """Variables of the agent, and those of the vendor's own start script by its names."""
    labels = {str(key): str(value) for key, value in (options["labels"] or {}).items()}
    name, namespace = options["name"], options["namespace"]
    workload = labels.get("app") or name
    found = {
        "CANONICAL_REVISION": labels.get("version") or "latest",
        "CANONICAL_SERVICE": workload,
        "CLOUD_PLATFORM": "none",
        "INSTANCE_IP": address,
        "ISTIO_CUSTOM_IP_TABLES": "true",  # the rules are vm_redirect's, not the start script's
        "ISTIO_META_CLUSTER_ID": facts["cluster_id"],
        "ISTIO_META_MESH_ID": facts["mesh_id"],
        "ISTIO_META_WORKLOAD_NAME": workload,
        "ISTIO_METAJSON_LABELS": json.dumps(labels, sort_keys=True),
        "ISTIO_PILOT_ADDR": facts["addresses"][0],
        "NS": namespace,
        "POD_NAME": name,
        "POD_NAMESPACE": namespace,
        "SERVICE_ACCOUNT": options["service_account"],
        "TRUST_DOMAIN": facts["trust_domain"],
        # the agent looks for the roots beside the certificates that it has, which may not be there yet
        "CA_ROOT_CA": f"{TOKEN_MOUNT}/root-cert.pem",
        "XDS_ROOT_CA": f"{TOKEN_MOUNT}/root-cert.pem",
    }
    if facts["network"]:
        found["ISTIO_META_NETWORK"] = facts["network"]
    if options["service_cidr"]:
        found["ISTIO_SERVICE_CIDR"] = options["service_cidr"]
    if options["auto_register_group"]:
        found["ISTIO_META_AUTO_REGISTER_GROUP"] = options["auto_register_group"]
    if options["dns_capture"]:
        found["ISTIO_META_DNS_CAPTURE"] = "true"
    if options["keep_certificates"]:
        found.update(PROV_CERT=ISSUED_MOUNT, OUTPUT_CERTS=ISSUED_MOUNT)
    return {**found, **{str(key): str(value) for key, value in (options["env"] or {}).items()}}


def istiod_host(options: t.Mapping[str, t.Any]) -> str:
    suffix = f"-{options['revision']}" if options.get("revision") else ""
    return options["istiod"]["host"] or f"istiod{suffix}.{options['istio_namespace']}.svc"


def mesh_config(options: t.Mapping[str, t.Any], facts: t.Mapping[str, t.Any]) -> str:
    """mesh.yaml. JSON is YAML, and comes out the same on every VM whatever library it has."""
    default = {**facts["proxy_config"], **(options["proxy_config"] or {})}
    default["discoveryAddress"] = f"{istiod_host(options)}:{options['istiod']['port']}"
    return json.dumps({"defaultConfig": default, "trustDomain": facts["trust_domain"]}, indent=1, sort_keys=True) + "\n"


def hosts_lines(options: t.Mapping[str, t.Any], facts: t.Mapping[str, t.Any]) -> list[str]:
    entries = [(address, [istiod_host(options)]) for address in facts["addresses"]] if options["hosts_entry"] else []
    return _hosts.block([*entries, *((one["address"], one["names"]) for one in options["hosts"] or [])])


def wanted_files(
    options: t.Mapping[str, t.Any],
    facts: t.Mapping[str, t.Any],
    seen: Observed,
    owner: tuple[int, int],
    tokens: tuple[str, str] = ("", ""),
) -> dict[str, File]:
    """All files by their paths; ``tokens`` are the fresh ones (proxy's, timer's), empty where the present one stays."""
    path, root = options["path"], (0, 0)
    env = environment(options, facts, options["address"] or seen.address)
    files = {
        f"{path}/cluster.env": File("".join(f"{key}={env[key]}\n" for key in sorted(env)), 0o600, root),
        f"{path}/mesh.yaml": File(mesh_config(options, facts), 0o600, owner),
        f"{path}/certs/root-cert.pem": File(facts["root_cert"], 0o600, owner),
        f"{path}/certs/istio-token": File(tokens[0] or None, 0o600, owner, secret=True),
    }
    if options["renewal"]["method"] == "timer":
        seconds = options["expiration_seconds"]
        values = (options["namespace"], options["service_account"], options["audience"], seconds, owner)
        files[f"{path}/renewal.json"] = File(_renewal.config(facts["api_server"], *values), 0o600, root)
        files[f"{path}/renew-token"] = File(_renewal.SCRIPT, 0o700, root)
        files[f"{path}/api-ca.pem"] = File(facts["api_ca"], 0o600, root)
        files[f"{path}/api-token"] = File(tokens[1] or None, 0o600, root, secret=True)
        every = _renewal.interval(seconds)
        for name, text in _renewal.units(seen.python, path, every).items():
            files[f"{SYSTEMD}/{name}"] = File(text, 0o644, root)
    return files


def folders(options: t.Mapping[str, t.Any], owner: tuple[int, int]) -> dict[str, File]:
    path = options["path"]
    found = {path: File(None, 0o755, (0, 0)), f"{path}/certs": File(None, 0o700, owner)}
    if options["keep_certificates"]:
        found[f"{path}/issued"] = File(None, 0o700, owner)
    return found


def tokens_due(options: t.Mapping[str, t.Any], seen: Observed, now: float, account_uid: str = "") -> dict[str, str]:
    """Why which token must be replaced: keys ``token`` and (with a timer) ``renewal_token``."""
    subject, before = _token.subject(options["namespace"], options["service_account"]), float(options["renew_before"])
    due = {}
    held = claims(seen, f"{options['path']}/certs/istio-token")
    if why := _token.stale(held, subject, options["audience"], before, now, account_uid):
        due["token"] = why
    if options["renewal"]["method"] == "timer":
        held = claims(seen, f"{options['path']}/api-token")
        # the API server says which audience is its own; that the token works is proven by using it
        audience = held.audiences[0] if held and held.audiences else ""
        if why := _token.stale(held, subject, audience, before, now, account_uid):
            due["renewal_token"] = why
    return due


def claims(seen: Observed, path: str) -> _token.Claims | None:
    present = seen.paths.get(path)
    return _token.read(present.text) if present and present.text else None


# -- plan ----------------------------------------------------------------------------------------------------------------------


def plan(
    options: t.Mapping[str, t.Any],
    seen: Observed,
    files: t.Mapping[str, File],
    owner: tuple[int, int],
    lines: t.Sequence[str],
    due: t.Mapping[str, str],
) -> Plan:
    """What makes the VM as it is to be. A foreign file in the way is moved beside its place, and comes back with C(absent)."""
    made = Plan()
    path = options["path"]
    for folder, wanted in folders(options, owner).items():
        present = seen.paths.get(folder)
        ours = folder in seen.made["folders"]
        if present is None:
            made.add("make", folder, None, _look(wanted), "")
        elif (present.mode, present.owner) != (wanted.mode, wanted.owner) and (ours or folder != path):
            made.add("set", folder, _look(present), _look(wanted), "the proxy's user must get at it, and nobody else")
    reasons = {f"{path}/certs/istio-token": due.get("token", ""), f"{path}/api-token": due.get("renewal_token", "")}
    for name, wanted in files.items():
        present = seen.paths.get(name)
        reason = reasons.get(name, "")
        same = present is not None and (wanted.text is None or present.text == wanted.text) and not reason
        if present is not None and same and (present.mode, present.owner) == (wanted.mode, wanted.owner):
            continue
        if present is not None and name not in seen.made["files"]:
            made.add("keep", name, None, {"as": name + KEPT}, "it was there before, and comes back when the VM leaves")
        before = None if present is None else _look(present, wanted.secret)
        made.add("write", name, before, _look(wanted, wanted.secret), reason)
    for name in [one for one in seen.made["files"] if one not in files and one in seen.paths]:
        if name == f"{SYSTEMD}/{_renewal.UNIT}.timer" and seen.armed:
            made.add("disable", f"{_renewal.UNIT}.timer", {"enabled": True}, {"enabled": False}, "no renewal by a timer any more")
        made.add("delete", name, {}, None, "not needed any more")
    _plan_hosts(made, seen, options["hosts_file"], lines)
    if options["renewal"]["method"] == "timer" and not seen.timer:
        made.add("enable", f"{_renewal.UNIT}.timer", {"enabled": False}, {"enabled": True}, "it renews the tokens in time")
    return made


def plan_absent(options: t.Mapping[str, t.Any], seen: Observed) -> Plan:
    """Everything away that this module made, and back what it moved."""
    made = Plan()
    path = options["path"]
    if seen.armed and f"{SYSTEMD}/{_renewal.UNIT}.timer" in seen.made["files"]:
        made.add("disable", f"{_renewal.UNIT}.timer", {"enabled": True}, {"enabled": False}, "")
    back = {name: kept for name, kept in seen.made["kept"].items() if kept in seen.paths}
    for name in seen.made["files"]:
        if name in seen.paths and name not in back:
            made.add("delete", name, {}, None, "")
    for name, kept in back.items():
        made.add("restore", name, {"as": kept}, {}, "it was there before")
    if f"{path}/issued" in seen.made["folders"]:
        for name in seen.issued:
            if name in ISSUED_FILES:
                made.add("delete", f"{path}/issued/{name}", {}, None, "the agent made it")
            else:
                made.notes.append(f"{path}/issued/{name} is not known to this module and stays")
    _plan_hosts(made, seen, options["hosts_file"], [])
    for folder, (mode, uid, gid) in seen.made["modes"].items():
        present = seen.paths.get(folder)
        if present is not None:
            made.add("set back", folder, _look(present), {"mode": f"{mode:04o}", "owner": f"{uid}:{gid}"}, "as it was before")
    there = [folder for folder in sorted(seen.made["folders"], reverse=True) if folder in seen.paths]
    for folder in there:
        if folder != path:
            made.add("remove", folder, {}, None, "when it is empty")
    if f"{path}/{MADE}" in seen.paths:  # as late as it can be: a run that is killed before knows what is left
        made.add("delete", f"{path}/{MADE}", {}, None, "")
    if path in there:
        made.add("remove", path, {}, None, "when it is empty")
    return made


def _plan_hosts(made: Plan, seen: Observed, file: str, lines: t.Sequence[str]) -> None:
    now = seen.hosts or ""
    wanted = _hosts.with_block(now, lines)
    if wanted != now:
        reason = "a block of its own; every other line stays as it is"
        made.add("edit", file, now.splitlines(), wanted.splitlines(), reason)


def _look(one: File | Present, secret: bool = False) -> Object:
    """How a plan shows a file: text as lines, of a secret only when it ends."""
    found: Object = {"mode": f"{one.mode:04o}", "owner": f"{one.owner[0]}:{one.owner[1]}"}
    if secret:
        held = _token.read(one.text) if one.text else None
        return {**found, "content": held.as_dict() if held else "a fresh token"}
    if one.text is not None:
        found["lines"] = one.text.splitlines() if len(one.text) < 8000 else f"{len(one.text)} characters"
    return found
