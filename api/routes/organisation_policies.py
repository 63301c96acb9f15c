"""The organisation's policy: put, look, compare, try on the versions of a department."""

from fastapi import APIRouter

from api.bodies import YAML_BODY, YamlBody
from api.deps import Authenticated, needs
from api.objects.policies import PolicyDiffObject, PolicyObject, PolicyTestObject
from api.objects.shape import Page, page_of
from api.pages import After
from api.routes.policies import Number, Older, PageOfVersions, TriedVersions, tried
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.policies import Scope
from services import policies

router = APIRouter(prefix="/v1/organization/policies", tags=["Policies"])

_READ = [needs(Permission.POLICY_READ)]
_SET = [needs(Permission.POLICY_SET_ORGANISATION)]


@router.post("", summary="Put the organisation's policy", openapi_extra=YAML_BODY, dependencies=_SET)
def put(caller: Authenticated, document: YamlBody) -> PolicyObject:
    """Put the organisation's next version in force, in every department; for the operator.

    Refused as `invalid_policy` with the line, and as `policy_widens` where it allows what the installation does not.
    """
    ttl = caller.runtime.settings.checkpoint_ttl
    with caller.runtime.platform() as session:
        stored = policies.put(session, caller.principal, Scope.ORGANISATION, document, checkpoint_ttl=ttl)
        return PolicyObject.of(stored)


@router.get("", summary="List the organisation's policy's versions", dependencies=_READ)
def list_page(caller: Authenticated, after: After = None, limit: PageOfVersions = 20) -> Page[PolicyObject]:
    """Every version of the organisation's policy that was ever in force, newest first."""
    cursor = None if after is None else parse_id(IdKind.POLICY, after)
    with caller.runtime.platform() as session:
        found, has_more = policies.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(map(PolicyObject.of, found), has_more=has_more)


@router.post("/test", summary="Try an organisation's policy", openapi_extra=YAML_BODY, dependencies=_READ)
def try_on(caller: Authenticated, document: YamlBody, limit: TriedVersions = 100) -> PolicyTestObject:
    """What would become of a department's newest versions if the document were the organisation's."""
    return tried(caller, Scope.ORGANISATION, document, limit=limit)


@router.get("/{policy_version}", summary="Look at a version of the organisation's policy", dependencies=_READ)
def retrieve(caller: Authenticated, policy_version: Number) -> PolicyObject:
    """A version of the organisation's policy by number, or the one in force as `current`."""
    with caller.runtime.platform() as session:
        return PolicyObject.of(policies.get(session, caller.principal, policy_version))


@router.get("/{policy_version}/diff", summary="Compare two versions of the organisation's policy", dependencies=_READ)
def diff(caller: Authenticated, policy_version: Number, against: Older = None) -> PolicyDiffObject:
    """What one version of the organisation's policy has that another has not: rule by rule, and as text."""
    with caller.runtime.platform() as session:
        return PolicyDiffObject.of(policies.diff(session, caller.principal, policy_version, against))
