# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of migration_preflight: read, check, and say it all at once."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._checks import CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._facts import read
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import judged, run_checks
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._workload_checks import WORKLOAD_CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import check_input
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import parse_share


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """The same in check mode: it only reads. Raises InputError for options that cannot be right."""
    del check_mode
    pairs_of(params["gateways"])
    check_input(params["gateways"], {})
    for step in params.get("steps") or []:
        if isinstance(step, t.Mapping) and "share" not in step:
            raise InputError("A step has no share", where="the option steps", why=str(step), todo="give each step a share")
        parse_share(step["share"] if isinstance(step, t.Mapping) else step)
    facts = read(params)
    checks = {**CHECKS, **(WORKLOAD_CHECKS if params.get("workloads") else {})}
    return judged(run_checks(checks, facts, facts.problems), params["fail_on"], "this migration")
