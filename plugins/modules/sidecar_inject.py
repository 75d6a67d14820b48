#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads change their control plane, in waves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sidecar_inject
short_description: Moves workloads from one mesh's sidecars to the other's in waves, judged by gates, and back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Sets labels in the pod templates of Deployments, StatefulSets and DaemonSets that have a sidecar of the source, so that their
    new pods get one of the target. It does so wave by wave, and waits for the real rollouts.
  - Nothing counts as moved by its label. Every new pod must be ready with a proxy of the target (O(target_proxy)), and the proxy
    itself must say that it has a certificate for the pod's identity, trusts a root, is connected to its control plane and took
    its configuration (O(proof)).
  - Before a wave restarts anything, a dry run of one pod of each namespace shows whether injection would give it a sidecar of the
    target, and one in the same network as the sidecar that it has.
  - A last ready pod is never taken away. A workload that may make more pods first (maxSurge) is told to give none away
    meanwhile when its own maxUnavailable, or a PodDisruptionBudget, would not do; its maxUnavailable is put back afterwards.
    A workload that may not is refused, with the reason, and the others move.
  - Between the waves gates judge, as in M(servicemesh.migration.traffic_shift), and the same orders are taken (file C(control)
    in the state directory, or the annotation C(servicemesh.migration/control) of the ConfigMap
    C(servicemesh-migration-<migration>) in C(istio-system)).
  - Workloads that are moved are found so by their pods. A run that was killed is continued by the same task, and a second run
    changes nothing.
  - What is not moved and has a sidecar is listed with the reason in RV(listed). Those are pods without controller, Jobs, owners
    that are not Kubernetes' own, gateways, and what another object makes.
  - Only one run of a migration moves traffic or workloads at a time; it holds a lock in O(state_dir).
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._gates
  - servicemesh.migration._state
  - servicemesh.migration._state.wait
attributes:
  check_mode:
    support: full
    details:
      - All waves are planned. Gates are not run.
  diff_mode:
    support: full
  idempotent:
    support: full
  async:
    description: Supports being used with the C(async) keyword.
    support: none
    details:
      - The task is long by nature; its progress can only be shown while it is waited for.
