# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A gate that asks a Prometheus: a success ratio, or any value, against a threshold or against the other side.

The HTTP API is Prometheus' own (``/api/v1/query``), which Alibaba Cloud's ARMS, Huawei Cloud's AOM, Thanos and Mimir serve too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
import typing as t
import urllib.error
import urllib.parse

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, INCONCLUSIVE, PASS, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._statistics import difference, wilson, z_of

Values = t.Mapping[str, float]

_SUCCESS: dict[str, t.Any] = {
    "good": {"type": "str", "required": True},
    "total": {"type": "str", "required": True},
    "min": {"type": "float"},
    "baseline_good": {"type": "str"},
    "baseline_total": {"type": "str"},
    "max_drop": {"type": "float"},
    "min_requests": {"type": "float", "default": 100},
    "confidence": {"type": "float", "default": 95},
}
_VALUE: dict[str, t.Any] = {
    "query": {"type": "str", "required": True},
    "min": {"type": "float"},
    "max": {"type": "float"},
    "baseline": {"type": "str"},
    "max_ratio": {"type": "float"},
    "requests": {"type": "str"},
    "baseline_requests": {"type": "str"},
    "min_requests": {"type": "float", "default": 100},
}
PROMETHEUS_SPEC: dict[str, t.Any] = {
    "url": {"type": "str", "required": True},
    "token": {"type": "str", "no_log": True},
    "headers": {"type": "dict", "default": {}},
    "ca_cert": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "interval": {"type": "float", "default": 5},
    "timeout": {"type": "float", "default": 5},
    "window": {"type": "int", "default": 60},
    "min_window": {"type": "int", "default": 15},
    "report_only": {"type": "bool", "default": False},
    "skip_baseline": {"type": "bool", "default": False},
    "success": {"type": "dict", "options": _SUCCESS},
    "value": {"type": "dict", "options": _VALUE},
}


# The other side as it was when it last had enough requests, so many seconds ago: on the last step it has none any more.
AGE = "baseline_age_s"


def judge_success(rule: t.Mapping[str, t.Any], seen: Values) -> Verdict:
    """Fail when the interval lies wholly below what is allowed, pass when wholly not, else undecided. Pure."""
    total, z = seen["total"], z_of(rule["confidence"])
    good = min(seen["good"], total)  # two sums, each carried on to the edges of the window: they may be a little apart
    numbers = {key: round(value, 3) for key, value in seen.items()}
    if total < rule["min_requests"]:
        return Verdict(INCONCLUSIVE, f"{total:g} requests, {rule['min_requests']:g} are needed", numbers)
    other = seen.get("baseline_total")
    lonely = other is not None and other < rule["min_requests"]
    if lonely and rule.get("min") is None:
        few = f"of the baseline {other:g} requests, {rule['min_requests']:g} are needed"
        return Verdict(INCONCLUSIVE, f"{few}; without them only min could judge, and it is not set", numbers)
    low, high = wilson(good, total, z)
    ratio = 100 * good / total
    states, said = [], f"{ratio:.4g} % of {total:g} requests are good"
    numbers.update(success=round(ratio, 3), low=round(low, 3), high=round(high, 3))
    if rule.get("min") is not None:
        # The sample itself must be good enough, and not so small that a bad side could have sent it by chance.
        states.append((high < rule["min"], ratio >= rule["min"], f"{rule['min']:g} % are needed"))
    if lonely:
        said += ", and the other side has too few to compare"
    elif other is not None:
        base = (min(seen["baseline_good"], other), other)
        least, most = difference(base, (good, total), z)
        numbers.update(baseline=round(100 * base[0] / other, 3), drop_low=round(least, 3), drop_high=round(most, 3))
        allowed = rule["max_drop"]
        drop = 100 * base[0] / other - ratio
        wanted = f"{numbers['baseline']:g} % of the other side's{_ago(seen)}, and {allowed:g} points less are allowed"
        states.append((least > allowed, drop <= allowed, wanted))
    for failed, _passed, wanted in states:
        if failed:
            return Verdict(FAIL, f"{said}, {wanted}", numbers)
    for _failed, passed, wanted in states:
        if not passed:
            return Verdict(INCONCLUSIVE, f"{said}, {wanted}; too few to be sure", numbers)
    return Verdict(PASS, said, numbers)


