"""How a refused setting is explained: pydantic's errors as findings with key path, expectation and next step.

What is right or wrong is not decided here. No message repeats a secret value.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from standards.dmarc import REMOVED_TAGS
from standards.finding import Finding, Invalid
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

MISSING: Final = "setting-missing"
_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


def explain(error: ValidationError, model: type[BaseModel], raw: object, root: str) -> list[Finding]:
    """One finding for each mistake, in the order of the model's keys: a mistyped key is not also a missing one."""
    errors = error.errors(include_url=False)
    meant = {
        (*details["loc"][:-1], nearest(str(details["loc"][-1]), _keys_at(model, details["loc"][:-1])))
        for details in errors
        if details["type"] == "extra_forbidden"
    }
    return [
        _finding(details, model, raw, root)
        for details in errors
        if details["type"] != "missing" or details["loc"] not in meant
    ]


def check_of(model: type[BaseModel], name: str) -> Callable[[str], str]:
    """The check of one setting, by its field's name, for an answer that is no setting yet; it raises `Invalid`."""
    field = model.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())

    def check(text: str) -> str:
        try:
            return str(adapter.validate_python(text))
        except ValidationError as error:
            reason = error.errors(include_url=False)[0].get("ctx", {}).get("error")
            if isinstance(reason, Invalid):
                raise reason from None
            example = field.examples[0] if field.examples else None
            told = wrong_kind(name, text, field.description or name, example)
            raise Invalid(told.found, id=told.id, expected=told.expected, fix=told.fix) from None

    return check


def missing(path: str, description: str, example: object, fix: object = None) -> Finding:
    """A required key that is not there; `fix` for one that nobody types."""
    return Finding(
        severity="error",
        id=MISSING,
        subject=path,
        expected=_expected(description, example),
        found="it is missing",
        why="",
        fix=str(fix or _write(path, example)),
    )


def wrong_kind(path: str, value: object, description: str, example: object, *, secret: bool = False) -> Finding:
    """A value of the wrong kind; only numbers and short texts that are no secret are repeated."""
    return Finding(
        severity="error",
        id="setting-invalid",
        subject=path,
        expected=_expected(description, example),
        found=f"{_told(value, secret=secret)} cannot be used here",
        why="",
        fix=_write(path, example, quotes=isinstance(value, int | float)),
    )


def unknown(path: str, key: str, known: Collection[str]) -> Finding:
    """A key that does not exist, with the nearest that does."""
    near = nearest(key, known)
    fix = f"write {near}" if near else "take it out"
    return Finding(
        severity="error",
        id="setting-unknown",
        subject=path,
        expected=f"one of {', '.join(sorted(known))}",
        found=f"there is no setting {shown(key)}",
        why="a mistyped key would be silently without effect",
        fix=f"take it out: RFC 9989 removed the tag {key}" if key in REMOVED_TAGS and "policy" in known else fix,
    )


def nearest(key: str, known: Collection[str]) -> str | None:
    """The key that was probably meant."""
    by_lower = {name.lower().replace("_", ""): name for name in known}
    near = difflib.get_close_matches(key.lower().replace("_", ""), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def _finding(details: ErrorDetails, model: type[BaseModel], raw: object, root: str) -> Finding:
    location, problem = details["loc"], details["type"]
    if problem == "extra_forbidden":
        return unknown(_path(root, raw, location), str(location[-1]), _keys_at(model, location[:-1]))
    path = _path(root, raw, location)
    reason = details.get("ctx", {}).get("error")
    if isinstance(reason, Invalid):
        return reason.at(path)
    field = _field_at(model, location)
    description = (field.description if field else None) or "a mapping of settings"
    example = field.examples[0] if field and field.examples else None
    if problem == "missing":
        extra = field.json_schema_extra if field else None
        return missing(path, description, example, extra.get("fix") if isinstance(extra, dict) else None)
    if problem == "literal_error":
        description += f", one of {details['ctx']['expected']}"
    secret = _mentions_secret(field.annotation if field else model)
    return wrong_kind(path, details["input"], description, example, secret=secret)


def _expected(description: str, example: object) -> str:
    return description if example is None else f"{description}, such as {example}"


def _write(path: str, example: object, *, quotes: bool = False) -> str:
    if path.endswith('"]'):
        return f"correct the value at {path.rpartition('[')[2][:-1]}"
    key = path.rsplit(".", 1)[-1].rsplit(":", 1)[-1]
    if quotes and isinstance(example, str) and example.startswith('"'):
        return f"put the value in quotes, as in `{key}: {example}`"
    return f"write `{key}: {example}` with your value" if example is not None else f"correct {key}"


def _told(value: object, *, secret: bool) -> str:
    if not secret and isinstance(value, str):
        return shown(value)
    if not secret and isinstance(value, bool | int | float):
        return str(value)
    return _KINDS.get(type(value), type(value).__name__)


def _path(root: str, raw: object, location: Iterable[int | str]) -> str:
    """`mailroom:domains[0].users[1]`: the way to the value as the user's YAML spells it."""
    path, value = root, raw
    for part in location:
        if not isinstance(value, dict | list | tuple):
            break  # a short form, such as a plain user name
        if part == "[key]":
            break  # pydantic's word for "the key itself", whose name is already there
        if isinstance(part, int):
            path += f"[{part}]"
            value = value[part] if isinstance(value, list | tuple) and part < len(value) else None
            continue
        path = below(path, part)
        value = value.get(part, {}) if isinstance(value, dict) else None
    return path


def below(path: str, key: str) -> str:
    """The path of a key of a mapping."""
    if not key.replace("_", "").isalnum():
        return f'{path}["{key}"]'
    return f"{path}{key}" if path.endswith(":") else f"{path}.{key}"


def _keys_at(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    fields = _model_at(model, location).model_fields
    return [field.alias or name for name, field in fields.items()]


def _field_at(model: type[BaseModel], location: Iterable[int | str]) -> FieldInfo | None:
    found: FieldInfo | None = None
    current: type[BaseModel] | None = model
    for part in location:
        fields = current.model_fields.values() if current else ()
        match = next((field for field in fields if field.alias == part), None)
        if match is not None:
            found, current = match, _inner_model(match.annotation)
    return found


def _model_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel]:
    field = _field_at(model, location)
    return (_inner_model(field.annotation) if field else None) or model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner_model(part))), None)


def _mentions_secret(annotation: Any) -> bool:
    """Whether it is a secret, or a mapping that has one: in its place there may stand the secret itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_mentions_secret(field.annotation) for field in annotation.model_fields.values())
    return annotation is SecretStr or any(map(_mentions_secret, get_args(annotation)))
