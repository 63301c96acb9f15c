"""From what was raised to the one error body. A caller never reads a library's text."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import exc as database_errors
from starlette.exceptions import HTTPException

from api.denials import record_denial
from domain.parsing import refusal_of
from domain.refusals import (
    ArtifactMissing,
    Conflict,
    Denied,
    ForeignDepartment,
    OverQuota,
    PolicyViolation,
    QuotaSpent,
    Refusal,
    Unauthenticated,
)
from runtime.tokens import ProviderUnavailable
from services.audit import AuditUnavailable
from services.blobs import BytesErased
from storage.errors import DigestMismatch, ObjectMissing, StorageUnavailable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_TOO_MANY, _SERVER_ERROR, _UNAVAILABLE = 429, 500, 503
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
          429: "rate_limit_error"}  # fmt: skip
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Finding(BaseModel):
    """One of several things wrong with a request."""

    message: str = Field(description="What is wrong, for a person.")
    param: str | None = Field(description="The field, or `file:line`.")
    code: str = Field(description="What is wrong, for a program.")


class ErrorBody(BaseModel):
    """Why a request was refused."""

    message: str = Field(description="What is wrong, for a person. Never holds content.")
    type: str = Field(description="The kind of error, as the OpenAI client names it.")
    param: str | None = Field(description="The field, or `file:line`, that is wrong; null where it is none.")
    code: str = Field(description="What is wrong, for a program; stable.")
    details: list[Finding] | None = Field(default=None, description="All findings, at most 100, where there are some.")


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorBody = Field(description="The error.")


def install(app: FastAPI) -> None:
    """Handle everything that routes and services raise, except bugs: those end in `api.edge`."""
    handlers: dict[type[Exception], Any] = {
        Refusal: _on_refusal,
        RequestValidationError: _on_validation_error,
        HTTPException: _on_http_exception,
        StorageUnavailable: _on_unavailable,
        AuditUnavailable: _on_unavailable,
        ProviderUnavailable: _on_unavailable,
        BytesErased: _on_unavailable,
        ObjectMissing: _on_damaged,
        DigestMismatch: _on_damaged,
        database_errors.OperationalError: _on_unavailable,
        database_errors.InterfaceError: _on_unavailable,
        database_errors.TimeoutError: _on_unavailable,
        database_errors.IntegrityError: _on_race,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def answer(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    details: tuple[dict[str, Any], ...] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error in the client's words."""
    fallback = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    error: dict[str, Any] = {
        "message": message, "type": _TYPES.get(status, fallback), "param": param, "code": code,
    }  # fmt: skip
    if details:
        error["details"] = list(details)
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def refused(refusal: Refusal) -> JSONResponse:
    """The answer to a refusal. The client repeats 409 and 429 by itself unless it is told not to."""
    may_pass = refusal.status == _TOO_MANY and not isinstance(refusal, QuotaSpent)
    headers = {} if may_pass else {"x-should-retry": "false"}
    if isinstance(refusal, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return answer(
        refusal.status, refusal.code, refusal.message, param=refusal.param, details=refusal.details, headers=headers
    )


def _on_refusal(request: Request, refusal: Refusal) -> JSONResponse:
    if isinstance(refusal, (Denied, ForeignDepartment, OverQuota, PolicyViolation)) and not isinstance(
        refusal, Unauthenticated
    ):
        record_denial(request, refusal)
    return refused(refusal)


def _on_validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
    # The first part of a location says `query`, `path` or `header`.
    findings = [{**finding, "loc": finding["loc"][1:]} for finding in error.errors()]
    return refused(refusal_of(findings))


def _on_http_exception(_request: Request, error: HTTPException) -> JSONResponse:
    code = _CODES.get(error.status_code, "invalid_request")
    message = {"not_found": "No such path.", "method_not_allowed": "This path does not take that method."}.get(
        code, "The request cannot be understood."
    )
    headers = {**(error.headers or {}), "x-should-retry": "false"}
    return answer(error.status_code, code, message, headers=headers)


def _on_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: %s", request.method, request.url.path, type(error).__name__)
    return answer(
        _UNAVAILABLE,
        "service_unavailable",
        "A part of the service is unavailable. Try again in a few seconds.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _on_damaged(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    return refused(ArtifactMissing("The stored bytes are missing or damaged; an administrator can see more."))


def _on_race(_request: Request, _error: Exception) -> JSONResponse:
    # Two requests wanted the same thing; the second may find it settled when it asks again.
    return answer(Conflict.status, Conflict.code, "Another request changed this at the same time. Try again.")