def judge_value(rule: t.Mapping[str, t.Any], seen: Values) -> Verdict:
    """A value against its bounds, and against the other side's. Pure."""
    value, numbers = seen["query"], {key: round(item, 6) for key, item in seen.items()}
    if "requests" in seen and seen["requests"] < rule["min_requests"]:
        return Verdict(INCONCLUSIVE, f"{seen['requests']:g} requests, {rule['min_requests']:g} are needed", numbers)
    lonely = rule.get("max_ratio") is not None and (
        "baseline" not in seen or ("baseline_requests" in seen and seen["baseline_requests"] < rule["min_requests"])
    )
    if lonely and not bounded(rule):
        few = "the other side has too few requests to compare"
        return Verdict(INCONCLUSIVE, f"{few}; without them only min or max could judge, and neither is set", numbers)
    said = f"it is {value:.4g}" + (", and the other side has too few requests to compare" if lonely else "")
    if rule.get("min") is not None and value < rule["min"]:
        return Verdict(FAIL, f"{said}, less than {rule['min']:g}", numbers)
    if rule.get("max") is not None and value > rule["max"]:
        return Verdict(FAIL, f"{said}, more than {rule['max']:g}", numbers)
    if "baseline" in seen and not lonely and value > seen["baseline"] * rule["max_ratio"]:
        other = f"the other side's {seen['baseline']:.4g}{_ago(seen)}"
        return Verdict(FAIL, f"{said}, more than {rule['max_ratio']:g} times {other}", numbers)
    return Verdict(PASS, said, numbers)


def bounded(rule: t.Mapping[str, t.Any]) -> bool:
    return rule.get("min") is not None or rule.get("max") is not None


def _ago(seen: Values) -> str:
    return f" (as it was {seen[AGE]:.0f} s ago)" if AGE in seen else ""


class Nothing(ValueError):
    """Prometheus answered, and has no figure for the query: no series, or series of which nothing follows (NaN)."""


class Idle(Nothing):
    """The second of the two: who is asked for is known, and had no requests."""


@dataclasses.dataclass(frozen=True)
class _Rule:
    judge: t.Callable[[t.Mapping[str, t.Any], Values], Verdict]
    options: t.Mapping[str, t.Any]
    queries: t.Mapping[str, str]

    def compared(self, found: Values) -> dict[str, float]:
        """The other side's figures, when they are whole and stand on enough requests; else nothing."""
        names = [name for name in self.queries if name.startswith("baseline")]
        requests = found.get("baseline_total", found.get("baseline_requests", math.inf))
        if not all(name in found for name in names) or requests < self.options["min_requests"]:
            return {}
        return {name: found[name] for name in names}


