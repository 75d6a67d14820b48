#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module vm_identity, the VM's half. The controller's half is plugins/action/vm_identity.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_identity
short_description: Gives a VM its identity in the mesh, renews it, and takes it away without a trace
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Makes on a VM the files with which a mesh proxy can start there - the token of a service account, the root certificate,
    C(cluster.env), C(mesh.yaml) - and the entry in the hosts file by which it finds istiod.
  - The play's host is the VM. The cluster is only spoken to from the controller, so a VM never gets a kubeconfig. The Python
    package kubernetes must be there for the Python that runs Ansible.
  - The token is asked for by a TokenRequest, is written for the proxy's user alone, and is in no result, diff, log or command
    line. It is replaced when less than O(renew_before) of its life is left. The API server may give a shorter life than
    O(expiration_seconds), so RV(credential.expires) counts.
  - Files that were there before are moved beside their place (C(.before-servicemesh-migration)). O(state=absent) puts them back.
    What is not this module's stays.
  - O(state=absent) does not need the cluster, unless O(remove_service_account) is set. A token cannot be called back. It is valid
    until it expires, or until its service account is deleted.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
attributes:
  check_mode:
    support: full
    details:
      - No token is asked for.
  diff_mode:
    support: full
    details:
      - Of a token it shows when it expires, and nothing else.
  idempotent:
    support: full
    details:
      - A token that is due is replaced whenever the module runs.
requirements:
  - On the VM, Python 3.9 or newer and root (C(become)).
options:
  state:
    description: Whether the VM has its identity.
    type: str
    choices: [present, absent]
    default: present
  path:
    description: The folder of the identity on the VM.
    type: path
    default: /opt/asm_proxy
  name:
    description:
      - What the VM is called in the mesh (C(POD_NAME)). By default the name of the host in the inventory, with hyphens for what
        Kubernetes does not allow.
    type: str
  namespace:
    description: The namespace of its workload.
    type: str
    required: true
  service_account:
    description: The service account that it is in the mesh. Everything that has its token is that in the mesh.
    type: str
    required: true
  create_service_account:
    description: Make the service account when it is not there.
    type: bool
    default: true
  remove_service_account:
    description:
      - With O(state=absent), delete the service account and what belongs to O(renewal), if this module made them. All tokens of
        the account end with it, on every VM. They stay while a pod or another registered VM of the namespace has the account, or
        when that cannot be seen.
    type: bool
    default: false
  labels:
    description: Labels of the workload, like C(app) and C(version).
    type: dict
    default: {}
  address:
    description: The VM's address in the mesh. By default the one that it has on its way to istiod.
    type: str
  istio_namespace:
    description: The namespace of the control plane.
    type: str
    default: istio-system
  revision:
    description: The revision of the control plane, when it is not the default one.
    type: str
  istiod:
    description: How the VM reaches istiod.
    type: dict
    suboptions:
      host:
        description:
          - The name that istiod's certificate has. By default C(istiod.NAMESPACE.svc), with the revision if there is one.
        type: str
      port:
        description: The port at O(istiod.addresses).
        type: int
        default: 15012
      addresses:
        description: IP addresses. By default they are looked for as O(istiod.find) says.
        type: list
        elements: str
        default: []
      find:
        description:
          - V(service) takes the address of the load balancer of a Service that selects C(app=istiod) and has O(istiod.port).
          - V(pods) takes the addresses of istiod's pods, as the vendor's manual does. They change when istiod restarts; run the
            module again then.
        type: str
        choices: [service, pods]
        default: service
  cluster_id:
    description: The id of the cluster in the mesh. By default what the sidecar injector of the cluster says.
    type: str
  mesh_id:
    description: The id of the mesh. By default what the sidecar injector says, else the trust domain.
    type: str
  network:
    description: The network of the VM in the mesh, when it has several. By default the cluster's.
    type: str
  service_cidr:
    description: The address range of the cluster's Services, for start scripts that want it (C(ISTIO_SERVICE_CIDR)).
    type: str
  auto_register_group:
    description: The WorkloadGroup as which istiod registers the VM when its proxy connects.
    type: str
  dns_capture:
    description: The agent answers DNS queries for the mesh's names. M(servicemesh.migration.vm_redirect) brings them to it.
    type: bool
    default: false
  env:
    description: Further environment variables of the proxy, like C(TRACING_ZIPKIN_ADDRESS). They win over the others.
    type: dict
    default: {}
  proxy_config:
    description: Fields of Istio's ProxyConfig, over those of the mesh's C(defaultConfig).
    type: dict
    default: {}
  hosts_entry:
    description: Put istiod's name into O(hosts_file).
    type: bool
    default: true
  hosts:
    description: Further entries, for names that the VM's applications call.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: The address.
        type: str
        required: true
      names:
        description: Its names.
        type: list
        elements: str
        required: true
  hosts_file:
    description: The hosts file. Only a marked block in it is ever changed.
    type: path
    default: /etc/hosts
  owner:
    description: User name or number that the proxy's files belong to. 1337 is the proxy's in its image.
    type: str
    default: "1337"
  group:
    description: Group name or number.
    type: str
    default: "1337"
  audience:
    description: The audience of the token, as istiod wants it.
    type: str
    default: istio-ca
  expiration_seconds:
    description: How long a token is to live, 600 to 4294967296 seconds. The API server may shorten it.
    type: int
    default: 2592000
  renew_before:
    description:
      - A token is replaced when it lives less than so many seconds more, but not before half of its life is over.
    type: int
    default: 864000
  keep_certificates:
    description:
      - The agent keeps its certificate on the VM's disk and renews it by the certificate itself. Then the token only counts for
        the first start, and after the VM was off for longer than a certificate lives (a day).
    type: bool
    default: true
  renewal:
    description: How the token is renewed between two runs of this module.
    type: dict
    suboptions:
      method:
        description:
          - V(none) leaves it to this module. Let a schedule run the play in less than O(renew_before).
          - V(timer) makes a systemd timer on the VM. For it the VM gets a second token, for the API server, with a Role that
            allows to make tokens of this one service account and nothing else. Who steals it can be the VM in the mesh until the
            account or the Role is deleted.
        type: str
        choices: [none, timer]
        default: none
      server:
        description: URL of the API server as the VM reaches it. By default the one that the controller uses.
        type: str
  facts:
    description: What the cluster knows. Filled in by the controller; not for playbooks.
    type: dict
  token:
    description: A fresh token. Filled in by the controller; not for playbooks.
    type: str
  renewal_token:
    description: A fresh token for O(renewal). Filled in by the controller; not for playbooks.
    type: str
