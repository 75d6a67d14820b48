# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Two-way trust: do requests from old sidecars reach new ones, and back, with mutual TLS? The answer is a matrix of sides.

Nothing but a process behind a sidecar can make a request through it: a connection to its outbound port that was not redirected
has no destination, and its inbound port asks for a certificate of the mesh. So there are two ways, both through the API server:

* ``seen`` (needs pods/portforward): each proxy counts what it sent to each pod (``/clusters``). Two readings of the clients give
  the requests of real traffic in between, by pair of pods. Where the servers take nothing but mutual TLS, a success is its proof.
* ``asked`` (needs pods/exec): curl or wget of an application container asks a Service whose pods are all of the other side.
  Containers without either cannot be used.

A direction without any request is not proven; it is never taken for good.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _sidecar_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import PROXY, Proxies, live, ready, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import chooses

Object = dict[str, t.Any]
SOURCE, TARGET = "source", "target"
DIRECTIONS = ((SOURCE, TARGET), (TARGET, SOURCE))
PROVEN, UNPROVEN, FAILED = "proven", "unproven", "failed"
_CLUSTERS = "/clusters?format=json"
_LISTENER = "/config_dump?resource=dynamic_listeners&name_regex=virtualInbound"
_STATUS = re.compile(r"^\s*HTTP/[0-9.]+ (\d{3})", re.MULTILINE)
# So many errors of a client without any success are no accident.
_SURE = 3
_HTTP = ("http", "http2", "grpc")


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one proxy sent to one address so far."""

    success: int = 0
    error: int = 0
    refused: int = 0

    def since(self, before: Counts) -> Counts:
        """Negative when the proxy forgot in between: then nothing is known."""
        return Counts(
            max(0, self.success - before.success), max(0, self.error - before.error), max(0, self.refused - before.refused)
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One direction. :arg pairs: of pods between which there was a request. :arg strict: all its servers refuse plain text."""

    client: str
    server: str
    state: str
    requests: int = 0
    errors: int = 0
    pairs: int = 0
    strict: bool | None = None
    reason: str = ""

    def as_dict(self) -> Object:
        return dataclasses.asdict(self)


def sides(pods: t.Sequence[Object], proxies: Proxies) -> dict[str, tuple[str, Object]]:
    """``{pod's address: (side, pod)}`` of all ready pods with a sidecar. Gateways are left out."""
    found: dict[str, tuple[str, Object]] = {}
    for pod in pods:
        proxy, address = sidecar_of(pod), str((pod.get("status") or {}).get("podIP") or "")
        if proxy is not None and not proxy.router and address and live(pod) and ready(pod):
            found[address] = (SOURCE if proxies.differs(proxy) else TARGET, pod)
    return found


