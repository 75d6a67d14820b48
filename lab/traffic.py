# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`lab traffic`: constant load from the internet on the load balancer, HTTP and HTTPS, with a line a second.

The work is done by the Go program lab/go/cmd/traffic (see lab/go/internal/traffic for its lines of JSON); here it is started
in the internet's namespace, followed, and told to end. `start`, `Run.lines` and `stop` are for tests and demos.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import binaries, mesh_ca, proc
from lab.cluster import Cluster
from lab.kubeapi import path_of
from lab.state import Lab, LabError

Line = Mapping[str, Any]
NAME = "traffic"
LONGEST = 3600.0  # seconds, the Go program's own bound
SHORT = {"istio-ingressgateway": "istio", "asm-ingressgateway": "asm"}


def address(lab: Lab) -> str:
    """The address that a user outside calls: the lab's CLB, else what the source gateway's Service got.

    :raises LabError: neither is there yet.
    """
    if found := lab.data.get("clb_address"):
        return str(found)
    service = Cluster(lab, "ack", 1).api.find(path_of("v1", "services", "istio-system", "istio-ingressgateway")) or {}
    for ingress in service.get("status", {}).get("loadBalancer", {}).get("ingress") or []:
        if ingress.get("ip"):
            return str(ingress["ip"])
    raise LabError("the gateway has no load balancer yet; name an address with --address")


def targets(host: str = mesh_ca.HOST, http: int = 80, https: int = 443) -> dict[str, str]:
    """The two URLs that take turns."""
    return {"http": f"http://{host}:{http}/", "https": f"https://{host}:{https}/"}


def command(
    lab: Lab,
    to: str,
    urls: Mapping[str, str],
    *,
    rate: float,
    seconds: float,
    new_ratio: float,
    bucket: float,
    timeout: float,
    out: Path,
    stop_file: Path,
) -> list[str]:
    """argv of the Go program.

    :raises LabError: a value that it would refuse.
    """
    if not 0 < seconds <= LONGEST:
        raise LabError(f"a run lasts more than 0 and at most {LONGEST:.0f} seconds, not {seconds:g}")
    if rate <= 0 or not 0 <= new_ratio <= 1 or bucket < 0.01 or timeout <= 0:
        raise LabError("rate and timeout must be positive, the ratio of new connections 0 to 1, a bucket at least 0.01 s")
    argv = [str(binaries.path("traffic")), f"-rate={rate:g}", f"-duration={seconds:g}s", f"-new-ratio={new_ratio:g}"]
    argv += [f"-bucket={bucket:g}s", f"-timeout={timeout:g}s", f"-ca={mesh_ca.gateway_authority(lab).crt}"]
    argv += [f"-resolve={mesh_ca.HOST}={to}", f"-out={out}", f"-stop-file={stop_file}"]
    return argv + [f"-target={name}={url}" for name, url in urls.items()]


@dataclass(frozen=True)
class Run:
    """A run of the load generator under the name of its process."""

    lab: Lab
    name: str

    @property
    def out(self) -> Path:
        """Its lines of JSON: buckets, failures, at the end the summary."""
        return self.lab.dir / f"{self.name}.jsonl"

    @property
    def stop_file(self) -> Path:
        return self.lab.dir / f"{self.name}.stop"

    def alive(self) -> bool:
        return proc.alive(self.lab, self.name)

    def lines(self, pause: float = 0.05) -> Iterator[Line]:
        """All lines as they are written, until the process has ended."""
        with open(self.out, encoding="utf-8") as stream:
            rest = ""
            while True:
                living = self.alive()  # asked before reading: what was written before the end is read
                text = stream.read()
                *whole, rest = (rest + text).split("\n")
                for line in whole:
                    yield json.loads(line)
                if not text and not living:
                    return
                if not text:
                    time.sleep(pause)

    def summary(self) -> Line | None:
        """The summary, None while the run goes on (or when it was killed)."""
        with contextlib.suppress(OSError, ValueError):
            last = json.loads(self.out.read_text(encoding="utf-8").rstrip().rsplit("\n", 1)[-1])
            if last.get("summary"):
                return dict(last)
        return None

    def stop(self, timeout: float = 20) -> Line:
        """End the run and give its summary.

        :raises LabError: it did not end in time, or left no summary.
        """
        self.stop_file.touch()
        end = time.monotonic() + timeout
        while self.alive() and time.monotonic() < end:
            time.sleep(0.02)
        proc.stop(self.lab, self.name)
        self.stop_file.unlink(missing_ok=True)
        found = self.summary()
        if found is None:
            raise LabError(f"the load generator left no summary:\n{proc.tail(self.lab.logs / f'{self.name}.log')}")
        return found


