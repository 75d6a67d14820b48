# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the preflight: each finds its trouble, none stops another, and a sound gateway passes all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._checks import CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._facts import Facts, GatewayFacts, needed_rights
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import FactMissing, Finding, run_checks
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Health
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import ConfigPlan, Item
from tests.unit.plugins.module_utils.mesh import gateway_objects as have

GATEWAYS = [{"namespace": have.NAMESPACE, "source_service": have.SOURCE, "target_gateway": have.TARGET}]


def sound(steps: list[Any] | None = None, **more: Any) -> Facts:
    """A cluster, a gateway and a load balancer as the CCM made it, with which nothing is wrong."""
    facts = Facts(
        {"migration": "shop", "gateways": GATEWAYS, "steps": steps if steps is not None else [1, 50], "source": {}, "target": {}}
    )
    facts.uids, facts.versions = {"source": "u1", "target": "u2"}, {"source": "v1", "target": "v1"}
    facts.rights = dict.fromkeys(needed_rights(GATEWAYS), True)
    facts.ccm, facts.kind = "v2.14.0", have.KIND
    seen = have.observed(weights=(50, None), reuse=False, **more)
    owner = {_ccm.TAG_OWNER: _ccm.owner_tag(seen.source.service["metadata"]["uid"]), _ccm.TAG_CLUSTER: have.CLUSTER_ID}
    groups = tuple(dataclasses.replace(group, name=group.backends[0].description) for group in seen.view.groups)
    seen.view = dataclasses.replace(seen.view, groups=groups, balancer=dataclasses.replace(seen.view.balancer, tags=owner))
    seen.source.service["spec"]["externalTrafficPolicy"] = "Cluster"
    seen.source.service["metadata"]["labels"][_ccm.LABEL_LB] = have.LB_ID
    seen.source.deployment["spec"]["template"]["spec"].pop("terminationGracePeriodSeconds")
    facts.gateways[have.TARGET] = GatewayFacts(seen)
    facts.config, facts.secrets = ConfigPlan([]), [{"namespace": "istio-system", "name": "echo-cert", "exists": True}]
    return facts


def bad(facts: Facts) -> set[tuple[str, str]]:
    """``(severity, id)`` of all errors and warnings."""
    return {(item.severity, item.id) for item in run_checks(CHECKS, facts).findings if item.severity != "info"}


def test_a_sound_gateway_passes_every_check() -> None:
    report = run_checks(CHECKS, sound())
    assert report.passed == list(CHECKS)
    assert report.summary["error"] == report.summary["warning"] == report.summary["skipped"] == 0


def seen(facts: Facts) -> Any:
    return facts.gateways[have.TARGET].seen


def service(facts: Facts) -> Any:
    return seen(facts).source.service


def annotate(facts: Facts, key: str, value: str) -> None:
    service(facts)["metadata"]["annotations"][key] = value


def listener(facts: Facts, **more: Any) -> None:
    view = seen(facts).view
    changed = tuple(dataclasses.replace(item, **more) if item.port == 80 else item for item in view.listeners)
    seen(facts).view = dataclasses.replace(view, listeners=changed)


def balancer(facts: Facts, **more: Any) -> None:
    view = seen(facts).view
    seen(facts).view = dataclasses.replace(view, balancer=dataclasses.replace(view.balancer, **more))


def deny_one(facts: Facts) -> None:
    facts.rights[needed_rights(GATEWAYS)[0]] = False


def conflict(facts: Facts) -> None:
    facts.config = ConfigPlan([Item("Gateway", "demo", "echo", "conflict", "the target has its own", ["spec.x: 1 -> 2"])])


def many_backends(facts: Facts) -> None:
    view = seen(facts).view
    group = view.groups[1]
    many = tuple(dataclasses.replace(group.backends[0], server_id=f"i-{number}") for number in range(200))
    seen(facts).view = dataclasses.replace(
        view, groups=(view.groups[0], dataclasses.replace(group, backends=many), view.groups[2])
    )


