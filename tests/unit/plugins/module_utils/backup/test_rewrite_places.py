# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where every kind of rule bites, and where it does not: one table."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Rewriter
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import rule_set

Object = dict[str, Any]
# The specs of an object a of the namespace shop.
PLACES = """\
- rules:
  - {kind: namespace, from: shop, to: store}
  kind: security.istio.io/v1/AuthorizationPolicy
  before: {rules: [{from: [{source: {namespaces: [shop, shop*], principals: [cluster.local/ns/shop/sa/web,
                '*/ns/shop/*']}}], when: [{key: source.namespace, values: [shop]}, {key: 'request.headers[ns]',
            values: [shop]}]}]}
  after: {rules: [{from: [{source: {namespaces: [store, shop*], principals: [cluster.local/ns/store/sa/web,
                '*/ns/store/*']}}], when: [{key: source.namespace, values: [store]}, {key: 'request.headers[ns]',
            values: [shop]}]}]}
- rules:
  - {kind: namespace, from: shop, to: store}
  kind: networking.istio.io/v1/Sidecar
  before: {egress: [{hosts: [./*, '*/x.shop.svc.cluster.local', shop/*, ~/*]}]}
  after: {egress: [{hosts: [./*, '*/x.store.svc.cluster.local', store/*, ~/*]}]}
- rules:
  - {kind: namespace, from: shop, to: store}
  kind: networking.istio.io/v1/ServiceEntry
  before: {hosts: [shop.example.com], exportTo: [shop, ., '*'], subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/x']}
  after: {hosts: [shop.example.com], exportTo: [store, ., '*'], subjectAltNames: ['spiffe://cluster.local/ns/store/sa/x']}
- rules:
  - {kind: namespace, from: shop, to: store}
  kind: security.istio.io/v1/RequestAuthentication
  before: {jwtRules: [{issuer: 'http://idp.shop.svc', jwksUri: 'http://idp.shop.svc.cluster.local:8080/keys?shop#shop'}]}
  after: {jwtRules: [{issuer: 'http://idp.shop.svc', jwksUri: 'http://idp.store.svc.cluster.local:8080/keys?shop#shop'}]}
- rules:
  - {kind: host, from: web.shop, to: front.ui}
  kind: networking.istio.io/v1alpha3/EnvoyFilter
  before: {configPatches: [{match: {cluster: {service: web.shop.svc.cluster.local}}, patch: {value: {
            route: {cluster: outbound|80||web.shop.svc.cluster.local, x: web.shop}}}}]}
  after: {configPatches: [{match: {cluster: {service: front.ui.svc.cluster.local}}, patch: {value: {
            route: {cluster: outbound|80||front.ui.svc.cluster.local, x: web.shop}}}}]}
- rules:
  - {kind: host, from: web.shop, to: front.ui}
  - {kind: subset, host: web.shop, from: v1, to: stable}
  kind: networking.istio.io/v1/VirtualService
  before: {http: [{route: [{destination: {host: web, subset: v1}}, {destination: {host: api, subset: v1}}],
        mirror: {host: web.shop, subset: v1}, mirrors: [{destination: {host: web, subset: v2}}]}]}
  after: {http: [{route: [{destination: {host: front.ui.svc.cluster.local, subset: stable}}, {destination: {
              host: api, subset: v1}}], mirror: {host: front.ui, subset: stable}, mirrors: [
          {destination: {host: front.ui.svc.cluster.local, subset: v2}}]}]}
- rules:
  - {kind: subset, host: web.shop, from: v1, to: stable}
  kind: networking.istio.io/v1/DestinationRule
  before: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
  after: {host: web, subsets: [{name: stable, labels: {version: v1}}]}
- rules:
  - {kind: subset, host: web.shop, from: v1, to: stable}
  kind: networking.istio.io/v1/DestinationRule
  before: {host: api, subsets: [{name: v1}]}
  after: {host: api, subsets: [{name: v1}]}
- rules:
  - {kind: gateway, from: istio-system/gw, to: edge/gw-asm}
  kind: networking.istio.io/v1/VirtualService
  before: {gateways: [istio-system/gw, gw, mesh, gw.istio-system.svc.cluster.local, gw.istio-system],
    http: [{match: [{gateways: [istio-system/gw]}]}]}
  after: {gateways: [edge/gw-asm, gw, mesh, gw-asm.edge.svc.cluster.local, gw-asm.edge], http: [{match: [
          {gateways: [edge/gw-asm]}]}]}
- rules:
  - {kind: gateway, from: shop/gw, to: edge/gw}
  kind: networking.istio.io/v1/VirtualService
  before: {gateways: [gw, ./gw, shop/gw]}
  after: {gateways: [edge/gw, edge/gw, edge/gw]}
- rules:
  - {kind: gateway, from: istio-system/gw, to: edge/gw-asm}
  kind: gateway.networking.k8s.io/v1/HTTPRoute
  before: {parentRefs: [{name: gw, namespace: istio-system}, {name: gw}]}
  after: {parentRefs: [{name: gw-asm, namespace: edge}, {name: gw}]}
- rules:
  - {kind: host, from: web.shop, to: front.ui}
  - {kind: port, host: web.shop, from: 80, to: 8080}
  kind: gateway.networking.k8s.io/v1/HTTPRoute
  before: {rules: [{backendRefs: [{name: web, port: 80}, {name: x, port: 80}]}]}
  after: {rules: [{backendRefs: [{name: front, namespace: ui, port: 8080}, {name: x, port: 80}]}]}
- rules:
  - {kind: selector, from: {istio: ingressgateway}, to: {istio: asm}}
  kind: networking.istio.io/v1/Gateway
  before: {selector: {istio: ingressgateway, app: x}}
  after: {selector: {istio: asm, app: x}}
- rules:
  - {kind: selector, from: {app: '*'}, to: {app.kubernetes.io/name: '*'}}
  kind: networking.istio.io/v1/Sidecar
  before: {workloadSelector: {labels: {app: web}}}
  after: {workloadSelector: {labels: {app.kubernetes.io/name: web}}}
- rules:
  - {kind: label, from: {version: v1}, to: {}}
  kind: apps/v1/Deployment
  before: {template: {metadata: {labels: {version: v1, app: a}}}}
  after: {template: {metadata: {labels: {app: a}}}}
- rules:
  - {kind: port, of: gateway, from: 80, to: 1080}
  - {kind: port, of: gateway, from: http, to: http-1080}
  kind: networking.istio.io/v1/Gateway
  before: {servers: [{port: {number: 80, name: http}}, {port: {number: 8080, name: https}}]}
  after: {servers: [{port: {number: 1080, name: http-1080}}, {port: {number: 8080, name: https}}]}
- rules:
  - {kind: port, of: workload, from: 80, to: 1080}
  kind: v1/Service
  before: {ports: [{port: 80, targetPort: 80}, {port: 81, targetPort: http}]}
  after: {ports: [{port: 80, targetPort: 1080}, {port: 81, targetPort: http}]}
- rules:
  - {kind: port, of: workload, from: 80, to: 1080}
  kind: security.istio.io/v1/PeerAuthentication
  before: {portLevelMtls: {'80': {mode: STRICT}, '81': {}}}
  after: {portLevelMtls: {'1080': {mode: STRICT}, '81': {}}}
- rules:
  - {kind: port, of: workload, from: 80, to: 1080}
  kind: security.istio.io/v1/AuthorizationPolicy
  before: {rules: [{to: [{operation: {ports: ['80', '8080']}}]}]}
  after: {rules: [{to: [{operation: {ports: ['1080', '8080']}}]}]}
- rules:
  - {kind: port, of: gateway, from: 80, to: 1080}
  kind: networking.istio.io/v1/VirtualService
  before: {hosts: [web], gateways: [gw], http: [{match: [{port: 80}]}]}
  after: {hosts: [web], gateways: [gw], http: [{match: [{port: 1080}]}]}
- rules:
  - {kind: port, host: web.shop, from: 80, to: 81}
  kind: networking.istio.io/v1/VirtualService
  before: {hosts: [web], http: [{match: [{port: 80}], route: [{destination: {host: web, port: {number: 80}}}]}]}
  after: {hosts: [web], http: [{match: [{port: 81}], route: [{destination: {host: web, port: {number: 81}}}]}]}
- rules:
  - {kind: class, of: gateway, from: istio, to: asm}
  kind: gateway.networking.k8s.io/v1/Gateway
  before: {gatewayClassName: istio, listeners: [{name: istio}]}
  after: {gatewayClassName: asm, listeners: [{name: istio}]}
- rules:
  - {kind: class, of: ingress, from: istio, to: asm}
  kind: networking.k8s.io/v1/Ingress
  before: {ingressClassName: istio}
  after: {ingressClassName: asm}
- rules:
  - {kind: name, of: VirtualService, from: child, to: sub}
  - {kind: namespace, from: shop, to: store}
  kind: networking.istio.io/v1/VirtualService
  before: {http: [{delegate: {name: child}}, {delegate: {name: child, namespace: shop}}]}
  after: {http: [{delegate: {name: sub}}, {delegate: {name: sub, namespace: store}}]}
- rules:
  - {kind: name, of: Secret, from: cert, to: tls}
  kind: networking.istio.io/v1/Gateway
  before: {servers: [{tls: {credentialName: cert}}]}
  after: {servers: [{tls: {credentialName: tls}}]}
- rules:
  - {kind: name, of: ServiceAccount, namespace: shop, from: web, to: w}
  kind: security.istio.io/v1/AuthorizationPolicy
  before: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web, cluster.local/ns/x/sa/web],
              serviceAccounts: [web, shop/web, x/web]}}]}]}
  after: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/w, cluster.local/ns/x/sa/web],
              serviceAccounts: [w, shop/w, x/web]}}]}]}
"""

CASES: list[Object] = yaml.safe_load(PLACES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['rules'][0]['kind']}-{case['kind'].rpartition('/')[2]}")
def test_where_a_rule_bites(case: Object) -> None:
    api, _slash, kind = case["kind"].rpartition("/")
    obj = {"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}, "spec": case["before"]}
    rewriter = Rewriter(rule_set({"rules": case["rules"]}))
    done = rewriter.apply(obj)
    assert done.problems == [] and done.obj["spec"] == case["after"]
    assert _yaml.dump(rewriter.back(done.obj, done.originals)) == _yaml.dump(obj)
