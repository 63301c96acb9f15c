"""What goes with a version's files to whoever wants to check them: a signature, how they came to be, and who approved.

The statements are in-toto's (https://in-toto.io/Statement/v1), each in an envelope that is signed. Nothing here signs.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from domain.digests import Digest, Manifest
from domain.frozen import Frozen
from domain.peft_folders import ImportSpec
from domain.runs import RunSpec

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
APPROVAL_TYPE = "urn:tsugiki:approval:v1"
TRAINING: Final = "urn:tsugiki:training:v1"
IMPORT: Final = "urn:tsugiki:import:v1"

SIGNATURE_FILE = "model.sig"
PROVENANCE_FILE = "provenance.intoto.jsonl"
APPROVAL_FILE = "approval.intoto.jsonl"
# Beside an adapter's own files, and no part of what its digest names.
ATTESTATION_FILES = (SIGNATURE_FILE, PROVENANCE_FILE, APPROVAL_FILE)
# A job's specification and its digests take a few kilobytes; an adapter with tokenizer has seven files.
MAX_ATTESTATION_BYTES = 256 << 10

# sha256 of the public key's PEM form, as model signatures name their key.
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AttestationKind(StrEnum):
    """The two that are made with a version, and stay; the statement of its approval is made for each download."""

    SIGNATURE = "signature"
    PROVENANCE = "provenance"

    @property
    def file(self) -> str:
        """What it is called in a pulled folder."""
        return {self.SIGNATURE: SIGNATURE_FILE, self.PROVENANCE: PROVENANCE_FILE}[self]


class Attestation(Frozen):
    """A signature or a signed statement in object storage, beside the version's files."""

    kind: AttestationKind
    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=MAX_ATTESTATION_BYTES)]
    key_id: KeyId


class Dependency(Frozen):
    """What a version was made from: bytes by their digest, or a package by its version."""

    name: str
    digest: Digest | None = None
    version: str | None = None

    def as_resource(self) -> dict[str, Any]:
        """An in-toto ResourceDescriptor."""
        told: dict[str, Any] = {"name": self.name}
        if self.digest is not None:
            told["digest"] = _digest_set(self.digest)
        if self.version is not None:
            told["annotations"] = {"version": self.version}
        return told


class Provenance(Frozen):
    """How a version came to be, as SLSA has it: what was asked for, from what, by whom, in which run.

    builder is the worker, or the service where an adapter was imported; never the process that trained.
    """

    build_type: Literal["urn:tsugiki:training:v1", "urn:tsugiki:import:v1"]
    adapter: str
    external_parameters: RunSpec | ImportSpec
    internal_parameters: dict[str, int | str]
    dependencies: tuple[Dependency, ...]
    builder: str
    builder_versions: dict[str, str]
    invocation: str
    finished_at: datetime

    def statement(self, manifest: Manifest) -> dict[str, Any]:
        """The in-toto statement about these files: first the manifest's digest, which names the version, then each."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": subjects(self.adapter, manifest),
            "predicateType": PROVENANCE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": self.build_type,
                    "externalParameters": self.external_parameters.model_dump(mode="json"),
                    "internalParameters": self.internal_parameters,
                    "resolvedDependencies": [each.as_resource() for each in self.dependencies],
                },
                "runDetails": {
                    "builder": {"id": self.builder, "version": self.builder_versions},
                    "metadata": {"invocationId": self.invocation, "finishedOn": utc(self.finished_at)},
                },
            },
        }


class Approver(Frozen):
    """Who decided for a version, by id: their name is no part of what leaves the service."""

    id: str
    decided_at: str


class Approval(Frozen):
    """Where a version stood when it was handed out. An older statement is told by its `as_of`."""

    adapter: str
    number: Annotated[int, Field(ge=1)]
    digest: Digest
    state: str
    approvers: tuple[Approver, ...]
    aliases: tuple[str, ...]
    department: str
    organisation: str
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]

    def statement(self) -> dict[str, Any]:
        """The in-toto statement about the version of that digest."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.adapter, "digest": _digest_set(self.digest)}],
            "predicateType": APPROVAL_TYPE,
            "predicate": self.model_dump(mode="json"),
        }


def subjects(adapter: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The version, by the digest of its manifest, and its files."""
    named: Iterable[tuple[str, Digest]] = [
        (adapter, manifest.digest),
        *((file.path, file.digest) for file in manifest.files),
    ]
    return [{"name": name, "digest": _digest_set(digest)} for name, digest in named]


def _digest_set(digest: Digest) -> Mapping[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def utc(moment: datetime) -> str:
    """RFC 3339, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