CASES: list[tuple[str, Callable[[Facts], Any], tuple[str, str]]] = [
    ("one API server", lambda f: f.uids.update(target="u1"), ("error", "cluster-identity")),
    ("a right is missing", deny_one, ("error", "permissions")),
    ("CCM hidden", lambda f: setattr(f, "ccm", ""), ("warning", "ccm-version")),
    ("CCM too old", lambda f: setattr(f, "ccm", "v2.0.0"), ("error", "ccm-version")),
    ("UDP", lambda f: listener(f, protocol="udp"), ("error", "udp-listener")),
    ("session persistence", lambda f: listener(f, persistence="PersistenceTimeout 60 s"), ("error", "session-persistence")),
    ("no group", lambda f: listener(f, group_id=""), ("error", "ports")),
    ("rr", lambda f: listener(f, scheduler="rr"), ("warning", "scheduler")),
    ("override true", lambda f: annotate(f, _ccm.OVERRIDE, "true"), ("error", "override-listeners")),
    (
        "weight 101",
        lambda f: [annotate(f, key, value) for key, value in {**have.REUSE, _ccm.WEIGHT: "101"}.items()],
        ("error", "weights"),
    ),
    ("vgroup-port with spaces", lambda f: annotate(f, _ccm.VGROUP_PORT, "rsp-80:80, rsp-443:443"), ("error", "clb-reuse")),
    ("foreign", lambda f: balancer(f, tags={_ccm.TAG_OWNER: "a-other"}), ("error", "load-balancer-owner")),
    ("two load balancers", lambda f: f.gateways[have.TARGET].twins.append("lb-2"), ("error", "load-balancer-owner")),
    ("delete protection", lambda f: balancer(f, delete_protection="off"), ("warning", "protection")),
    ("locked", lambda f: balancer(f, status="locked"), ("error", "protection")),
    ("ten tags", lambda f: seen(f).view.balancer.tags.update({f"k{n}": "v" for n in range(10)}), ("warning", "tags")),
    ("quota", many_backends, ("warning", "quota")),
    ("name taken", lambda f: setattr(seen(f), "made", have.objects(f"istio-{have.TARGET}")), ("error", "target-gateway")),
    ("no IstioGateway kind", lambda f: setattr(seen(f), "kind", None), ("error", "target-gateway")),
    ("one pod", lambda f: seen(f).source.deployment.update(have.deployment(replicas=1)), ("warning", "gateway-ready")),
    ("no pod ready", lambda f: seen(f).source.deployment.update(have.deployment(ready=False)), ("error", "gateway-ready")),
    ("shared pods", lambda f: seen(f).source.sharing.append(have.service("inside")), ("warning", "gateway-shared")),
    (
        "unhealthy",
        lambda f: f.gateways[have.TARGET].health.update({80: [Health(80, "i-ack0", "", 30080, "abnormal")]}),
        ("warning", "gateway-health"),
    ),
    ("Argo CD", lambda f: annotate(f, "argocd.argoproj.io/tracking-id", "x"), ("warning", "gitops")),
    (
        "Flux by its field manager",
        lambda f: service(f)["metadata"].update(managedFields=[{"manager": "kustomize-controller"}]),
        ("warning", "gitops"),
    ),
    ("Local", lambda f: service(f)["spec"].update(externalTrafficPolicy="Local"), ("warning", "traffic-policy")),
    ("conflict", conflict, ("error", "mesh-config")),
    ("secret missing", lambda f: f.secrets[0].update(exists=False), ("error", "secrets")),
]


@pytest.mark.parametrize(("change", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_trouble_is_found_by_its_check_and_by_no_other(change: Callable[[Facts], Any], expected: tuple[str, str]) -> None:
    facts = sound()
    change(facts)
    assert bad(facts) == {expected}


def test_a_node_without_provider_id() -> None:
    assert ("error", "node-provider-id") in bad(sound(bad_node=True))


def test_the_share_that_a_step_really_gives() -> None:
    facts = sound(steps=[1, 50])
    messages = [item.message for item in run_checks(CHECKS, facts).findings if item.id == "step-share"]
    assert any(message.startswith("a share of 50 % is 50 %") for message in messages)
    view = seen(facts).view
    nodes = tuple(have._node(f"node{number}", f"cn-hangzhou.i-{number}") for number in range(30))
    seen(facts).view = dataclasses.replace(view, nodes=nodes)
    far = [item for item in run_checks(CHECKS, facts).findings if item.id == "step-share" and item.severity == "warning"]
    # 30 nodes: a weight below 30 is 1 a node, so 1 % asked is 30:(30 x 3) = 25 %.
    assert [item.message for item in far] == ["a share of 1 % is 25 % (weights 90:30)"] or far[0].message.startswith(
        "a share of 1 % is 25 %"
    )


def test_every_finding_says_what_to_do_when_it_is_an_error() -> None:
    for _name, change, _expected in CASES:
        facts = sound()
        change(facts)
        errors = run_checks(CHECKS, facts).of("error")
        assert all(item.hint and item.subject for item in errors)


def test_all_checks_run_whatever_one_of_them_does() -> None:
    def breaks(facts: Facts) -> Iterator[Finding]:
        yield from ()  # makes it a generator, as every check is
        raise MigrationError("cannot", where="here", why="because", todo="mend")

    def lacks(facts: Facts) -> Iterator[Finding]:
        yield from ()
        raise FactMissing("rights")

    def fine(facts: Facts) -> Iterator[Finding]:
        yield Finding("c", "info", "x", "y")

    report = run_checks({"a": breaks, "b": lacks, "c": fine}, sound())
    assert [(item.id, item.severity) for item in report.findings] == [("a", "error"), ("c", "info")]
    assert (report.passed, report.skipped) == (["c"], ["b"])


def test_what_could_not_be_read_is_skipped_and_not_passed() -> None:
    facts = sound()
    facts.rights = facts.config = facts.secrets = facts.ccm = None
    assert run_checks(CHECKS, facts).skipped == ["permissions", "ccm-version", "mesh-config", "secrets"]


def test_a_retired_gateway_is_no_error() -> None:
    facts = sound()
    facts.gateways[have.TARGET].retired = True
    seen(facts).source.service = seen(facts).source.deployment = None
    view = seen(facts).view
    seen(facts).view = dataclasses.replace(view, source=None)
    assert bad(facts) == set()
    assert any(item.id == "retired" for item in run_checks(CHECKS, facts).findings)
