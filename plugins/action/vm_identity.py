# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of vm_identity: reads the cluster, asks for tokens when the VM needs them. The VM's half does the rest.

The VM is asked first, in check mode: only it knows what is left of its token. So no token is made that nobody needs.
"""

from __future__ import annotations

import re
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, unknown
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import scrub
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity_spec import identity_spec

Result = dict[str, t.Any]
_NOT_FOR_PLAYBOOKS = ("facts", "token", "renewal_token")


def plain_name(host: str) -> str:
    """A host's name in the letters of Kubernetes. No dot is kept: istiod takes what is behind one for the namespace."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """See the module's documentation for options and results."""

    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Result | None = None) -> Result:
        result: Result = super().run(tmp, task_vars)
        variables = task_vars or {}
        given = {key: value for key, value in self._task.args.items() if value is not None}
        if found := [name for name in _NOT_FOR_PLAYBOOKS if name in given]:
            raise AnsibleActionFail(
                f"{', '.join(found)}: filled in by the controller, not by a playbook. Remove it from the task."
            )
        given.setdefault("name", plain_name(str(variables.get("inventory_hostname") or "")))
        checked = ArgumentSpecValidator(identity_spec()).validate(given)
        if checked.error_messages:
            raise AnsibleActionFail("; ".join(checked.error_messages))
        options = checked.validated_parameters
        try:
            result.update(self._go(options, given, variables))
            return result
        except MigrationError as error:
            problem = error
        except AnsibleError:
            raise  # the VM could not be reached, or the task cannot be right: Ansible says it
        except Exception as error:
            problem = unknown(error)
        secrets = [str((options.get("source") or {}).get("api_key") or "")]
        told = {"msg": scrub(problem.message, secrets), "error": scrub(problem.as_dict(), secrets)}
        result.update(failed=True, changed=bool(problem.done), **told)
        return result

    def _go(self, options: Result, given: Result, variables: Result) -> Result:
        # what the VM gets of the task: nothing by which the cluster could be reached
        words = {key: value for key, value in given.items() if key not in ("source", *_NOT_FOR_PLAYBOOKS)}
        if options["state"] == "absent":
            return self._absent(options, words, variables)
        cluster = Cluster("source", options["source"])
        cluster.guard()
        facts = _cluster.observe(cluster, options)
        there, objects = _cluster.plan(cluster, options)
        words["facts"] = facts.as_dict()
        seen = self._vm(words, variables, check=True)
        if seen.get("failed") or self._task.check_mode or not (seen.get("changed") or there.changed):
            return self._joined(there, seen, check=True)
        done: list[str] = []
        try:
            for obj, change in zip(objects, there.changes, strict=True):
                _create(cluster, obj)
                done.append(str(change))
            due = {item["name"] for item in seen["due"]}
            if "token" in due:
                words["token"] = _cluster.token(cluster, options, [options["audience"]])
            if "renewal_token" in due:
                words["renewal_token"] = _cluster.token(cluster, options, [])
        except MigrationError as error:
            error.done = done
            error.not_done = [str(change) for change in there.changes if str(change) not in done]
            raise
        return self._joined(there, self._vm(words, variables, check=False))

    def _absent(self, options: Result, words: Result, variables: Result) -> Result:
        there = Plan()
        found: list[t.Any] = []
        cluster = None
        if options["remove_service_account"]:
            cluster = Cluster("source", options["source"])
            cluster.guard()
            there, found = _cluster.plan_absent(cluster, options)
        answer = self._vm(words, variables, check=self._task.check_mode)
        if cluster is not None and not self._task.check_mode and not answer.get("failed"):
            self._take_away(cluster, found, there, options["namespace"], answer)
        return self._joined(there, answer, check=self._task.check_mode)

    @staticmethod
    def _take_away(cluster: Cluster, found: list[t.Any], there: Plan, namespace: str, answer: Result) -> None:
        """What this module made in the cluster. Raises MigrationError, which says what was done on the VM before."""
        done = [f"{change['action']} {change['target']}" for change in answer.get("plan") or []]
        try:
            for (kind, name, uid), change in zip(found, there.changes, strict=True):
                cluster.delete(kind, name, namespace, uid=uid)
                done.append(str(change))
        except MigrationError as error:
            error.done = done
            error.not_done = [str(change) for change in there.changes if str(change) not in done]
            raise

    def _vm(self, words: Result, variables: Result, *, check: bool) -> Result:
        """The module on the VM. Its arguments travel as those of any module do, never on a command line."""
        asked = self._task.check_mode
        self._task.check_mode = check
        try:
            return dict(
                self._execute_module(module_name="servicemesh.migration.vm_identity", module_args=words, task_vars=variables)
            )
        finally:
            self._task.check_mode = asked

    @staticmethod
    def _joined(there: Plan, answer: Result, check: bool = False) -> Result:
        """One result of both halves: the cluster's changes come first."""
        answer["changed"] = bool(answer.get("changed")) or there.changed
        answer["plan"] = [*there.as_list(), *(answer.get("plan") or [])]
        answer["notes"] = [*there.notes, *(answer.get("notes") or [])]
        if there.changed:
            mine, other = there.diff(), answer.get("diff") or {"before": "", "after": ""}
            answer["diff"] = {key: mine[key] + other[key] for key in ("before", "after")}
        answer.pop("invocation", None)
        return answer


def _create(cluster: Cluster, obj: Result) -> None:
    try:
        cluster.create(kind_of(obj["apiVersion"], obj["kind"]), obj)
    except MigrationError as error:
        if error.details.get("status") != 409:  # else another VM of the same play made it in this moment
            raise
