"""Envelopes: a statement, and the signature over it and its type (DSSE, https://github.com/secure-systems-lab/dsse).

A `model.sig` holds one in the form of Sigstore's bundles, a `.intoto.jsonl` one a line.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain import strict_json
from domain.refusals import Invalid, SignatureInvalid
from signing.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True)
class Signed:
    """A statement whose signature is right, and the key that made it."""

    statement: Mapping[str, Any]
    key_id: str


def seal(statement: Mapping[str, Any], key: SigningKey) -> bytes:
    """One line: the statement in its envelope, signed."""
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    envelope = {
        "payload": b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.public.key_id, "sig": b64encode(key.sign(_encoded(payload))).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":")).encode() + b"\n"


def unseal(content: bytes, keys: Mapping[str, PublicKey], *, param: str) -> Signed:
    """The statement of a `.intoto.jsonl`. Raises SignatureInvalid, with the file in `param`."""
    envelope = _object(content, param)
    return _opened(envelope, keys, key_id=_first_signature(envelope, param).get("keyid"), param=param)


def unseal_bundle(content: bytes, keys: Mapping[str, PublicKey], *, param: str) -> Signed:
    """The statement of a `model.sig`. Raises SignatureInvalid."""
    bundle = _object(content, param)
    material, envelope = bundle.get("verificationMaterial"), bundle.get("dsseEnvelope")
    if bundle.get("mediaType") != BUNDLE_TYPE or not isinstance(material, dict) or not isinstance(envelope, dict):
        raise SignatureInvalid("This is no signature made with a key.", param=param)
    named = material.get("publicKey")
    return _opened(envelope, keys, key_id=named.get("hint") if isinstance(named, dict) else None, param=param)


def _opened(envelope: Mapping[str, Any], keys: Mapping[str, PublicKey], *, key_id: object, param: str) -> Signed:
    key = keys.get(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise SignatureInvalid("The signature is of a key that was not given.", param=param)
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise SignatureInvalid("What is signed is no in-toto statement.", param=param)
    payload = _decoded(envelope.get("payload"), param)
    signature = _decoded(_first_signature(envelope, param).get("sig"), param)
    # The statement is read after its signature was found right, and not before.
    if not key.confirms(signature, _encoded(payload)):
        raise SignatureInvalid("The signature does not fit what is signed.", param=param)
    return Signed(_object(payload, param), key.key_id)


def _encoded(payload: bytes) -> bytes:
    """What is signed: the payload with its type and both lengths, so that neither can be taken for the other."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _first_signature(envelope: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureInvalid("The envelope has not exactly one signature.", param=param)
    return signatures[0]


def _decoded(text: object, param: str) -> bytes:
    try:
        return b64decode(str(text), validate=True)
    except ValueError:
        raise SignatureInvalid("The envelope is not in base 64.", param=param) from None


def _object(content: bytes, param: str) -> Mapping[str, Any]:
    try:
        parsed = strict_json.parse(content, param=param)
    except Invalid:
        parsed = None
    if not isinstance(parsed, dict):
        raise SignatureInvalid("The file is not a JSON object.", param=param)
    return parsed
