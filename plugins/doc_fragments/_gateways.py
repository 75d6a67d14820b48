# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """The gateways that are moved."""

    DOCUMENTATION = r"""
options:
  gateways:
    description:
      - The gateways, each a pair of a Service of the source mesh and an IstioGateway of the target mesh behind one load balancer.
      - All of them are worked on at the same time, and the answer is given for each.
    type: list
    elements: dict
    required: true
    suboptions:
      namespace:
        description:
          - The namespace of both.
        type: str
        default: istio-system
      source_service:
        description:
          - The Service of type LoadBalancer of the source gateway.
        type: str
        default: istio-ingressgateway
      target_gateway:
        description:
          - The name of the IstioGateway. Its Deployment and Service are named C(istio-<target_gateway>).
        type: str
        required: true
      load_balancer_id:
        description:
          - The id of the load balancer, like V(lb-bp1onpskfeceg00000000).
          - When it is not set, it is read from the label C(service.k8s.alibaba/loadbalancer-id) of the source Service, or found
            by the address in the status of the Service.
        type: str
"""
