# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a module works with: the two API servers (identity proven), the load balancers' API, the journal."""

from __future__ import annotations

import dataclasses
import functools
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror


@dataclasses.dataclass
class Session:
    """:arg options: the module's parameters."""

    options: t.Mapping[str, t.Any]
    source: Cluster
    target: Cluster
    journal: Journal

    @functools.cached_property
    def clb(self) -> Clb:
        return Clb(self.options["alibaba"])


def open_session(options: t.Mapping[str, t.Any], check_mode: bool) -> Session:
    """Connect, and refuse the wrong cluster. In check mode the journal is only read."""
    source, target = Cluster("source", options["source"]), Cluster("target", options["target"])
    values(each((source, target), lambda cluster: cluster.guard()))
    journal = Journal(
        options["state_dir"],
        options["migration"],
        mirror=ConfigMapMirror(source, options["migration"]),
        secrets=secrets_of(options),
        enabled=not check_mode,
    )
    return Session(options, source, target, journal)