seealso:
  - module: servicemesh.migration.vm_proxy
  - module: servicemesh.migration.vm_redirect
"""

EXAMPLES = r"""
- name: Give the VM an identity, with istiod behind a load balancer
  servicemesh.migration.vm_identity:
    source:
      kubeconfig: ~/.kube/cce
    namespace: vmns
    service_account: vmsa
    labels: {app: vm-server1, version: v1}
  become: true

- name: The same with a token that the VM renews by itself, and the tracing server of the mesh
  servicemesh.migration.vm_identity:
    source:
      kubeconfig: ~/.kube/cce
    namespace: vmns
    service_account: vmsa
    istiod:
      addresses: [10.66.0.15]
    env:
      TRACING_ZIPKIN_ADDRESS: otel-collector.monitoring.svc.cluster.local:9411
    renewal:
      method: timer
      server: https://10.66.0.9:5443
  become: true

- name: Take it away
  servicemesh.migration.vm_identity:
    namespace: vmns
    service_account: vmsa
    state: absent
  become: true
"""

RETURN = r"""
credential:
  description:
    - What the token on the VM says of itself. The token itself is never shown.
  returned: with O(state=present)
  type: dict
  contains:
    subject:
      description: The service account.
      returned: always
      type: str
      sample: system:serviceaccount:vmns:vmsa
    audiences:
      description: For whom the token is.
      returned: always
      type: list
      elements: str
      sample: [istio-ca]
    expires:
      description: When it ends.
      returned: always
      type: str
      sample: "2026-12-21T10:00:00Z"
due:
  description: The tokens that were replaced, or would be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: V(token) or V(renewal_token).
      type: str
    reason:
      description: Why it is replaced.
      type: str
folder:
  description: The folder of the identity.
  returned: success
  type: str
istiod:
  description: The addresses of istiod that the VM uses.
  returned: with O(state=present)
  type: list
  elements: str
address:
  description: The address of the VM in the mesh.
  returned: with O(state=present)
  type: str
restart_needed:
  description:
    - Whether something changed that a proxy reads only when it starts. M(servicemesh.migration.vm_proxy) sees that by itself.
  returned: with O(state=present)
  type: bool
plan:
  description: What was changed, or would be changed in check mode; each with action, target, before, after and reason.
  returned: always
  type: list
  elements: dict
notes:
  description: Other things to know.
  returned: always
  type: list
  elements: str
error:
  description: What went wrong, in parts, with C(what), C(where), C(why), C(todo), C(done) and C(not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity_run import run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity_spec import identity_spec


def main() -> None:
    run(AnsibleModule(argument_spec=identity_spec(), supports_check_mode=True), run_module)


if __name__ == "__main__":
    main()