def read_rule(name: str, params: t.Mapping[str, t.Any]) -> _Rule:
    """The one rule of a gate, checked. Raises InputError."""

    def no(what: str, todo: str) -> InputError:
        return InputError(f"The gate {name} cannot be used: {what}", todo=todo)

    kinds = [kind for kind in ("success", "value") if params.get(kind)]
    if len(kinds) != 1:
        raise no(f"it has {len(kinds)} rules", "give exactly one of success and value")
    rule = params[kinds[0]]
    if not str(params["url"]).startswith(("http://", "https://")):
        # It is not repeated: some addresses hold a token in their path, or a password.
        raise no("its url has no scheme http or https", "give a URL like https://prometheus.example.com")
    if not 0 < params["min_window"] <= params["window"]:
        raise no(f"min_window is {params['min_window']}", f"give a number from 1 to window ({params['window']})")
    if not (params["interval"] >= 0.5 and params["timeout"] > 0):
        raise no(f"interval is {params['interval']:g}, timeout {params['timeout']:g}", "give 0.5 s or more, and a timeout over 0")
    if not rule["min_requests"] >= 1:
        raise no(f"min_requests is {rule['min_requests']:g}", "give 1 or more: nothing can be said of no requests")
    if kinds[0] == "success":
        queries = {key: rule[key] for key in ("good", "total", "baseline_good", "baseline_total") if rule.get(key)}
        compared = {"baseline_good", "baseline_total"} & set(queries)
        if len(compared) == 1 or bool(compared) != (rule.get("max_drop") is not None):
            raise no("its baseline is not whole", "give baseline_good, baseline_total and max_drop, or none of them")
        if rule.get("min") is None and not compared:
            raise no("it has no threshold", "give min, or a baseline with max_drop")
        if not 50 <= rule["confidence"] < 100:
            raise no(f"confidence is {rule['confidence']:g}", "give a number from 50 to below 100")
        return _Rule(judge_success, rule, queries)
    queries = {key: rule[key] for key in ("query", "baseline", "requests", "baseline_requests") if rule.get(key)}
    if ("baseline" in queries) != (rule.get("max_ratio") is not None):
        raise no("its baseline is not whole", "give baseline and max_ratio, or neither")
    if "baseline_requests" in queries and "baseline" not in queries:
        raise no("its baseline is not whole", "give baseline and max_ratio too, or take baseline_requests away")
    if rule.get("min") is None and rule.get("max") is None and "baseline" not in queries:
        raise no("it has no threshold", "give min, max, or a baseline with max_ratio")
    return _Rule(judge_value, rule, queries)


class Prometheus:
    """The gate of kind ``prometheus``. A thread asks; a verdict stands on the newest complete set of answers."""

    def __init__(self, name: str, params: t.Mapping[str, t.Any]) -> None:
        self.name = name
        self._params = params
        self._rule = read_rule(name, params)
        self.only_with_traffic = bool(params["skip_baseline"])
        # What tries itself out is in nobody's way.
        self.first_after = 0.0 if params["report_only"] else float(params["min_window"])
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._seen: tuple[float, dict[str, float] | None, str] | None = None
        # The other side's newest figures that could be compared with, and when that was. Kept over fresh starts.
        self._other: tuple[float, dict[str, float]] | None = None

    def start(self) -> None:
        with self._lock:
            # Not the time of day: a clock that is set in the night makes no figures young, and no window longer than the hold.
            self._since, self._seen = time.monotonic(), None
        if self._thread is None:
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._work, args=(self._ended,), name=f"gate {self.name}", daemon=True)
            self._thread.start()

    def verdict(self) -> Verdict:
        with self._lock:
            seen = self._seen
        if seen is None:
            return Verdict(INCONCLUSIVE, f"no figures yet, the first come after {self._params['min_window']} s")
        at, values, problem = seen
        age = time.monotonic() - at
        if values is None:
            return self._said(Verdict(INCONCLUSIVE, problem))
        if age > 3 * self._params["interval"] + self._params["timeout"]:
            return self._said(Verdict(INCONCLUSIVE, f"the newest figures are {age:.0f} s old"))
        return self._said(self._rule.judge(self._rule.options, values))

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None

    def _said(self, verdict: Verdict) -> Verdict:
        if not self._params["report_only"] or verdict.state == PASS:
            return verdict
        return Verdict(PASS, f"only reported, would be {verdict.state}: {verdict.reason}", verdict.numbers)

    def _work(self, ended: threading.Event) -> None:
        while not ended.is_set():
            with self._lock:
                since = self._since
            window = int(min(self._params["window"], time.monotonic() - since))
            if window >= self._params["min_window"]:
                values, problem = self._ask_all(window)
                with self._lock:
                    # What was asked before a fresh observation began does not count in it.
                    if since == self._since:
                        self._seen = (time.monotonic(), values, problem)
            ended.wait(self._params["interval"] if window >= self._params["min_window"] else 0.2)

    def _ask_all(self, window: int) -> tuple[dict[str, float] | None, str]:
        """All queries, at the same moment: that of Prometheus' own clock when it answered the first of them.

        The clock of this host is not asked. One that is behind would have what was before the step judged, and one that is ahead
        nothing at all.
        """
        found: dict[str, float] = {}
        missing: dict[str, Nothing] = {}
        at: float | None = None
        now = time.monotonic()
        for key, query in self._rule.queries.items():
            try:
                answer = self._ask(query.replace("$window", f"{window}s"), at)
                at = moment_of(answer) if at is None else at
                found[key] = number_of(answer)
            except Nothing as error:
                missing[key] = error
            except Exception as error:  # whatever it is, the gate must go on asking, and hold meanwhile
                return None, f"{key}: {error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'}"
        # Where every request fails there is no series of good ones. It must not be taken for silence.
        for good, total in (("good", "total"), ("baseline_good", "baseline_total")):
            if good in missing and total in found:
                found[good] = 0.0
                del missing[good]
        other = self._rule.compared(found)
        if other:
            self._other = (now, other)
        elif self._other is not None:
            found.update(self._other[1], **{AGE: now - self._other[0]})
            missing = {key: why for key, why in missing.items() if key not in found}
        elif isinstance(missing.get("baseline"), Idle) and bounded(self._rule.options):
            del missing["baseline"]
        for key, why in missing.items():
            return None, f"{key}: {why}"
        return found, ""

    def _ask(self, query: str, at: float | None) -> t.Any:
        """The answer to one query, at Prometheus' present when ``at`` is None. Raises ValueError with the reason for none."""
        from ansible.module_utils.urls import open_url  # pylint: disable=import-outside-toplevel

        base = str(self._params["url"]).rstrip("/")
        headers = {str(key): str(value) for key, value in self._params["headers"].items()}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        if self._params.get("token"):
            headers["Authorization"] = f"Bearer {self._params['token']}"
        form = {"query": query, **({} if at is None else {"time": f"{at:.3f}"})}
        try:
            answer = open_url(
                f"{base}/api/v1/query",
                data=urllib.parse.urlencode(form).encode(),
                method="POST",
                headers=headers,
                timeout=self._params["timeout"],
                ca_path=self._params.get("ca_cert"),
                validate_certs=self._params["validate_certs"],
            )
            return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(_told(error)) from error
        except json.JSONDecodeError as error:
            raise ValueError("the answer is not that of a Prometheus") from error
        except OSError as error:
            # Some addresses hold a token in their path (ARMS): only the host is said.
            where = urllib.parse.urlsplit(base)
            host = where.netloc.rpartition("@")[2]
            raise ValueError(f"no answer from {where.scheme}://{host}: {getattr(error, 'reason', None) or error}") from error


