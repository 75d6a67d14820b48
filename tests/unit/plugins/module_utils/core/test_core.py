# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors for operators, plans and their diff, retries and waits, the pool, secrets, option specs, and run()."""

from __future__ import annotations

import json
import os
import threading
import time
import typing as t

import pytest
import yaml
from ansible.module_utils import basic
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _retry, _specs
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry, wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, run, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK, scrub

# -- errors ------------------------------------------------------------------------------------------------------


def test_an_error_says_what_where_why_and_what_to_do() -> None:
    error = MigrationError(
        "The weight was not taken.", where="clb/lb-1", why="429.", todo="run again.", done=["a", "b"], not_done=["c"]
    )
    assert (
        str(error)
        == error.message
        == ("The weight was not taken. Where: clb/lb-1. Why: 429. What to do: run again. Changed already: a; b. Not changed: c.")
    )
    assert MigrationError("No").message == "No. Nothing has been changed by this call."
    assert isinstance(InputError("x"), MigrationError)


def test_an_error_as_data_is_complete_and_plain() -> None:
    error = MigrationError(
        "w", where="x", why="y", todo="z", done=("d",), not_done=("n",), transient=True, details={"status": 429}
    )
    assert json.loads(json.dumps(error.as_dict())) == {
        "what": "w",
        "where": "x",
        "why": "y",
        "todo": "z",
        "done": ["d"],
        "not_done": ["n"],
        "transient": True,
        "details": {"status": 429},
    }


# -- plan --------------------------------------------------------------------------------------------------------


def test_an_empty_plan_changes_nothing_and_has_no_diff() -> None:
    plan = Plan(notes=["as it should be"])
    assert (plan.changed, plan.as_list(), plan.diff()) == (False, [], {"before": "", "after": ""})


def test_diff_folds_changes_of_one_object() -> None:
    plan = Plan()
    plan.add("set_weight", "clb/a", 100, 50)
    plan.add("set_weight", "clb/b", 0, 50)
    plan.add("set_weight", "clb/a", 50, 0, "last step")
    assert plan.changed
    assert [change["after"] for change in plan.as_list()] == [50, 50, 0]
    diff = plan.diff()
    assert yaml.safe_load(diff["before"]) == {"set_weight clb/a": 100, "set_weight clb/b": 0}
    assert yaml.safe_load(diff["after"]) == {"set_weight clb/a": 0, "set_weight clb/b": 50}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "annotate"]),
            st.sampled_from(["x", "y", "z"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                max_leaves=6,
            ),
        ),
        max_size=8,
    )
)
def test_diff_is_the_first_before_and_the_last_after(items: list[tuple[str, str, t.Any]]) -> None:
    plan = Plan()
    now: dict[str, t.Any] = {}
    first: dict[str, t.Any] = {}
    for action, target, after in items:
        key = f"{action} {target}"
        plan.add(action, target, now.get(key), after)
        first.setdefault(key, now.get(key))
        now[key] = after
    diff = plan.diff()
    assert (yaml.safe_load(diff["after"]) or {}) == now
    assert (yaml.safe_load(diff["before"]) or {}) == first


def test_a_diff_shows_no_more_than_the_plan() -> None:
    route = {"headers": {"request": {"set": {"Authorization": "Bearer planted"}}}}
    hidden = {"kind": "Secret", "data": {"key": "planted"}}
    plan = Plan([Change("update", "a", hidden, route)])
    assert "planted" not in json.dumps(plan.diff()) and MASK in plan.diff()["before"]


def test_what_is_no_plain_data_is_shown_and_does_not_break_the_diff() -> None:
    plan = Plan([Change("x", "y", {"path": os.curdir, "set": {1}}, (1, 2))])
    assert yaml.safe_load(plan.diff()["after"]) == {"x y": [1, 2]}


# -- retry and wait ----------------------------------------------------------------------------------------------


class FakeTime:
    def __init__(self) -> None:
        self.now = 50.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(_retry, "time", clock)
    return clock


class Failing:
    """Fails a number of times, then answers."""

    def __init__(self, times: int, *, transient: bool = True) -> None:
        self.left, self.calls, self.transient = times, 0, transient

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise MigrationError("busy", transient=self.transient)
        return "done"


