"""Is a manifest signed by the key that this device trusts? ed25519, by the package `cryptography`, loaded on use."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from .errors import BundleError


def check(key_file: Path, manifest: bytes, signature: Optional[bytes]) -> None:
    """Verify the signature of a manifest's bytes.

    Raises:
        BundleError: no signature, one by another key, a key that cannot be read, or `cryptography` is missing.
    """
    key = _public_key(key_file)
    if signature is None:
        raise BundleError(f"it is not signed, and a signature by {key_file.name} is demanded")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise BundleError(f"its signature is not by {key_file.name}, or its manifest was changed") from None


def _public_key(file: Path) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise BundleError("a signature is checked by the package cryptography: "
                          "pip install 'edgeq-runtime[sign]'") from None
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read the key {file}: {error.strerror}") from None
    except Exception as error:  # ValueError, UnsupportedAlgorithm
        raise BundleError(f"{file} is not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{file} is not an ed25519 key")
    return key
