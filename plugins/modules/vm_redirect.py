#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redirect of a VM's traffic to its mesh proxy, with a way back that needs nobody."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_redirect
short_description: Sends a VM's traffic through its mesh proxy, or no longer, without ever locking anybody out
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Writes the rules of the packet filter (iptables) by which the TCP connections of a VM go through its mesh proxy. They have the
    shape that C(istio-iptables) of the proxy's version gives them.
  - Before the first rule is written, a timer is armed on the VM that takes all of it back. It is stopped only when a new
    connection from the controller came through and the proxy has answered (O(probes)). If the controller dies, if a connection
    is cut, or if the proxy fails, the VM is as it was after O(revert_after) seconds at the latest.
  - Only Istio's chains are written, and the rules that lead to them. Everybody else's rules stay as they are and in their order.
    Each family of addresses is written by one C(iptables-restore), and each table changes at once or not at all.
  - The rules are first tried in an empty network namespace of the VM, so that a missing kernel module is found before anything is
    written, and are compared with the live ones as iptables itself prints them.
  - A redirect to a proxy that does not listen is refused.
  - Port 22, the port of Ansible's connection and O(ssh_ports) are never captured, not even when they are in O(inbound_ports).
    Since Istio 1.13 C(istio-iptables) captures port 22 unless it is told not to.
  - Only connections that begin after the rules were written are redirected. Those that are there stay as they are.
  - After a reboot a systemd unit writes the proven rules again (O(persist)). It does not wait for the proxy. Without the proxy
    the VM's mesh traffic fails, and ssh works.
  - O(state=absent) removes the rules of C(istio-iptables) of any version, whoever made them, also when a part of them is
    missing or there twice, in both back ends of iptables.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
attributes:
  check_mode:
    support: full
    details:
      - The rules are tried in a network namespace of their own in check mode, too.
  diff_mode:
    support: full
  idempotent:
    support: full
  async:
    description: Supports being used with the C(async) keyword.
    support: none
    details:
      - The controller has to prove that the VM can be reached.
requirements:
  - On the VM, Python 3.9 or newer, root (C(become)), iptables, iproute2 and util-linux. With systemd the timer and the rules
    after a reboot are units.
