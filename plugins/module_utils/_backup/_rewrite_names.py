# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The forms in which a mesh writes names: hosts, Gateways, principals. Each is taken apart, and put together in the same form.

A host of a Service is ``web`` (of the object's own namespace), ``web.shop``, ``web.shop.svc`` or ``web.shop.svc.cluster.local``,
with names of pods or a ``*`` before it, and a port behind it. Everything else is a name outside of the cluster. Pure functions.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

DOMAIN = "cluster.local"
# Domains of other clusters of the same set (multi-cluster services).
_DOMAINS = ("cluster.local", "clusterset.local")
_PORT = re.compile(r":(\d{1,5}|\*)$")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_SERVICE = re.compile(rf"(?P<lead>(?:[^/\s:]+\.)?)(?P<name>{_LABEL}|\*)\.(?P<ns>{_LABEL})\.svc(?P<rest>\.\S+)?")
_TWO = re.compile(rf"(?P<name>{_LABEL})\.(?P<ns>{_LABEL})")
_ONE = re.compile(_LABEL)


@dataclasses.dataclass(frozen=True)
class Host:
    """A host, taken apart.

    :arg name, namespace: of the Service; ``name`` is ``*`` for all Services of a namespace. Both are empty for other hosts.
    :arg form: ``short``, ``two`` (name.ns), ``full`` (with ``.svc``), or ``other``.
    :arg lead: what stands before the Service's name, with its dot: a pod's name, or ``*.``.
    :arg rest: what stands behind ``.svc``, with its dot.
    :arg port: ``:80`` behind it, or empty.
    :arg text: all of it, but the port.
    """

    text: str
    form: str
    name: str = ""
    namespace: str = ""
    lead: str = ""
    rest: str = ""
    port: str = ""

    @property
    def service(self) -> tuple[str, str] | None:
        """``(name, namespace)``, when it is the host of a Service."""
        return (self.name, self.namespace) if self.name else None

    @property
    def key(self) -> str:
        """The same for all forms of one host."""
        return f"{self.name}.{self.namespace}" if self.name else self.text.lower()

    def renamed(self, name: str, namespace: str, own: str, domain: str = DOMAIN) -> str:
        """The same form for another Service, in an object of the namespace ``own``."""
        if self.form == "short":
            made = name if namespace == own else f"{name}.{namespace}.svc.{domain}"
        elif self.form == "two":
            made = f"{name}.{namespace}"
        else:
            made = f"{self.lead}{name}.{namespace}.svc{self.rest}"
        return made + self.port


def host_of(text: str, namespace: str = "", domain: str = DOMAIN) -> Host:
    """Take a host apart. ``namespace`` is that of the object it stands in; without one, a name without a dot is no Service."""
    found = _PORT.search(text)
    port = found[0] if found else ""
    bare = text[: len(text) - len(port)] if port else text
    full = _SERVICE.fullmatch(bare)
    if full:
        rest = full["rest"] or ""
        if not rest or rest[1:].rstrip(".") in (*_DOMAINS, domain):
            return Host(bare, "full", full["name"], full["ns"], full["lead"], rest, port)
    two = _TWO.fullmatch(bare)
    if two and not bare.replace(".", "").isdigit():
        return Host(bare, "two", two["name"], two["ns"], port=port)
    if namespace and _ONE.fullmatch(bare) and bare != "*":
        return Host(bare, "short", bare, namespace, port=port)
    return Host(bare, "other", port=port)


def gateway_of(text: str, namespace: str) -> tuple[str, str, str] | None:
    """``(namespace, name, form)`` of a reference to a Gateway; None for ``mesh``. As Istio's resolveGatewayName does it.

    Forms: ``slash`` (ns/name), ``dot`` (./name), ``short`` (name), and the old ones ``two`` (name.ns) and ``full``
    (name.ns.svc.cluster.local).
    """
    if text == "mesh" or not text:
        return None
    if "/" in text:
        place, _slash, name = text.partition("/")
        return (namespace, name, "dot") if place == "." else (place, name, "slash")
    parts = text.split(".")
    if len(parts) == 1:
        return namespace, text, "short"
    return parts[1], parts[0], "two" if len(parts) == 2 else "full"


def gateway_text(namespace: str, name: str, form: str, own: str, before: str) -> str:
    """The reference in its form again; a form without a namespace cannot leave its own."""
    if form in ("short", "dot") and namespace == own:
        return name if form == "short" else f"./{name}"
    if form == "two":
        return f"{name}.{namespace}"
    if form == "full":
        return ".".join([name, namespace, *before.split(".")[2:]])
    return f"{namespace}/{name}"


# spiffe://cluster.local/ns/shop/sa/web, cluster.local/ns/shop/sa/web, */ns/shop/*, and what else wildcards make of it
_PRINCIPAL = re.compile(r"(?P<head>(?:.*/)?ns/)(?P<ns>[^/]+)(?P<sa>/sa/)?(?P<name>[^/]*)(?P<tail>.*)", re.S)


def principal_of(text: str) -> t.Match[str] | None:
    """A principal, taken apart (``head``, ``ns``, ``sa``, ``name``, ``tail``); None when it names no namespace."""
    return _PRINCIPAL.fullmatch(text)


_URL = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?)(?P<host>[^/?#@:]+)(?P<tail>.*)", re.S)


def url_of(text: str) -> t.Match[str] | None:
    """A URL, taken apart (``head``, ``host``, ``tail``)."""
    return _URL.fullmatch(text)


# outbound|80|v1|web.shop.svc.cluster.local, and with _._ or .. between for SNI: outbound_.80_.v1_.web.shop.svc.cluster.local
_CLUSTER = re.compile(
    r"(?P<way>inbound|outbound|inbound-vip)(?P<a>\||_\.)(?P<port>\d*)(?P=a)(?P<subset>[^|]*?)(?P=a)(?P<host>[^|\s]*)(?P<tail>.*)"
)


def cluster_of(text: str) -> t.Match[str] | None:
    """The name of an Envoy cluster as Istio makes it (``way``, ``a``, ``port``, ``subset``, ``host``, ``tail``)."""
    return _CLUSTER.fullmatch(text)
