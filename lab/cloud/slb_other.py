# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SLB 2014-05-15: the few other read actions that the CCM calls for HTTPS listeners and ACLs; answers without a state.

Source: CCM cert.go and loadbalancer.go. Any certificate id exists and never expires; there are no domain extensions
and no ACLs.
"""

from __future__ import annotations

from typing import Any

from .call import Call, Context, action
from .slb_load_balancer import find as find_lb

_NEVER_MS = 32493801600000


@action("slb", "DescribeServerCertificates")
def certificates(ctx: Context, call: Call) -> dict[str, Any]:
    wanted = call.get("ServerCertificateId")
    rows = [
        {
            "ServerCertificateId": wanted,
            "ServerCertificateName": wanted,
            "CommonName": "",
            "RegionId": ctx.world.region_id,
            "CreateTimeStamp": 0,
            "ExpireTimeStamp": _NEVER_MS,
        }
    ]
    return {"ServerCertificates": {"ServerCertificate": rows if wanted else []}}


@action("slb", "DescribeDomainExtensions")
def domain_extensions(ctx: Context, call: Call) -> dict[str, Any]:
    find_lb(ctx, call)
    return {"DomainExtensions": {"DomainExtension": []}}


@action("slb", "DescribeAccessControlLists")
def access_control_lists(ctx: Context, call: Call) -> dict[str, Any]:
    return {"Acls": {"Acl": []}, "PageNumber": 1, "PageSize": 50, "TotalCount": 0, "Count": 0}


@action("slb", "DescribeAvailableResource")
def available_resources(ctx: Context, call: Call) -> dict[str, Any]:
    region = ctx.world.region_id
    support = [{"AddressType": t, "AddressIPVersion": "ipv4"} for t in ("internet", "intranet")]
    zone = {"MasterZoneId": f"{region}-h", "SlaveZoneId": f"{region}-g", "SupportResources": {"SupportResource": support}}
    return {"AvailableResources": {"AvailableResource": [zone]}}
