"""Parse at the edge: a request's value into a frozen type, or the one refusal that names the first thing wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from domain.refusals import Invalid, MissingField, NotFinite, OutOfRange, Refusal, UnknownField, WrongType

Model = TypeVar("Model", bound=BaseModel)

_REFUSALS: Mapping[str, type[Invalid]] = {
    "extra_forbidden": UnknownField,
    "missing": MissingField,
    "finite_number": NotFinite,
    "greater_than": OutOfRange,
    "greater_than_equal": OutOfRange,
    "less_than": OutOfRange,
    "less_than_equal": OutOfRange,
    "string_too_short": OutOfRange,
    "string_too_long": OutOfRange,
    "too_short": OutOfRange,
    "too_long": OutOfRange,
}
# In words of ours, for what a request can do wrong; `{…}` is the limit.
_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "does not have the expected form",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_max_places": "must have at most {decimal_places} decimals",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
_MAX_DETAILS = 100
_MAX_SHOWN_CHARACTERS = 64


def parse_as(model: type[Model], value: Any) -> Model:
    """Check a parsed JSON value against a model. Numbers, strings and booleans are never taken for each other."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise refusal_of(error.errors(include_url=False, include_input=False)) from None


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The refusal of pydantic's errors, one or more: the first, with all (at most 100) as details."""
    # `"auto" or a number`: what is wrong with the number says more than that it is not "auto".
    ordered = sorted(errors[:_MAX_DETAILS], key=lambda error: error["type"] == "literal_error")
    findings = [finding_of(error) for error in ordered]
    kind, message, param = findings[0]
    details = tuple({"message": m, "param": p, "code": k.code} for k, m, p in findings)
    return kind(message, param=param, details=details)


def finding_of(error: Mapping[str, Any]) -> tuple[type[Invalid], str, str]:
    """What one of pydantic's errors is refused as, a sentence of ours, and the field."""
    kind = _REFUSALS.get(error["type"], WrongType if error["type"].endswith(("_type", "_parsing")) else Invalid)
    # Branches of a union appear in the location under their own names; the field itself is what a caller knows.
    # A field's name may be the caller's own invention: it is shown, but not at any length.
    parts = [str(part)[:_MAX_SHOWN_CHARACTERS] for part in error["loc"] if not _is_branch(part)]
    param = ".".join(parts) or "body"
    sentence = _SENTENCES.get(error["type"], "is not valid").format(**error.get("ctx", {}))
    return kind, f"{param} {sentence}.", param


def _is_branch(part: Any) -> bool:
    # A name that ends in [] is a parameter's: `group_by[]`.
    is_typed = isinstance(part, str) and "[" in part and not part.endswith("[]")
    return is_typed or part in {"int", "float", "str", "constrained-int"}
