"""An audit event as an OCSF API Activity (class 6003, schema 1.3.0): for a SIEM that reads nothing else."""

from collections.abc import Mapping
from typing import Any

_CATEGORY, _CLASS = 6, 6003
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
# By the last word of an action; what is not here is Other.
_ACTIVITIES = {
    "created": _CREATE, "registered": _CREATE, "imported": _CREATE, "submitted": _CREATE, "added": _CREATE,
    "proposed": _CREATE, "read": _READ, "queried": _READ, "exported": _READ, "downloaded": _READ,
    "download_completed": _READ, "changed": _UPDATE, "moved": _UPDATE, "approved": _UPDATE, "rejected": _UPDATE,
    "revoked": _UPDATE, "deleted": _DELETE, "removed": _DELETE, "erased": _DELETE, "month_dropped": _DELETE,
}  # fmt: skip
_SUCCESS, _FAILURE = 1, 2
_INFORMATIONAL, _MEDIUM = 1, 3
_USER, _SYSTEM, _OTHER_ACTOR = 1, 3, 99
_ACTORS = {"user": _USER, "system": _SYSTEM}


def api_activity(event: Mapping[str, Any]) -> dict[str, Any]:
    """From an event's fields as `evidence.events` has them. What OCSF has no word for goes into `unmapped`."""
    activity = _ACTIVITIES.get(event["action"].rpartition(".")[2], _OTHER)
    is_done = event["outcome"] == "success"
    user = {"uid": event["actor_id"], "type_id": _ACTORS.get(event["actor_type"], _OTHER_ACTOR)}
    if event["actor_key_id"]:
        user["credential_uid"] = event["actor_key_id"]
    said: dict[str, Any] = {
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "activity_id": activity,
        "type_uid": _CLASS * 100 + activity,
        "time": event["occurred_at"] // 1000,
        "severity_id": _INFORMATIONAL if is_done else _MEDIUM,
        "status_id": _SUCCESS if is_done else _FAILURE,
        "status": "Success" if is_done else "Failure",
        "actor": {"user": {name: value for name, value in user.items() if value is not None}},
        "api": {"operation": event["action"], "service": {"name": "tsugiki"}},
        "src_endpoint": {"ip": event["source_ip"]} if event["source_ip"] else {"name": "tsugiki"},
        "metadata": {
            "version": "1.3.0",
            "uid": event["id"],
            "sequence": event["number"],
            "product": {"name": "Tsugiki", "vendor_name": "Tsugiki"},
        },
        "unmapped": {name: event[name] for name in ("refs", "roles", "details", "before", "after", "job_epoch")},
    }
    if event["department_id"]:
        said["metadata"]["tenant_uid"] = event["department_id"]
    if event["trace_id"]:
        said["metadata"]["correlation_uid"] = event["trace_id"]
    if event["request_id"]:
        said["api"]["request"] = {"uid": event["request_id"]}
    if event["reason_code"]:
        said["status_code"] = event["reason_code"]
    if event["resource_id"]:
        said["resources"] = [{"uid": event["resource_id"], "type": event["resource_type"]}]
    return said
