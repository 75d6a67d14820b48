# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Alibaba's cloud-controller-manager: what it does to LoadBalancer Services for classic load balancers (CLB).

Built from observation of the real one (v2.8.0, v2.11.2, v2.14.0); the same conformance suite (tests/integration/ccm) runs against
both. docs/lab-ccm.md says what it leaves out. The steps of a reconcile are in reconcile.py, all decisions are pure functions:

    nodes, endpoints, Service -> backends.wanted_groups() ─┐
    SLB API                   -> remote.py                 ├─> plan.py -> apply.py
"""
