# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of the meshes: one root, and an intermediate authority for each control plane, so that both trust each other.

This is Istio's "plug in CA certificates" (a secret `cacerts`, or a folder for an istiod that is a process); with a shared
root no multi-root flag is needed. With `lab up --roots 2` each mesh has a root of its own, and they trust each other only
when ASM's migration has told them to. The gateways' HTTPS certificate comes from an authority of its own, as in real life.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab import pki
from lab.state import Lab, write_atomic

HOST = "echo.lab.test"
CREDENTIAL = "echo-cert"  # name of the HTTPS secret beside the gateways


def gateway_authority(lab: Lab) -> pki.Authority:
    """Signs the HTTPS certificates of the gateways; its `crt` is what a client outside is to trust (LAB_CA)."""
    return pki.Authority(lab.dir / "mesh-ca", "gateways")


def two_roots(lab: Lab) -> bool:
    return bool(lab.data.get("options", {}).get("roots") == 2)


def mesh_authority(lab: Lab, mesh: str) -> Path:
    """Folder with ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem (Istio's file names) of a mesh's authority."""
    folder = lab.dir / "mesh-ca"
    with lab.lock("mesh-ca"):  # both meshes are installed at once, and the root must be one
        root = pki.Authority(folder, f"root-{mesh}" if two_roots(lab) else "root")
        own = folder / mesh
        if not (own / "root-cert.pem").exists():
            _intermediate(root, mesh, own)
    return own


def _intermediate(root: pki.Authority, mesh: str, folder: Path) -> None:
    signer = serialization.load_pem_private_key(root.key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(root.crt.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"lab mesh {mesh}")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=364))  # within the root's own year
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    write_atomic(folder / "ca-cert.pem", text)
    write_atomic(folder / "ca-key.pem", private.decode())
    write_atomic(folder / "cert-chain.pem", text + root.crt.read_text())
    write_atomic(folder / "root-cert.pem", root.crt.read_text())
