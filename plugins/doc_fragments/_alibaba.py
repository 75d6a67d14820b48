# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """Alibaba Cloud's OpenAPI."""

    DOCUMENTATION = r"""
options:
  alibaba:
    description:
      - How Alibaba Cloud's API of the classic load balancer (CLB, formerly SLB) is reached.
      - Without O(alibaba.access_key_id) the credential chain of Alibaba Cloud's SDK is used, which also knows RRSA (OIDC),
        C(~/.aliyun/config.json), C(~/.alibabacloud/credentials.ini) and the RAM role of an ECS instance.
    type: dict
    suboptions:
      region:
        description:
          - The region of the load balancers, like V(cn-hangzhou).
          - When it is not set, the environment variable E(ALIBABA_CLOUD_REGION_ID) is used.
        type: str
      access_key_id:
        description:
          - The id of an access key.
          - When it is not set, the environment variable E(ALIBABA_CLOUD_ACCESS_KEY_ID) is used.
        type: str
      access_key_secret:
        description:
          - The secret of O(alibaba.access_key_id).
          - When it is not set, the environment variable E(ALIBABA_CLOUD_ACCESS_KEY_SECRET) is used.
        type: str
      security_token:
        description:
          - The token that belongs to a temporary access key (STS).
          - When it is not set, the environment variable E(ALIBABA_CLOUD_SECURITY_TOKEN) is used.
        type: str
      slb_endpoint:
        description:
          - Host, or host and port, of the API. The SDK knows the one of each region.
          - When it is not set, the environment variable E(ALIBABA_CLOUD_SLB_ENDPOINT) is used.
        type: str
      asm_endpoint:
        description:
          - Host, or host and port, of the API of Alibaba Cloud Service Mesh (ASM). The SDK knows it.
          - When it is not set, the environment variable E(ALIBABA_CLOUD_ASM_ENDPOINT) is used.
        type: str
      protocol:
        description:
          - How the API is spoken to. V(http) is for test environments only.
          - When it is not set, the environment variable E(ALIBABA_CLOUD_SLB_PROTOCOL) is used.
        type: str
        choices: [https, http]
        default: https
      request_timeout:
        description:
          - Seconds until one call is given up.
        type: float
        default: 10
      attempts:
        description:
          - How often a call that can be repeated safely is tried, when the API throttles, answers 5xx or drops the connection.
          - The pauses double, with jitter, from 50 milliseconds to 2 seconds.
        type: int
        default: 8
requirements:
  - alibabacloud_slb20140515 (Python package) >= 3.3.31
"""

    ASM = r"""
options: {}
requirements:
  - alibabacloud_servicemesh20200111 (Python package) >= 3.4.0
"""