def test_retry_until_it_works(fake: FakeTime) -> None:
    call = Failing(3)
    assert retry(call) == "done"
    assert call.calls == 4
    # Doubles from 50 ms, with jitter between a half and the whole of it.
    for pause, most in zip(fake.slept, (0.05, 0.1, 0.2), strict=True):
        assert most / 2 <= pause <= most


def test_retry_gives_up(fake: FakeTime) -> None:
    call = Failing(100)
    with pytest.raises(MigrationError) as caught:
        retry(call, attempts=4)
    assert (call.calls, caught.value.details["attempts"]) == (4, 4)


def test_retry_only_what_may_help(fake: FakeTime) -> None:
    call = Failing(1, transient=False)
    with pytest.raises(MigrationError) as caught:
        retry(call)
    assert (call.calls, fake.slept, caught.value.details) == (1, [], {})


def test_retry_stops_at_the_deadline(fake: FakeTime) -> None:
    call = Failing(1000)
    with pytest.raises(MigrationError):
        retry(call, attempts=1000, deadline=fake.now + 5)
    assert 53 - 50 <= fake.now - 50 <= 5
    assert max(fake.slept) <= 2


def test_wait_returns_what_was_found_even_when_it_is_false(fake: FakeTime) -> None:
    found = iter([None, None, 0])
    assert wait_until(lambda: next(found), timeout=10, what="x") == 0
    assert len(fake.slept) == 2


def test_wait_is_quick_first_and_slower_later(fake: FakeTime) -> None:
    with pytest.raises(MigrationError):
        wait_until(lambda: None, timeout=60, what="the backends to appear")
    assert fake.slept[0] == pytest.approx(0.05)
    assert fake.slept == sorted(fake.slept[:-1]) + fake.slept[-1:]
    assert max(fake.slept) <= 1.0
    assert fake.now - 50 == pytest.approx(60)


def test_wait_says_what_it_waited_for_and_what_it_saw(fake: FakeTime) -> None:
    with pytest.raises(MigrationError) as caught:
        wait_until(
            lambda: None, timeout=3, what="weight 50 in the load balancer", where="clb/lb-1", explain=lambda: "it is 40", todo="t"
        )
    error = caught.value
    assert "Waited 3 s in vain: weight 50 in the load balancer" in error.message
    assert (error.where, error.why, error.todo, error.transient) == ("clb/lb-1", "it is 40", "t", False)


def test_wait_looks_once_even_without_time(fake: FakeTime) -> None:
    assert wait_until(lambda: "there", timeout=0, what="x") == "there"
    with pytest.raises(MigrationError):
        wait_until(lambda: None, timeout=0, what="x")
    assert fake.slept == []


def test_wait_outlives_errors_that_pass_and_no_others(fake: FakeTime) -> None:
    assert wait_until(Failing(3), timeout=10, what="x") == "done"
    with pytest.raises(MigrationError, match="busy") as caught:
        wait_until(Failing(100), timeout=2, what="x")
    assert "busy" in caught.value.why
    slept = len(fake.slept)
    with pytest.raises(MigrationError, match=r"^busy"):
        wait_until(Failing(1, transient=False), timeout=10, what="x")
    assert len(fake.slept) == slept


def test_wait_reports_progress(fake: FakeTime) -> None:
    seen: list[float] = []
    with pytest.raises(MigrationError):
        wait_until(lambda: None, timeout=1, what="x", progress=seen.append)
    assert seen == sorted(seen)
    assert all(0 <= elapsed < 1 for elapsed in seen)


# -- pool --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 8])
def test_each_item_has_its_answer_in_order(workers: int) -> None:
    def call(item: int) -> int:
        if item % 3 == 0:
            raise MigrationError(f"no {item}")
        time.sleep(0.001 * (10 - item))
        return item * 2

    answers = each(list(range(1, 8)), call, workers)
    assert [answer.item for answer in answers] == list(range(1, 8))
    assert [answer.value for answer in answers] == [2, 4, None, 8, 10, None, 14]
    assert [str(answer.error.what) for answer in answers if answer.error] == ["no 3", "no 6"]
    with pytest.raises(MigrationError, match="no 3"):
        values(answers)
    assert values(answers[:2]) == [2, 4]
    assert each([], call) == []


