# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Encryption of single files of an archive, in formats that other tools open: ``age -d`` and ``ansible-vault view``.

The vault format is written here (AES-256-CTR and HMAC-SHA256 with keys from PBKDF2, ansible-core's parsing/vault), because
modules may not import from the controller's part of ansible-core. The unit tests open it with ansible-core's own code.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import pathlib
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError

_HEADER = b"$ANSIBLE_VAULT;1.1;AES256\n"
_ROUNDS = 10_000


class SealError(MigrationError):
    """A part cannot be opened: the key is another one, or the part is damaged."""


class Seal(t.Protocol):
    """One way to encrypt. ``name`` is ``age`` or ``vault``, and the suffix of the files.

    ``slow``: each part costs milliseconds, whatever its size, so objects are sealed many at once.
    """

    name: str
    slow: bool

    @property
    def recipients(self) -> list[str]:
        """Who can read, as far as that is no secret and can be said."""

    def seal(self, data: bytes) -> bytes:
        """Encrypt. Raises SealError when only a reading key was given."""

    def open(self, data: bytes) -> bytes:
        """Decrypt. Raises SealError."""


class Age:
    """age (X25519 and SSH keys), through the Python package pyrage.

    :arg recipients: public keys (``age1...``, ``ssh-ed25519 ...``), for writing.
    :arg identities: the text of an identity file, for reading.
    """

    name, slow = "age", False

    def __init__(self, recipients: t.Sequence[str] = (), identities: str = "") -> None:
        try:
            import pyrage  # pylint: disable=import-outside-toplevel
        except ImportError as error:
            raise InputError(
                "The Python package pyrage is missing where this module runs",
                why=str(error),
                todo="pip install pyrage, or encrypt with vault_password",
            ) from error
        self._age = pyrage
        self._recipients = [self._recipient(text.strip()) for text in recipients if text.strip()]
        self._identities = self._read_identities(identities)
        if not self._recipients:  # who can read may write for himself
            self._recipients = [one.to_public() for one in self._identities if hasattr(one, "to_public")]
        self.recipients = sorted(text.strip() for text in recipients if text.strip()) or sorted(map(str, self._recipients))

    def _recipient(self, text: str) -> t.Any:
        kind = self._age.ssh if text.startswith("ssh-") else self._age.x25519
        try:
            return kind.Recipient.from_str(text)
        except Exception as error:
            raise InputError("A recipient is no age or SSH public key", where=text[:24] + "...", why=str(error)) from error

    def _read_identities(self, text: str) -> list[t.Any]:
        if "PRIVATE KEY-----" in text:
            return [self._identity(self._age.ssh.Identity.from_buffer, text.encode())]
        lines = [line.strip() for line in text.splitlines()]
        return [self._identity(self._age.x25519.Identity.from_str, line) for line in lines if line and line[0] != "#"]

    def _identity(self, read: t.Callable[[t.Any], t.Any], value: t.Any) -> t.Any:
        try:
            return read(value)
        except Exception as error:
            # the text of a key is never repeated in a message
            raise InputError("An age identity cannot be read", why=type(error).__name__) from None

    def seal(self, data: bytes) -> bytes:
        if not self._recipients:
            raise SealError("Nothing can be encrypted with age", why="no recipient is given", todo="set age_recipients")
        return bytes(self._age.encrypt(data, self._recipients))

    def open(self, data: bytes) -> bytes:
        if not self._identities:
            raise SealError("An encrypted part cannot be opened", why="no age identity is given", todo="set age_identity_file")
        try:
            return bytes(self._age.decrypt(data, self._identities))
        except Exception as error:
            raise SealError("An encrypted part cannot be opened", why=str(error), todo="check age_identity_file") from error


class Vault:
    """Ansible Vault 1.1. Each part has a salt of its own, so equal parts do not look equal."""

    name, slow = "vault", True
    recipients: t.ClassVar[list[str]] = []

    def __init__(self, password: str) -> None:
        if not password:
            raise InputError("The vault password is empty", todo="set vault_password or vault_password_file")
        self._password = password.encode()

    def _keys(self, salt: bytes) -> tuple[bytes, bytes, bytes]:
        made = hashlib.pbkdf2_hmac("sha256", self._password, salt, _ROUNDS, 80)
        return made[:32], made[32:64], made[64:]

    @staticmethod
    def _cipher(key: bytes, nonce: bytes) -> t.Any:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # pylint: disable=import-outside-toplevel
        except ImportError as error:
            raise InputError(
                "The Python package cryptography is missing where this module runs",
                why=str(error),
                todo="pip install cryptography",
            ) from error
        return Cipher(algorithms.AES(key), modes.CTR(nonce))

    def seal(self, data: bytes) -> bytes:
        salt = os.urandom(32)
        key, check, nonce = self._keys(salt)
        encryptor = self._cipher(key, nonce).encryptor()
        pad = 16 - len(data) % 16
        secret = encryptor.update(data + bytes([pad]) * pad) + encryptor.finalize()
        tag = hmac.new(check, secret, hashlib.sha256).hexdigest().encode()
        body = binascii.hexlify(b"\n".join((binascii.hexlify(salt), tag, binascii.hexlify(secret))))
        return _HEADER + b"".join(body[i : i + 80] + b"\n" for i in range(0, len(body), 80))

    def open(self, data: bytes) -> bytes:
        wrong = SealError("An encrypted part cannot be opened", why="it is no Ansible Vault 1.1 text")
        if not data.startswith(_HEADER):
            raise wrong
        try:
            salt, tag, secret = binascii.unhexlify(data[len(_HEADER) :].replace(b"\n", b"")).split(b"\n")
            salt, secret = binascii.unhexlify(salt), binascii.unhexlify(secret)
        except ValueError as error:
            raise wrong from error
        key, check, nonce = self._keys(salt)
        if not hmac.compare_digest(hmac.new(check, secret, hashlib.sha256).hexdigest().encode(), tag):
            raise SealError(
                "An encrypted part cannot be opened",
                why="the vault password is another one, or the part is damaged",
                todo="check vault_password",
            )
        decryptor = self._cipher(key, nonce).decryptor()
        plain = decryptor.update(secret) + decryptor.finalize()
        pad = plain[-1] if plain else 0
        if not 1 <= pad <= 16:
            raise wrong
        return bytes(plain[:-pad])


def read_key(path: str, what: str) -> str:
    """The text of a key file. Raises InputError; the text is never in a message."""
    place = pathlib.Path(path).expanduser()
    try:
        if os.access(place, os.X_OK) and place.is_file():
            raise InputError(
                f"The file of {what} is a program", where=str(place), todo=f"give its output with a lookup, as {what} itself"
            )
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The file of {what} cannot be read", where=str(place), why=str(error)) from error


def seal_of(params: t.Mapping[str, t.Any]) -> Seal | None:
    """The Seal of the options age_recipients, age_identity(_file), vault_password(_file); None when none is given."""
    identities = params.get("age_identity") or ""
    if params.get("age_identity_file"):
        identities = read_key(params["age_identity_file"], "age_identity")
    if params.get("age_recipients") or identities:
        return Age(params.get("age_recipients") or (), identities)
    password = params.get("vault_password") or ""
    if params.get("vault_password_file"):
        password = read_key(params["vault_password_file"], "vault_password").strip()
    return Vault(password) if password else None
