# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ASM does with the networks that its API was told (UpdateMeshMultiClusterNetwork).

Built from these facts:
- The API's page and the vendor's SDK: a cluster has Network, EnableGateway and CustomGatewayAddress ("ip:15443").
- The vendor's procedure: the networks must be those of Istio, and are set before the first workload gets ASM's sidecar.
- Istio: meshNetworks says which registry is in which network and where its gateway is; a sidecar knows its own network by
  ISTIO_META_NETWORK, which injection sets (`/net/<network>` in the webhook's path); one that knows none takes every endpoint for
  near. The label topology.istio.io/network of a cluster's istio-system, and of its gateway's Service, count for any istiod.

Not verified, for nobody publishes it: that ASM does the same as this, and only this, with the networks; how soon; what it does
to pods that are injected already (here: nothing).
Left out: the gateway asm-cross-network-... of EnableGateway (in the lab Istio's own stays the gateway of its cluster, or the
address that was given is), and the network of ASM's gateways (IstioGateway).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from lab.asm.migrate import MESH_CONFIG, Migrations
from lab.asm.render import Object
from lab.kube import Api, KubeError

log = logging.getLogger("lab.asm.networks")
Networks = Mapping[str, Mapping[str, Any]]


def mesh_networks(networks: Networks) -> Object:
    """Istio's meshNetworks from what the API was told of each cluster."""
    found: Object = {}
    for cluster, item in sorted(networks.items()):
        if not item.get("Network"):
            continue
        one = found.setdefault(item["Network"], {"endpoints": [], "gateways": []})
        one["endpoints"].append({"fromRegistry": cluster})
        address, _, port = str(item.get("CustomGatewayAddress") or "").rpartition(":")
        if address:
            one["gateways"].append({"address": address, "port": int(port)})
    return {"networks": found}


def obey(asm: Api, migrations: Migrations, cluster_id: str, told: Callable[[], Networks | None]) -> None:
    """One look at the networks: the control plane's configuration and the injection of this cluster follow them."""
    try:
        networks = told()
        config = asm.find(MESH_CONFIG)
        if networks is None or config is None:
            return
        wanted = json.dumps(mesh_networks(networks))
        if (config.get("data") or {}).get("meshNetworks") != wanted:
            log.info("networks: %s", wanted)
            asm.patch(MESH_CONFIG, {"data": {"meshNetworks": wanted}})
        migrations.place(str(networks.get(cluster_id, {}).get("Network") or ""))
    except (KubeError, OSError, ValueError) as error:
        log.warning("networks: %s", error)
