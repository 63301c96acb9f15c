"""Is a pulled folder what it says it is? Offline: the folder, the public keys, and nothing else.

Every reason why not is told, not the first alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from domain.adapters import VersionState
from domain.attestations import (
    APPROVAL_FILE,
    APPROVAL_TYPE,
    ATTESTATION_FILES,
    MAX_ATTESTATION_BYTES,
    PROVENANCE_FILE,
    PROVENANCE_TYPE,
    SIGNATURE_FILE,
    STATEMENT_TYPE,
    Approval,
)
from domain.digests import Digest, Manifest, ManifestFile, digest_file
from domain.refusals import ChecksumMismatch, ForbiddenFile, Refusal, SignatureInvalid, VersionNotApproved
from signing.envelopes import Signed, unseal, unseal_bundle
from signing.keys import PublicKey, by_id

_MODEL_SIGNATURE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Verdict:
    """What was found. Without reasons the folder is a version that its service had approved at approval.as_of."""

    reasons: tuple[Refusal, ...]
    digest: Digest
    approval: Approval | None
    builder: str | None

    @property
    def holds(self) -> bool:
        """Whether nothing stands against the folder."""
        return not self.reasons


def verify(
    folder: Path,
    keys: Iterable[PublicKey],
    *,
    now: datetime,
    accepted: frozenset[str] = frozenset({VersionState.APPROVED}),
    max_age: timedelta | None = None,
) -> Verdict:
    """Check signature, digests, files, provenance and approval. accepted: states that are good enough.

    max_age: of the statement of approval; who is handed an old one, of before a revocation, is shown its time.
    """
    return _Check(folder, by_id(keys)).verdict(now=now, accepted=accepted, max_age=max_age)


@dataclass
class _Check:
    folder: Path
    keys: Mapping[str, PublicKey]
    reasons: list[Refusal] = field(default_factory=list)

    def verdict(self, *, now: datetime, accepted: frozenset[str], max_age: timedelta | None) -> Verdict:
        there = dict(self._files())
        signed = self._signed_digests()
        if signed is not None:
            self._compare({name: file.digest for name, file in there.items()}, signed)
        # With what is no file of the version its digest would be another one: that is told already.
        manifest = _manifest(file for name, file in there.items() if signed is None or name in signed)
        builder = self._builder(manifest)
        approval = self._approval(manifest)
        if approval is not None:
            self.reasons += _against(approval, now=now, accepted=accepted, max_age=max_age)
        return Verdict(tuple(self.reasons), manifest.digest, approval, builder)

    def _files(self) -> Iterator[tuple[str, "_File"]]:
        """What lies in the folder beside the attestations, hidden files too."""
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                self._against(ForbiddenFile("A link or a device is no file of a version.", param=name))
            elif path.is_file() and name not in ATTESTATION_FILES:
                yield name, _File(name, *digest_file(path))

    # --- the signature ------------------------------------------------------------------------------------------------

    def _signed_digests(self) -> Mapping[str, Digest] | None:
        """What model.sig says of each file; None where it says nothing that can be believed."""
        found = self._read(SIGNATURE_FILE, lambda content: unseal_bundle(content, self.keys, param=SIGNATURE_FILE))
        if found is None:
            return None
        digests = _resources(found.statement)
        if digests is None:
            self._against(SignatureInvalid("What is signed is not the files of a version.", param=SIGNATURE_FILE))
        return digests

    def _compare(self, there: Mapping[str, Digest], signed: Mapping[str, Digest]) -> None:
        for name in sorted({*there, *signed}):
            if name not in signed:
                self._against(ForbiddenFile("The file is no file of the version.", param=name))
            elif name not in there:
                self._against(ChecksumMismatch("The file is missing.", param=name))
            elif there[name] != signed[name]:
                self._against(ChecksumMismatch("The file's bytes are not those that were signed.", param=name))

    # --- the statements -----------------------------------------------------------------------------------------------

    def _builder(self, manifest: Manifest) -> str | None:
        predicate = self._predicate(PROVENANCE_FILE, PROVENANCE_TYPE, manifest.digest)
        return None if predicate is None else _text(predicate, "runDetails", "builder", "id")

    def _approval(self, manifest: Manifest) -> Approval | None:
        predicate = self._predicate(APPROVAL_FILE, APPROVAL_TYPE, manifest.digest)
        if predicate is None:
            return None
        try:
            approval = Approval.model_validate(predicate, strict=False)
        except ValidationError:
            approval = None
        if approval is None or approval.digest != manifest.digest:
            self._against(SignatureInvalid("The statement does not say where this version stood.", param=APPROVAL_FILE))
            return None
        return approval

    def _predicate(self, file: str, kind: str, digest: Digest) -> Mapping[str, Any] | None:
        found = self._read(file, lambda content: unseal(content, self.keys, param=file))
        if found is None:
            return None
        statement = found.statement
        predicate = statement.get("predicate")
        if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT_TYPE, kind):
            self._against(SignatureInvalid("The statement is of another kind.", param=file))
        elif _subject_digest(statement) != digest:
            self._against(SignatureInvalid("The statement is about another version.", param=file))
        elif isinstance(predicate, dict):
            return predicate
        return None

    def _read(self, file: str, unsealed: Callable[[bytes], Signed]) -> Signed | None:
        path = self.folder / file
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_ATTESTATION_BYTES:
            self._against(SignatureInvalid(f"There is no {file}.", param=file))
            return None
        try:
            return unsealed(path.read_bytes())
        except SignatureInvalid as reason:
            self._against(reason)
            return None

    def _against(self, reason: Refusal) -> None:
        self.reasons.append(reason)


def _against(
    approval: Approval, *, now: datetime, accepted: frozenset[str], max_age: timedelta | None
) -> Iterator[Refusal]:
    if approval.state not in accepted:
        yield VersionNotApproved(f"The version was {approval.state} at {approval.as_of}.", param=APPROVAL_FILE)
    if max_age is not None and now - datetime.fromisoformat(approval.as_of) > max_age:
        yield SignatureInvalid(f"The statement is of {approval.as_of}, which is too long ago.", param=APPROVAL_FILE)


class _File(NamedTuple):
    name: str
    digest: Digest
    size_bytes: int


def _manifest(files: Iterable[_File]) -> Manifest:
    """Of these files; what has no name that a version's file can have is in none, and told of elsewhere."""
    named = []
    for file in files:
        with suppress(ValidationError):
            named.append(ManifestFile(path=file.name, bytes=file.size_bytes, digest=file.digest))
    return Manifest.of(named)


