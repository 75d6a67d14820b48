#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that would go wrong on a VM, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_preflight
short_description: Checks a virtual machine before it joins a mesh
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Runs on the virtual machine (VM), reads it, and says all that stands against a mesh proxy there. No check stops another.
  - It looks at the system, the programs and the kernel (each kind of rule is tried in a network namespace of its own), both back
    ends of iptables, other proxies and what they left, ports, the container engine, the clock, the way to istiod (name,
    connection, certificate, size of packets), other addresses, versions, the token, ssh, SELinux, disk and memory.
  - It changes nothing, and can be run again on a VM that has joined.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.info_module
  - servicemesh.migration._attributes.actiongroup
requirements:
  - On the VM, Python 3.9 or newer and root (C(become)).
options:
  controller_time:
    description:
      - The time on the controller, in seconds since 1970, as a template gives it. Without it the clock is not checked.
      - The task must not be delayed between its template and its start, as by a queue of forks.
    type: float
  istiod_host:
    description:
      - The name of istiod, as in its certificate.
    type: str
    default: istiod.istio-system.svc
  istiod_port:
    description:
      - The port of istiod for proxies.
    type: int
    default: 15012
  istiod_addresses:
    description:
      - The addresses of istiod that the VM will use. By default those that O(istiod_host) has here.
    type: list
    elements: str
    default: []
  istiod_version:
    description:
      - The version of istiod. By default it is asked at its monitoring port (15014), where that can be reached.
    type: str
    default: ""
  proxy_version:
    description:
      - The Istio version of the proxy that will run here.
    type: str
    default: ""
  reach:
    description:
      - What else must be reached by TCP, as C(host:port), like a pod or the API server.
    type: list
    elements: str
    default: []
  app_ports:
    description:
      - The ports on which the applications of this VM listen.
    type: list
    elements: int
    default: []
  ssh_ports:
    description:
      - Ports of ssh, beside that of Ansible's connection.
    type: list
    elements: int
    default: []
  mode:
    description:
      - How inbound connections will reach the proxy, as for M(servicemesh.migration.vm_redirect).
    type: str
    choices: [REDIRECT, TPROXY]
    default: REDIRECT
  ipv6:
    description:
      - Whether IPv6 will be redirected, too.
    type: bool
    default: false
  name:
    description:
      - The name of the proxy's container, as for M(servicemesh.migration.vm_proxy). What it holds is no finding.
    type: str
    default: asm-proxy
  path:
    description:
      - The folder of the identity, as for M(servicemesh.migration.vm_identity).
    type: path
    default: /opt/asm_proxy
  redirect_state_dir:
    description:
      - O(servicemesh.migration.vm_redirect#module:state_dir). Where it is, Istio's chains are ours.
    type: path
    default: /var/lib/servicemesh-migration/redirect
  engine_socket:
    description:
      - The container engine's socket. By default that of Docker, or of podman.
    type: path
  audience:
    description:
      - The audience that a token must have.
    type: str
    default: istio-ca
  namespace:
    description:
      - The namespace of the VM's service account. With O(service_account), a token of somebody else is found.
    type: str
    default: ""
  service_account:
    description:
      - The VM's service account.
    type: str
    default: ""
  fail_on:
    description:
      - From which severity on a finding makes the module fail.
    type: str
    choices: [error, warning, never]
    default: error
seealso:
  - module: servicemesh.migration.vm_identity
  - module: servicemesh.migration.vm_proxy
  - module: servicemesh.migration.vm_redirect
"""

EXAMPLES = r"""
- name: Find all that would go wrong on this VM
  servicemesh.migration.vm_preflight:
    controller_time: "{{ now(utc=true).timestamp() }}"
    istiod_addresses: [10.66.0.15]
    proxy_version: 1.18.7
    reach: [10.233.1.17:8080]
    app_ports: [8080]
  become: true

- name: Only look
  servicemesh.migration.vm_preflight:
    fail_on: never
  become: true
  register: look
"""

RETURN = r"""
findings:
  description: What was found, errors first.
  returned: when the options can be right
  type: list
  elements: dict
  contains:
    id:
      description: The check, like V(ports).
      type: str
      returned: always
    severity:
      description: V(error) (the VM would not join, or do harm), V(warning) (look at it) or V(info).
      type: str
      returned: always
    subject:
      description: What it is about.
      type: str
      returned: always
    message:
      description: What is so.
      type: str
      returned: always
    hint:
      description: What to do about it.
      type: str
      returned: always
passed:
  description: Checks without an error or a warning.
  returned: when the options can be right
  type: list
  elements: str
skipped:
  description: Checks whose facts could not be read.
  returned: when the options can be right
  type: list
  elements: str
summary:
  description: Numbers of findings by severity, and of the checks that passed and were skipped.
  returned: when the options can be right
  type: dict
  sample: {error: 0, warning: 1, info: 9, passed: 16, skipped: 0}
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_preflight import vm_preflight, vm_preflight_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run


def main() -> None:
    """Options, and one call."""
    run(AnsibleModule(argument_spec=vm_preflight_spec(), supports_check_mode=True), vm_preflight)


if __name__ == "__main__":
    main()
