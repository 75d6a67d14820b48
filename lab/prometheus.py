# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Prometheus (Debian's) in the cloud, on request, that scrapes the proxies of both meshes: gateways and sidecars.

Istio's proxies count requests by a filter that stock Envoy does not have. Here an EnvoyFilter in each mesh lets Envoy's own
stats access logger count them, under the names and the main labels that Istio uses: `istio_requests_total` and the histogram
`istio_request_duration_milliseconds`. Each request is counted when it ends, with the answer that the client got, faults and
missing routes included. Left out: what only Istio's peer metadata tells (the workload of the other side), and metrics of TCP,
gRPC and sizes.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from lab import net, proc
from lab.cluster import Cluster
from lab.kubeapi import KubeError, path_of
from lab.state import Lab, LabError, write_atomic

NAME, TARGETS = "prometheus", "prometheus-targets"  # processes: see lab.targets for the second one
PORT = 9090
URL = f"http://127.0.0.1:{PORT}"
INTERVAL = 2  # seconds between two scrapes; 15 are usual, and a lab is impatient
ROOT = Path(__file__).resolve().parents[1]
NAMESPACE, FILTER = "istio-system", "request-metrics"
VERSION, PLURAL = "networking.istio.io/v1alpha3", "envoyfilters"
Object = dict[str, Any]

# Whose count it is, by where the proxy stands; and the label of its own workload.
CONTEXTS = {
    "GATEWAY": ("source", "source"),
    "SIDECAR_OUTBOUND": ("source", "source"),
    "SIDECAR_INBOUND": ("destination", "destination"),
}


def access_log(reporter: str, own: str) -> Object:
    """Envoy's logger that counts in place of writing. Its prefix is one that Istio's bootstrap lets through."""
    tags = {
        "reporter": reporter,
        f"{own}_workload": "%ENVIRONMENT(ISTIO_META_WORKLOAD_NAME)%",
        "upstream_cluster": "%UPSTREAM_CLUSTER%",
        "request_protocol": "http",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
    }

    def stat(name: str) -> Object:
        return {"name": name, "tags": [{"name": key, "value_format": value} for key, value in tags.items()]}

    config = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
        "stats_scope": {"prefix": "istio"},
        "counters": [{"stat": stat("requests_total"), "value_fixed": 1}],
        "histograms": [{"stat": stat("request_duration_milliseconds"), "unit": "Milliseconds", "value_format": "%DURATION%"}],
    }
    return {"name": "envoy.access_loggers.stats", "typed_config": config}


def envoy_filter() -> Object:
    """All proxies of a mesh count: it is in the root namespace and selects nobody."""
    manager = "envoy.filters.network.http_connection_manager"
    kind = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    patches = [
        {
            "applyTo": "NETWORK_FILTER",
            "match": {"context": context, "listener": {"filterChain": {"filter": {"name": manager}}}},
            "patch": {"operation": "MERGE", "value": {"typed_config": {"@type": kind, "access_log": [access_log(*words)]}}},
        }
        for context, words in CONTEXTS.items()
    ]
    meta = {"name": FILTER, "namespace": NAMESPACE}
    return {"apiVersion": VERSION, "kind": "EnvoyFilter", "metadata": meta, "spec": {"configPatches": patches}}


def configuration(targets: Path, interval: float = INTERVAL) -> Object:
    """What is scraped: the proxies in the file, and what of their numbers is kept."""
    job = {
        "job_name": "envoy",
        "metrics_path": "/stats/prometheus",
        "file_sd_configs": [{"files": [str(targets)]}],
        "metric_relabel_configs": [
            # Envoy puts its own name before those of all metrics; Istio's build leaves it out before `istio_`.
            {"source_labels": ["__name__"], "regex": "envoy_(istio_.*)", "target_label": "__name__"},
            {
                "source_labels": ["upstream_cluster"],
                "regex": r"\w+\|\d*\|[^|]*\|([^;]+);?",
                "target_label": "destination_service",
            },
            # The proxies have hundreds of other numbers; a small machine has other work.
            {"action": "keep", "source_labels": ["__name__"], "regex": "istio_.*|envoy_server_live"},
        ],
    }
    whole = {"scrape_interval": f"{round(interval * 1000)}ms", "scrape_timeout": f"{round(interval * 1000)}ms"}
    return {"global": whole, "scrape_configs": [job]}


def _ready(lab: Lab) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        with net.inside(lab):
            connection.connect()
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == 200
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def up(lab: Lab, ack: Cluster, asm: Cluster, interval: float = INTERVAL) -> None:
    """Let both meshes count, and start Prometheus. What is there already stays.

    :raises LabError: it is not installed, there is no mesh, the interval is no time, or it is not ready in 30 s.
    """
    if not 0.5 <= interval <= 3600:
        raise LabError(f"between two scrapes there are 0.5 to 3600 seconds, not {interval:g}")
    program = shutil.which("prometheus")
    if program is None:
        raise LabError("prometheus is missing on this host; `make setup` installs the packages of lab/apt.txt")
    if lab.data.get("options", {}).get("parts") not in ("mesh", "all"):
        raise LabError("this lab was brought up without its meshes: there is nothing to scrape")
    for cluster in (ack, asm):
        cluster.apply_object(VERSION, PLURAL, envoy_filter())
    if proc.alive(lab, NAME):
        return
    folder = lab.dir / NAME
    file, targets = folder / "prometheus.yml", folder / "targets.json"
    write_atomic(file, yaml.safe_dump(configuration(targets, interval), sort_keys=False))
    if not proc.alive(lab, TARGETS):
        follow = [sys.executable, "-m", "lab.targets", f"--kubeconfig={ack.kubeconfig}", f"--file={targets}"]
        proc.spawn(lab, TARGETS, follow, env={"PYTHONPATH": str(ROOT)}, ready=targets.exists, timeout=30)
    argv = [program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=6h"]
    argv += [f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=warn"]
    proc.spawn(lab, NAME, argv, ready=lambda: _ready(lab), timeout=30)


def down(lab: Lab, ack: Cluster, asm: Cluster) -> None:
    """Stop it, and let the proxies count no more. Also when it was never up."""
    proc.stop_all(lab, [NAME, TARGETS])
    shutil.rmtree(lab.dir / NAME, ignore_errors=True)
    for cluster in (ack, asm):
        with contextlib.suppress(KubeError):  # a lab without meshes does not know the kind
            cluster.api.delete(path_of(VERSION, PLURAL, NAMESPACE, FILTER))


def running(lab: Lab) -> str:
    """Its address, or an empty text."""
    return URL if proc.load(lab, NAME) else ""
