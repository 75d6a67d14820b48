# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `istioctl manifest generate` writes, kept in the cache: Istio's CustomResourceDefinitions, the templates of injection."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import yaml

from lab import binaries
from lab.state import Lab, LabError, write_atomic

Object = dict[str, Any]


def _generated(lab: Lab, name: str, settings: list[str], wanted: Callable[[Object], bool]) -> list[Object]:
    """The objects of this istioctl that are wanted; generating them takes seconds, so they are kept."""
    program = binaries.path("istioctl")
    stat = program.stat()
    stamp = hashlib.sha256(f"{program}{stat.st_size}{stat.st_mtime_ns}{settings}".encode()).hexdigest()[:12]
    file = lab.cache / f"istio-{name}-{stamp}.json"
    if not file.exists():
        argv = [str(program), "manifest", "generate", *(word for one in settings for word in ("--set", one))]
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "HOME": str(lab.dir)})
        if done.returncode:
            raise LabError(f"istioctl manifest generate failed: {done.stderr.strip()[-2000:]}")
        loaded = yaml.load_all(done.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        write_atomic(file, json.dumps([one for one in loaded if one and wanted(one)]), 0o644)
    found: list[Object] = json.loads(file.read_text())
    return found


def istio_crds(lab: Lab) -> list[Object]:
    """Istio's CustomResourceDefinitions."""
    settings = ["profile=minimal", "components.pilot.enabled=false"]
    return _generated(lab, "crds", settings, lambda one: one["kind"] == "CustomResourceDefinition")


def injection(lab: Lab, image: str, istiod: str, root: str) -> dict[str, str]:
    """The files `config` and `values` from which an istiod injects sidecars.

    They have the proxy's image, the address that it connects to, and the ConfigMap with the root by which it knows istiod.
    """
    hub, _, rest = image.rpartition("/")
    name, _, tag = rest.partition(":")
    settings = [
        "profile=minimal",
        f"hub={hub}",
        f"tag={tag}",
        f"values.global.proxy.image={name}",
        f"values.global.proxy_init.image={name}",
        f"values.global.caAddress={istiod}",
        f"values.global.trustBundleName={root}",
        "values.global.proxy.resources.requests.cpu=10m",
        "values.global.proxy.resources.requests.memory=64Mi",
    ]
    made = _generated(lab, "inject", settings, lambda one: one["metadata"]["name"] == "istio-sidecar-injector")
    (data,) = (one["data"] for one in made if one["kind"] == "ConfigMap")
    return {"config": data["config"], "values": data["values"]}
