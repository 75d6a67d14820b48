# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ASM's gateway controller, as its user sees it: an IstioGateway in the control plane becomes a gateway in the ACK cluster.
The controller of migrations from Istio is in migrate.py, what becomes of networks in networks.py, each with its own facts.

Built from these facts (the real controller is not published):
- istiogateway_types.go of aliyun/alibabacloud-servicemesh-api: all fields of spec, the capitalised fields of status.
- ASM's documentation: an IstioGateway belongs into namespace istio-system; Service and Deployment are both named
  `istio-<name>`, pods carry the label `istio: <name>`; defaults: externalTrafficPolicy Cluster, replicaCount 1, limits of
  2 CPU and 2G, requests of 200m and 256Mi.
- ASM's documentation (468672): a gateway overrides listeners unless `force-override-listeners` is set to "false" in so many
  words. So the annotation is written as "true" when it is absent.
- Pods of real ASM clusters: env ASM_ID and ISTIO_META_CLUSTER_ID (the ACK cluster), discovery address and CA_ADDR
  `istiod-<version>.istio-system.svc:15012`, image `registry-vpc.<region>.aliyuncs.com/acs/proxyv2:...-aliyun`.

What is our choice because nobody says it: the words in status.Status (Pending, Running, Failed); a Service or Deployment of
that name that is not ours is never adopted but reported in ErrorMessage; a field in `overrides` replaces the whole field of
the base; an egress gateway's Service is ClusterIP by default; deletion takes the Service first, then the pods; names of
ServiceAccount and roles; the annotation and label by which our objects are known; the `server` header, which tells tests
which gateway answered.

Left out: sds, compression, meshExpansionPorts, applicationPorts, requestedNetworkView, autoCreateGatewayYaml,
disableContainerPortExposed, serverless gateways (managed-by-asm, replicas-managed-by-asm), enable-canary-deployment,
aliyun-logs-project, several clusters in one mesh, and the API calls CreateASMGateway and UpdateASMGateway.
"""
