# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What is in a cluster because of its own control plane, and of no backup of another one: never pruned. Pure.

A mesh makes objects of the kinds that its users make, too: GatewayClasses, EnvoyFilters for its metrics, gateways' Services.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_objects import labels_of, of_target, origin

Object = dict[str, t.Any]
_MANAGER = "app.kubernetes.io/managed-by"
_VENDORS = re.compile(r"(istio|asm|servicemesh|aliyun|ali(baba)?cloud|tcm|tke|tencent|huawei|cce)([-.](?!migration).*)?", re.I)
# istio.io/gateway-controller, istio.io/mesh-controller, istio.io/unmanaged-gateway, and the vendors' own.
_CONTROLLERS = re.compile(
    r"(.*\.)?(istio\.io|istio\.aliyun\.com|alibabacloud\.com|aliyun\.com|aliyuncs\.com|tencent\.com|tencentcloud\.com|"
    r"qcloud\.com|huawei\.com|huaweicloud\.com)/.*"
)
_GATEWAYS = "gateway.istio.io/managed"
# Istio's older versions give these no label of an operator when helm installs them.
_METRICS = re.compile(r"(tcp-)?(stats-filter|metadata-exchange)-\d+\.\d+(-.+)?")


def owned(obj: Object) -> str:
    """Why an object of the target is its control plane's own, or that of another controller; empty when it is not."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        return f"it belongs to {owner.get('kind')} {owner.get('name')}"
    kind, labels = obj["kind"], labels_of(obj)
    controller = str((obj.get("spec") or {}).get("controllerName") or "")
    if kind == "GatewayClass" and _CONTROLLERS.fullmatch(controller):
        return f"it is of the controller {controller}"
    if _GATEWAYS in labels:
        return f"{labels[_GATEWAYS]} makes it"
    manager = str(labels.get(_MANAGER) or "")
    if _VENDORS.fullmatch(manager):
        return f"{manager} manages it"
    if kind == "EnvoyFilter" and _METRICS.fullmatch(obj["metadata"]["name"]):
        return "Istio's installation made it"
    found = of_target(obj, ())
    if not found:
        of = origin(obj, obj["metadata"].get("namespace", ""), ())
        found = f"it is of Istio's installation ({of})" if of else ""
    return found
