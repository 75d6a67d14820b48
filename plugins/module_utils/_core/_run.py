# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The only place that ends a module: logic returns an Outcome or raises a MigrationError."""

from __future__ import annotations

import dataclasses
import gc
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, unknown
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed, scrub

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Python looks for cycles whenever 700 more objects are alive than before, and again and again at all of them while thousands of
# Kubernetes objects are read: two fifths of mesh_config's CPU for 5,000. What is read here has no cycles.
_CYCLES = (20_000, 50, 50)


@dataclasses.dataclass
class Outcome:
    """What a module answers.

    :arg plan: its changes are RV(plan), ``changed`` and the diff.
    :arg result: further return values (plain data, no secrets).
    :arg warnings: sentences for the operator.
    :arg failed: for modules that answer per item: some item failed, the rest of the result still counts.
    """

    plan: Plan = dataclasses.field(default_factory=Plan)
    result: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    failed: MigrationError | None = None


# The options with no_log, whatever module has them.
_SECRET = frozenset(
    {
        "api_key",
        "access_key_secret",
        "security_token",
        "token",
        "renewal_token",
        "registry_password",
        "vault_password",
        "age_identity",
    }
)


def secrets_of(params: t.Any) -> list[str]:
    """The values of all secret options, for the journal and for messages."""
    found: list[str] = []
    if isinstance(params, t.Mapping):
        for key, value in params.items():
            if key in _SECRET and isinstance(value, str) and value:
                found.append(value)
            else:
                found.extend(secrets_of(value))
    elif isinstance(params, (list, tuple)):
        for item in params:
            found.extend(secrets_of(item))
    return found


def run(module: AnsibleModule, logic: t.Callable[[dict[str, t.Any], bool], Outcome]) -> t.NoReturn:
    """Call ``logic(params, check_mode)`` and end the module with what it returned or raised. No traceback, ever."""
    gc.set_threshold(*_CYCLES)
    secrets = secrets_of(module.params)
    problem: MigrationError | None = None
    outcome = Outcome()
    try:
        outcome = logic(module.params, module.check_mode)
        problem = outcome.failed
    except MigrationError as error:
        problem = error
    except Exception as error:
        problem = unknown(error)
    answer: dict[str, t.Any] = {
        **outcome.result,
        "changed": outcome.plan.changed,
        "plan": concealed(outcome.plan.as_list()),
        "notes": outcome.plan.notes,
    }
    if module._diff or outcome.plan.changed:  # pylint: disable=protected-access
        answer["diff"] = outcome.plan.diff()
    answer = scrub(answer, secrets)
    for warning in outcome.warnings:
        module.warn(scrub(warning, secrets))
    if problem is not None:
        answer["changed"] = bool(problem.done) or (outcome.plan.changed and outcome.failed is not None)
        module.fail_json(msg=scrub(problem.message, secrets), error=scrub(problem.as_dict(), secrets), **answer)
    module.exit_json(**answer)
    raise SystemExit(0)  # never reached: exit_json ends the process
