# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module, then proves from here that the machine can still be reached, and only then lets it stop its timer."""

from __future__ import annotations

import contextlib
import time
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_options import STATE_DIR
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_probe import prove, wrong

_ALONE = "-o ControlMaster=no -o ControlPath=none"
#: Seconds after the timer until a machine is given up that cannot be reached.
_PATIENCE = 30


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """See the module's documentation for options and results."""

    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if self._task.async_val or self._task.args.get("confirm"):
            raise AnsibleActionFail(
                "vm_redirect runs neither with async nor with confirm: this side has to prove that the machine can be reached. "
                "Remove both from the task."
            )
        arguments = {**self._task.args, "ssh_ports": self._ssh_ports(task_vars or {})}
        first = self._execute_module(module_args=arguments, task_vars=task_vars)
        pending = first.pop("pending", None)
        result.update(first)
        if pending is None or result.get("failed"):
            return result
        armed = time.monotonic()
        proof = self._prove_here(arguments)
        confirm = {
            "change": pending["change"],
            "failure": "; ".join(f"{one['probe']}: {one['why']}" for one in proof if one["why"]),
        }
        try:
            second = self._over_a_new_connection({**arguments, "confirm": confirm}, task_vars, pending, armed)
        except AnsibleConnectionFailure as error:
            second = self._cut_off(error, {**arguments, "confirm": confirm}, task_vars, pending, armed)
        if second.get("failed"):
            told: dict[str, t.Any] = {key: second[key] for key in ("msg", "error") if key in second}
            return {**result, **told, "failed": True, "changed": bool(second.get("changed"))}
        result["confirmed"] = bool(second.get("confirmed"))
        result["proof"] = {
            "connection": second.get("connection", []),
            "before": pending["connection"],
            "probes": [*proof, *second.get("proof", [])],
            "timer": pending["timer"],
            "seconds": round(time.monotonic() - armed, 1),
        }
        return result

    def _ssh_ports(self, task_vars: dict[str, t.Any]) -> t.Any:
        """The option, and the port that Ansible itself uses."""
        given = self._task.args.get("ssh_ports") or []
        own: list[t.Any] = []
        with contextlib.suppress(KeyError):
            own = [int(self._connection.get_option("port") or 22)]
        return [*given, *own] if isinstance(given, list) else given  # the module says what is wrong with it

    def _prove_here(self, arguments: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        """The probes that are to be asked from here. The module has checked them; only defaults are to be filled in."""
        probes = [probe for probe in arguments.get("probes") or [] if probe.get("from") == "controller" and not wrong(probe)]
        return prove(probes, float(arguments.get("probe_timeout") or 15))

    def _over_a_new_connection(
        self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None, pending: dict[str, t.Any], armed: float
    ) -> dict[str, t.Any]:
        """A second try only while there is time for it."""
        while True:
            try:
                with self._alone():
                    return dict(self._execute_module(module_args=arguments, task_vars=task_vars))
            except AnsibleConnectionFailure:
                if time.monotonic() - armed > pending["revert_after"] / 3:
                    raise
                time.sleep(1)

    @contextlib.contextmanager
    def _alone(self) -> t.Iterator[None]:
        """Connections that are opened here are new ones: none goes through a master that was there before the rules."""
        if self._connection.transport != "ssh":
            with contextlib.suppress(NotImplementedError, AttributeError):
                self._connection.reset()
            yield
            return
        before = self._connection.get_option("ssh_args")
        # ssh takes the first value that it is given for an option
        self._connection.set_option("ssh_args", f"{_ALONE} {before or ''}")
        try:
            yield
        finally:
            self._connection.set_option("ssh_args", before)

    def _cut_off(
        self,
        error: Exception,
        arguments: dict[str, t.Any],
        task_vars: dict[str, t.Any] | None,
        pending: dict[str, t.Any],
        armed: float,
    ) -> dict[str, t.Any]:
        """Wait for the timer, and ask the machine what became of the redirect. Perhaps only its answer to the proof was lost."""
        due = armed + pending["revert_after"]
        where = str((task_vars or {}).get("inventory_hostname") or "")
        why = f"no new connection came through: {error}"
        time.sleep(max(0.0, due - time.monotonic()))
        if not self._is_back(due + _PATIENCE):
            folder = str(arguments.get("state_dir") or STATE_DIR)
            return _failed(
                MigrationError(
                    "The machine cannot be reached any more since the redirect was written",
                    where=where,
                    why=f"{why}; {_PATIENCE} s after its timer was due it did not answer either, so whether the timer took the "
                    "redirect back is not known",
                    todo=f"on the machine's console, as root: `sh {folder}/revert.sh` takes the redirect back, and does nothing "
                    "when the timer has done so; if ssh does not answer then, the redirect is not what keeps it from it",
                    done=["the redirect, unless its timer has taken it back"],
                    details={"reachable_again_after": None, "timer": pending["timer"]},
                )
            )
        seconds = round(time.monotonic() - armed)
        details = {"reachable_again_after": seconds, "timer": pending["timer"]}
        why += f"; the machine answered again {seconds} s after the rules were written"
        try:
            with self._alone():
                told = dict(self._execute_module(module_args=arguments, task_vars=task_vars))
        except AnsibleConnectionFailure as again:
            return _failed(
                MigrationError(
                    "The machine was cut off when the redirect had been written, and what became of the redirect is not known",
                    where=where,
                    why=f"{why}, and then it could not be asked: {again}",
                    todo="run the task again: first of all it takes back what was never proven",
                    done=["the redirect, unless its timer has taken it back"],
                    details=details,
                )
            )
        if not (told.get("error") or {}).get("details", {}).get("taken_back"):
            return told
        return _failed(
            MigrationError(
                "The redirect cut this machine off and has been taken back",
                where=where,
                why=f"{why}, and its record says that the timer took the redirect back",
                todo="look for rules of others that send ssh into Istio's chains (iptables-save), then run the task again",
                not_done=["the redirect; the rules are as they were before this task"],
                details=details,
            )
        )

    def _is_back(self, end: float) -> bool:
        while time.monotonic() < end:
            with contextlib.suppress(AnsibleConnectionFailure), self._alone():
                if self._low_level_execute_command("true", sudoable=False).get("rc") == 0:
                    return True
            time.sleep(2)
        return False


def _failed(problem: MigrationError) -> dict[str, t.Any]:
    return {"failed": True, "changed": bool(problem.done), "msg": problem.message, "error": problem.as_dict()}
