# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listeners: what a Service wants of them, and what has to be done. Pure functions.

A listener's settings are a plain dict by API parameter name; SETTINGS says which annotation gives which, and for which protocols.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lab.ccm import names
from lab.ccm.backends import Group
from lab.ccm.names import CcmError, Object, Owner

L4, L7, ANY, TCP, HTTPS = ("tcp", "udp"), ("http", "https"), ("tcp", "udp", "http", "https"), ("tcp",), ("https",)
_NOT_UDP = ("tcp", "http", "https")

# annotation (after "loadbalancer-"), API parameter, is a number, protocols that look at it when an existing listener is updated
SETTINGS: tuple[tuple[str, str, bool, tuple[str, ...]], ...] = (
    ("scheduler", "Scheduler", False, ANY),
    ("persistence-timeout", "PersistenceTimeout", True, TCP),
    ("established-timeout", "EstablishedTimeout", True, TCP),
    ("acl-status", "AclStatus", False, ANY),
    ("acl-id", "AclId", False, ANY),
    ("acl-type", "AclType", False, ANY),
    ("connection-drain", "ConnectionDrain", False, L4),
    ("connection-drain-timeout", "ConnectionDrainTimeout", True, L4),
    ("idle-timeout", "IdleTimeout", True, L7),
    ("request-timeout", "RequestTimeout", True, L7),
    ("sticky-session", "StickySession", False, L7),
    ("sticky-session-type", "StickySessionType", False, L7),
    ("cookie", "Cookie", False, L7),
    ("cookie-timeout", "CookieTimeout", True, L7),
    ("xforwardedfor-proto", "XForwardedForProto", False, L7),
    ("cert-id", "ServerCertificateId", False, HTTPS),
    ("http2-enabled", "EnableHttp2", False, HTTPS),
    ("tls-cipher-policy", "TLSCipherPolicy", False, HTTPS),
    ("healthy-threshold", "HealthyThreshold", True, ANY),
    ("unhealthy-threshold", "UnhealthyThreshold", True, ANY),
    ("health-check-connect-timeout", "HealthCheckConnectTimeout", True, L4),
    ("health-check-connect-port", "HealthCheckConnectPort", True, ANY),
    ("health-check-interval", "HealthCheckInterval", True, ANY),
    ("health-check-domain", "HealthCheckDomain", False, _NOT_UDP),
    ("health-check-uri", "HealthCheckURI", False, _NOT_UDP),
    ("health-check-httpcode", "HealthCheckHttpCode", False, _NOT_UDP),
    ("health-check-type", "HealthCheckType", False, TCP),
    ("health-check-switch", "HealthCheckSwitch", False, L4),
    ("health-check-flag", "HealthCheck", False, L7),
    ("health-check-timeout", "HealthCheckTimeout", True, L7),
    ("health-check-method", "HealthCheckMethod", False, L7),
)
# settings that count only while another one is "on"
_NEEDS_ON = {"AclId": "AclStatus", "AclType": "AclStatus", "ConnectionDrainTimeout": "ConnectionDrain"}


@dataclass(frozen=True)
class Listener:
    """One listener. `settings`: API parameter -> value (str or int), no empty values. `group_name`: while it has no group id."""

    port: int
    protocol: str
    description: str
    group_id: str = ""
    group_name: str = ""
    status: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def owned_by(self, svc: Object, cluster: str) -> bool:
        owner = Owner.parse(self.description, numeric=True)
        return owner is not None and owner.same_service(svc, cluster)


@dataclass(frozen=True)
class Action:
    """kind: create | update | delete. An update carries what is there (`old`)."""

    kind: str
    new: Listener
    old: Listener | None = None


def protocol_of(svc: Object, port: Object) -> str:
    """Annotation protocol-port (`https:443,http:80`), else the port's own."""
    own = str(port.get("protocol") or "TCP").lower()
    text = names.annotation(svc, "protocol-port")
    for part in text.split(",") if text else []:
        cut = part.split(":")
        if len(cut) < 2:
            raise CcmError(f"port and protocol format must be like 'https:443' with colon separated. got=[[{' '.join(cut)}]]")
        if cut[0] not in ANY:
            raise CcmError(f"port protocol format must be either [http|https|tcp|udp], protocol not supported wit [{cut[0]}]\n")
        if cut[1] == str(port["port"]):
            return cut[0]
    return own


