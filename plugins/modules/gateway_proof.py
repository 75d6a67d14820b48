#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gateway_proof. The thought is in module_utils/_mesh/_gateway_proof.py and _questions.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_proof
short_description: Proves that a target gateway answers as the source's does, before it gets traffic
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Asks every ready pod of the target gateway what is asked of the source's pods, and compares status and certificate. The load
    balancer is not in between, so no user is involved.
  - The questions are made from the Gateways and VirtualServices of the source, one for each open port and host. For a wildcard
    host the hosts of the routes that it covers are asked, or a made-up name.
  - The connections go through the API server of O(source), as C(kubectl port-forward) does, so nothing but the API server must be
    reachable. The rights C(get) and C(create) of C(pods/portforward) are needed.
  - A ready pod is no proof. istiod remembers for a minute that a new gateway may not read its certificates, for example; its pods
    are ready and healthy in the load balancer, and end every TLS connection.
  - Waits until the answers are alike. When the target has traffic already, a difference is a warning, because the gates of
    M(servicemesh.migration.traffic_shift) judge it and take the traffic back.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.info_module
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._gateways
  - servicemesh.migration._state.wait
options:
  requests:
    description: Further requests. A C(GET) of a page that needs the whole chain behind the gateway proves more than the defaults.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port of the gateway's Service.
        type: int
        required: true
      scheme:
        description: V(tls) makes a handshake only.
        type: str
        choices: [http, https, tls]
        required: true
      host:
        description: The host, for TLS and for HTTP.
        type: str
        required: true
      path:
        description: The path, with a query if need be.
        type: str
        default: /
      method:
        description: The method. The request is really made, more than once, and by both gateways.
        type: str
        choices: [HEAD, GET, OPTIONS]
        default: HEAD
  max_questions:
    description: So many questions are made from the Gateways at most, for each gateway; what is left out is in RV(unasked).
    type: int
    default: 100
  request_timeout:
    description: How long each wait for an answer may be. Seconds.
    type: float
    default: 5
seealso:
  - module: servicemesh.migration.asm_gateway
  - module: servicemesh.migration.traffic_shift
"""

EXAMPLES = r"""
- name: Prove the new gateway before it gets traffic
  servicemesh.migration.gateway_proof:
    source:
      kubeconfig: ~/.kube/ack
    gateways:
      - target_gateway: ingressgateway-asm
    requests:
      - port: 443
        scheme: https
        host: shop.example.com
        path: /health/deep
        method: GET
"""

RETURN = r"""
proven:
  description: Whether every answer was compared and is alike. V(false) also when there was nothing to ask.
  returned: success
  type: bool
  sample: true
proofs:
  description:
    - One for each pod of the target and each question, with the C(target)'s answer and those of the C(source)'s pods.
    - An answer has C(status) (V(null) after a mere handshake), C(certificate) (SHA-256 of the leaf) and C(problem).
    - C(not_comparable) says why the source is no measure, C(trouble) what differs; both are empty when it is proven.
  returned: success
  type: list
  elements: dict
  sample:
    - namespace: istio-system
      source_service: istio-ingressgateway
      target_gateway: ingressgateway-asm
      pod: istio-ingressgateway-asm-6c9f7d9c5b-x2x7k
      question: HEAD https://shop.example.com:443/
      source: [{"status": 200, "certificate": "9b2c…", "problem": ""}]
      target: {"status": 200, "certificate": "9b2c…", "problem": ""}
      proven: true
      trouble: ""
      not_comparable: ""
unasked:
  description: What could not be asked, and why, one line each. Empty in check mode while the target gateway has no ready pods.
  returned: success
  type: list
  elements: str
  sample: ["istio-system/tcp: port 5432 is plain TCP, to which there is no question"]
seconds:
  description: How long the target took until it answered alike.
  returned: success
  type: float
  sample: 0.31
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import gateways_spec, source_spec, wait_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway_proof import gateway_proof


def main() -> None:
    """Entry point."""
    request = {
        "port": {"type": "int", "required": True},
        "scheme": {"type": "str", "choices": ["http", "https", "tls"], "required": True},
        "host": {"type": "str", "required": True},
        "path": {"type": "str", "default": "/"},
        "method": {"type": "str", "choices": ["HEAD", "GET", "OPTIONS"], "default": "HEAD"},
    }
    spec = {
        **source_spec(),
        **gateways_spec(),
        **wait_spec(),
        "requests": {"type": "list", "elements": "dict", "default": [], "options": request},
        "max_questions": {"type": "int", "default": 100},
        "request_timeout": {"type": "float", "default": 5},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), gateway_proof)


if __name__ == "__main__":
    main()
