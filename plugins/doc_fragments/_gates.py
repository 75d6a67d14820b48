# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """What judges each step."""

    DOCUMENTATION = r"""
options:
  gates:
    description:
      - What judges all the time whether it may go on. One gate that fails ends the way up at once; all must pass at the end of a
        hold; a gate that knows too little, or is broken, holds.
      - An empty list needs O(allow_without_gates=true).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The name in messages and results. The kind and the place in the list when it is not set.
        type: str
      probe:
        description:
          - Requests at a steady rate, from the host where the module runs, and the part of them that is answered as expected.
          - Redirects are not followed, and proxies of the environment are not used.
        type: dict
        suboptions:
          url:
            description:
              - What is asked, with scheme V(http) or V(https).
            type: str
            required: true
          connect:
            description:
              - The address, or address and port, to connect to in place of the host in O(gates[].probe.url), like
                V(198.51.100.10) or V(10.10.1.10:31380). So a load balancer, or one of the gateways alone, is asked under the name
                that it serves.
            type: str
          host:
            description:
              - The name in the header C(Host), and in TLS (SNI and the name in the certificate). The host in
                O(gates[].probe.url) when it is not set.
            type: str
          method:
            description:
              - The HTTP method. It must be one that changes nothing.
            type: str
            default: GET
          headers:
            description:
              - More headers. They are seen in the output of C(-vvv); set C(no_log) on the task when one of them is secret.
            type: dict
            default: {}
          ca_cert:
            description:
              - Path of a PEM file with the certificate authorities to trust in place of the system's.
            type: path
          validate_certs:
            description:
              - Whether the certificate must be valid for the host.
            type: bool
            default: true
          status:
            description:
              - The statuses that are expected, like V(200), V(200-299) or V(2xx).
            type: list
            elements: str
            default: ["200-399"]
          new_connection:
            description:
              - Whether each request opens a connection of its own. A load balancer chooses a backend for each connection, so kept
                connections see only the backends that they began with.
            type: bool
            default: true
          interval:
            description:
              - Seconds from the start of one request to the start of the next.
            type: float
            default: 0.1
          concurrency:
            description:
              - The most requests under way at a time. While all are, requests that become due are left out.
            type: int
            default: 8
          timeout:
            description:
              - Seconds that the whole answer may take. Later is a failure.
            type: float
            default: 2
          window:
            description:
              - Seconds that an answer counts. It must be long enough for O(gates[].probe.min_requests).
            type: float
            default: 10
          min_requests:
            description:
              - With fewer answers in the window the probe is undecided.
            type: int
            default: 50
          min_success:
            description:
              - The percent of the answers in the window that must be as expected. It fails as soon as there are
                O(gates[].probe.min_requests) and less of them are.
            type: float
            default: 99
          consecutive_failures:
            description:
              - It also fails as soon as so many requests in a row fail. V(0) turns this off.
            type: int
            default: 5
  allow_without_gates:
    description:
      - Allows O(gates=[]). Then each hold only lasts its time, and nothing of it is judged.
    type: bool
    default: false
"""
