"""Every way Tsugiki says no: five kinds, and under each the facts by name. The `code` of each is stable."""

from typing import Any, ClassVar


class Refusal(Exception):
    """A request was understood and refused; nothing was changed.

    message is written for the caller and never echoes content; param names the field, or `file:line`;
    details are further findings of the same request, each {message, param, code}.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, param: str | None = None, details: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.param, self.details)


def _rebuild(kind: type[Refusal], message: str, param: str | None, details: tuple[dict[str, Any], ...]) -> Refusal:
    return kind(message, param=param, details=details)


# --- the five kinds ---------------------------------------------------------------------------------------------------


class NotFound(Refusal):
    """There is no such thing, or it is another department's: the two are told apart by nothing."""

    code = "not_found"
    status = 404


class Denied(Refusal):
    """The caller is known and may not do this."""

    code = "permission_denied"
    status = 403


class Conflict(Refusal):
    """The thing is in a state that does not allow this."""

    code = "conflict"
    status = 409


class Invalid(Refusal):
    """The request says something that cannot be done as said."""

    code = "invalid_request"
    status = 400


class OverQuota(Refusal):
    """A limit of the department or the installation is reached."""

    code = "quota_exceeded"
    status = 429


# --- facts ------------------------------------------------------------------------------------------------------------


class Unauthenticated(Denied):
    """No key, or one that is malformed, unknown, expired or revoked: one body for all."""

    code = "invalid_api_key"
    status = 401


class ForeignDepartment(NotFound):
    # For the caller it is NotFound to the letter; the audit trail knows better.
    pass


class DepartmentNeeded(Invalid):
    code = "department_required"


class SeparationOfDuties(Denied):
    code = "separation_of_duties"


class ScopeExceedsOwner(Denied):
    code = "scope_exceeds_owner"


class UnknownField(Invalid):
    code = "unknown_field"


class WrongType(Invalid):
    code = "wrong_type"


class MissingField(Invalid):
    code = "missing_field"


class OutOfRange(Invalid):
    code = "out_of_range"


class NotFinite(Invalid):
    code = "not_finite"


class ConflictingFields(Invalid):
    code = "conflicting_fields"


class ControlCharacter(Invalid):
    code = "control_character"


class InvalidJson(Invalid):
    code = "invalid_json"


class InvalidUtf8(Invalid):
    code = "invalid_utf8"


class ByteOrderMark(Invalid):
    code = "bom"


class DuplicateKey(Invalid):
    code = "duplicate_key"


class TooDeep(Invalid):
    code = "too_deep"


class BodyTooLarge(Invalid):
    code = "body_too_large"
    status = 413


class UnsupportedMediaType(Invalid):
    code = "unsupported_media_type"
    status = 415


class FileEmpty(Invalid):
    code = "dataset_empty"


class LineTooLong(Invalid):
    code = "line_too_long"


class TooManyRows(Invalid):
    code = "too_many_rows"


class ExpectedJsonl(Invalid):
    code = "expected_jsonl"


class NotJsonl(Invalid):
    code = "not_jsonl"


class BadMessage(Invalid):
    code = "bad_message"


class ChecksumMismatch(Invalid):
    code = "checksum_mismatch"


class NotSafetensors(Invalid):
    code = "not_safetensors"


class BadHeader(Invalid):
    code = "bad_header"


class HeaderTooLarge(Invalid):
    code = "header_too_large"


class BadLayout(Invalid):
    code = "bad_layout"


class NonFiniteWeights(Invalid):
    code = "non_finite_weights"


class ShapeMismatch(Invalid):
    code = "shape_mismatch"


class ForbiddenFile(Invalid):
    code = "forbidden_file"


class ForbiddenConfigKey(Invalid):
    code = "forbidden_config_key"


class BaseModelMismatch(Invalid):
    code = "base_model_mismatch"


class SignatureInvalid(Invalid):
    code = "signature_invalid"


class UnknownBaseModel(Invalid):
    code = "unknown_base_model"


class UnknownFile(Invalid):
    code = "unknown_file"


class UnknownTargetModule(Invalid):
    code = "unknown_target_module"


class ExceedsBaseModel(Invalid):
    code = "exceeds_base_model"


class JobTooLarge(Invalid):
    code = "job_too_large"


class IdempotencyKeyReused(Invalid):
    code = "idempotency_key_reused"


class ErasureUnderWay(Conflict):
    code = "erasure_under_way"


class ErasureClosed(Conflict):
    code = "erasure_closed"


class ParentDiffers(Invalid):
    code = "parent_differs"


class ParentUnusable(Conflict):
    code = "parent_unusable"


class ForbiddenAddress(Invalid):
    code = "forbidden_address"


class UnknownAddress(Invalid):
    code = "unknown_address"


class ReceiverSilent(Conflict):
    code = "receiver_silent"


class RoleUnknown(Invalid):
    code = "unknown_role"


class InvalidPolicy(Invalid):
    code = "invalid_policy"


class PolicyWidens(Invalid):
    """A department's document, or a retention, allows what stands above it does not."""

    code = "policy_widens"


class PolicyViolation(Invalid):
    """The policy in force does not allow it; details are all of the reasons."""

    code = "policy_violation"


class ScopeUnknown(Invalid):
    code = "unknown_scope"


class DepartmentClosed(Conflict):
    code = "department_closed"


class UnknownEvaluation(Invalid):
    code = "unknown_evaluation"


class ReservedAlias(Invalid):
    code = "reserved_alias"


class PreconditionRequired(Invalid):
    """The caller does not say what they believe to be there."""

    code = "precondition_required"
    status = 428


class NameTaken(Conflict):
    code = "name_taken"


class StaleVersion(Conflict):
    """Somebody else was first: what the caller believed to be there is there no more."""

    code = "stale_version"


class VersionNotApproved(Conflict):
    """The version is not one that the alias may stand for."""

    code = "version_not_approved"


class VersionWithdrawn(Conflict):
    """The version is handed to nobody any more."""

    code = "version_withdrawn"


class VersionInUse(Conflict):
    code = "in_use"


class NoEarlierVersion(Conflict):
    """The alias has stood for no other version that may be served now."""

    code = "no_earlier_version"


class ApprovalPending(Conflict):
    code = "approval_pending"


class AlreadyDecided(Conflict):
    code = "already_decided"


class ApprovalExpired(Conflict):
    code = "approval_expired"


class DigestChanged(Conflict):
    """The caller decides on other bytes than those that the request is about."""

    code = "digest_changed"


class ExportNotWritten(Conflict):
    code = "export_not_written"


class AlreadyFinished(Conflict):
    code = "already_finished"


class WorkerRetired(Conflict):
    code = "worker_retired"


class FileInUse(Conflict):
    code = "in_use"


class BaseModelDiffers(Conflict):
    code = "base_model_differs"


class ArtifactMissing(Conflict):
    code = "artifact_missing"


class QuotaSpent(OverQuota):
    """A limit that asking again does not lift: a month's, or that of storage."""

    code = "insufficient_quota"


class LeaseLost(Conflict):
    """The worker's lease has ended; whoever holds the job now decides. Touch nothing."""

    code = "lease_lost"