options:
  state:
    description:
      - V(moved) brings the workloads to the target, wave by wave.
      - V(restored) gives those that this migration moved the labels and annotations of before, exactly. It knows them from the
        journal or its mirror in the cluster. O(waves) and O(gates) are not used then. When both are lost while workloads
        have what this collection set, it fails and names them.
      - V(restarted) restarts in waves, with the same care, the workloads of Istio whose proxies were made before ASM prepared
        Istio for two meshes, so that they do not have C(PROXY_CONFIG_XDS_AGENT). ASM asks for it before C(Migrating). O(labels),
        O(annotations), O(trust), O(on_fail) and O(restore_failed) are not used then, for there is nothing to go back to. The
        annotation C(servicemesh.migration/restarted) stays in the templates.
    type: str
    choices: [moved, restored, restarted]
    default: moved
  namespaces:
    description:
      - Only workloads of these namespaces. All of them when it is empty.
    type: list
    elements: str
    default: []
  label_selector:
    description:
      - Only workloads with these labels (of the workload itself), written as for C(kubectl -l).
    type: str
  labels:
    description:
      - The labels of the pod template that bring a workload to the target. V(null) takes a label away.
      - A workload or Service that selects by one of them is refused, because its pods would leave it.
    type: dict
    default:
      sidecar.asm.aliyun.com/inject: "true"
      istio.io/rev: null
  annotations:
    description:
      - Annotations of the pod template that go with O(labels).
    type: dict
    default: {}
  target_proxy:
    description:
      - What the proxies of the target are known by. When nothing is set, a proxy with any C(ASM_ID) in its environment is one.
    type: dict
    default: {}
    suboptions:
      asm_id:
        description:
          - The id of the ASM instance, in C(ASM_ID) of its proxies.
        type: str
      discovery_address:
        description:
          - The address of the control plane, like V(istiod-1-24.istio-system.svc). Port and cluster domain do not count.
        type: str
      image:
        description:
          - A part of the proxy's image, like V(/acs/proxyv2:).
        type: str
      trust_domain:
        description:
          - The trust domain of the certificates.
        type: str
      roots:
        description:
          - SHA-256 fingerprints of root certificates, in hex, each of which every moved proxy must trust. While both meshes run
            they are the root of each.
        type: list
        elements: str
        default: []
  waves:
    description:
      - The waves, one after the other. A wave is a number of workloads, a percentage of all of them, or a dictionary with
        C(name), what it takes (C(namespaces), C(label_selector), C(kinds), C(names)), how many of those (C(number) or C(percent),
        all when neither is set), and its own C(hold) and C(max_hold).
      - A wave takes from what those before it left, ordered by namespace, kind (Deployments, StatefulSets, DaemonSets) and name.
        What no wave takes stays where it is and is in RV(not_in_a_wave).
    type: list
    elements: raw
    default: [1, 10%, 100%]
  undo_waves:
    description:
      - With O(state=restored) only the workloads that moved in the waves of these names. All when it is empty.
    type: list
    elements: str
    default: []
  opt_out:
    description:
      - Labels that keep a pod out of the target's injection when that takes all pods, as ASM's does in the state C(Finished).
      - With O(state=restored) a dry run shows first what a new pod would get. Only where it would be the target's sidecar all the
        same, the workloads get these labels beside what they had; they are in RV(kept_out), and lose them when O(state=restored)
        is run again after the cluster has left the target. Nothing is restarted where these labels do not help either.
    type: dict
    default:
      sidecar.asm.aliyun.com/inject: "false"
  concurrency:
    description:
      - So many rollouts at once at most, inside of a wave.
    type: int
    default: 25
  hold:
    description:
      - Seconds that each wave is held and judged before the next one.
    type: float
    default: 60
  max_hold:
    description:
      - Seconds that a wave is held at most while a gate is undecided. 60 more than the hold when it is not set.
    type: float
  on_fail:
    description:
      - What goes back to the source when a gate fails, a wave stays undecided, or a workload of it does not come to the target.
      - V(hold) nothing, but see O(restore_failed). V(previous) the workloads of this wave. V(zero) all that this migration moved.
    type: str
    choices: [hold, previous, zero]
    default: previous
  restore_failed:
    description:
      - Gives workloads that did not come to the target their old sidecar back at once, before O(on_fail) is looked at.
    type: bool
    default: true
  baseline_timeout:
    description:
      - Seconds that the gates have to pass before the first wave.
    type: float
    default: 30
  soak:
    description:
      - Seconds that the gates go on judging after the last wave.
    type: float
    default: 0
  max_pause:
    description:
      - Seconds that all pauses of a run may last together. After them the run ends, and what has moved stays.
    type: float
    default: 3600
  proof:
    description:
      - V(proxies) asks the proxies themselves, through the API server (C(pods/portforward)). V(pods) believes image and
        environment of the pods.
    type: str
    choices: [proxies, pods]
    default: proxies
  proof_sample:
    description:
      - Of each workload so many pods are asked; the others are only looked at. 0 asks all of them.
    type: int
    default: 0
  proof_timeout:
    description:
      - Seconds after the end of a rollout in which its pods must be proven.
    type: float
    default: 60
  trust:
    description:
      - Whether old and new sidecars are seen to trust each other while a wave is held. Their own counters say which requests of
        the real traffic went from one side to the other and were answered; where servers take nothing but mutual TLS, a success
        is its proof. Gateways are not looked at.
      - V(report) puts the matrix into RV(waves[].numbers). V(require) makes it a gate, so that a direction without traffic, or
        whose servers take plain text too, is undecided; a client that only gets errors from the other side is a failure.
    type: str
    choices: [none, report, require]
    default: none
  trust_sample:
    description:
      - So many pods of each side are read as clients.
    type: int
    default: 10
  wait_timeout:
    description:
      - Seconds that a rollout may go on without any progress, on top of its own C(minReadySeconds) and the grace period of its
        pods. Then it has failed. How long a wave takes in all is not limited as long as there is progress.
seealso:
  - module: servicemesh.migration.traffic_shift
"""

EXAMPLES = r"""
- name: One workload first, then the shop, then all others
  servicemesh.migration.sidecar_inject:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target_proxy:
      asm_id: "{{ asm_mesh_id }}"
    waves:
      - {name: canary, namespaces: [shop], names: [reviews], hold: 600}
      - {name: shop, namespaces: [shop], hold: 300}
      - {name: rest, percent: 100}
    gates:
      - name: shop over HTTPS
        probe:
          url: https://shop.example.com/healthz
          min_success: 99.9

- name: Take back what the wave named rest moved
  servicemesh.migration.sidecar_inject:
    migration: shop
    state: restored
    undo_waves: [rest]
    gates: []
"""

RETURN = r"""
verdict:
  description:
    - How it ended. V(pass), V(fail), V(inconclusive), V(aborted), V(interrupted) or V(error), as in
      M(servicemesh.migration.traffic_shift).
  returned: when not in check mode, with O(state=moved)
  type: str
reason:
  description: Why it ended so.
  returned: when not in check mode, with O(state=moved)
  type: str
share:
  description: The part of the workloads in the waves, in percent, that is in the target now. Those that are refused do not count.
  returned: success or after a wave
  type: float
waves:
  description:
    - The waves that were begun; in check mode all that would be.
  returned: with O(state=moved)
  type: list
  elements: dict
  contains:
    wave:
      description: Its name.
      type: str
      returned: always
    moves:
      description: The workloads that it would move.
      type: list
      elements: str
      returned: in check mode
    moved_already:
      description: So many of its workloads are in the target already.
      type: int
      returned: in check mode
    hold:
      description: Seconds that it would be held.
      type: float
      returned: in check mode
    max_hold:
      description: Seconds that it would be held at most.
      type: float
      returned: in check mode
    share:
      description: The part of all workloads, in percent, that is in the target when it has moved.
      type: float
      returned: when not in check mode
    started:
      description: When it began, ISO 8601 UTC.
      type: str
      returned: when not in check mode
    ended:
      description: When it was judged, ISO 8601 UTC.
      type: str
      returned: when not in check mode
    move_s:
      description: Seconds until all its workloads were proven.
      type: float
      returned: when not in check mode
    held_s:
      description: Seconds that it was held, without pauses.
      type: float
      returned: when not in check mode
    verdict:
      description: What the gates, or what ended the wave, said.
      type: str
      returned: when not in check mode
    numbers:
      description: For each gate its state, reason and numbers at that time.
      type: dict
      returned: when not in check mode
