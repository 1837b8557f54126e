"""Values a reader must not see: how the engine marks them, how they look when it did not, and taking them out."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from operations.explain_preview.markdown import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

# sdk/go/common/resource: the key of a marked value, what it says for a secret, and a value not known yet
SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
SECRET_MARK: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105
UNKNOWN_MARK: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
HIDDEN: Final = "[secret]"
GCM_TAG: Final = 16  # octets after the text, see sdk/go/common/resource/config/crypt.go
UNKNOWN_SIZE: Final = len(json.dumps(UNKNOWN_MARK))  # an encrypted value that is not known yet
SECRET_PATH: Final = re.compile(r"(.*/)?(users|dkim:[^/]*|[^/]*\.pem|[^/]*\.key)")
SHORTEST: Final = 8  # a shorter one also stands in words that are none

_KEYS: Final = re.compile(
    r"[\w:.-]*(tokens?|pass(word|wd|phrase)s?|secrets?|credentials?|(private|secret|api|access)[_-]?keys?|dkim[_-]?keys)"
    r"([_-]?pem)?[0-9]*|private|hashes|imported",
    re.IGNORECASE,
)
_NAMES: Final = "mailroom:domains.users.tokens"  # the names of programs that log in, not what they log in with
_LOOKS: Final = (
    re.compile(  # also on one line, its ends of lines spelled out
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\[nr])+(?:[A-Za-z0-9+/=\s]|\\[nr]){32,}(?:-----END [A-Z ]*KEY-----)?"
    ),
    re.compile(r"\$scrypt\$[^\s\"'`]{24,}"),
    re.compile(r"AGE-SECRET-KEY-1[A-Z0-9]{16,}", re.IGNORECASE),
    re.compile(r"(?<=://)[^\s/:@\"'`]*:[^\s/@\"'`]+(?=@)"),  # user:password@ of a URL
)


@dataclass(frozen=True)
class Secret:
    """A value marked secret; `size` in octets where it can be told. `value` is there when it came in clear."""

    size: int | None = None
    value: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Unknown:
    """A value that is known after the run."""


UNKNOWN: Final = Unknown()


def marked(value: Any) -> Any:
    """`value` with its secrets as `Secret` and its unknowns as `UNKNOWN`."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET_MARK:
            return _secret(value)
        if set(value) == {"secure"}:  # how a plan keeps secrets of the configuration
            return Secret()
        return {key: marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item) for item in value]
    if value == HIDDEN:
        return Secret()
    return UNKNOWN if value == UNKNOWN_MARK else value


def holds_secret(value: Any) -> bool:
    """Whether a marked value is a secret, or has one in it."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Secret) or any(map(holds_secret, items))


def _secret(value: dict[str, Any]) -> Secret:
    if "plaintext" in value or "value" in value:
        clear = value.get("value")
        if "plaintext" in value:
            try:
                clear = loads(value["plaintext"])
            except (TypeError, ValueError):
                clear = value["plaintext"]
        text = clear if isinstance(clear, str) else json.dumps(clear)
        return Secret(len(text.encode()), clear)
    _, _, sealed = str(value.get("ciphertext", "")).rpartition(":")
    try:
        size = len(base64.b64decode(sealed, validate=True)) - GCM_TAG
    except (ValueError, binascii.Error):
        size = 0
    return Secret(size if size > 0 and size != UNKNOWN_SIZE else None)


def loads(text: str) -> Any:
    """JSON text as what it says, half a surrogate pair in it replaced: no output could carry it."""
    value = json.loads(text)
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def parsed(value: Any) -> Any:
    """JSON text as what it says, anything else as it is; what it hides is marked."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return marked(loads(value))
        except (ValueError, RecursionError):
            return value
    return value


def in_clear(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each secret that nobody marked, as (where it stands, text): by the name of its key, or by its looks."""
    value = parsed(value)
    if isinstance(value, dict):
        for key, item in value.items():
            place = f"{path}.{key}" if path else str(key)
            if _KEYS.fullmatch(str(key)) and place != _NAMES:
                yield from ((place, text) for text in texts(parsed(item)))
            else:
                yield from in_clear(item, place)
    elif isinstance(value, list):
        items = [parsed(item) for item in value]
        for item in items:
            if not isinstance(item, str):
                yield from in_clear(item, path)
        yield from _looks("\n".join(item for item in items if isinstance(item, str)), path)  # the lines of a file
    elif isinstance(value, str):
        yield from _looks(value, path)


def _looks(text: str, path: str) -> Iterator[tuple[str, str]]:
    yield from ((path, found[0]) for pattern in _LOOKS for found in pattern.finditer(text))


def secret_files(payload: Any) -> Iterator[tuple[str, str]]:
    """(place, text) of each secret file in the payload of a host script, and of each password it proves."""
    if not isinstance(payload, dict):
        return
    files, users = payload.get("files"), payload.get("users")
    for path, file in files.items() if isinstance(files, dict) else ():
        if payload.get("kind") == "secret" or SECRET_PATH.fullmatch(path):
            yield from ((path, text) for text in texts(file.get("lines") if isinstance(file, dict) else file))
    yield from (("users", text) for text in (texts(users) if isinstance(users, dict) else ()))


def texts(value: Any) -> Iterator[str]:
    """Every text in a value that is not empty, and every number."""
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
        yield str(value)


def plaintexts(value: Any) -> Iterator[str]:
    """The secrets that are marked, and yet here in clear (`--show-secrets`)."""
    if isinstance(value, Secret):
        clear = parsed(value.value)
        if isinstance(clear, dict | list):
            yield from (text for _, text in [*in_clear(clear), *secret_files(clear)])
        else:
            yield from texts(clear)
    elif isinstance(value, dict):
        for item in value.values():
            yield from plaintexts(item)
    elif isinstance(value, list):
        for item in value:
            yield from plaintexts(item)


class Scrubber:
    """Takes every secret that was seen, and all that looks like one, out of a text."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, *secrets: str) -> None:
        """Remember secrets, each line of them."""
        lines = {line.strip() for text in secrets for line in text.splitlines()}
        self._seen |= {form for line in lines if len(line) >= SHORTEST for form in _spelled(line)}
        self._pattern = None

    def values(self, value: Any) -> Any:
        """A value without them, before anything is cut."""
        if isinstance(value, dict):
            return {key: self.values(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.values(item) for item in value]
        return self(value) if isinstance(value, str) else value

    def __call__(self, text: str) -> str:
        """`text` without them."""
        for pattern in _LOOKS:
            text = pattern.sub(HIDDEN, text)
        if self._seen and self._pattern is None:
            longest_first = sorted(self._seen, key=lambda secret: (-len(secret), secret))
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        return self._pattern.sub(_hidden, text) if self._pattern else text


def _hidden(found: re.Match[str]) -> str:
    """In place of a secret; its backticks stay, or one might take away the end of a code span."""
    return re.sub("[^`]+", HIDDEN, found[0])


def _spelled(secret: str) -> Iterator[str]:
    """A secret as it stands by itself, in JSON, in JSON within JSON, and as a reader is shown it."""
    yield secret
    yield visible(secret)
    for ascii_only in (True, False):
        once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])