def start(
    lab: Lab,
    *,
    rate: float = 200,
    seconds: float = LONGEST,
    new_ratio: float = 0.5,
    bucket: float = 1.0,
    timeout: float = 5.0,
    to: str | None = None,
    urls: Mapping[str, str] | None = None,
    name: str = NAME,
) -> Run:
    """Start a run in the internet's namespace; it is under way when this returns. It ends after `seconds` or by `Run.stop`.

    :raises LabError: no address, a wrong value, or a run of that name is under way.
    """
    run = Run(lab, name)
    if run.alive():
        raise LabError(f"a run '{name}' is under way: end it first")
    run.out.unlink(missing_ok=True)
    run.stop_file.unlink(missing_ok=True)
    argv = command(
        lab,
        to or address(lab),
        urls or targets(),
        rate=rate,
        seconds=seconds,
        new_ratio=new_ratio,
        bucket=bucket,
        timeout=timeout,
        out=run.out,
        stop_file=run.stop_file,
    )
    proc.spawn(lab, name, argv, netns="net", ready=run.out.exists, timeout=10)
    return run


def stop(lab: Lab, name: str = NAME) -> Line:
    """End the run of that name (also one that another process started) and give its summary."""
    return Run(lab, name).stop()


def shares(line: Line) -> dict[str, float]:
    """Percent of the answers that each gateway gave, by the name in their `server` header."""
    counts: dict[str, int] = {}
    for served in line["served"]:
        counts[served["gateway"]] = counts.get(served["gateway"], 0) + served["n"]
    whole = sum(counts.values())
    return {gateway: 100 * n / whole for gateway, n in sorted(counts.items())}


def describe(line: Line) -> str:
    """One line of text for a bucket, a failure or the summary."""
    clock = time.strftime("%H:%M:%S", time.localtime(line["t"]))
    if "failure" in line:
        what = line.get("detail") or f"status {line.get('status')} of {line.get('gateway') or 'nobody'}"
        return f"{clock}  FAILED {line['target']}: {line['failure']}: {what}"
    latency = line["latency_ms"]
    served = "  ".join(f"{SHORT.get(gateway, gateway or 'nobody')} {share:.1f} %" for gateway, share in shares(line).items())
    statuses = " ".join(f"{status}:{n}" for status, n in sorted({**line["status"], **line["errors"]}.items()))
    text = f"{clock}  {line['rate']:7.1f}/s  ok {line['ok']:<6} failed {line['failed']:<4} {statuses:<16}"
    text += f" p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} max {latency['max']:.1f} ms  {served}"
    if line.get("summary"):
        text += (
            f"\nall in {line['duration_s']:.0f} s ({line['ended']}): sent {line['sent']}, new {line['new']}, kept {line['kept']}"
        )
        text += f"; closed while idle {line['idle_closed']}, stale retries {line['stale_retry']}"
    return text


def main(lab: Lab, arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    """The command `lab traffic`. Exit status: 0 no request failed, 1 some did."""
    parser = argparse.ArgumentParser(prog="lab traffic", description="Constant load from the internet on the load balancer.")
    parser.add_argument("--rate", type=float, default=200, help="requests a second (default 200)")
    parser.add_argument("--duration", type=float, default=60, metavar="SECONDS", help="at most 3600 (default 60); Ctrl-C ends it")
    parser.add_argument("--new-ratio", type=float, default=0.5, help="part of the requests on new connections (default 0.5)")
    parser.add_argument("--address", help="address to send to (default: the CLB's)")
    parser.add_argument("--http-port", type=int, default=80)
    parser.add_argument("--https-port", type=int, default=443)
    options = parser.parse_args(arguments)
    run = start(
        lab,
        rate=options.rate,
        seconds=options.duration,
        new_ratio=options.new_ratio,
        to=options.address,
        urls=targets(http=options.http_port, https=options.https_port),
    )
    try:
        for line in run.lines():
            say(describe(line))
    except KeyboardInterrupt:
        say(describe(run.stop()))
    finally:
        proc.stop(lab, run.name)  # when it has ended by itself, this takes its record away
    found = run.summary()
    say(f"lines of JSON: {run.out}")
    return 0 if found is not None and found["failed"] == 0 else 1
