"""docs/settings.md, made from the models of components/settings.py: what they say of themselves, nothing more."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from components.settings import (
    AcmeSettings,
    CloudflareSettings,
    DmarcSettings,
    DomainSettings,
    HostSettings,
    Options,
    UserSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

Model = type[BaseModel]

HEAD: Final = """\
# Settings

Everything that may stand in `Pulumi.<stack>.yaml`, made by `make docs` from the models in
[components/settings.py](../components/settings.py). A value that cannot be used, or a key that does not exist, is
answered with its key, what is wrong, what is expected and what to do: all of them at once, before anything changes.

`scripts/new_stack.py` writes a complete file; [Pulumi.prod.yaml](../Pulumi.prod.yaml) is an example with remarks. The
smallest stack is one host, one domain with a user and an alias, `mailroom:acme` and the secrets.

A secret is stored encrypted by `pulumi config set` with `--secret`, which asks for the value, and stands in the file as
`{secure: ...}`. These keys are secret; write the name of your stack for `prod`:
"""
# Keys that say the contrary of another one in the same example.
APART: Final[Mapping[Model, frozenset[str]]] = {
    DomainSettings: frozenset({"mx"}),
    AcmeSettings: frozenset({"dns", "credentials", "challengeZone", "caFile"}),
}
# What a validator of the model decides, and no field says.
REMARKS: Final[Mapping[Model, str]] = {
    DmarcSettings: "Without `rua` reports go to postmaster@ of the domain; with `mail: none` the policy is `reject`.",
}
LISTS: Final[Mapping[str, Model]] = {"mailroom:hosts": HostSettings, "mailroom:domains": DomainSettings}


def text() -> str:
    """The whole document."""
    sections = list(_sections())
    secrets = [f"- `{command}`" for path in _secret_paths() for command in [_set(path)]]
    index = [f"- [{name}](#{anchor(name)})" for name, _ in sections]
    return "\n".join([HEAD, *secrets, "", "## Keys", "", *index, "", *(body for _, body in sections)]).rstrip() + "\n"


def anchor(heading: str) -> str:
    """How a heading is linked to, as GitHub makes it."""
    return "".join(sign for sign in heading.lower() if sign.isalnum() or sign in "-_ ").replace(" ", "-")


def _sections() -> Iterator[tuple[str, str]]:
    """Each top-level key with its section."""
    for name, model in LISTS.items():
        yield name, _of_model(name, model, "A list of at least one.")
    yield "mailroom:acme", _of_model("mailroom:acme", AcmeSettings, "Required.")
    for namespace, model in (("cloudflare", CloudflareSettings), ("mailroom", Options)):
        for field in model.model_fields.values():
            name = f"{namespace}:{field.alias}"
            inner = _model_in(field.annotation)
            whole = f"{_sentence(field)} {_default_sentence(field)}".strip()
            body = _of_model(name, inner, "") if inner else _of_field(name, field, whole)
            yield name, body


def _of_field(name: str, field: FieldInfo, whole: str) -> str:
    return "\n".join([f"## {name}", "", whole, "", f"Value: {_kind(field.annotation, field)}.", "",
                      *_block([f"{name}: {_example(field)}"]), ""])  # fmt: skip


def _of_model(name: str, model: Model, remark: str) -> str:
    is_list = name in LISTS
    lines = [f"{field.alias}: {_example(field)}" for field in _exemplary(model)]
    dashed = [f"{'  - ' if is_list and not number else '    ' if is_list else '  '}{line}"
              for number, line in enumerate(lines)]  # fmt: skip
    path = f"{name}[]" if is_list else name
    parts = [
        f"## {name}",
        "",
        f"{_about(model)} {remark}".strip(),
        "",
        *_table(path, model),
        "",
        *_block([f"{name}:", *dashed]),
    ]
    for inner_path, inner in _inner(path, model):
        parts += ["", f"### {inner_path}", "", _about(inner), "", *_table(inner_path, inner)]
    return "\n".join([*parts, ""])


def _exemplary(model: Model) -> list[FieldInfo]:
    return [field for field in model.model_fields.values() if field.alias not in APART.get(model, ())]


def _block(lines: Sequence[str]) -> list[str]:
    return ["```yaml", *lines, "```"]


def _about(model: Model) -> str:
    return " ".join([*(model.__doc__ or "").split(), *filter(None, [REMARKS.get(model)])])


def _table(path: str, model: Model) -> list[str]:
    rows = ["| Key | Value | Default | Meaning | Example |", "|---|---|---|---|---|"]
    for field in model.model_fields.values():
        kind = _kind(field.annotation, field)
        if inner := _model_in(field.annotation):
            kind = f"[{kind}](#{anchor(_place(path, field, inner))})"
        cells = [f"`{field.alias}`", kind, _default(field), str(field.description), f"`{_example(field)}`"]
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return rows


def _inner(path: str, model: Model) -> Iterator[tuple[str, Model]]:
    """The mappings inside, each where it is described; one with a section of its own is not repeated."""
    for field in model.model_fields.values():
        inner = _model_in(field.annotation)
        if inner and inner not in _own_sections():
            place = _place(path, field, inner)
            yield place, inner
            yield from _inner(place, inner)


def _place(path: str, field: FieldInfo, inner: Model) -> str:
    own = _own_sections().get(inner)
    return own or f"{path}.{field.alias}{'[]' if _is_list(field.annotation) else ''}"


def _own_sections() -> dict[Model, str]:
    fields = Options.model_fields.values()
    return {inner: f"mailroom:{field.alias}" for field in fields if (inner := _model_in(field.annotation))}


def _sentence(field: FieldInfo) -> str:
    words = str(field.description)
    return f"{words[0].upper()}{words[1:]}."


def _example(field: FieldInfo) -> str:
    return str((field.examples or [""])[0])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None or value in ((), {}) or isinstance(value, BaseModel):
        return ""
    return f"`{_yaml(value)}`"


def _default_sentence(field: FieldInfo) -> str:
    default = _default(field)
    if default == "required":
        return "Required."
    return f"Default: {default}." if default else ""


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, BaseModel):
        given = value.model_dump(by_alias=True)
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in given.items())}}}"
    return str(value)


def _kind(annotation: Any, field: FieldInfo | None = None) -> str:
    """What may stand there, in a few words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words = _kind(parts[0]) + _bounds(parts[1:])
    elif origin in {Union, types.UnionType}:
        words = " or ".join(_kind(part) for part in parts if part is not type(None))
    elif origin is Literal:
        words = ", ".join(f"`{choice}`" for choice in parts)
    elif origin is tuple:
        words = f"list: {_kind(parts[0])}"
    elif origin is Mapping:
        words = f"mapping: {_kind(parts[0])} to {_kind(parts[1])}"
    elif issubclass(annotation, BaseModel):
        words = "name or mapping" if annotation is UserSettings else "mapping"
    else:
        words = {SecretStr: "secret", bool: "true or false", int: "number", str: "text"}[annotation]
    return words + _bounds(field.metadata if field else ())