options:
  state:
    description: Whether the VM's traffic goes through the proxy.
    type: str
    choices: [present, absent]
    default: present
  version:
    description:
      - The Istio version of the proxy, like V(1.8.4) or V(1.18.7-r2). Needed with O(state=present).
      - Options that C(istio-iptables) of this version does not have are refused.
    type: str
  mode:
    description:
      - How inbound connections reach the proxy. V(TPROXY) keeps the client's address; the proxy must have been configured for it.
    type: str
    choices: [REDIRECT, TPROXY]
    default: REDIRECT
  proxy_port:
    description: The proxy's port for outbound connections.
    type: int
    default: 15001
  inbound_port:
    description: The proxy's port for inbound connections.
    type: int
    default: 15006
  tunnel_port:
    description: The proxy's port for tunnels (HBONE), which is never redirected.
    type: int
    default: 15008
  proxy_uids:
    description: Users whose connections are not redirected, by number or name. The proxy must run as one of them.
    type: list
    elements: str
    default: ["1337"]
  proxy_gids:
    description: Groups whose connections are not redirected. The same as O(proxy_uids) when it is not set.
    type: list
    elements: str
  inbound_ports:
    description:
      - Inbound ports that go through the proxy, or V(*) for all but O(inbound_exclude_ports). An empty list captures none.
    type: list
    elements: str
    default: ["*"]
  inbound_exclude_ports:
    description: Inbound ports that do not, when O(inbound_ports) is V(*). A range is like V(3000:3010).
    type: list
    elements: str
    default: ["15020", "15021", "15090"]
  outbound_cidrs:
    description:
      - Networks to which connections go through the proxy, like those of the cluster's Services and pods, or V(*) for all.
    type: list
    elements: str
    default: ["*"]
  outbound_exclude_cidrs:
    description: Networks to which they do not, like that of the cloud's metadata service.
    type: list
    elements: str
    default: []
  outbound_ports:
    description: Outbound ports that go through the proxy whatever the destination is.
    type: list
    elements: str
    default: []
  outbound_exclude_ports:
    description: Outbound ports that never do.
    type: list
    elements: str
    default: []
  include_groups:
    description: Groups whose outbound connections are redirected, by number or name, or V(*) for all.
    type: list
    elements: str
    default: ["*"]
  exclude_groups:
    description: Groups whose outbound connections are not redirected, when O(include_groups) is V(*).
    type: list
    elements: str
    default: []
  exclude_interfaces:
    description: Network interfaces whose traffic is never captured.
    type: list
    elements: str
    default: []
  virtual_interfaces:
    description: Interfaces of virtual machines and containers on this VM, whose inbound traffic is taken for outbound.
    type: list
    elements: str
    default: []
  dns_capture:
    description: Whether questions to the name servers go to the proxy's agent.
    type: bool
    default: false
  dns_capture_all:
    description: Whether all questions do, and not only those to O(dns_servers). Used with O(dns_capture).
    type: bool
    default: false
  dns_servers:
    description: The name servers' addresses. Those of C(/etc/resolv.conf) when it is not set.
    type: list
    elements: str
  drop_invalid:
    description: Whether packets out of a connection's window are dropped instead of answered by a reset.
    type: bool
    default: false
  ipv6:
    description: Whether IPv6 is redirected, too.
    type: bool
    default: false
  loopback_cidr:
    description: Addresses of the loopback interface that mean the application itself.
    type: str
    default: 127.0.0.1/32
  tproxy_mark:
    description: The mark of packets with O(mode=TPROXY).
    type: int
    default: 1337
  tproxy_route_table:
    description: The routing table of marked packets with O(mode=TPROXY).
    type: int
    default: 133
  ssh_ports:
    description:
      - Further ports that are never captured. Port 22 and the ports of Ansible's own connection are always among them, and
        stay there.
    type: list
    elements: int
    default: []
  backend:
    description:
      - The back end of iptables. V(auto) is that of the VM's C(iptables). Istio's rules in the other one are removed.
    type: str
    choices: [auto, nft, legacy]
    default: auto
  persist:
    description: Whether a reboot brings the rules again.
    type: bool
    default: true
  revert_after:
    description:
      - Seconds after which the VM takes an unproven change back. At least 15. The new connection and O(probes) must fit in.
    type: int
    default: 60
  probes:
    description:
      - What must be answered while the rules are in force. One right answer of each is needed within O(probe_timeout).
      - Without it the proxy's readiness, C(http://127.0.0.1:15021/healthz/ready) on the VM. An empty list asks nothing,
        then only the new connection is proof.
    type: list
    elements: dict
    suboptions:
      url:
        description: A URL of http or https that is asked for.
        type: str
      tcp:
        description: C(host:port) to which a connection is made instead.
        type: str
      status:
        description: The right statuses.
        type: list
        elements: int
        default: [200]
      from:
        description: Where it is asked. The VM asks as root, whose outbound connections are redirected like an application's.
        type: str
        choices: [vm, controller]
        default: vm
      timeout:
        description: Seconds that one try may take.
        type: float
        default: 3
  probe_timeout:
    description: Seconds until all O(probes) must have been answered once.
    type: float
    default: 15
  state_dir:
    description: The folder on the VM for what the way back and the boot need. Mode V(0700). O(state=absent) removes it.
    type: path
    default: /var/lib/servicemesh-migration/redirect
  confirm:
    description: For the second call, which this task itself makes. Not for playbooks.
    type: dict
    suboptions:
      change:
        description: Which change is meant.
        type: str
        required: true
      failure:
        description: Why the controller's own proof failed, when it did.
        type: str
        default: ""
seealso:
  - module: servicemesh.migration.vm_identity
notes:
  - Rules of Docker and of firewalls keep their place before or after the redirect. The unit starts after them for that reason.
  - A table of the packet filter that holds no rule any more stays listed by iptables-save, empty, if it was not listed before.
"""

EXAMPLES = r"""
- name: Send the VM's traffic to the cluster's Services through the proxy
  servicemesh.migration.vm_redirect:
    version: 1.18.7
    outbound_cidrs: [10.247.0.0/16]
    probes:
      - url: http://127.0.0.1:15021/healthz/ready
      - url: http://tomcat.vmns.svc:8080/
      - {url: "http://{{ ansible_host }}:8080/", from: controller}
  become: true

- name: Take the redirect away, whoever made it
  servicemesh.migration.vm_redirect:
    state: absent
  become: true
"""

RETURN = r"""
backend:
  description: The back end of iptables that is used.
  returned: success
  type: str
  sample: nft
excluded_ssh_ports:
  description: Ports that are never captured.
  returned: success
  type: list
  elements: int
  sample: [22]
rules:
  description: The rules, by iptables and table.
  returned: success
  type: dict
  sample: {"iptables (nft)": {"nat": ["-A OUTPUT -j ISTIO_OUTPUT"]}}
confirmed:
  description: Whether the rules are proven and stay.
  returned: success
  type: bool
proof:
  description:
    - What proved them, with C(connection) and C(before) (the new ssh connection and the old one), C(probes), C(timer) and
      C(seconds).
  returned: when rules were written
  type: dict
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
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect import vm_redirect
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_options import redirect_spec


def main() -> None:
    module = AnsibleModule(
        argument_spec=redirect_spec(), required_if=[("state", "present", ["version"])], supports_check_mode=True
    )
    run(module, vm_redirect)


if __name__ == "__main__":
    main()
