"""A throw-away certificate authority made with the openssl program: EC P-256 certificates and one RSA signing key."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

VALID_DAYS = 7
SERVER_NAMES = (
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "IP:127.0.0.1",
    "IP:10.96.0.1",
)


class CertificateFailed(RuntimeError):
    """openssl refused; the message carries what it said."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates into its folder (mode 0700); names must be unique in it."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Authority:
        folder.mkdir(mode=0o700, parents=True)
        _openssl(
            *("req", "-x509", *_new_key(folder / "ca.key"), "-out", folder / "ca.crt", "-days", VALID_DAYS),
            *("-subj", "/CN=nephila-test-ca"),
            *("-addext", "keyUsage=critical,keyCertSign,digitalSignature"),
        )
        return cls(folder)

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def issue_server(self, name: str, *, addresses: tuple[str, ...] = ()) -> KeyPair:
        names = ",".join((*SERVER_NAMES, *(f"IP:{address}" for address in addresses)))
        return self._issue(name, f"/CN={name}", "extendedKeyUsage=serverAuth", f"subjectAltName={names}")

    def issue_client(self, name: str, *, user: str, group: str) -> KeyPair:
        """A client certificate: Kubernetes reads the user from CN and the group from O."""
        return self._issue(name, f"/O={group}/CN={user}", "extendedKeyUsage=clientAuth")

    def issue_signing_key(self, name: str) -> KeyPair:
        """RSA key and public key for service-account tokens (`certificate` is the public key)."""
        pair = KeyPair(self.folder / f"{name}.pub", self.folder / f"{name}.key")
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", pair.key)
        _openssl("pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
        return pair

    def _issue(self, name: str, subject: str, *extensions: str) -> KeyPair:
        pair = KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        _openssl(
            *("req", "-x509", *_new_key(pair.key), "-out", pair.certificate, "-days", VALID_DAYS, "-subj", subject),
            *("-CA", self.certificate, "-CAkey", self.folder / "ca.key"),
            *(word for text in ("basicConstraints=critical,CA:FALSE", *extensions) for word in ("-addext", text)),
        )
        return pair


def _new_key(path: Path) -> tuple[object, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path)


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise CertificateFailed(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}")