def _bounds(metadata: Sequence[Any]) -> str:
    """The limits of a number, ` 1 to 65535`."""
    flat = [item for each in metadata for item in (getattr(each, "metadata", None) or [each])]
    least = next((item.ge for item in flat if getattr(item, "ge", None) is not None), None)
    most = next((item.le for item in flat if getattr(item, "le", None) is not None), None)
    if least is None:
        return ""
    return f" {least} to {most}" if most is not None else f", {least} or more"


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _model_in(annotation: Any) -> Model | None:
    return next((part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) is tuple for part in _parts(annotation))


def _is_mapping(annotation: Any) -> bool:
    return any(get_origin(part) is Mapping for part in _parts(annotation))


def _secret_paths() -> Iterator[str]:
    yield from _secrets_of("cloudflare:", CloudflareSettings)
    yield from _secrets_of("mailroom:acme.", AcmeSettings)
    yield from _secrets_of("mailroom:", Options)


def _secrets_of(prefix: str, model: Model) -> Iterator[str]:
    for field in model.model_fields.values():
        path = f"{prefix}{field.alias}"
        if inner := _model_in(field.annotation):
            yield from _secrets_of(f"{path}.", inner)
        elif SecretStr in _parts(field.annotation):
            yield f'{path}["{_key_of(field)}"]' if _is_mapping(field.annotation) else path


def _key_of(field: FieldInfo) -> str:
    """The first key of a mapping's example."""
    return _example(field).strip("{").partition(":")[0]


def _set(path: str) -> str:
    quoted = f"'{path}'" if '"' in path else path
    return f"pulumi config set -s prod --secret {'--path ' if '.' in path or '[' in path else ''}{quoted}"