def wanted(svc: Object, cluster: str) -> list[Listener]:
    """One listener a service port; raises CcmError for a malformed annotation."""
    found = []
    for port in svc["spec"].get("ports") or []:
        try:
            found.append(_wanted(svc, port, cluster))
        except CcmError as error:
            raise CcmError(f"build listener from servicePort {port['port']} error: {error}") from None
    return found


def _wanted(svc: Object, port: Object, cluster: str) -> Listener:
    protocol = protocol_of(svc, port)
    text = names.annotation(svc, "vgroup-port")
    group_id = names.group_for_port(text, port["port"]) if names.reused(svc) and text else ""
    settings: dict[str, Any] = {}
    for name, parameter, numeric, protocols in SETTINGS:
        value = names.number(svc, name, parameter) if numeric else names.annotation(svc, name)
        # a timeout of 0 is a value for PersistenceTimeout only
        if value not in (None, "") and (value != 0 or parameter == "PersistenceTimeout") and protocol in protocols:
            settings[parameter] = value
    return Listener(
        port=int(port["port"]),
        protocol=protocol,
        description=str(names.listener_owner(svc, port, cluster)),
        group_id=group_id,
        group_name=str(names.group_owner(svc, port, cluster)),
        settings=settings,
    )


def as_listener(answer: Object) -> Listener:
    """An entry of DescribeLoadBalancerListeners; the protocol's own settings lie in `TCPListenerConfig` and the like."""
    protocol = str(answer.get("ListenerProtocol") or "")
    if protocol not in ANY:
        raise CcmError(f"not support protocol {protocol}")
    nested = answer.get(f"{protocol.upper()}ListenerConfig") or {}
    settings: dict[str, Any] = {}
    for parameter in ("Bandwidth", *(item[1] for item in SETTINGS)):
        value = answer.get(parameter, nested.get(parameter))
        if value not in (None, "") and (value != 0 or parameter == "PersistenceTimeout"):
            settings[parameter] = value
    return Listener(
        port=int(answer.get("ListenerPort") or 0),
        protocol=protocol,
        description=str(answer.get("Description") or ""),
        group_id=str(answer.get("VServerGroupId") or ""),
        status=str(answer.get("Status") or ""),
        settings=settings,
    )


def with_defaults(listener: Listener) -> Listener:
    """What a new listener gets that no annotation sets: scheduler rr (which ignores weights!), no bandwidth limit."""
    settings = {"Scheduler": "rr", **listener.settings}
    if listener.protocol != "http":
        settings.setdefault("Bandwidth", -1)
    if listener.protocol in L7:
        settings = {"HealthCheck": "off", "StickySession": "off", **settings}
    return replace(listener, settings=settings)


def bound(listeners: Iterable[Listener], groups: Iterable[Group]) -> list[Listener]:
    """Every listener with its group's id, found by name; raises CcmError when there is no group of that name."""
    ids = {group.name: group.id for group in groups}
    found = []
    for item in listeners:
        if not item.group_id:
            if item.group_name not in ids:
                raise CcmError(f"find vservergroup error: can not find vgroup by name {item.group_name}")
            item = replace(item, group_id=ids[item.group_name])
        found.append(item)
    return found


def actions(new: list[Listener], old: list[Listener], svc: Object, cluster: str) -> list[Action]:
    """Same port and protocol: update. No such one: create. Gone and owned by this Service: delete; others' are left alone."""
    there = {(item.port, item.protocol): item for item in old}
    asked = {(item.port, item.protocol): item for item in new}
    plan = [Action("update", asked[key], item) for key, item in there.items() if key in asked]
    plan += [Action("delete", item) for key, item in there.items() if key not in asked and item.owned_by(svc, cluster)]
    plan += [Action("create", item) for key, item in asked.items() if key not in there]
    return plan


def updated(new: Listener, old: Listener) -> Listener | None:
    """What is to be written to bring `old` to `new` (all values read back, some replaced), or None when nothing differs.

    Description and group always count: a listener of somebody else is taken over. A setting counts only when it is asked for.
    """
    settings = dict(old.settings)
    for parameter, value in new.settings.items():
        switch = _NEEDS_ON.get(parameter)
        if switch and new.settings.get(switch) != "on":
            continue
        if str(old.settings.get(parameter, "")) != str(value):
            settings[parameter] = value
    result = replace(old, description=new.description, group_id=new.group_id, settings=settings)
    return None if result == old else result


def rebound(action: Action, group_id: str) -> Action:
    """The action with the id of a group that has just been created."""
    return replace(action, new=replace(action.new, group_id=group_id))
