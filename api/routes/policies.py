"""A department's policy: put, look, compare, try on the versions that there are; and would a version pass."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.bodies import YAML_BODY, YamlBody
from api.deps import Authenticated, Caller, needs
from api.objects.policies import PolicyDiffObject, PolicyObject, PolicyTestObject, VerdictObject
from api.objects.shape import Page, page_of
from api.pages import After
from domain.access import Permission
from domain.ids import IdKind, parse_id
from domain.policies import Scope
from domain.verdicts import Purpose
from services import adapters, policies

router = APIRouter(prefix="/v1", tags=["Policies"])

_READ = [needs(Permission.POLICY_READ)]

Number = Annotated[str, Path(description="A version's number, or `current`.")]
Older = Annotated[str | None, Query(description="The older version's number; the one before it when left out.")]
PageOfVersions = Annotated[int, Query(ge=1, le=100, description="Versions a page.")]
TriedVersions = Annotated[int, Query(ge=1, le=1000, description="How many of the newest versions.")]


@router.post("/policies", summary="Put a policy", openapi_extra=YAML_BODY, dependencies=[needs(Permission.POLICY_SET)])
def put(caller: Authenticated, document: YamlBody) -> PolicyObject:
    """Put the department's next version in force; for its admin.

    Refused as `invalid_policy` with the line, and as `policy_widens` where it allows what the organisation's policy, or
    the installation, does not. The text in force, put again, changes nothing.
    """
    with caller.in_department() as session:
        ttl = caller.runtime.settings.checkpoint_ttl
        return PolicyObject.of(policies.put(session, caller.principal, Scope.DEPARTMENT, document, checkpoint_ttl=ttl))


@router.get("/policies", summary="List a policy's versions", dependencies=_READ)
def list_page(caller: Authenticated, after: After = None, limit: PageOfVersions = 20) -> Page[PolicyObject]:
    """Every version of the department's policy that was ever in force, newest first."""
    cursor = None if after is None else parse_id(IdKind.POLICY, after)
    with caller.in_department() as session:
        found, has_more = policies.list_page(session, caller.principal, after=cursor, limit=limit)
        return page_of(map(PolicyObject.of, found), has_more=has_more)


@router.post("/policies/test", summary="Try a policy", openapi_extra=YAML_BODY, dependencies=_READ)
def try_on(caller: Authenticated, document: YamlBody, limit: TriedVersions = 100) -> PolicyTestObject:
    """What would become of the department's newest versions if the document were in force; nothing is changed."""
    return tried(caller, Scope.DEPARTMENT, document, limit=limit)


@router.get("/policies/{policy_version}", summary="Look at a version of a policy", dependencies=_READ)
def retrieve(caller: Authenticated, policy_version: Number) -> PolicyObject:
    """A version of the department's policy by number, or the one in force as `current`."""
    with caller.in_department() as session:
        return PolicyObject.of(policies.get(session, caller.principal, policy_version))


@router.get("/policies/{policy_version}/diff", summary="Compare two versions of a policy", dependencies=_READ)
def diff(caller: Authenticated, policy_version: Number, against: Older = None) -> PolicyDiffObject:
    """What one version of the department's policy has that another has not: rule by rule, and as text."""
    with caller.in_department() as session:
        return PolicyDiffObject.of(policies.diff(session, caller.principal, policy_version, against))


@router.get(
    "/adapters/{name}/versions/{reference}/verdict", summary="Ask whether a version would pass", dependencies=_READ
)
def verdict(
    caller: Authenticated,
    name: Annotated[str, Path(description="An adapter's name.")],
    reference: Annotated[str, Path(description="A version's number, or an alias such as `latest`.")],
    purpose: Annotated[Purpose, Query(description="What it is asked for.")] = Purpose.APPROVAL,
) -> VerdictObject:
    """The policies' verdict on a version now, with every reason; nothing is requested or decided."""
    with caller.in_department() as session:
        version = adapters.get_version(session, caller.principal, name, reference)
        answer = policies.ask(session, caller.principal, version, purpose)
        return VerdictObject.of(version, answer, adapter=name, purpose=purpose)


def tried(caller: Caller, scope: Scope, document: bytes, *, limit: int) -> PolicyTestObject:
    """A text of either scope, tried on the versions of the caller's department."""
    ttl = caller.runtime.settings.checkpoint_ttl
    with caller.in_department() as session:
        found = policies.try_on(session, caller.principal, scope, document, checkpoint_ttl=ttl, limit=limit)
        verdicts = [
            VerdictObject.of(each.version, each.verdict, adapter=each.adapter, purpose=Purpose.APPROVAL)
            for each in found
        ]
    passed = sum(each.passed for each in verdicts)
    return PolicyTestObject(passed=passed, failed=len(verdicts) - passed, data=verdicts)
