"""The closed vocabulary of the audit trail, `subject.action`."""

from enum import StrEnum


class AuditEvent(StrEnum):
    """What can be said to have happened."""

    ACCESS_DENIED = "access.denied"
    DEPARTMENT_CREATED = "department.created"
    QUOTA_CHANGED = "quota.changed"
    BUDGET_WARNED = "budget.warned"
    USER_CREATED = "user.created"
    MEMBER_ADDED = "member.added"
    MEMBER_CHANGED = "member.changed"
    MEMBER_REMOVED = "member.removed"
    SERVICE_ACCOUNT_CREATED = "service_account.created"
    SERVICE_ACCOUNT_DELETED = "service_account.deleted"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    BASE_MODEL_PROPOSED = "base_model.proposed"
    BASE_MODEL_REGISTERED = "base_model.registered"
    FILE_CREATED = "file.created"
    FILE_READ = "file.read"
    FILE_DELETED = "file.deleted"
    ESTIMATE_REQUESTED = "estimate.requested"
    JOB_SUBMITTED = "job.submitted"
    JOB_VALIDATED = "job.validated"
    JOB_CLAIMED = "job.claimed"
    JOB_CHECKPOINTED = "job.checkpointed"
    JOB_RELEASED = "job.released"
    JOB_PAUSE_REQUESTED = "job.pause_requested"
    JOB_PAUSED = "job.paused"
    JOB_PREEMPTED = "job.preempted"
    JOB_RESUMED = "job.resumed"
    JOB_CANCEL_REQUESTED = "job.cancel_requested"
    JOB_CANCELLED = "job.cancelled"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    LEASE_LOST = "lease.lost"
    CHECKPOINT_REJECTED = "checkpoint.rejected"
    VERSION_REGISTERED = "adapter.version.registered"
    VERSION_DOWNLOADED = "adapter.version.downloaded"
    VERSION_DOWNLOAD_COMPLETED = "adapter.version.download_completed"
    ALIAS_MOVED = "alias.moved"
    AUDIT_QUERIED = "audit.queried"


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    DENIED = "denied"
    FAILURE = "failure"