workloads:
  description: Every workload with a sidecar that can follow its template.
  returned: success or after a wave
  type: list
  elements: dict
  contains:
    kind:
      description: Its kind.
      type: str
      returned: always
    namespace:
      description: Its namespace.
      type: str
      returned: always
    name:
      description: Its name.
      type: str
      returned: always
    wave:
      description: The name of its wave; V(null) when no wave takes it.
      type: str
      returned: always
    state:
      description: V(source), V(moving) (it has the labels, not all of its pods the sidecar) or V(target).
      type: str
      returned: always
    pods:
      description: The number of its pods.
      type: int
      returned: always
    native_sidecar:
      description: Whether the sidecar is an init container that keeps running.
      type: bool
      returned: always
    refused:
      description: Why it is not moved now; empty when it can be.
      type: str
      returned: always
    result:
      description: What this run did with it. V(done), V(failed), V(rolling) or V(queued).
      type: str
      returned: when this run began it
    reason:
      description: Why it is so.
      type: str
      returned: when this run began it
    seconds:
      description: How long it took, with its proof.
      type: float
      returned: when this run began it
    proofs:
      description:
        - For each pod what was seen (C(image), C(asm_id), C(discovery_address)), what its proxy said (C(proxy), with C(identity),
          C(roots), C(connected), C(configured), C(rejected)), and why that is no proof (C(trouble)).
      type: list
      elements: dict
      returned: when this run began it
listed:
  description: What has a sidecar, or asks for one, and is not moved; with C(kind), C(namespace), C(name) and C(reason).
  returned: success or after a wave
  type: list
  elements: dict
not_in_a_wave:
  description: Workloads that no wave takes.
  returned: success or after a wave
  type: list
  elements: str
kept_out:
  description: Workloads that are back in the source and still have the labels of O(opt_out).
  returned: with O(state=restored)
  type: list
  elements: str
without_sidecar:
  description: The number of workloads (and kinds of pods) without any sidecar.
  returned: success or after a wave
  type: int
soak:
  description: The judgement after the last wave; V(null) when there was none.
  returned: when not in check mode, with O(state=moved)
  type: dict
rolled_back:
  description: The way back, with C(to), C(ok) and C(error); V(null) when there was none.
  returned: when not in check mode, with O(state=moved)
  type: dict
timings:
  description: Times of the run, as in M(servicemesh.migration.traffic_shift).
  returned: when not in check mode, with O(state=moved)
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
run:
  description: The id of this run in the journal and in the progress lines.
  returned: success or after a wave
  type: str
progress:
  description: The file of the progress lines.
  returned: success or after a wave
  type: str
error:
  description: What went wrong, in parts, with C(what), C(where), C(why), C(todo), C(done) and C(not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import source_spec, state_spec, wait_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import gates_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_run import inject


def main() -> None:
    """Options, and one call."""
    known_by = {name: {"type": "str"} for name in ("asm_id", "discovery_address", "image", "trust_domain")}
    roots = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **gates_spec(),
            **state_spec(),
            **wait_spec(),
            "state": {"type": "str", "choices": ["moved", "restored", "restarted"], "default": "moved"},
            "namespaces": {"type": "list", "elements": "str", "default": []},
            "label_selector": {"type": "str"},
            "labels": {"type": "dict", "default": {"sidecar.asm.aliyun.com/inject": "true", "istio.io/rev": None}},
            "annotations": {"type": "dict", "default": {}},
            "target_proxy": {"type": "dict", "default": {}, "options": {**known_by, "roots": roots}},
            "waves": {"type": "list", "elements": "raw", "default": [1, "10%", "100%"]},
            "undo_waves": {"type": "list", "elements": "str", "default": []},
            "opt_out": {"type": "dict", "default": {"sidecar.asm.aliyun.com/inject": "false"}},
            "concurrency": {"type": "int", "default": 25},
            "hold": {"type": "float", "default": 60},
            "max_hold": {"type": "float"},
            "on_fail": {"type": "str", "choices": ["hold", "previous", "zero"], "default": "previous"},
            "restore_failed": {"type": "bool", "default": True},
            "baseline_timeout": {"type": "float", "default": 30},
            "soak": {"type": "float", "default": 0},
            "max_pause": {"type": "float", "default": 3600},
            "proof": {"type": "str", "choices": ["proxies", "pods"], "default": "proxies"},
            "proof_sample": {"type": "int", "default": 0},
            "proof_timeout": {"type": "float", "default": 60},
            "trust": {"type": "str", "choices": ["none", "report", "require"], "default": "none"},
            "trust_sample": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    run(module, inject)


if __name__ == "__main__":
    main()
