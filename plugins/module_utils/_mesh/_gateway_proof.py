# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of module gateway_proof: the target's pods are asked what the source's are, before a user meets them. Reads only."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import ssl
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry, wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._forward import forwarded
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import annotations_of, ports_of, weight_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config_read import read_side
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import selector_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._questions import (
    Question,
    Reply,
    comparable,
    judge,
    questions,
    ready,
    target_port,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import (
    GatewayObjects,
    chooses,
    read_gateway,
    template_labels,
)

Object = dict[str, t.Any]
# So many pods of the source are the measure; more would say the same.
_MEASURES = 2


@dataclasses.dataclass
class Observed:
    """A pair of gateways, and what to ask them."""

    pair: GatewayPair
    source: GatewayObjects
    target: GatewayObjects
    asked: list[Question]
    unasked: list[str]


def observe(source: Cluster, pair: GatewayPair) -> Observed:
    """Read both gateways."""
    first, made = values(each(("source", "target"), lambda side: read_gateway(source, pair.namespace, pair.service(side))))
    return Observed(pair, first, made, [], [])


def with_questions(
    seen: Observed, source: Cluster, mesh: tuple[list[Object], list[Object]], more: t.Sequence[Question], limit: int
) -> Observed:
    """The same gateways with what to ask them. :arg mesh: all Gateways and VirtualServices of the source. :arg more: asked too.

    Raises InputError.
    """
    pair, first, made = seen.pair, seen.source, seen.target
    ports = {int(port["port"]) for port in ports_of(first.service or made.service or {})}
    labels = template_labels(first.deployment)
    mine = [item for item in mesh[0] if not selector_of(item) or chooses(selector_of(item), labels)] if labels else []
    asked, unasked = questions(mine, mesh[1], ports, limit)
    strange = [str(item) for item in more if ports and item.port not in ports]
    if strange:
        raise InputError(
            "A request names a port that the gateway does not have",
            where=source.where() + f" {pair}",
            why=f"{strange[0]}: the Service has the ports {sorted(ports)}",
            todo="correct requests[].port",
        )
    return Observed(pair, first, made, sorted({*asked, *more}), unasked)


def ask(cluster: Cluster, service: Object, pod: Object, question: Question, timeout: float) -> Reply:
    """Ask one pod one question, through the API server. Raises MigrationError when the API server does not let us."""
    number = target_port(service, pod, question.port)
    if number is None:
        return Reply(problem=f"no port behind {question.port}")
    meta = pod["metadata"]

    def once() -> Reply:
        with forwarded(cluster, meta["namespace"], meta["name"], number, timeout) as sock:
            try:
                return _exchange(sock, question, timeout)
            except ssl.SSLError as error:
                return Reply(problem=f"TLS: {error.reason or 'closed by the gateway'}")
            except (OSError, http.client.HTTPException) as error:
                return Reply(problem=str(error) or type(error).__name__)

    return retry(once, attempts=4)


def _exchange(sock: t.Any, question: Question, timeout: float) -> Reply:
    certificate = ""
    if question.scheme != "http":
        # Not verified here: the measure is that the target shows the very certificate that the source shows.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock, server_hostname=question.host)
        certificate = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if question.scheme == "tls":
        sock.close()
        return Reply(certificate=certificate)
    connection = http.client.HTTPConnection(question.host, timeout=timeout)
    connection.sock = sock
    try:
        headers = {"Host": question.host, "User-Agent": "servicemesh.migration proof", "Connection": "close"}
        connection.request(question.method, question.path, headers=headers)
        return Reply(connection.getresponse().status, certificate)
    finally:
        connection.close()


def compare(cluster: Cluster, seen: Observed, timeout: float) -> list[Object]:
    """Ask all, at the same time; one line for each pod of the target and question."""
    pods = [(side, pod) for side in ("source", "target") for pod in _pods(seen, side)]
    jobs = [(question, side, pod) for question in seen.asked for side, pod in pods]

    def one(job: tuple[Question, str, Object]) -> Reply:
        question, side, pod = job
        service = (seen.source if side == "source" else seen.target).service
        return ask(cluster, t.cast(Object, service), pod, question, timeout)

    measured = any(side == "source" for side, _pod in pods)
    measures: dict[Question, list[Reply]] = {question: [] for question in seen.asked}
    replies = values(each(jobs, one))
    for (question, side, _pod), reply in zip(jobs, replies, strict=True):
        if side == "source":
            measures[question].append(reply)
    return [
        _line(seen, question, pod["metadata"]["name"], measures[question] if measured else None, reply)
        for (question, side, pod), reply in zip(jobs, replies, strict=True)
        if side == "target"
    ]


def _pods(seen: Observed, side: str) -> list[Object]:
    if side == "target":
        return ready(seen.target.pods) if seen.target.service else []
    return ready(seen.source.pods)[:_MEASURES] if seen.source.service else []


def _line(seen: Observed, question: Question, pod: str, reference: list[Reply] | None, reply: Reply) -> Object:
    useless = comparable(reference)
    trouble = "" if useless else judge(reference, reply)
    return {
        **seen.pair.as_dict(),
        "pod": pod,
        "question": str(question),
        "source": [item.as_dict() for item in reference or []],
        "target": reply.as_dict(),
        "proven": not (useless or trouble),
        "trouble": trouble,
        "not_comparable": useless,
    }


def prove(cluster: Cluster, seen: Observed, wait: float, timeout: float) -> tuple[list[Object], float]:
    """Ask until the target answers as the source does: the lines, and the seconds it took. After ``wait`` a MigrationError."""
    start = time.monotonic()
    last: list[Object] = []

    def alike() -> list[Object] | None:
        last[:] = compare(cluster, seen, timeout)
        return None if any(line["trouble"] for line in last) else last

    def explain() -> str:
        bad = [f"pod {line['pod']} {line['trouble']} to {line['question']}" for line in last if line["trouble"]]
        return few(bad)

    lines = wait_until(
        alike,
        timeout=wait,
        what="the target gateway answers as the source's does",
        where=f"source/{seen.pair.namespace}/Service/{seen.pair.target_service}",
        todo="compare the routes of both meshes (mesh_config --check --diff) and run again; when only TLS fails, restart the "
        "pods of the target gateway: istiod may remember that they had no right to the certificate. The share is what it was",
        interval=0.5,
        max_interval=2.0,
        explain=explain,
    )
    return lines, time.monotonic() - start


def gateway_proof(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """See module gateway_proof."""
    pairs = pairs_of(params["gateways"])
    more = [Question(**{key: value for key, value in item.items() if value is not None}) for item in params["requests"]]
    source = Cluster("source", params["source"])
    source.guard()
    found = values(each(pairs, lambda pair: observe(source, pair)))
    # A check before there is anybody to ask has no use for thousands of routes.
    needed = not check_mode or any(_pods(item, "target") for item in found)
    objects = read_side(source, ("Gateway", "VirtualService"))[0] if needed else []
    gates = [item for item in objects if item["kind"] == "Gateway"]
    routes = [item for item in objects if item["kind"] == "VirtualService"]
    seen = [with_questions(item, source, (gates, routes), more, params["max_questions"]) for item in found]
    unasked = [line for item in seen for line in item.unasked]
    proofs: list[Object] = []
    outcome = Outcome(result={"proofs": proofs, "unasked": unasked, "seconds": 0.0})
    for item in seen:
        _one(source, item, params, check_mode, outcome)
    outcome.result["proven"] = bool(proofs) and all(line["proven"] for line in proofs)
    useless = {f"{line['question']}: {line['not_comparable']}" for line in proofs if line["not_comparable"]}
    outcome.warnings += [f"not proven: {line}" for line in sorted(useless)]
    return outcome


def _one(source: Cluster, seen: Observed, params: t.Mapping[str, t.Any], check_mode: bool, outcome: Outcome) -> None:
    name = str(seen.pair)
    if not _pods(seen, "target"):
        if check_mode:
            outcome.plan.notes.append(f"{name}: the target gateway has no ready pods yet; it is asked once it has")
            return
        raise MigrationError(
            "The target gateway cannot be proven",
            where=f"source/{seen.pair.namespace}/Service/{seen.pair.target_service}",
            why="it has no Service" if seen.target.service is None else "it has no ready pods",
            todo="build it first (phase prepare, module asm_gateway)",
        )
    if not seen.asked:
        outcome.warnings.append(f"{name}: nothing is asked, for no Gateway opens a port of it; name requests to prove it")
        return
    try:
        lines, seconds = prove(source, seen, params["wait_timeout"], params["request_timeout"])
    except MigrationError as error:
        if not _has_traffic(seen):
            raise
        # To stop here would leave the traffic where it is: the gates of traffic_shift judge it and take it back.
        outcome.warnings.append(f"{name} has traffic already and is not proven: {error.why}")
        return
    outcome.result["proofs"] += lines
    outcome.result["seconds"] = round(max(outcome.result["seconds"], seconds), 2)


def _has_traffic(seen: Observed) -> bool:
    try:
        return bool(weight_of(annotations_of(seen.target.service or {})))
    except ValueError:
        return True
