"""A checkpoint: a signed statement of where every chain stood. It is kept where the database's owner cannot change it.

Without it the end of a chain could be cut off, or a chain written anew, and nobody would know.
"""

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from evidence.canonical import canonical
from evidence.seals import NOTHING_BEFORE, Seal, from_json

KIND = "tsugiki.audit.checkpoint/1"


class CheckpointInvalid(Exception):  # noqa: N818 - named for the fact
    """A checkpoint that is not what it should be: its signature, its form, or its place after the one before."""


@dataclass(frozen=True)
class Head:
    """How far a chain had come: its last seal and that one's digest, its events so far, the highest number of any."""

    seals: int
    digest: bytes
    events: int
    last_number: int


# Of a chain without seals.
NO_HEAD = Head(seals=0, digest=NOTHING_BEFORE, events=0, last_number=0)


@dataclass(frozen=True)
class Checkpoint:
    """What was stated. number counts from 1; previous is the digest of the statement before, zeros for the first."""

    number: int
    made_at: int
    installation: str
    previous: bytes
    heads: Mapping[UUID, Head]
    # Of the file with the seals since the checkpoint before, which goes with it into object storage.
    segment_sha256: str
    # Every manifest of a dropped month so far, with its digest; None in a statement from before they were stated.
    archives: Mapping[str, str] | None = None

    def statement(self) -> bytes:
        """The bytes that are signed."""
        heads = {
            str(chain): {
                "seals": head.seals,
                "digest": head.digest.hex(),
                "events": head.events,
                "last_number": head.last_number,
            }
            for chain, head in self.heads.items()
        }
        stated = {
            "kind": KIND,
            "number": self.number,
            "made_at": self.made_at,
            "installation": self.installation,
            "previous": self.previous.hex(),
            "heads": heads,
            "segment_sha256": self.segment_sha256,
        }
        return canonical(stated if self.archives is None else stated | {"archives": dict(self.archives)})


@dataclass(frozen=True)
class Signed:
    """A statement's bytes and their Ed25519 signature."""

    statement: bytes
    signature: bytes

    def line(self) -> str:
        """As it stands in a file of checkpoints, one a line."""
        return json.dumps(
            {"statement": self.statement.decode(), "signature": base64.b64encode(self.signature).decode()}
        )

    @classmethod
    def parse(cls, line: str) -> "Signed":
        """From such a line. Raises CheckpointInvalid."""
        try:
            said = json.loads(line)
            return cls(said["statement"].encode(), base64.b64decode(said["signature"], validate=True))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointInvalid("a line of the file is no checkpoint") from error

    def opened(self, key: Ed25519PublicKey) -> Checkpoint:
        """What is stated. Raises CheckpointInvalid where the key did not sign it."""
        try:
            key.verify(self.signature, self.statement)
            return read_statement(self.statement)
        except InvalidSignature:
            raise CheckpointInvalid("a checkpoint's signature is not of this key") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointInvalid("a checkpoint says what none says") from error


def read_segment(content: bytes, checkpoint: Checkpoint) -> list[Seal]:
    """The seals of a checkpoint's segment. Raises CheckpointInvalid where they are not those that were signed for."""
    try:
        lines = gzip.decompress(content)
        if sha256(lines).hexdigest() != checkpoint.segment_sha256:
            raise CheckpointInvalid(f"the segment of checkpoint {checkpoint.number} is not the one that was signed for")
        return [from_json(json.loads(line))[0] for line in lines.splitlines()]
    except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, zlib.error) as error:
        raise CheckpointInvalid(f"the segment of checkpoint {checkpoint.number} cannot be read") from error


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Signed:
    """The checkpoint's statement, signed."""
    statement = checkpoint.statement()
    return Signed(statement, key.sign(statement))


def open_all(lines: list[str], key: Ed25519PublicKey) -> list[Checkpoint]:
    """The checkpoints of a file, in order. Raises CheckpointInvalid where one is forged, or does not follow.

    The first of a file may be any: an outsider may have begun to keep them late. The same one twice is one.
    """
    opened: list[Checkpoint] = []
    newest = b""
    for line in lines:
        signed = Signed.parse(line)
        checkpoint = signed.opened(key)
        digest = sha256(signed.statement).digest()
        if digest == newest:
            continue
        if opened and (checkpoint.number != opened[-1].number + 1 or checkpoint.previous != newest):
            raise CheckpointInvalid(f"checkpoint {checkpoint.number} does not follow checkpoint {opened[-1].number}")
        opened.append(checkpoint)
        newest = digest
    return opened


def new_key() -> tuple[str, str]:
    """A new private key, and its public key, each as PEM."""
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return secret.decode(), public.decode()


def private_key(path: Path) -> Ed25519PrivateKey:
    """The private key of a PEM file. Raises OSError, ValueError where it holds another kind of thing."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{path} holds no Ed25519 private key")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key of a PEM file. Raises OSError, ValueError where it holds another kind of thing."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError(f"{path} holds no Ed25519 public key")
    return key


def read_statement(statement: bytes) -> Checkpoint:
    """What a statement says, signed or not. Raises KeyError, ValueError, TypeError where it is none."""
    said = json.loads(statement)
    if said["kind"] != KIND:
        raise ValueError(said["kind"])
    heads = {
        UUID(chain): Head(head["seals"], bytes.fromhex(head["digest"]), head["events"], head["last_number"])
        for chain, head in said["heads"].items()
    }
    return Checkpoint(
        number=said["number"],
        made_at=said["made_at"],
        installation=said["installation"],
        previous=bytes.fromhex(said["previous"]),
        heads=heads,
        segment_sha256=said["segment_sha256"],
        archives=None if said.get("archives") is None else dict(said["archives"]),
    )