def test_the_pool_is_bounded() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def call(_item: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    each(list(range(20)), call, workers=3)
    assert 1 < most[0] <= 3


# -- secrets -----------------------------------------------------------------------------------------------------


def test_scrub_copies_and_hides() -> None:
    data = {
        "Token": "t1",
        "Authorization": "",
        "text": "say t2 twice: t2",
        "items": [{"kind": "Secret", "data": {"k": "v"}, "metadata": {"name": "n"}}, ("t2",)],
        "kind": "ConfigMap",
        "data": {"k": "v"},
        7: 8.5,
    }
    before = json.dumps(data, default=str)
    clean = scrub(data, ["t2", ""])
    assert json.dumps(data, default=str) == before
    assert clean["Token"] == MASK
    assert clean["Authorization"] == ""
    assert clean["text"] == f"say {MASK} twice: {MASK}"
    assert clean["items"] == [{"kind": "Secret", "data": {"k": MASK}, "metadata": {"name": "n"}}, [MASK]]
    assert (clean["data"], clean[7]) == ({"k": "v"}, 8.5)


def test_secrets_of_options_are_found_at_any_depth() -> None:
    params = {
        "source": {"api_key": "a", "host": "h"},
        "alibaba": {"access_key_id": "public", "access_key_secret": "b", "security_token": None},
        "list": [{"api_key": "c"}, {"api_key": ""}],
    }
    assert sorted(secrets_of(params)) == ["a", "b", "c"]


# -- option specs ------------------------------------------------------------------------------------------------


def validated(spec: dict[str, t.Any], given: dict[str, t.Any]) -> dict[str, t.Any]:
    result = ArgumentSpecValidator(spec).validate(given)
    assert result.error_messages == []
    return t.cast("dict[str, t.Any]", result.validated_parameters)


def test_source_and_target_take_their_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", "/source")
    monkeypatch.setenv("K8S_AUTH_TARGET_KUBECONFIG", "/target")
    monkeypatch.setenv("K8S_AUTH_VERIFY_SSL", "no")
    found = validated({**_specs.source_spec(), **_specs.target_spec()}, {})
    assert (found["source"]["kubeconfig"], found["target"]["kubeconfig"]) == ("/source", "/target")
    assert found["source"]["validate_certs"] is False
    assert found["target"]["validate_certs"] is None
    assert found["source"]["in_cluster"] is False
    assert validated(_specs.source_spec(), {"source": {"kubeconfig": "/mine"}})["source"]["kubeconfig"] == "/mine"


def test_no_cluster_by_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somebody/elses")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = validated(_specs.source_spec(), {})["source"]
    assert [value for key, value in found.items() if key not in ("in_cluster", "request_timeout")] == [None] * (len(found) - 2)


def test_specs_of_state_gateways_and_alibaba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBABA_CLOUD_REGION_ID", "cn-hangzhou")
    monkeypatch.setenv("ALIBABA_CLOUD_SLB_PROTOCOL", "http")
    spec = {**_specs.state_spec(), **_specs.gateways_spec(), **_specs.alibaba_spec(), **_specs.wait_spec(7)}
    found = validated(spec, {"migration": "m", "gateways": [{"target_gateway": "asm"}]})
    assert found["gateways"] == [
        {
            "namespace": "istio-system",
            "source_service": "istio-ingressgateway",
            "target_gateway": "asm",
            "load_balancer_id": None,
        }
    ]
    assert (found["alibaba"]["region"], found["alibaba"]["protocol"], found["wait_timeout"]) == ("cn-hangzhou", "http", 7)
    assert ArgumentSpecValidator(spec).validate({"gateways": [{}]}).error_messages != []


# -- run() -------------------------------------------------------------------------------------------------------


class Ended(Exception):
    def __init__(self, failed: bool, answer: dict[str, t.Any]) -> None:
        super().__init__(str(answer))
        self.failed, self.answer = failed, answer


class Module:
    """What run() uses of an AnsibleModule."""

    def __init__(self, params: dict[str, t.Any], *, check: bool = False, diff: bool = False) -> None:
        self.params, self.check_mode, self._diff = params, check, diff
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def exit_json(self, **answer: t.Any) -> None:
        raise Ended(False, answer)

    def fail_json(self, **answer: t.Any) -> None:
        raise Ended(True, answer)


def ended(logic: t.Callable[[dict[str, t.Any], bool], Outcome], module: Module | None = None) -> Ended:
    with pytest.raises(Ended) as caught:
        run(t.cast(t.Any, module or Module({})), logic)
    return caught.value


def a_plan() -> Plan:
    return Plan([Change("set_weight", "clb/a", 0, 5)], notes=["n"])


def test_run_answers_with_plan_and_result() -> None:
    module = Module({"x": 1}, check=True)
    seen: list[t.Any] = []

    def logic(params: dict[str, t.Any], check: bool) -> Outcome:
        seen.append((params, check))
        return Outcome(a_plan(), {"share": 5}, ["careful"])

    end = ended(logic, module)
    assert seen == [({"x": 1}, True)]
    assert end.failed is False
    assert (end.answer["changed"], end.answer["share"], end.answer["notes"]) == (True, 5, ["n"])
    assert end.answer["plan"][0]["after"] == 5
    assert "clb/a" in end.answer["diff"]["after"]
    assert module.warnings == ["careful"]


def test_run_without_a_change_has_no_diff_unless_asked() -> None:
    assert "diff" not in ended(lambda _params, _check: Outcome()).answer
    end = ended(lambda _params, _check: Outcome(), Module({}, diff=True))
    assert (end.answer["changed"], end.answer["diff"]) == (False, {"before": "", "after": ""})


@pytest.mark.parametrize(("done", "changed"), [([], False), (["a"], True)])
def test_run_turns_an_error_into_a_sentence(done: list[str], changed: bool) -> None:
    def logic(_params: dict[str, t.Any], _check: bool) -> Outcome:
        raise MigrationError("No", why="because", done=done)

    end = ended(logic)
    assert end.failed
    assert end.answer["msg"].startswith("No. Why: because.")
    assert (end.answer["changed"], end.answer["error"]["why"]) == (changed, "because")


def test_run_keeps_the_result_of_what_failed_in_part() -> None:
    error = MigrationError("One of two", done=["a"])
    end = ended(lambda _params, _check: Outcome(a_plan(), {"items": [1]}, failed=error))
    assert (end.failed, end.answer["changed"], end.answer["items"]) == (True, True, [1])


def test_run_lets_no_traceback_out() -> None:
    def logic(_params: dict[str, t.Any], _check: bool) -> Outcome:
        raise KeyError("oops")

    end = ended(logic)
    assert end.failed
    assert "KeyError: 'oops' (at test_core.py:" in end.answer["msg"]
    assert "Traceback" not in json.dumps(end.answer)


def test_run_says_no_secret() -> None:
    module = Module({"source": {"api_key": "s3cret"}})

    def fails(_params: dict[str, t.Any], _check: bool) -> Outcome:
        raise MigrationError("token s3cret refused", details={"header": "Bearer s3cret"})

    assert "s3cret" not in json.dumps(ended(fails, module).answer)
    end = ended(lambda _params, _check: Outcome(a_plan(), {"said": "s3cret"}, ["s3cret"]), module)
    assert "s3cret" not in json.dumps(end.answer) + str(module.warnings)


def test_run_shows_bytes_that_are_no_text_and_is_still_taken_by_ansible() -> None:
    odd = b"10.0.0.1 caf\xe9 \xe7\xbd\x91".decode("utf-8", "surrogateescape")
    plan = Plan([Change("edit", "/etc/hosts", [odd], [])], notes=[odd])
    end = ended(lambda _params, _check: Outcome(plan, {"said": odd}, failed=MigrationError(odd)))
    text = json.dumps(end.answer, ensure_ascii=False).encode()  # strict, as Ansible reads it
    assert b"caf\\\\udce9 \xe7\xbd\x91" in text and end.answer["said"] == "10.0.0.1 caf\\udce9 \u7f51"


def test_run_with_a_real_module(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"_ansible_check_mode": True, "_ansible_diff": True}):
        module = basic.AnsibleModule(argument_spec=_specs.wait_spec(), supports_check_mode=True)
        with pytest.raises(SystemExit) as caught:
            run(module, lambda _params, _check: Outcome(a_plan(), {"share": 5}, ["careful"]))
    assert caught.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["changed"], answer["share"]) == (True, 5)
    with patch_module_args({}):
        module = basic.AnsibleModule(argument_spec=_specs.wait_spec())
        with pytest.raises(SystemExit) as caught:
            run(module, lambda _params, _check: Outcome(failed=MigrationError("No")))
    assert caught.value.code == 1
    assert json.loads(capsys.readouterr().out)["failed"] is True
