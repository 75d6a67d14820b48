# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images, made here as docker-archive tars: no registry is spoken to.

`archive(lab, name)` gives CACHE/images/<name>-<hash>.tar for `ctr images import` and `docker load`. The hash is over
everything that goes in, so an unchanged image is built once; the bytes are the same wherever they are built from the
same files. Images: pause, echo, proxyv2 (pilot-agent and Envoy, laid out like Istio's), istiod, coredns. `TAGS` has the
names that they answer to: the very ones that istiod injects and that ASM uses.
"""

from __future__ import annotations

from lab.images.catalog import ASM_HUB, ECHO, ISTIO_HUB, ISTIO_TAG, NAMES, PAUSE, TAGS, asm_proxy
from lab.images.docker import archive

__all__ = ["ASM_HUB", "ECHO", "ISTIO_HUB", "ISTIO_TAG", "NAMES", "PAUSE", "TAGS", "archive", "asm_proxy"]
