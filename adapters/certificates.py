"""Makes and reads the webhook's certificates: the only module that imports `cryptography`, and only while a leader needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipam.rotation import LIFE_S, SKEW_S, Certificate


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM texts: the authority's certificate, and the serving certificate with its key."""

    authority: str
    certificate: str
    key: str


def issue(names: Sequence[str], now: float, *, life_s: float = LIFE_S) -> Issued:
    """A serving certificate for host names, signed by an authority made for it, whose key is not kept. EC P-256."""
    begins, ends = datetime.fromtimestamp(now - SKEW_S, UTC), datetime.fromtimestamp(now + life_s, UTC)
    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # A name of its own each, so that a list of several leaves no doubt which one signed.
    serial = x509.random_serial_number()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"nephila-webhook-ca-{serial:x}"[:64])])
    signer_id = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    authority = (
        begun(issuer, signer.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(signer_id, critical=False)
        .sign(signer, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    serving = (
        begun(subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer_id), critical=False)
        .sign(signer, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(_pem(authority), _pem(serving), secret.decode())


def read(certificate: str, key: str, trusted: str) -> Certificate | None:
    """What counts of a serving certificate; None if there is none that can be read. `trusted`: PEM of the authorities."""
    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return Certificate(
        found.not_valid_before_utc.timestamp(),
        found.not_valid_after_utc.timestamp(),
        frozenset(names.get_values_for_type(x509.DNSName)),
        _fits(found, key) and any(_signed(found, authority) for authority in _authorities(trusted)),
    )


def unended(trusted: str, now: float) -> str:
    """The authorities of a list that are not over yet."""
    return "".join(_pem(one) for one in _authorities(trusted) if one.not_valid_after_utc.timestamp() > now)


def _authorities(text: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text.encode()) if text.strip() else []
    except ValueError:
        return []


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fits(certificate: x509.Certificate, key: str) -> bool:
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        return False
    return _public(private.public_key()) == _public(certificate.public_key())


def _public(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    found: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
