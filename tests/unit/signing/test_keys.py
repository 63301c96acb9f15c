from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from signing import keys
from signing.keys import PublicKey, SigningKey, SigningKeyUnusable


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    assert keys.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert not keys.create(path)
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["key.pem"]


def test_what_a_key_signs_its_public_half_confirms_and_no_other(tmp_path: Path) -> None:
    for name in ("one", "other"):
        keys.create(tmp_path / name)
    one, other = (SigningKey.load(tmp_path / name) for name in ("one", "other"))
    signature = one.sign(b"content")
    read = PublicKey.read(one.public.pem.encode())
    assert read == one.public
    assert read.confirms(signature, b"content")
    assert not read.confirms(signature, b"another content")
    assert not read.confirms(signature[:-1], b"content")
    assert not other.public.confirms(signature, b"content")
    assert one.public.key_id != other.public.key_id


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_of_the_format_signs(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = SigningKey.load(write(tmp_path / "key.pem", pem_of(ec.generate_private_key(curve))))
    assert key.public.confirms(key.sign(b"content"), b"content")
    assert key.public.algorithm == f"ecdsa-p{curve.key_size}"


def test_a_key_that_cannot_sign_here_is_refused(tmp_path: Path) -> None:
    good = pem_of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SigningKeyUnusable, match="read by others"):
        SigningKey.load(write(tmp_path / "open.pem", good, 0o640))
    with pytest.raises(SigningKeyUnusable, match="cannot be read"):
        SigningKey.load(tmp_path / "missing.pem")
    unusable = {
        "koblitz": pem_of(ec.generate_private_key(ec.SECP256K1())),
        "edwards": pem_of(ed25519.Ed25519PrivateKey.generate()),
        "locked": pem_of(ec.generate_private_key(ec.SECP256R1()), b"password"),
        "text": b"no key at all",
    }
    for name, content in unusable.items():
        with pytest.raises(SigningKeyUnusable):
            SigningKey.load(write(tmp_path / f"{name}.pem", content))
    with pytest.raises(SigningKeyUnusable):
        PublicKey.read(good)
