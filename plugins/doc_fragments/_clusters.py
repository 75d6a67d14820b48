# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """The two API servers of a migration."""

    SOURCE = r"""
options:
  source:
    description:
      - The cluster that runs the source mesh and the gateways' pods.
      - For Alibaba Cloud this is the API server of the ACK cluster.
      - It is named here or in the environment variables C(K8S_AUTH_*), never taken from the pod that the module runs in or
        from C(~/.kube/config) by silence.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of a kubeconfig file.
          - When it is not set, the environment variable E(K8S_AUTH_KUBECONFIG) is used.
        type: path
      context:
        description:
          - The context of O(source.kubeconfig); its current context when this is not set.
          - When it is not set, the environment variable E(K8S_AUTH_CONTEXT) is used.
        type: str
      host:
        description:
          - The URL of the API server. It wins over the one of O(source.kubeconfig).
          - When it is not set, the environment variable E(K8S_AUTH_HOST) is used.
        type: str
      api_key:
        description:
          - A bearer token.
          - When it is not set, the environment variable E(K8S_AUTH_API_KEY) is used.
        type: str
      ca_cert:
        description:
          - Path of the certificate authority that signed the API server's certificate.
          - When it is not set, the environment variable E(K8S_AUTH_SSL_CA_CERT) is used.
        type: path
        aliases: [ssl_ca_cert]
      client_cert:
        description:
          - Path of a client certificate.
          - When it is not set, the environment variable E(K8S_AUTH_CERT_FILE) is used.
        type: path
        aliases: [cert_file]
      client_key:
        description:
          - Path of the key of O(source.client_cert).
          - When it is not set, the environment variable E(K8S_AUTH_KEY_FILE) is used.
        type: path
        aliases: [key_file]
      validate_certs:
        description:
          - Whether the API server's certificate must be valid. By default O(source.kubeconfig) decides.
          - When it is not set, the environment variable E(K8S_AUTH_VERIFY_SSL) is used.
        type: bool
        aliases: [verify_ssl]
      proxy:
        description:
          - The URL of an HTTP proxy on the way to the API server.
          - When it is not set, the environment variable E(K8S_AUTH_PROXY) is used.
        type: str
      in_cluster:
        description:
          - Use the service account of the pod that the module runs in. Only ever done when this says so.
        type: bool
        default: false
      cluster_uid:
        description:
          - The UID of the namespace C(kube-system) of the cluster. When it is set, the module refuses any other cluster before
            its first write.
        type: str
      request_timeout:
        description:
          - Seconds until one call is given up.
        type: float
        default: 30
requirements:
  - kubernetes (Python package) >= 24.2.0
"""

    TARGET = r"""
options:
  target:
    description:
      - The API server that holds the configuration of the target mesh.
      - For ASM this is the API server of the ASM instance, not the one of the ACK cluster.
      - It is named here or in the environment variables C(K8S_AUTH_TARGET_*), never taken from the pod that the module runs in or
        from C(~/.kube/config) by silence.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of a kubeconfig file.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_KUBECONFIG) is used.
        type: path
      context:
        description:
          - The context of O(target.kubeconfig); its current context when this is not set.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_CONTEXT) is used.
        type: str
      host:
        description:
          - The URL of the API server. It wins over the one of O(target.kubeconfig).
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_HOST) is used.
        type: str
      api_key:
        description:
          - A bearer token.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_API_KEY) is used.
        type: str
      ca_cert:
        description:
          - Path of the certificate authority that signed the API server's certificate.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_SSL_CA_CERT) is used.
        type: path
        aliases: [ssl_ca_cert]
      client_cert:
        description:
          - Path of a client certificate.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_CERT_FILE) is used.
        type: path
        aliases: [cert_file]
      client_key:
        description:
          - Path of the key of O(target.client_cert).
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_KEY_FILE) is used.
        type: path
        aliases: [key_file]
      validate_certs:
        description:
          - Whether the API server's certificate must be valid. By default O(target.kubeconfig) decides.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_VERIFY_SSL) is used.
        type: bool
        aliases: [verify_ssl]
      proxy:
        description:
          - The URL of an HTTP proxy on the way to the API server.
          - When it is not set, the environment variable E(K8S_AUTH_TARGET_PROXY) is used.
        type: str
      in_cluster:
        description:
          - Use the service account of the pod that the module runs in. Only ever done when this says so.
        type: bool
        default: false
      cluster_uid:
        description:
          - The UID of the namespace C(kube-system) of the cluster. When it is set, the module refuses any other cluster before
            its first write.
        type: str
      request_timeout:
        description:
          - Seconds until one call is given up.
        type: float
        default: 30
requirements:
  - kubernetes (Python package) >= 24.2.0
"""
