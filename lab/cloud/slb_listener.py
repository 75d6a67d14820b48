# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SLB 2014-05-15: listeners of TCP, UDP, HTTP and HTTPS, and the health of what is behind them.

Source: request and response models of alibabacloud_slb20140515 3.3.31 and CCM listener.go. A new listener is stopped
until StartLoadBalancerListener. A Set call changes only the parameters that it brings. The default scheduler of the
API is wrr; it is the CCM that asks for rr.
"""

from __future__ import annotations

from typing import Any

from .call import Call, Context, action, token_page
from .errors import (
    ApiError,
    invalid,
    listener_exists,
    listener_not_found,
    load_balancer_not_found,
    missing,
    vserver_group_not_found,
)
from .model import Listener, LoadBalancer, listener_key
from .slb_load_balancer import find as find_lb

SCHEDULERS = {"tcp": ("wrr", "rr", "wlc", "sch", "tch"), "udp": ("wrr", "rr", "wlc", "sch", "tch", "qch")}
HTTP_SCHEDULERS = ("wrr", "rr", "wlc")

_CHECK_4: dict[str, Any] = {
    "HealthCheck": "on",
    "HealthyThreshold": 3,
    "UnhealthyThreshold": 3,
    "HealthCheckConnectTimeout": 5,
    "HealthCheckInterval": 2,
    "HealthCheckConnectPort": 0,
}
_CHECK_7: dict[str, Any] = {
    "HealthCheck": "off",
    "HealthCheckDomain": "",
    "HealthCheckURI": "/",
    "HealthyThreshold": 3,
    "UnhealthyThreshold": 3,
    "HealthCheckTimeout": 5,
    "HealthCheckInterval": 2,
    "HealthCheckConnectPort": 0,
    "HealthCheckHttpCode": "http_2xx",
    "HealthCheckMethod": "head",
    "HealthCheckType": "http",
}
_HTTP: dict[str, Any] = {
    "StickySession": "off",
    "StickySessionType": "",
    "Cookie": "",
    "CookieTimeout": 0,
    "IdleTimeout": 15,
    "RequestTimeout": 60,
    "Gzip": "on",
    "XForwardedFor": "on",
    "XForwardedFor_proto": "off",
    "XForwardedFor_SLBIP": "off",
    "XForwardedFor_SLBID": "off",
    "XForwardedFor_SLBPORT": "off",
    "XForwardedFor_ClientSrcPort": "off",
    **_CHECK_7,
}
# What a listener of each protocol can be told beyond the common fields, with the value of a listener that was not told.
SETTINGS: dict[str, dict[str, Any]] = {
    "tcp": {
        "PersistenceTimeout": 0,
        "EstablishedTimeout": 900,
        "HealthCheckType": "tcp",
        "HealthCheckDomain": "",
        "HealthCheckURI": "",
        "HealthCheckHttpCode": "",
        "ConnectionDrain": "off",
        "ConnectionDrainTimeout": 0,
        "ProxyProtocolV2Enabled": "false",
        **_CHECK_4,
    },
    "udp": {
        "ConnectionDrain": "off",
        "ConnectionDrainTimeout": 0,
        "HealthCheckReq": "",
        "HealthCheckExp": "",
        "ProxyProtocolV2Enabled": "false",
        **_CHECK_4,
    },
    "http": {"ListenerForward": "off", "ForwardPort": 0, **_HTTP},
    "https": {
        "ServerCertificateId": "",
        "CACertificateId": "",
        "EnableHttp2": "on",
        "TLSCipherPolicy": "tls_cipher_policy_1_0",
        **_HTTP,
    },
}
_LIMITS = {
    "PersistenceTimeout": (0, 3600),
    "EstablishedTimeout": (10, 900),
    "HealthyThreshold": (2, 10),
    "UnhealthyThreshold": (2, 10),
    "HealthCheckInterval": (1, 50),
    "ConnectionDrainTimeout": (0, 900),
}


def _find(lb: LoadBalancer, protocol: str, port: int) -> Listener:
    listener = lb.listeners.get(listener_key(protocol, port))
    if listener is None or (protocol and listener.protocol != protocol):
        raise listener_not_found()
    return listener


def _locate(lb: LoadBalancer, call: Call) -> Listener:
    """The listener of Start, Stop and Delete: the protocol may be left out where the port says enough."""
    port = call.integer("ListenerPort", low=1, high=65535)
    protocol = call.get("ListenerProtocol").lower()
    if protocol:
        return _find(lb, protocol, port)
    found = [ln for ln in lb.listeners.values() if ln.port == port]
    if not found:
        raise listener_not_found()
    if len(found) > 1:
        raise missing("ListenerProtocol")
    return found[0]


def _read(ctx: Context, lb: LoadBalancer, listener: Listener, call: Call) -> dict[str, Any]:
    """The attributes of a listener after this call, as keyword arguments of Listener."""
    protocol = listener.protocol
    scheduler = call.get("Scheduler", listener.scheduler).lower()
    if scheduler not in SCHEDULERS.get(protocol, HTTP_SCHEDULERS):
        raise invalid("Scheduler")
    group_id = listener.vserver_group_id
    if call.get("VServerGroup").lower() == "off":
        group_id = ""
    elif call.get("VServerGroupId"):
        group_id = call.get("VServerGroupId")
    elif call.get("VServerGroup").lower() == "on" and not group_id:
        raise missing("VServerGroupId")
    if group_id:
        group = ctx.world.groups.get(group_id)
        if group is None or group.load_balancer_id != lb.id:
            raise vserver_group_not_found()
    settings = dict(listener.settings)
    for name, default in SETTINGS[protocol].items():
        if not call.has(name):
            continue
        if isinstance(default, int):
            low, high = _LIMITS.get(name, (0, 65535))
            settings[name] = call.integer(name, default, low=low, high=high)
        else:
            settings[name] = call.get(name).lower() if name == "ProxyProtocolV2Enabled" else call.get(name)
    if call.get("HealthCheckSwitch"):
        settings["HealthCheck"] = call.get("HealthCheckSwitch")
    if settings["HealthCheck"] not in ("on", "off"):
        raise invalid("HealthCheck")
    bandwidth = call.integer("Bandwidth", listener.bandwidth)
    if bandwidth != -1 and not 0 <= bandwidth <= 5120:
        raise invalid("Bandwidth")
    return {
        "protocol": protocol,
        "port": listener.port,
        "status": listener.status,
        "description": call.get("Description", listener.description),
        "scheduler": scheduler,
        "bandwidth": bandwidth,
        "vserver_group_id": group_id,
        "backend_port": call.integer("BackendServerPort", listener.backend_port),
        "acl_id": call.get("AclId", listener.acl_id),
        "acl_status": call.get("AclStatus", listener.acl_status),
        "acl_type": call.get("AclType", listener.acl_type),
        "settings": settings,
        "tags": listener.tags,
    }


def _create(protocol: str) -> None:
    @action("slb", f"CreateLoadBalancer{protocol.upper()}Listener", writes=True)
    def create(ctx: Context, call: Call) -> dict[str, Any]:
        lb = find_lb(ctx, call)
        port = call.integer("ListenerPort", low=1, high=65535)
        if listener_key(protocol, port) in lb.listeners:
            raise listener_exists()
        if not call.get("VServerGroupId") and not call.get("BackendServerPort") and call.get("ListenerForward") != "on":
            raise missing("BackendServerPort")
        if protocol == "https" and not call.get("ServerCertificateId"):
            raise missing("ServerCertificateId")
        blank = Listener(protocol=protocol, port=port, settings=dict(SETTINGS[protocol]))
        blank.tags = {k: v or "" for k, v in call.tags()}
        lb.listeners[blank.key()] = Listener(**_read(ctx, lb, blank, call))
        return {}


def _set(protocol: str) -> None:
    @action("slb", f"SetLoadBalancer{protocol.upper()}ListenerAttribute", writes=True)
    def set_attribute(ctx: Context, call: Call) -> dict[str, Any]:
        lb = find_lb(ctx, call)
        listener = _find(lb, protocol, call.integer("ListenerPort", low=1, high=65535))
        lb.listeners[listener.key()] = Listener(**_read(ctx, lb, listener, call))
        return {}


def _describe(protocol: str) -> None:
    @action("slb", f"DescribeLoadBalancer{protocol.upper()}ListenerAttribute")
    def describe(ctx: Context, call: Call) -> dict[str, Any]:
        lb = find_lb(ctx, call)
        listener = _find(lb, protocol, call.integer("ListenerPort", low=1, high=65535))
        answer = {**_common(lb, listener), **listener.settings}
        answer["AclIds"] = {"AclId": [listener.acl_id] if listener.acl_id else []}
        answer["Tags"] = {"Tag": [{"TagKey": k, "TagValue": v} for k, v in listener.tags.items()]}
        if "ProxyProtocolV2Enabled" in answer:
            answer["ProxyProtocolV2Enabled"] = answer["ProxyProtocolV2Enabled"] == "true"
        if protocol in ("http", "https"):
            answer.update({"Rules": {"Rule": []}, "SecurityStatus": "off"})
        if protocol == "https":
            answer["DomainExtensions"] = {"DomainExtension": []}
        return answer


for _protocol in SETTINGS:
    _create(_protocol)
    _set(_protocol)
    _describe(_protocol)


def _common(lb: LoadBalancer, listener: Listener) -> dict[str, Any]:
    return {
        "LoadBalancerId": lb.id,
        "ListenerPort": listener.port,
        "Status": listener.status,
        "Description": listener.description,
        "Scheduler": listener.scheduler,
        "Bandwidth": listener.bandwidth,
        "VServerGroupId": listener.vserver_group_id,
        "BackendServerPort": listener.backend_port,
        "AclId": listener.acl_id,
        "AclStatus": listener.acl_status,
        "AclType": listener.acl_type,
    }


@action("slb", "DescribeLoadBalancerListeners")
def describe_all(ctx: Context, call: Call) -> dict[str, Any]:
    ids = call.items("LoadBalancerId")
    if len(ids) > 10:
        raise invalid("LoadBalancerId", "At most 10.")
    if any(i not in ctx.world.load_balancers for i in ids):
        raise load_balancer_not_found()
    lbs = [lb for lb in ctx.world.load_balancers.values() if not call.region or lb.region_id == call.region]
    protocol, port, description = call.get("ListenerProtocol").lower(), call.get("ListenerPort"), call.get("Description")
    rows: list[dict[str, Any]] = []
    for lb in lbs:
        if ids and lb.id not in ids:
            continue
        for ln in sorted(lb.listeners.values(), key=lambda x: (x.port, x.protocol)):
            if (protocol and ln.protocol != protocol) or (port and str(ln.port) != port):
                continue
            if description and ln.description != description:
                continue
            config = dict(ln.settings)
            config["HealthCheckSwitch"] = config["HealthCheck"]
            rows.append(
                {
                    **_common(lb, ln),
                    "ListenerProtocol": ln.protocol,
                    "AclIds": [ln.acl_id] if ln.acl_id else [],
                    "Tags": [{"TagKey": k, "TagValue": v} for k, v in ln.tags.items()],
                    f"{ln.protocol.upper()}ListenerConfig": config,
                }
            )
    part, following, size = token_page(call, rows, 20, 100)
    return {"Listeners": part, "NextToken": following, "MaxResults": size, "TotalCount": len(rows)}


@action("slb", "StartLoadBalancerListener", writes=True)
def start(ctx: Context, call: Call) -> dict[str, Any]:
    _locate(find_lb(ctx, call), call).status = "running"
    return {}


@action("slb", "StopLoadBalancerListener", writes=True)
def stop(ctx: Context, call: Call) -> dict[str, Any]:
    _locate(find_lb(ctx, call), call).status = "stopped"
    return {}


@action("slb", "DeleteLoadBalancerListener", writes=True)
def delete(ctx: Context, call: Call) -> dict[str, Any]:
    lb = find_lb(ctx, call)
    listener = _locate(lb, call)
    del lb.listeners[listener.key()]
    return {}


@action("slb", "DescribeHealthStatus")
def health(ctx: Context, call: Call) -> dict[str, Any]:
    """normal, abnormal, or unavailable: no health check (switched off, listener stopped, protocol without data plane)."""
    lb = find_lb(ctx, call)
    port, protocol = call.get("ListenerPort"), call.get("ListenerProtocol").lower()
    listeners = [ln for ln in lb.listeners.values() if port in ("", str(ln.port)) and protocol in ("", ln.protocol)]
    if port and not listeners:
        raise ApiError("ListenerNotFound", "You have not created a listener for the specified port of the load balancer.", 404)
    rows = []
    for ln in sorted(listeners, key=lambda x: x.port):
        group = ctx.world.groups.get(ln.vserver_group_id)
        for backend in group.backends if group else []:
            address = ctx.world.address_of(backend)
            checked = ln.status == "running" and ln.settings["HealthCheck"] == "on" and lb.status == "active"
            seen = ctx.health.get((f"{lb.id}.{ln.port}", f"{address}:{backend.port}"), "unavailable") if address else "abnormal"
            rows.append(
                {
                    "ListenerPort": ln.port,
                    "Protocol": ln.protocol,
                    "Port": backend.port,
                    "ServerId": backend.server_id,
                    "ServerIp": address,
                    "Type": backend.type,
                    "ServerHealthStatus": seen if checked else "unavailable",
                }
            )
    return {"BackendServers": {"BackendServer": rows}}
