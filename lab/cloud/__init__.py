# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Alibaba Cloud's SLB (classic load balancer), ECS and VPC APIs, with HAProxy as its data plane; and for ASM's
(service mesh), whose facts and gaps asm.py names.

Built from: the request and response models and docstrings of the vendor's Python SDK (alibabacloud_slb20140515 3.3.31);
the SLB page "Common error codes"; the vendor's signature pages; the source of the cloud-controller-manager v2.8.0,
v2.11.2 and v2.14.0 (kubernetes/cloud-provider-alibaba-cloud) and a recording of its calls. Nothing of this collection's
own client code was looked at, so that the two can disagree.

Assumed, not documented: weight 0 takes no traffic under rr; weights act on new connections at once; a backend gets no
traffic before its first good health check; deleting a load balancer takes all in it; SetVServerGroupAttribute passes
over backends that are not in the group; adding one that is there changes nothing; established connections outlive a
change of weight, a removed backend, a stopped or changed listener (the real service may cut some of these without
connection draining). The documented limit of 20 backends a call is a setting (``batch_limit``, 40 by default, because
the CCM v2.8 and later sends up to 40 a call).
Health checks are TCP, every 0.5 s, whatever the listener says (the real default is 2 s, 3 times); DescribeHealthStatus
tells what HAProxy sees.

Left out: data plane of UDP and HTTPS listeners (state only); forwarding rules, ACL contents, certificates and domain
extensions, master/slave groups, backends of the default server group, IPv6, bandwidth limits, billing, quotas other
than tags and batches, several accounts, pending-configuration errors (use a fault rule), XML answers; HTTP health
checks; sch and tch are a consistent hash of the source address; session persistence is lost by a reload of HAProxy.
"""
