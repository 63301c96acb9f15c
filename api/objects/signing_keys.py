from typing import Literal

from pydantic import Field

from api.objects.shape import Shape
from models_db.attestations import SigningKeyRecord
from signing.keys import PublicKey


class SigningKeyObject(Shape):
    """A public key that checks what versions are signed with."""

    object: Literal["signing_key"] = Field(default="signing_key", description="Always `signing_key`.")
    key_id: str = Field(description="sha256 of the key's PEM form, by which signatures name it.")
    algorithm: str = Field(description="`ecdsa-p256`, `ecdsa-p384` or `ecdsa-p521`.")
    pem: str = Field(description="The key, to be kept in a file: `tsugiki verify DIR --public-key FILE`.")
    in_force: bool = Field(
        description="Whether versions are signed with it now; older keys still check older versions."
    )

    @classmethod
    def current(cls, key: PublicKey) -> "SigningKeyObject":
        """The one in force."""
        return cls(key_id=key.key_id, algorithm=key.algorithm, pem=key.pem, in_force=True)

    @classmethod
    def earlier(cls, record: SigningKeyRecord) -> "SigningKeyObject":
        """One that another has followed."""
        return cls(key_id=record.key_id, algorithm=record.algorithm, pem=record.pem, in_force=False)


class SigningKeyList(Shape):
    """The keys that check everything that was ever signed here."""

    object: Literal["list"] = Field(default="list", description="Always `list`.")
    data: list[SigningKeyObject] = Field(description="The key in force first, then earlier ones, newest first.")
