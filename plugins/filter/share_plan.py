# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter share_plan: what a share would really become, for given backends."""

from __future__ import annotations

DOCUMENTATION = r"""
name: share_plan
short_description: Weights that come nearest to an asked share of traffic
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Plans the two annotation weights for Alibaba Cloud's cloud-controller-manager that bring the target gateway's share of the
    traffic as near as possible to the asked one, and says which share they really give.
  - A weight is no percentage. The cloud-controller-manager divides it by the number of backends, cuts the fraction off, and gives
    every backend at least 1.
  - The modules M(servicemesh.migration.clb_weight) and M(servicemesh.migration.traffic_shift) use the same planner.
positional: _input
options:
  _input:
    description:
      - The asked share of the target in percent, V(0) to V(100), or a list of such.
    type: raw
    required: true
  source_backends:
    description:
      - How many backends the source gateway has. In mode V(cluster) these are the eligible nodes, in mode V(eni) the ready pods,
        in mode V(local) the nodes with ready pods.
      - In mode V(local) a list of ready pods per node can be given.
    type: raw
    required: true
  target_backends:
    description:
      - The same for the target gateway.
    type: raw
    required: true
  mode:
    description:
      - How the Services' backends are made.
    type: str
    choices: [cluster, local, eni]
    default: cluster
seealso:
  - module: servicemesh.migration.clb_weight
"""

EXAMPLES = r"""
- name: Show what the steps would really be with 30 nodes
  ansible.builtin.debug:
    msg: "{{ [1, 5, 25, 50] | servicemesh.migration.share_plan(source_backends=30, target_backends=30) }}"

- name: One share, pods as backends
  ansible.builtin.debug:
    msg: "{{ (10 | servicemesh.migration.share_plan(source_backends=3, target_backends=2, mode='eni')).planned }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary for one share, a list of dictionaries for a list.
    - Keys are C(asked), C(planned) and C(error) (points), C(source_weight) and C(target_weight) (annotations), and
      C(source_capacity) and C(target_capacity) (sums of the weights that reach the load balancer).
  type: raw
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import choose, side_of


def share_plan(asked: t.Any, source_backends: t.Any, target_backends: t.Any, mode: str = "cluster") -> t.Any:
    """See DOCUMENTATION."""
    try:
        source = side_of(mode, source_backends, "source_backends")
        target = side_of(mode, target_backends, "target_backends")
        if isinstance(asked, (list, tuple)):
            return [choose(source, target, share).as_dict() for share in asked]
        return choose(source, target, asked).as_dict()
    except MigrationError as error:
        raise AnsibleFilterError(f"share_plan: {error.what}. {error.why}. {error.todo}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"share_plan": share_plan}