def _told(error: urllib.error.HTTPError) -> str:
    """Prometheus says in JSON what is wrong with a query."""
    try:
        return f"HTTP {error.code}: {json.load(error)['error']}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP {error.code}"


def moment_of(answer: t.Any) -> float | None:
    """The moment that an instant query was answered for, by the clock of who answered; None where no series says it."""
    try:
        data = answer["data"]
        at = float(data["result"][0] if data["resultType"] == "scalar" else data["result"][0]["value"][0])
    except (LookupError, TypeError, ValueError):
        return None  # what is wrong with it number_of says
    return at if math.isfinite(at) else None


def number_of(answer: t.Any) -> float:
    """The one number of an instant query. Raises ValueError when there is none, or more than one series."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict) or answer.get("status") != "success":
        raise ValueError("the answer is not that of a Prometheus")
    result = data.get("result")
    if data.get("resultType") == "scalar":
        text = t.cast("list[t.Any]", result)[1]
    elif data.get("resultType") == "vector":
        series = t.cast("list[dict[str, t.Any]]", result)
        if not series:
            raise Nothing("there is no such series (yet): no requests, a wrong name, or less than two scrapes in the window")
        if len(series) > 1:
            raise ValueError(f"the query gives {len(series)} series: put sum() or another aggregation around it")
        text = series[0]["value"][1]
    else:
        raise ValueError(f"the query gives a {data.get('resultType')}, not a number")
    number = float(text)
    if not math.isfinite(number):
        raise Idle(f"the query gives {text}")
    return number
