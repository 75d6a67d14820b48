# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the three versions that the lab behaves like. One flag a difference; no version is compared elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirks:
    """How one version behaves (facts: read in the sources and seen on the wire)."""

    version: str
    endpoint_slices: bool  # watches EndpointSlice, older ones Endpoints
    parallel_groups: bool  # vServer groups are read and written in parallel
    joined_apply: bool  # v2.12+: tags, groups and listeners in parallel; cleanup only when the hash changed
    swallow_port_errors: bool  # v2.12+: a port that cannot be built is skipped without a word
    refuse_made_groups: bool  # v2.9.1+: "cannot reuse a ccm created vgroup"
    tags_in_create: bool  # v2.9+: CreateLoadBalancer carries the tags
    per_spec: bool  # pays by specification (slb.s1.small); newer ones by use (PayByCLCU)
    ignore_weight: bool  # annotation ignore-weight-update
    default_weight: bool  # annotation default-weight
    preserve_on_delete: bool  # annotation preserve-lb-on-delete
    sync_extra_tags: bool  # additional-resource-tags are kept up to date
    keep_invalid_eni: bool  # an unknown pod address is left out (SkipSyncBackends) instead of failing the Service
    eni_after_ports: bool  # one DescribeNetworkInterfaces for all ports; v2.8: one a port, after DescribeVpcAttribute
    nodes_touch_eni: bool  # a change of a node reconciles Services in ENI mode too
    hash_source_ranges: bool  # loadBalancerSourceRanges is part of the hash


VERSIONS = {
    "v2.8.0": Quirks(
        version="v2.8.0",
        endpoint_slices=False,
        parallel_groups=False,
        joined_apply=False,
        swallow_port_errors=False,
        refuse_made_groups=False,
        tags_in_create=False,
        per_spec=True,
        ignore_weight=False,
        default_weight=False,
        preserve_on_delete=False,
        sync_extra_tags=False,
        keep_invalid_eni=False,
        eni_after_ports=False,
        nodes_touch_eni=True,
        hash_source_ranges=False,
    ),
    "v2.11.2": Quirks(
        version="v2.11.2",
        endpoint_slices=True,
        parallel_groups=True,
        joined_apply=False,
        swallow_port_errors=False,
        refuse_made_groups=True,
        tags_in_create=True,
        per_spec=True,
        ignore_weight=True,
        default_weight=False,
        preserve_on_delete=True,
        sync_extra_tags=True,
        keep_invalid_eni=False,
        eni_after_ports=True,
        nodes_touch_eni=True,
        hash_source_ranges=False,
    ),
    "v2.14.0": Quirks(
        version="v2.14.0",
        endpoint_slices=True,
        parallel_groups=True,
        joined_apply=True,
        swallow_port_errors=True,
        refuse_made_groups=True,
        tags_in_create=True,
        per_spec=False,
        ignore_weight=True,
        default_weight=True,
        preserve_on_delete=True,
        sync_extra_tags=True,
        keep_invalid_eni=True,
        eni_after_ports=True,
        nodes_touch_eni=False,
        hash_source_ranges=True,
    ),
}
