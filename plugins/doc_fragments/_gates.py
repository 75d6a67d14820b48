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
      prometheus:
        description:
          - Queries of a Prometheus, or of what serves its API (ARMS, AOM, Thanos, Mimir), and a rule for their numbers.
          - In a query C($window) stands for the time that is looked at, like V(60s). It is never longer than the present hold, so
            nothing of the step before counts.
          - Each query must give one number; put C(sum()) or the like around several series. No result is undecided.
        type: dict
        suboptions:
          url:
            description:
              - The address of the API, without C(/api/v1/query). Where it holds a token, as ARMS' may, set C(no_log) on the task;
                messages of the gate only name the host.
            type: str
            required: true
          token:
            description:
              - A bearer token.
            type: str
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
          interval:
            description:
              - Seconds between two looks. Figures older than three of them are undecided.
            type: float
            default: 5
          timeout:
            description:
              - Seconds that an answer may take.
            type: float
            default: 5
          window:
            description:
              - Seconds that C($window) is at most.
            type: int
            default: 60
          min_window:
            description:
              - Seconds of a hold after which the first look is taken. At least two scrape intervals, or C(rate()) has nothing.
              - O(baseline_timeout), every C(max_hold) and a O(soak) must be longer.
            type: int
            default: 15
          report_only:
            description:
              - Never fails and never holds; what it would have said is in the results.
            type: bool
            default: false
          skip_baseline:
            description:
              - Whether it is left out before the first step, as long as the target has no traffic at all. For figures of the
                target alone, which nothing makes then; without it the gate would wait for them until O(baseline_timeout) is over.
              - A run that goes on from a share in effect asks it there too.
            type: bool
            default: false
          success:
            description:
              - A ratio of good requests. It fails only when chance does not explain it, passes only when the sample itself is
                good enough, and is undecided in between.
            type: dict
            suboptions:
              good:
                description:
                  - How many requests were good, like V(sum(increase(istio_requests_total{response_code!~"5.."}[$window]))).
                  - No series of good requests counts as none of them, when there are requests in
                    O(gates[].prometheus.success.total).
                type: str
                required: true
              total:
                description:
                  - How many requests there were.
                type: str
                required: true
              min:
                description:
                  - The percent of good requests that is needed.
                type: float
              baseline_good:
                description:
                  - As O(gates[].prometheus.success.good), of the other side over the same seconds.
                type: str
              baseline_total:
                description:
                  - As O(gates[].prometheus.success.total), of the other side over the same seconds.
                  - When the other side has too few requests (on the last step it has none any more), its newest figures of this
                    run that were enough are compared with. Without such figures O(gates[].prometheus.success.min) judges alone,
                    and without that it is undecided.
                type: str
              max_drop:
                description:
                  - So many points less than the other side's percent are allowed.
                type: float
              min_requests:
                description:
                  - With fewer requests it is undecided. 1 or more.
                type: float
                default: 100
              confidence:
                description:
                  - How sure a failure must be, in percent (Wilson's interval, Newcombe's for a difference).
                type: float
                default: 95
          value:
            description:
              - Any number, like a quantile of latencies.
            type: dict
            suboptions:
              query:
                description:
                  - The query.
                type: str
                required: true
              min:
                description:
                  - Less than this fails.
                type: float
              max:
                description:
                  - More than this fails.
                type: float
              baseline:
                description:
                  - The same of the other side over the same seconds.
                  - When the other side has no requests any more (NaN), its newest number of this run is compared with. Without
                    one O(gates[].prometheus.value.min) and O(gates[].prometheus.value.max) judge alone, and without them it is
                    undecided.
                type: str
              max_ratio:
                description:
                  - More than so many times O(gates[].prometheus.value.baseline) fails.
                type: float
              requests:
                description:
                  - How many requests the number stands on.
                type: str
              baseline_requests:
                description:
                  - How many requests O(gates[].prometheus.value.baseline) stands on. With fewer than
                    O(gates[].prometheus.value.min_requests) the newest number of this run that stood on enough is compared with.
                type: str
              min_requests:
                description:
                  - With fewer O(gates[].prometheus.value.requests) it is undecided. 1 or more.
                type: float
                default: 100
  allow_without_gates:
    description:
      - Allows O(gates=[]). Then each hold only lasts its time, and nothing of it is judged.
    type: bool
    default: false
"""
