# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Where in the objects of a mesh a name stands, and what kind of name it is: one table, no code.

A path is keys with dots between them; ``[]`` is every item of a list, ``{}`` every value of a mapping, ``**`` every depth.
Types (what they do is in _rewrite_types.py):

======================  ============================================================================================
``host``                the host of a Service, short names are of the object's namespace
``dns``                 a host without short names; ``ns/host``, and a port behind it, are understood
``url``                 its host
``destination``         ``{host, subset, port.number}``
``own_host``            as ``host``, and the subsets and ports of the object belong to it
``gateway``             the name of a Gateway: ``ns/name``, ``./name``, ``name``, ``name.ns.svc...``
``namespace``           a namespace; ``.``, ``*`` and ``~`` are none
``principal``           ``domain/ns/NAMESPACE/sa/ACCOUNT``, with or without ``spiffe://``
``account``             ``namespace/account`` or ``account``
``name:Kind``           the name of an object of that kind in the object's namespace
``ref:Kind``            ``{kind, name, namespace, group, port, sectionName}``; Kind is meant when it says none
``backend``             ``{name, port.number, port.name}`` of an Ingress
``subset``              a subset of the object's own host
``selector``            labels that choose pods
``labels``              labels of pods
``annotations``         annotations
``gateway_port``        a port (number or name) that a gateway opens
``service_port``        a port of the object's own host
``workload_port``       a port of the pods; ``workload_port_keys`` are those that are keys of a mapping
``route_port``          a port in a match of a VirtualService: of the gateway, or of the Service
``condition``           ``{key, values}`` of an AuthorizationPolicy
``class:gateway``       a GatewayClass; ``class:ingress`` an IngressClass; ``class:revision`` a revision of the control plane
``cluster_name``        ``outbound|80|v1|web.shop.svc.cluster.local``
======================  ============================================================================================
"""

from __future__ import annotations

import typing as t

NETWORKING, SECURITY = "networking.istio.io", "security.istio.io"
TELEMETRY, EXTENSIONS = "telemetry.istio.io", "extensions.istio.io"
GATEWAY_API = "gateway.networking.k8s.io"
Fields = dict[str, str]


def _under(prefix: str, fields: Fields) -> Fields:
    return {f"{prefix}.{path}" if path else prefix: kind for path, kind in fields.items()}


# In every object.
COMMON: Fields = {
    "metadata.labels": "labels",
    "metadata.annotations": "annotations",
    "metadata.ownerReferences[]": "ref:",
}
_CHOOSES: Fields = {
    "spec.selector.matchLabels": "selector",
    "spec.targetRef": "ref:Service",
    "spec.targetRefs[]": "ref:Service",
}
_ROUTE: Fields = {
    "match[].gateways[]": "gateway",
    "match[].port": "route_port",
    "match[].sourceLabels": "selector",
    "match[].sourceNamespace": "namespace",
    "match[].sniHosts[]": "dns",
    "match[].authority.exact": "dns",
    "route[].destination": "destination",
    "mirror": "destination",
    "mirrors[].destination": "destination",
    "rewrite.authority": "dns",
    "redirect.authority": "dns",
    "delegate": "ref:VirtualService",
}
_POLICY: Fields = {
    "portLevelSettings[].port.number": "service_port",
    "tls.sni": "dns",
    "tls.subjectAltNames[]": "principal",
    "tls.credentialName": "name:Secret",
    "portLevelSettings[].tls.sni": "dns",
    "portLevelSettings[].tls.subjectAltNames[]": "principal",
    "portLevelSettings[].tls.credentialName": "name:Secret",
}
_ENDPOINT: Fields = {
    "address": "dns",
    "labels": "labels",
    "serviceAccount": "name:ServiceAccount",
    "ports{}": "workload_port",
}
_SOURCE: Fields = {
    **{f"{no}rincipals[]": "principal" for no in ("p", "notP")},
    **{f"{no}amespaces[]": "namespace" for no in ("n", "notN")},
    **{f"{no}erviceAccounts[]": "account" for no in ("s", "notS")},
}
_PARENTS: Fields = {"spec.parentRefs[]": "ref:Gateway", "spec.hostnames[]": "dns", "spec.rules[].backendRefs[]": "ref:Service"}
_HTTP_FILTERS: Fields = {
    f"spec.rules[].{place}filters[].{field}": kind
    for place in ("", "backendRefs[].")
    for field, kind in (
        ("requestMirror.backendRef", "ref:Service"),
        ("urlRewrite.hostname", "dns"),
        ("requestRedirect.hostname", "dns"),
    )
}
_POD: Fields = {
    "spec.selector.matchLabels": "labels",
    "spec.template.metadata.labels": "labels",
    "spec.template.metadata.annotations": "annotations",
    "spec.template.spec.serviceAccountName": "name:ServiceAccount",
    "spec.template.spec.serviceAccount": "name:ServiceAccount",
    "spec.template.spec.containers[].ports[].containerPort": "workload_port",
}

FIELDS: dict[tuple[str, str], Fields] = {
    (NETWORKING, "VirtualService"): {
        "spec.hosts[]": "own_host",
        "spec.gateways[]": "gateway",
        "spec.exportTo[]": "namespace",
        **_under("spec.http[]", _ROUTE),
        **_under("spec.tls[]", _ROUTE),
        **_under("spec.tcp[]", _ROUTE),
    },
    (NETWORKING, "DestinationRule"): {
        "spec.host": "own_host",
        "spec.subsets[].name": "subset",
        "spec.subsets[].labels": "selector",
        "spec.exportTo[]": "namespace",
        "spec.workloadSelector.matchLabels": "selector",
        **_under("spec.trafficPolicy", _POLICY),
        **_under("spec.subsets[].trafficPolicy", _POLICY),
    },
    (NETWORKING, "Gateway"): {
        "spec.selector": "selector",
        "spec.servers[].hosts[]": "dns",
        "spec.servers[].port.number": "gateway_port",
        "spec.servers[].port.name": "gateway_port",
        "spec.servers[].tls.credentialName": "name:Secret",
        "spec.servers[].tls.credentialNames[]": "name:Secret",
        "spec.servers[].tls.subjectAltNames[]": "principal",
    },
    (NETWORKING, "ServiceEntry"): {
        "spec.hosts[]": "own_host",
        "spec.exportTo[]": "namespace",
        "spec.subjectAltNames[]": "principal",
        "spec.workloadSelector.labels": "selector",
        "spec.ports[].number": "service_port",
        "spec.ports[].name": "service_port",
        "spec.ports[].targetPort": "workload_port",
        **_under("spec.endpoints[]", _ENDPOINT),
    },
    (NETWORKING, "Sidecar"): {
        "spec.workloadSelector.labels": "selector",
        "spec.ingress[].port.number": "workload_port",
        "spec.egress[].hosts[]": "dns",
        "spec.outboundTrafficPolicy.egressProxy": "destination",
    },
    (NETWORKING, "WorkloadEntry"): _under("spec", _ENDPOINT),
    (NETWORKING, "WorkloadGroup"): {
        "spec.metadata.labels": "labels",
        "spec.metadata.annotations": "annotations",
        **_under("spec.template", _ENDPOINT),
    },
    (NETWORKING, "ProxyConfig"): {"spec.selector.matchLabels": "selector"},
    (NETWORKING, "EnvoyFilter"): {
        "spec.workloadSelector.labels": "selector",
        "spec.targetRefs[]": "ref:Service",
        "spec.configPatches[].match.cluster.service": "dns",
        "spec.configPatches[].match.cluster.name": "cluster_name",
        "spec.configPatches[].match.routeConfiguration.gateway": "gateway",
        "spec.configPatches[].match.routeConfiguration.vhost.name": "dns",
        "spec.configPatches[].patch.value.**.cluster": "cluster_name",
        "spec.configPatches[].patch.value.**.cluster_name": "cluster_name",
        "spec.configPatches[].patch.value.name": "cluster_name",
    },
    (SECURITY, "AuthorizationPolicy"): {
        **_CHOOSES,
        **_under("spec.rules[].from[].source", _SOURCE),
        "spec.rules[].to[].operation.hosts[]": "dns",
        "spec.rules[].to[].operation.notHosts[]": "dns",
        "spec.rules[].to[].operation.ports[]": "workload_port",
        "spec.rules[].to[].operation.notPorts[]": "workload_port",
        "spec.rules[].when[]": "condition",
    },
    (SECURITY, "PeerAuthentication"): {
        "spec.selector.matchLabels": "selector",
        "spec.portLevelMtls": "workload_port_keys",
    },
    (SECURITY, "RequestAuthentication"): {**_CHOOSES, "spec.jwtRules[].jwksUri": "url"},
    (TELEMETRY, "Telemetry"): {**_CHOOSES},
    (EXTENSIONS, "WasmPlugin"): {**_CHOOSES, "spec.url": "url", "spec.imagePullSecret": "name:Secret"},
    (GATEWAY_API, "GatewayClass"): {},
    (GATEWAY_API, "Gateway"): {
        "spec.gatewayClassName": "class:gateway",
        "spec.listeners[].hostname": "dns",
        "spec.listeners[].port": "gateway_port",
        "spec.listeners[].tls.certificateRefs[]": "ref:Secret",
    },
    **{(GATEWAY_API, kind): {**_PARENTS, **_HTTP_FILTERS} for kind in ("HTTPRoute", "GRPCRoute")},
    **{(GATEWAY_API, kind): _PARENTS for kind in ("TCPRoute", "TLSRoute", "UDPRoute")},
    (GATEWAY_API, "ReferenceGrant"): {"spec.from[].namespace": "namespace", "spec.to[]": "ref:"},
    (GATEWAY_API, "BackendTLSPolicy"): {"spec.targetRefs[]": "ref:Service", "spec.validation.hostname": "dns"},
    ("networking.k8s.io", "IngressClass"): {},
    ("networking.k8s.io", "Ingress"): {
        "spec.ingressClassName": "class:ingress",
        "spec.rules[].host": "dns",
        "spec.tls[].hosts[]": "dns",
        "spec.tls[].secretName": "name:Secret",
        "spec.defaultBackend.service": "backend",
        "spec.rules[].http.paths[].backend.service": "backend",
    },
    ("apiextensions.k8s.io", "CustomResourceDefinition"): {},
    ("", "Namespace"): {},
    ("", "Secret"): {},
    ("", "ConfigMap"): {},
    ("", "ServiceAccount"): {"secrets[].name": "name:Secret", "imagePullSecrets[].name": "name:Secret"},
    ("", "Pod"): {"spec.serviceAccountName": "name:ServiceAccount", "spec.containers[].ports[].containerPort": "workload_port"},
    ("", "Service"): {
        "spec.selector": "selector",
        "spec.externalName": "dns",
        "spec.ports[].port": "service_port",
        "spec.ports[].name": "service_port",
        "spec.ports[].targetPort": "workload_port",
    },
    **{("apps", kind): _POD for kind in ("DaemonSet", "Deployment", "StatefulSet")},
    ("autoscaling", "HorizontalPodAutoscaler"): {"spec.scaleTargetRef": "ref:Deployment"},
    ("policy", "PodDisruptionBudget"): {"spec.selector.matchLabels": "labels"},
    ("istio.alibabacloud.com", "IstioGateway"): {
        "spec.serviceAnnotations": "annotations",
        "spec.podAnnotations": "annotations",
        "spec.serviceLabels": "labels",
        "spec.podLabels": "labels",
        "spec.ports[].port": "gateway_port",
    },
}

# fmt: off
TYPES = frozenset((
    "host", "dns", "url", "destination", "own_host", "gateway", "namespace", "principal", "account", "backend", "subset",
    "selector", "labels", "annotations", "gateway_port", "service_port", "workload_port", "workload_port_keys", "route_port",
    "condition", "cluster_name",
))
# fmt: on
Step = tuple[str, ...]


def check_type(name: str) -> bool:
    """Whether a field of a rule set names a type that there is."""
    kind, _colon, more = name.partition(":")
    if kind in ("name", "ref"):
        return kind == "ref" or bool(more)
    return name in TYPES or name in ("class:gateway", "class:ingress", "class:revision")


def steps(path: str) -> Step:
    """``spec.http[].route{}`` -> ``("spec", "http", "[]", "route", "{}")``."""
    made: list[str] = []
    for part in path.split("."):
        name = part
        marks: list[str] = []
        while name.endswith(("[]", "{}")):
            marks.insert(0, name[-2:])
            name = name[:-2]
        made += [name, *marks] if name else marks
    return tuple(made)


def compiled(fields: t.Mapping[str, str]) -> list[tuple[Step, str]]:
    """The fields of one kind, with those that every object has."""
    return [(steps(path), kind) for path, kind in {**COMMON, **fields}.items()]
