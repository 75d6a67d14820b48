#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module vm_proxy. The thought is in module_utils/_vm/_proxy.py and _proxy_run.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_proxy
short_description: Runs the mesh proxy of a VM as a container, exchanges it without a lost request, and removes it
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Runs the proxy (C(asm-proxy)) with the identity that M(servicemesh.migration.vm_identity) made, in a container on the VM's own
    network. It speaks to Docker Engine, or to podman, over its unix socket; no further Python package is needed.
  - A proxy counts as there when it is ready, has heard istiod, refused nothing of what it heard, and its certificate has the
    identity that C(cluster.env) names.
  - A proxy that differs from the options, or was started with other files, is exchanged. With O(replace=seamless) a helper serves
    beside the old proxy on the same ports before the old one goes, and until the new one has taken its place. A run that is cut
    short leaves at least one of them serving, and the next run goes on. Connections of TCP services that are still open after
    O(drain_seconds) are cut.
  - It changes no rule of iptables. M(servicemesh.migration.vm_redirect) does that, afterwards.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(pull=always) the image is asked for in each run.
requirements:
  - On the VM, Python 3.9 or newer, root (C(become)), and Docker Engine 18.09 or newer, or podman with its socket.
options:
  state:
    description:
      - Whether the proxy runs. V(absent) removes the container, a helper that was left, and the volumes that they made. While
        rules lead the VM's traffic to a proxy that serves, it is not removed. Lift the redirect before.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: The name of the container. The helper has C(-next) behind it.
    type: str
    default: asm-proxy
  path:
    description: The folder of the identity.
    type: path
    default: /opt/asm_proxy
  image:
    description: The image. Best by its digest (C(name@sha256:...)), for a tag can be moved. Needed with O(state=present).
    type: str
  pull:
    description:
      - When the image is pulled. With V(never) it must have been loaded. With V(always), a proxy of which the image's name means
        another image by now is exchanged.
    type: str
    choices: [missing, always, never]
    default: missing
  registry_username:
    description: User of the image's registry.
    type: str
  registry_password:
    description: Password of O(registry_username).
    type: str
  remove_image:
    description: With O(state=absent), remove the image O(image), too.
    type: bool
    default: false
  args:
    description:
      - Arguments of the container. The vendor's image needs none. Istio's own (C(proxyv2)) needs V([proxy, sidecar]).
    type: list
    elements: str
    default: []
  entrypoint:
    description: Another entrypoint than the image's.
    type: list
    elements: str
    default: []
  user:
    description:
      - User and group of the container's process, like V(1337:1337) for Istio's own image. The vendor's start script wants to be
        root, the default. Rules of M(servicemesh.migration.vm_redirect) know the proxy by user 1337.
    type: str
    default: ""
  env:
    description:
      - Environment variables over those of C(cluster.env). Values of those with names like C(TOKEN) or C(PASSWORD) are not shown.
    type: dict
    default: {}
  volumes:
    description: Further mounts, like V(/etc/localtime:/etc/localtime:ro).
    type: list
    elements: str
    default: []
  capabilities:
    description:
      - Capabilities over the engine's usual ones. The vendor's start script looks at iptables, Istio's own image needs none.
    type: list
    elements: str
    default: [NET_ADMIN]
  restart_policy:
    description: Whether the proxy comes back after a reboot when somebody had stopped it.
    type: str
    choices: [always, unless-stopped]
    default: always
  memory:
    description: Limit of memory, like V(512m). During an exchange two of them run.
    type: str
  cpus:
    description: Limit of CPUs, like V(1.5).
    type: float
  log_driver:
    description: The log driver.
    type: str
    default: json-file
  log_max_size:
    description: Size at which a log file is changed, for drivers that write files.
    type: str
    default: 10m
  log_max_files:
    description: How many log files are kept.
    type: int
    default: 3
  stop_timeout:
    description: Seconds that a proxy has for its end when it is stopped or restarted.
    type: int
    default: 10
  replace:
    description:
      - V(seamless) exchanges the proxy without a lost request. Two Envoys must be able to share ports, as those of Istio 1.12 and
        newer can. When they cannot, the old proxy stays as it was, and the task fails.
      - V(restart) stops the old one first. Lift the redirect before.
    type: str
    choices: [seamless, restart]
    default: seamless
  drain_seconds:
    description: Seconds that connections of a proxy that goes get for their end. It goes at once when there are none.
    type: float
    default: 30
  adopt:
    description: Exchange a container of this name that this module did not make, like one that was started by hand.
    type: bool
    default: false
  engine_socket:
    description: The engine's socket. By default that of Docker, or of podman.
    type: path
  wait_timeout:
    description: Seconds until a proxy must be ready.
    type: float
    default: 120
seealso:
  - module: servicemesh.migration.vm_identity
  - module: servicemesh.migration.vm_redirect
"""

EXAMPLES = r"""
- name: Run the vendor's proxy
  servicemesh.migration.vm_proxy:
    image: swr.cn-north-4.myhuaweicloud.com/istio/asm-proxy:1.8.4
    memory: 512m
    cpus: 1
  become: true

- name: Upgrade Istio's own image by its digest while it serves
  servicemesh.migration.vm_proxy:
    image: docker.io/istio/proxyv2@sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4
    args: [proxy, sidecar]
    user: "1337:1337"
    capabilities: []
  become: true

- name: Remove it
  servicemesh.migration.vm_proxy:
    state: absent
  become: true
"""

RETURN = r"""
ready:
  description: Whether the proxy is ready; in check mode, whether it was.
  returned: success
  type: bool
proxy:
  description: What the proxy says of itself.
  returned: with O(state=present), when it runs
  type: dict
  contains:
    version:
      description: Envoy's version.
      type: str
      returned: always
    state:
      description: Envoy's state.
      type: str
      returned: always
      sample: LIVE
    uptime:
      description: Seconds since its start.
      type: str
      returned: always
    spiffe:
      description: The identity in its certificate.
      type: str
      returned: when it has one
      sample: spiffe://cluster.local/ns/vmns/sa/vmsa
    certificate_expires:
      description: Until when the certificate is valid.
      type: str
      returned: when it has one
    connected:
      description: Whether it is connected to istiod.
      type: bool
      returned: always
    rejected:
      description: How many configurations it refused.
      type: int
      returned: always
    listeners:
      description: The version of its listeners, as istiod numbers them.
      type: str
      returned: when it has heard istiod
    clusters:
      description: The version of its clusters.
      type: str
      returned: when it has heard istiod
image_id:
  description: The id of the image that runs.
  returned: with O(state=present), when not in check mode
  type: str
seconds:
  description: Seconds that it took.
  returned: success
  type: float
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
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._proxy_run import run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._proxy_spec import proxy_spec


def main() -> None:
    run(AnsibleModule(argument_spec=proxy_spec(), supports_check_mode=True), run_module)


if __name__ == "__main__":
    main()
