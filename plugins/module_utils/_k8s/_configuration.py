# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Which API server is meant, and how one logs in there: options to the kubernetes library's Configuration. Nothing is guessed."""

from __future__ import annotations

import pathlib
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError

_PATHS = 8192  # characters that a list of paths may have


def configuration_of(name: str, options: t.Mapping[str, t.Any]) -> t.Any:
    """A kubernetes.client.Configuration from the options; nothing is ever taken by silence."""
    try:
        from kubernetes import client, config  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise InputError(
            "The Python package kubernetes is missing where this module runs",
            why=str(error),
            todo="pip install kubernetes (for the Python in ansible_python_interpreter)",
        ) from error
    configuration = client.Configuration()
    kubeconfig, host = options.get("kubeconfig"), options.get("host")
    if kubeconfig and ("\n" in str(kubeconfig) or "{" in str(kubeconfig)[:1] or len(str(kubeconfig)) > _PATHS):
        raise InputError(  # its text is never repeated: there are keys in it
            f"{name}.kubeconfig is not the path of a file", why="the content of one seems to be given", todo="write it to a file"
        )
    try:
        if kubeconfig:
            paths = [str(pathlib.Path(part).expanduser()) for part in str(kubeconfig).split(":")]
            load_kube_config: t.Any = config.load_kube_config
            load_kube_config(":".join(paths), options.get("context"), configuration, persist_config=False)
        elif options.get("in_cluster"):
            load_incluster: t.Any = config.load_incluster_config
            load_incluster(configuration)
        elif not host:
            raise InputError(
                f"It is not said which cluster {name} is",
                why=f"neither {name}.kubeconfig nor {name}.host is set, and no cluster is ever guessed",
                todo=f"set {name}.kubeconfig (and {name}.context), or {name}.host and {name}.api_key, or the environment "
                f"variables {'K8S_AUTH' if name == 'source' else 'K8S_AUTH_TARGET'}_KUBECONFIG and so on",
            )
    except MigrationError:
        raise
    except Exception as error:  # ConfigException, YAML errors, OSError: all mean the same to the operator
        raise InputError(
            f"The kubeconfig of {name} cannot be used", where=str(kubeconfig), why=str(error), todo="check path and context"
        ) from error
    if host:
        configuration.host = host
    if options.get("api_key"):
        configuration.refresh_api_key_hook = None  # it would put the kubeconfig's token back
        for key in ("authorization", "BearerToken"):
            configuration.api_key[key] = f"Bearer {options['api_key']}"
    for option, attribute in (("ca_cert", "ssl_ca_cert"), ("client_cert", "cert_file"), ("client_key", "key_file")):
        if options.get(option):
            setattr(configuration, attribute, str(pathlib.Path(options[option]).expanduser()))
    if options.get("validate_certs") is not None:
        configuration.verify_ssl = bool(options["validate_certs"])
    if options.get("proxy"):
        configuration.proxy = options["proxy"]
    return configuration


def pool_of(configuration: t.Any, connections: int) -> t.Any:
    """urllib3's pool of connections, at least so many. Raises InputError."""
    from kubernetes.client.rest import RESTClientObject  # pylint: disable=import-outside-toplevel

    configuration.connection_pool_maxsize = max(connections, getattr(configuration, "connection_pool_maxsize", 0) or 0)
    try:
        return RESTClientObject(configuration).pool_manager
    except Exception as error:  # unreadable certificate files
        raise InputError("The certificates of a cluster cannot be read", where=str(configuration.host), why=str(error)) from error
