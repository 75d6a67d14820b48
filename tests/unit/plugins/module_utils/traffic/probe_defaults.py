# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a probe as AnsibleModule gives them."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe_options import (
    PROBE_SPEC,
    ProbeOptions,
    probe_options,
)

HOST = "echo.lab.test"


def options(url: str = "http://127.0.0.1:1/", **more: t.Any) -> ProbeOptions:
    """As AnsibleModule gives them: defaults of the spec, and what the test says."""
    defaults = {name: spec.get("default") for name, spec in PROBE_SPEC.items()}
    return probe_options("web", {**defaults, "url": url, **more})