def _resources(statement: Mapping[str, Any]) -> Mapping[str, Digest] | None:
    """The files of a model signature by name; None where the statement is none such, or contradicts itself."""
    if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT_TYPE, _MODEL_SIGNATURE_TYPE):
        return None
    predicate = statement.get("predicate")
    try:
        serialization, resources = predicate["serialization"], predicate["resources"]  # type: ignore[index]
        by_file = serialization["method"], serialization["hash_type"]
        ignored = set(serialization.get("ignore_paths", ()))
        digests = {each["name"]: bytes.fromhex(each["digest"]) for each in resources}
        root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    named_once = len(digests) == len(resources)
    if by_file != ("files", "sha256") or not ignored <= set(ATTESTATION_FILES) or not named_once:
        return None
    return {name: f"sha256:{digest.hex()}" for name, digest in digests.items()} if _is_root(statement, root) else None


def _is_root(statement: Mapping[str, Any], root: str) -> bool:
    return _subject_digest(statement) == f"sha256:{root}"


def _subject_digest(statement: Mapping[str, Any]) -> Digest | None:
    """Of the first subject."""
    subjects = statement.get("subject")
    found = _text(subjects[0], "digest", "sha256") if isinstance(subjects, list) and subjects else None
    return None if found is None else f"sha256:{found}"


def _text(value: Any, *keys: str) -> str | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
