# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and kubeconfigs of the lab: small authorities with EC keys, all valid for a year."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.state import write_atomic

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _name(common: str, organizations: Iterable[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: Key) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()


def _builder(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
    )


class Authority:
    """A certificate authority kept as <folder>/<name>.{crt,key}; made when it is not there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.crt, self._keyfile = folder / f"{name}.crt", folder / f"{name}.key"
        if self.crt.exists() and self._keyfile.exists():
            key = serialization.load_pem_private_key(self._keyfile.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key, self._cert = key, x509.load_pem_x509_certificate(self.crt.read_bytes())
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"lab {name}")
        self._cert = (
            _builder(subject, subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        write_atomic(self._keyfile, _pem(self._key))
        write_atomic(self.crt, self._cert.public_bytes(serialization.Encoding.PEM).decode(), 0o644)

    @property
    def key(self) -> Path:
        return self._keyfile

    def issue(self, common: str, organizations: Iterable[str] = (), names: Iterable[str] = ()) -> tuple[str, str]:
        """Certificate and key (PEM texts) for a client and server; `names` are its DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(common, organizations), self._cert.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives := [_alternative(name) for name in names]:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        return cert.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)

    def issue_files(
        self, name: str, common: str, organizations: Iterable[str] = (), names: Iterable[str] = ()
    ) -> tuple[Path, Path]:
        """The same, written to <folder>/<name>.{crt,key}."""
        crt, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert_text, key_text = self.issue(common, organizations, names)
        write_atomic(crt, cert_text, 0o644)
        write_atomic(key, key_text)
        return crt, key

    def kubeconfig(self, server: str, user: str, organizations: Iterable[str] = ()) -> str:
        """A kubeconfig (JSON is YAML) with a client certificate of this authority."""
        cert, key = self.issue(user, organizations)
        return kubeconfig(
            server, self.crt.read_text(), user, {"client-certificate-data": _b64(cert), "client-key-data": _b64(key)}
        )


def kubeconfig(server: str, ca: str, user: str, credentials: dict[str, str], context: str = "lab") -> str:
    """Text of a kubeconfig with one context; `ca` is a PEM text, `credentials` what stands under `user`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": _b64(ca)}}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "current-context": context,
    }
    return json.dumps(config, indent=1) + "\n"


def service_account_key(folder: Path) -> tuple[Path, Path]:
    """RSA key pair that signs ServiceAccount tokens: private and public file."""
    private, public = folder / "sa.key", folder / "sa.pub"
    if not (private.exists() and public.exists()):
        key = rsa.generate_private_key(65537, 2048)
        write_atomic(private, _pem(key))
        encoded = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        write_atomic(public, encoded.decode(), 0o644)
    return private, public


def ssh_key(file: Path) -> tuple[Path, str]:
    """An ed25519 key pair for ssh: the private file (0600) and the public line; made when it is not there."""
    public = file.with_suffix(".pub")
    if not (file.exists() and public.exists()):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        write_atomic(file, private.decode())
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write_atomic(public, line.decode() + " lab\n", 0o644)
    return file, public.read_text()


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