def sample(known: t.Mapping[str, tuple[str, Object]], most: int) -> list[Object]:
    """At most so many pods of each side, of as many workloads as there are."""
    found: list[Object] = []
    for side in (SOURCE, TARGET):
        mine = sorted((pod for where, pod in known.values() if where == side), key=lambda pod: str(pod["metadata"]["name"]))
        first: dict[str, Object] = {}
        for pod in mine:
            first.setdefault(json.dumps([pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName")]), pod)
        chosen = list(first.values())
        found += [*chosen, *(pod for pod in mine if pod not in chosen)][:most]
    return found


def read_counts(clusters: bytes) -> dict[str, Counts]:
    """``{address of a pod: counts}`` out of Envoy's ``/clusters?format=json``. Pure."""
    found: dict[str, Counts] = {}
    try:
        statuses = json.loads(clusters).get("cluster_statuses") or []
    except (ValueError, AttributeError):
        return found
    for status in statuses:
        if not str(status.get("name", "")).startswith("outbound|"):
            continue
        for host in status.get("host_statuses") or []:
            address = ((host.get("address") or {}).get("socket_address") or {}).get("address")
            if not address:
                continue
            stats = {str(item.get("name")): int(item.get("value") or 0) for item in host.get("stats") or []}
            old = found.get(str(address), Counts())
            found[str(address)] = Counts(
                old.success + stats.get("rq_success", 0),
                old.error + stats.get("rq_error", 0),
                old.refused + stats.get("cx_connect_fail", 0),
            )
    return found


def read_strict(listener: bytes) -> bool | None:
    """Whether an inbound listener takes nothing but mutual TLS; None when that is not to be seen. Pure."""
    try:
        configs = json.loads(listener).get("configs") or []
    except (ValueError, AttributeError):
        return None
    chains = [
        chain
        for config in configs
        for chain in (((config.get("active_state") or {}).get("listener") or {}).get("filter_chains") or [])
        if (chain.get("filter_chain_match") or {}).get("destination_port") != 15006
    ]
    if not chains:
        return None
    return all(
        ((chain.get("transport_socket") or {}).get("typed_config") or {}).get("require_client_certificate") is True
        for chain in chains
    )


Reading = dict[str, dict[str, Counts]]


def read_clients(cluster: Cluster, pods: t.Sequence[Object], timeout: float) -> Reading:
    """``{address of the client: its counts}``; proxies that do not answer are left out."""

    def one(pod: Object) -> dict[str, Counts]:
        return read_counts(_sidecar_proof.ask(cluster, pod, timeout, (_CLUSTERS,))[0])

    answers = each(list(pods), one)
    return {str(answer.item["status"]["podIP"]): answer.value for answer in answers if answer.value is not None}


def read_servers(cluster: Cluster, pods: t.Sequence[Object], timeout: float) -> dict[str, bool | None]:
    """``{address of the server: whether it takes nothing but mutual TLS}``."""
    answers = each(list(pods), lambda pod: read_strict(_sidecar_proof.ask(cluster, pod, timeout, (_LISTENER,))[0]))
    return {str(answer.item["status"]["podIP"]): answer.value for answer in answers}


def met(known: t.Mapping[str, tuple[str, Object]], before: Reading, after: Reading) -> list[str]:
    """Addresses of the pods that clients of the other side got answers from in between. Pure."""
    found = {
        peer
        for address, counts in after.items()
        for peer, now in counts.items()
        if address in before
        and {known.get(address, ("", {}))[0], known.get(peer, ("", {}))[0]} == {SOURCE, TARGET}
        and now.since(before[address].get(peer, Counts())).success
    }
    return sorted(found)


def matrix(
    known: t.Mapping[str, tuple[str, Object]], before: Reading, after: Reading, strict: t.Mapping[str, bool | None]
) -> list[Cell]:
    """The two cells between the sides, from what the clients counted in between. Pure."""
    found = []
    for client, server in DIRECTIONS:
        success = errors = pairs = 0
        servers: set[str] = set()
        bad = ""
        for address, counts in sorted(after.items()):
            if known.get(address, ("", {}))[0] != client or address not in before:
                continue
            good = wrong = 0
            for peer, now in sorted(counts.items()):
                if known.get(peer, ("", {}))[0] != server:
                    continue
                new = now.since(before[address].get(peer, Counts()))
                good += new.success
                wrong += new.error + new.refused
                if new.success or new.error:
                    pairs += 1
                    servers.add(peer)
            success += good
            errors += wrong
            # One server may just be going; a client that is not trusted gets through to none of them.
            if wrong >= _SURE and not good and not bad:
                bad = f"{_place(known[address][1])} got only errors from that side ({wrong})"
        plain = [strict.get(peer) for peer in sorted(servers)]
        sure = None if not plain or None in plain else all(plain)
        found.append(_cell(client, server, success, errors, pairs, sure, bad))
    return found


def _cell(client: str, server: str, success: int, errors: int, pairs: int, sure: bool | None, bad: str) -> Cell:
    if bad:
        return Cell(client, server, FAILED, success + errors, errors, pairs, sure, bad)
    if not success:
        return Cell(client, server, UNPROVEN, errors, errors, pairs, sure, "there was no request between these sides")
    if sure is None:
        return Cell(client, server, UNPROVEN, success, errors, pairs, sure, "whether the servers take plain text is not known")
    if not sure:
        return Cell(client, server, UNPROVEN, success, errors, pairs, sure, "the servers take plain text too (not STRICT)")
    return Cell(client, server, PROVEN, success + errors, errors, pairs, True)


def _place(pod: Object) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


# -- asked -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Question:
    """A request that an application container of one side makes to a Service of the other."""

    client: str
    server: str
    namespace: str
    pod: str
    container: str
    url: str


def questions(known: t.Mapping[str, tuple[str, Object]], services: t.Sequence[Object], most: int) -> list[Question]:
    """At most so many in each direction. Only Services whose pods are all of one side say which side answered. Pure."""
    found: list[Question] = []
    for client, server in DIRECTIONS:
        urls = [url for service in services if (url := _url(service, known, server))]
        clients = sorted((pod for side, pod in known.values() if side == client), key=_place)
        for number, url in enumerate(sorted(urls)[:most] if clients else []):
            pod = clients[number % len(clients)]
            container = next((item["name"] for item in pod["spec"].get("containers") or [] if item["name"] != PROXY), "")
            if container:
                meta = pod["metadata"]
                found.append(Question(client, server, meta["namespace"], meta["name"], container, url))
    return found


def _url(service: Object, known: t.Mapping[str, tuple[str, Object]], side: str) -> str:
    meta, spec = service["metadata"], service.get("spec") or {}
    mine = {
        where
        for where, pod in known.values()
        if pod["metadata"]["namespace"] == meta["namespace"] and chooses(spec.get("selector"), pod["metadata"].get("labels"))
    }
    if mine != {side}:
        return ""
    for port in spec.get("ports") or []:
        if str(port.get("appProtocol") or port.get("name") or "").partition("-")[0] in _HTTP:
            return f"http://{meta['name']}.{meta['namespace']}:{port['port']}/"
    return ""


def judge_reply(text: str) -> tuple[str, str]:
    """``(state, reason)`` of the headers that curl or wget showed. Pure."""
    found = _STATUS.findall(text)
    if not found:
        return FAILED, f"no answer: {text.strip()[-150:] or 'nothing at all'}"
    # Envoy answers 503 itself when it does not reach, or does not trust, the other proxy.
    if found[-1] == "503" and "x-envoy-upstream-service-time" not in text.lower():
        return FAILED, "503 of its own proxy: it does not reach the other side, or does not trust it"
    return PROVEN, f"status {found[-1]}"


def ask(cluster: Cluster, question: Question, timeout: float) -> tuple[str, str]:
    """``(state, reason)``. Raises MigrationError when the API server does not let us (pods/exec)."""
    seconds = str(max(1, int(timeout)))
    commands = (
        ["curl", "-sS", "-o", "/dev/null", "-D", "-", "--max-time", seconds, question.url],
        ["wget", "-S", "-q", "-O", "/dev/null", "-T", seconds, question.url],
    )
    for command in commands:
        text, missing = _run(cluster, question, command, timeout)
        if not missing:
            return judge_reply(text)
    return UNPROVEN, f"container {question.container} of {question.namespace}/{question.pod} has neither curl nor wget"


def _run(cluster: Cluster, question: Question, command: list[str], timeout: float) -> tuple[str, bool]:
    """What a command in a container wrote, and whether there is no such command."""
    from kubernetes import client, stream  # pylint: disable=import-outside-toplevel

    api = client.CoreV1Api(client.ApiClient(cluster.configuration))
    try:
        process = stream.stream(
            api.connect_get_namespaced_pod_exec,
            question.pod,
            question.namespace,
            container=question.container,
            command=command,
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        process.run_forever(timeout=timeout + 5)
        text = str(process.read_stdout() or "") + str(process.read_stderr() or "")
        trouble = str(process.read_channel(3) or "")
        process.close()
    except client.ApiException as error:
        raise MigrationError(
            f"The API server of {cluster.name} runs no command in a pod",
            where=cluster.where(POD, question.pod, question.namespace),
            why=str(error.reason or error)[:200],
            todo=f"grant the user of {cluster.name} create of pods/exec there, or use the way that only reads",
            details={"status": int(error.status or 0)},
        ) from error
    missing = "executable file not found" in trouble or "no such file" in trouble.lower()
    return text or trouble, missing
