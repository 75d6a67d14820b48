# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """The services of virtual machines, each with all that it shall have."""

    DOCUMENTATION = r"""
options:
  services:
    description:
      - The services, each with all that it shall have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the Service.
        type: str
        required: true
      namespace:
        description:
          - Its namespace. The identity of the VMs (O(services[].service_account)) is of this namespace too.
        type: str
        required: true
      registration:
        description:
          - V(made) makes a WorkloadEntry for each of O(services[].workloads).
          - V(auto) makes a WorkloadGroup, and istiod makes an entry for each proxy that connects and names this group. The module
            waits until all of O(services[].workloads) are there, and healthy with O(services[].health_check).
        type: str
        choices: [made, auto]
        default: made
      registry:
        description:
          - How the service gets its name. V(service) makes a Service of Kubernetes, which chooses VMs as it chooses pods. Pods
            and VMs without DNS capture can resolve its name then.
          - V(service_entry) makes a ServiceEntry. V(both) makes both, for meshes whose istiod does not let Services choose VMs.
        type: str
        choices: [service, service_entry, both]
        default: service
      service_account:
        description:
          - The service account that the VMs' proxies have.
        type: str
        default: default
      network:
        description:
          - The network of the VMs, when it is another one than that of the pods.
        type: str
      selector:
        description:
          - The labels by which the service chooses its VMs. C(app) with the name of the service by default.
        type: dict
      ports:
        description:
          - Its ports. Needed with the parts V(service) and V(routes).
        type: list
        elements: dict
        default: []
        suboptions:
          port:
            description:
              - The port that clients use.
            type: int
            required: true
          name:
            description:
              - Its name. Protocol and number by default.
            type: str
          protocol:
            description:
              - What is spoken on it.
            type: str
            choices: [HTTP, HTTP2, GRPC, HTTPS, TCP, TLS, MONGO]
            default: HTTP
          target_port:
            description:
              - The port on which the application on the VM listens. The same as O(services[].ports[].port) by default.
            type: int
      workloads:
        description:
          - The VMs. Those that are not named here are left alone, so a play can register one VM after the other.
        type: list
        elements: dict
        default: []
        suboptions:
          address:
            description:
              - Its IP address, as the pods reach it.
            type: str
            required: true
          name:
            description:
              - Name of its WorkloadEntry. Name of the service and address by default.
            type: str
          labels:
            description:
              - Its labels, like C(version). Those of O(services[].selector) are added.
            type: dict
          service_account:
            description:
              - Its service account, when it is another one than O(services[].service_account).
            type: str
          network:
            description:
              - Its network, when it is another one than O(services[].network).
            type: str
          locality:
            description:
              - Region, zone and subzone, like V(cn-north-4/cn-north-4a).
            type: str
          weight:
            description:
              - Its weight among the VMs of the service.
            type: int
          ports:
            description:
              - Port names of the service, each with the port on this VM.
            type: dict
          state:
            description:
              - V(absent) takes this VM out of the service. Take its proxy away next when istiod has registered it, or it is
                registered again when the proxy connects again.
            type: str
            choices: [present, absent]
            default: present
      group:
        description:
          - Name of the WorkloadGroup. The name of the service by default.
        type: str
      group_labels:
        description:
          - Labels that the WorkloadGroup gives to its VMs, beside those of O(services[].selector).
        type: dict
        default: {}
      health_check:
        description:
          - How the proxy on the VM asks the application whether it is healthy. Only with O(services[].registration=auto), and the
            proxy must be told the same check.
        type: dict
        suboptions:
          http:
            description:
              - Ask by HTTP.
            type: dict
            suboptions:
              path:
                description:
                  - The path.
                type: str
                default: /
              port:
                description:
                  - The port of the application.
                type: int
                required: true
          tcp:
            description:
              - Connect by TCP.
            type: dict
            suboptions:
              port:
                description:
                  - The port of the application.
                type: int
                required: true
          command:
            description:
              - Run this in the proxy's container.
            type: list
            elements: str
          initial_delay:
            description:
              - Seconds before the first check.
            type: int
          timeout:
            description:
              - Seconds that a check may take.
            type: int
          period:
            description:
              - Seconds between two checks.
            type: int
          success:
            description:
              - So many good checks make it healthy.
            type: int
          failure:
            description:
              - So many bad checks make it unhealthy.
            type: int
      subsets:
        description:
          - Groups of its VMs by labels, like its versions. The first one gets all requests without O(services[].weights).
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - Its name.
            type: str
            required: true
          labels:
            description:
              - The labels of its VMs, beside those of O(services[].selector).
            type: dict
            required: true
          tls:
            description:
              - The TLS mode towards these VMs. V(DISABLE) for VMs that have no proxy.
            type: str
            choices: [ISTIO_MUTUAL, DISABLE, SIMPLE, MUTUAL]
      tls:
        description:
          - The TLS mode towards all VMs of the service. The mesh decides by default.
        type: str
        choices: [ISTIO_MUTUAL, DISABLE, SIMPLE, MUTUAL]
      destination_rule:
        description:
          - Name of the DestinationRule. The name of the service by default.
          - When one of this name is there and is not ours, subsets and TLS mode are put into it, and taken out again.
        type: str
      virtual_service:
        description:
          - Name of the VirtualService. The name of the service by default.
          - When one of this name is there and is not ours, weights, canaries, faults and gateways are put into it, and it gets
            its old spec back when none of them is wished any more.
        type: str
      weights:
        description:
          - Subsets, each with its weight. They are 100 together.
        type: dict
        default: {}
      canaries:
        description:
          - Requests that go to a subset whatever the weights are.
        type: list
        elements: dict
        default: []
        suboptions:
          subset:
            description:
              - Where they go.
            type: str
            required: true
          match:
            description:
              - Which requests, as C(match) of an HTTP route of a VirtualService, like C(headers).
            type: dict
            required: true
      faults:
        description:
          - Faults that are injected into requests to the service. The first one that matches counts.
        type: list
        elements: dict
        default: []
        suboptions:
          match:
            description:
              - Which requests, as C(match) of an HTTP route of a VirtualService. All of them when it is empty. C(gateways) with
                V([mesh]) keeps what comes through gateways free of it.
            type: dict
            default: {}
          delay:
            description:
              - Let requests wait.
            type: dict
            suboptions:
              seconds:
                description:
                  - So long.
                type: float
                required: true
              percent:
                description:
                  - So many of them, in percent.
                type: float
                default: 100
          abort:
            description:
              - Answer requests in place of the service.
            type: dict
            suboptions:
              http_status:
                description:
                  - With this status.
                type: int
                required: true
              percent:
                description:
                  - So many of them, in percent.
                type: float
                default: 100
      gateways:
        description:
          - Gateways through which the service is reached from outside. The VirtualService becomes one that others delegate to,
            with a VirtualService for the mesh and one for each gateway in front of it.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - Name of the Gateway.
            type: str
            required: true
          namespace:
            description:
              - Its namespace.
            type: str
            default: istio-system
          port:
            description:
              - The port number of the Gateway's server.
            type: int
            required: true
          service_port:
            description:
              - The port of the service behind it. Its first HTTP port by default.
            type: int
          hosts:
            description:
              - The hosts by which it is reached.
            type: list
            elements: str
            required: true
          paths:
            description:
              - Prefixes of paths that go to the service.
            type: list
            elements: str
            default: [/]
          make:
            description:
              - Make the Gateway. Without it, it must be there.
            type: dict
            suboptions:
              selector:
                description:
                  - The labels of the gateway's pods.
                type: dict
                default: {istio: ingressgateway}
              protocol:
                description:
                  - What it speaks.
                type: str
                choices: [HTTP, HTTPS]
                default: HTTP
              credential_name:
                description:
                  - Name of the Secret with the certificate, for V(HTTPS).
                type: str
              annotations:
                description:
                  - Annotations of the Gateway, like those that a console looks for.
                type: dict
                default: {}
          load_balancer:
            description:
              - Make a Service in front of the gateway's pods for this port.
            type: dict
            suboptions:
              name:
                description:
                  - Its name. The name of the service and C(-gw-svc) by default.
                type: str
              port:
                description:
                  - The port that clients use. It leads to O(services[].gateways[].port).
                type: int
                required: true
              selector:
                description:
                  - The labels of the gateway's pods.
                type: dict
                default: {istio: ingressgateway}
              annotations:
                description:
                  - Annotations, like those that name a load balancer of the cloud.
                type: dict
                default: {}
              ip:
                description:
                  - C(loadBalancerIP), for clouds that look at it.
                type: str
              type:
                description:
                  - The type of the Service.
                type: str
                choices: [LoadBalancer, NodePort, ClusterIP]
                default: LoadBalancer
"""
