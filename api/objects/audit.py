from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.objects.shape import Identified, Shape, seconds
from domain.access import PrincipalType
from domain.ids import IdKind, public_id
from models_db.audit import AuditRecord

KINDS = {
    "adapter": IdKind.ADAPTER,
    "adapter_version": IdKind.ADAPTER_VERSION,
    "api_key": IdKind.API_KEY,
    "audit_export": IdKind.AUDIT_EXPORT,
    "base_model": IdKind.BASE_MODEL,
    "break_glass": IdKind.BREAK_GLASS,
    "department": IdKind.DEPARTMENT,
    "estimate": IdKind.ESTIMATE,
    "file": IdKind.FILE,
    "job": IdKind.JOB,
    "policy": IdKind.POLICY,
    "role_grant": IdKind.ROLE_GRANT,
    "service_account": IdKind.SERVICE_ACCOUNT,
    "webhook_endpoint": IdKind.WEBHOOK_ENDPOINT,
    "version_share": IdKind.VERSION_SHARE,
    "user": IdKind.USER,
    "worker": IdKind.WORKER,
}


class ActorIdObject(Shape):
    """Who owns the key: ids only, for names change and people leave."""

    id: str = Field(description="`user-…` or `svcacct_…`.")


class ActorKeyObject(Shape):
    """The key that was used."""

    id: str | None = Field(description="`key_…`.")
    type: PrincipalType = Field(description="Who it acts for.")
    user: ActorIdObject | None = Field(description="The person.")
    service_account: ActorIdObject | None = Field(description="The robot.")


class ActorObject(Shape):
    """Who acted."""

    type: Literal["api_key", "system"] = Field(description="A key, or Tsugiki's own workers.")
    api_key: ActorKeyObject | None = Field(description="The key; null for `system`.")

    @classmethod
    def of(cls, record: AuditRecord) -> "ActorObject":
        """From an event's row."""
        kind = PrincipalType(record.actor_type)
        if kind is PrincipalType.SYSTEM or record.actor_id is None:
            return cls(type="system", api_key=None)
        is_user = kind is PrincipalType.USER
        owner = ActorIdObject(id=public_id(IdKind.USER if is_user else IdKind.SERVICE_ACCOUNT, record.actor_id))
        key = ActorKeyObject(
            id=public_id(IdKind.API_KEY, record.actor_key_id) if record.actor_key_id else None,
            type=kind,
            user=owner if is_user else None,
            service_account=None if is_user else owner,
        )
        return cls(type="api_key", api_key=key)


class AuditProjectObject(Shape):
    """The department it happened in."""

    id: str = Field(description="`proj_…`.")


class AuditResourceObject(Shape):
    """What it happened to."""

    type: str = Field(description="Its kind.")
    id: str = Field(description="Its public id.")


class AuditLogObject(Identified):
    """One thing that happened, as it was recorded with it."""

    id: str = Field(description="`audit_log-…`.")
    object: Literal["organization.audit_log"] = Field(
        default="organization.audit_log", description="Always `organization.audit_log`."
    )
    effective_at: int = Field(description="When, in seconds since 1970, by the database's clock.")
    type: str = Field(description="What: one of a closed list, `subject.action`.")
    actor: ActorObject = Field(description="Who.")
    project: AuditProjectObject | None = Field(description="In which department; null for the platform.")
    resource: AuditResourceObject | None = Field(description="To what. Ours.")
    refs: list[UUID] = Field(description="UUIDs of what else it touches. Ours.")
    outcome: str = Field(description="`success`, `denied` or `failure`. Ours.")
    reason: str | None = Field(description="The code of a denial or a failure. Ours.")
    details: dict[str, Any] = Field(description="Ids, digests, numbers and states; never names or content. Ours.")
    request_id: str | None = Field(description="`x-request-id` of the request. Ours.")

    @classmethod
    def of(cls, record: AuditRecord) -> "AuditLogObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.AUDIT_EVENT, record.id),
            effective_at=seconds(record.occurred_at),
            type=record.action,
            actor=ActorObject.of(record),
            project=_project(record.department_id),
            resource=_resource(record),
            refs=record.refs,
            outcome=record.outcome,
            reason=record.reason_code,
            details=record.details,
            request_id=record.request_id,
        )


def _project(department: UUID | None) -> AuditProjectObject | None:
    return AuditProjectObject(id=public_id(IdKind.DEPARTMENT, department)) if department else None


def _resource(record: AuditRecord) -> AuditResourceObject | None:
    if record.resource_type is None or record.resource_id is None:
        return None
    return AuditResourceObject(type=record.resource_type, id=public_id(KINDS[record.resource_type], record.resource_id))
