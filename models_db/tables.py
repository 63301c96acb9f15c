"""All tables, by import: what the migrations compare the database with."""

from models_db.adapters import Adapter, AdapterVersion, Alias, AliasMove, Evaluation, LineageEdge
from models_db.approvals import ApprovalComment, ApprovalDecision, ApprovalRequest
from models_db.attestations import SigningKeyRecord, VersionAttestation
from models_db.audit import AuditArchive, AuditCheckpoint, AuditExport, AuditRecord, AuditSeal
from models_db.base import Table
from models_db.base_models import BaseModel, BaseModelFile
from models_db.departments import ApiKey, Department, Membership, ServiceAccount, User
from models_db.estimates import AskedEstimate, Inspection
from models_db.file_erasures import FileErasure
from models_db.files import File
from models_db.grants import FileGrant, VersionShare
from models_db.handouts import Deployment, Download
from models_db.identities import LinkedIdentity
from models_db.jobs import Job, JobCheckpoint, JobEvent, Lease
from models_db.outgoing import OutgoingDelivery, OutgoingEvent, WebhookEndpoint
from models_db.policies import StoredPolicy
from models_db.retention import Erasure, StorageSweep
from models_db.role_grants import BreakGlass, RoleGrant
from models_db.usage import StorageSample, UsageRecord
from models_db.workers import Worker

__all__ = [
    "Adapter",
    "AdapterVersion",
    "Alias",
    "AliasMove",
    "ApiKey",
    "ApprovalComment",
    "ApprovalDecision",
    "ApprovalRequest",
    "AskedEstimate",
    "AuditArchive",
    "AuditCheckpoint",
    "AuditExport",
    "AuditRecord",
    "AuditSeal",
    "BaseModel",
    "BaseModelFile",
    "BreakGlass",
    "Department",
    "Deployment",
    "Download",
    "Erasure",
    "Evaluation",
    "File",
    "FileErasure",
    "FileGrant",
    "Inspection",
    "Job",
    "JobCheckpoint",
    "JobEvent",
    "Lease",
    "LineageEdge",
    "LinkedIdentity",
    "Membership",
    "OutgoingDelivery",
    "OutgoingEvent",
    "RoleGrant",
    "ServiceAccount",
    "SigningKeyRecord",
    "StorageSample",
    "StorageSweep",
    "StoredPolicy",
    "Table",
    "UsageRecord",
    "User",
    "VersionAttestation",
    "VersionShare",
    "WebhookEndpoint",
    "Worker",
]

# Whose rows belong to one department each; row-level security is forced on all of them.
DEPARTMENT_TABLES = (
    "adapter_versions", "adapters", "alias_moves", "aliases", "api_keys", "approval_comments", "approval_decisions",
    "approval_requests", "audit_events", "break_glass", "departments", "deployments", "downloads", "erasures",
    "estimates", "evaluations", "file_erasures", "file_grants", "files", "inspections", "job_checkpoints",
    "job_events", "jobs", "leases", "lineage_edges", "memberships", "outgoing_deliveries", "outgoing_events",
    "policies", "role_grants", "service_accounts", "storage_samples", "storage_sweeps", "usage_records",
    "version_attestations", "version_shares", "webhook_endpoints",
)  # fmt: skip
