"""Passwords as chasquid stores them: scrypt hashes, their PHC text form, the `users` file of a domain.

Where salts come from and where hashes are kept is not decided here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from standards.finding import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "$scrypt$"
_PHC: Final = re.compile(
    r"\$scrypt\$ln=(?P<ln>[0-9]{1,2}),r=(?P<r>[0-9]{1,2}),p=(?P<p>[0-9]{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]+={0,2})\$(?P<hash>[A-Za-z0-9+/]+={0,2})"
)
_OTHER_SCHEME: Final = re.compile(r"\$(1|2[abxy]?|5|6|7|y|gy|argon2(id|i|d)|pbkdf2[a-z0-9-]*)\$|\{[A-Z0-9-]+\}")
_LN: Final = range(10, 21)  # below 2^10 guessing is cheap, above 2^20 one login takes 1 GiB
_R: Final = 8
_P: Final = range(1, 5)
_SALT_MIN: Final = 8
_KEY: Final = 32
_EXAMPLE: Final = "$scrypt$ln=14,r=8,p=1$<base64 of 16 bytes>$<base64 of 32 bytes>"
SALT_BYTES: Final = 16  # as chasquid's own userdb makes them (internal/userdb)
SHORT: Final = 12  # characters below which a clear password deserves a warning
TOKEN_MARK: Final = "+"  # noqa: S105  between a user's name and a token's in a login; no user's name holds it
# 192 random bits, and a check that a password typed by a person does not pass: only such a secret is safe with a hash
# that is cheap to compute.
TOKEN_BYTES: Final = 24
_TOKEN: Final = re.compile(r"mrt_(?P<secret>[A-Za-z0-9_-]{32})(?P<check>[A-Za-z0-9_-]{6})")
_LN_PASSWORD: Final = 14  # chasquid's own; a login costs 70 ms of CPU
_LN_TOKEN: Final = 10  # and 4 ms
MAKE_TOKEN: Final = "make one with `scripts/hash_password.py --token`"  # noqa: S105


@dataclass(frozen=True, kw_only=True, repr=False)
class ScryptHash:
    """One hash with what made it; chasquid's own are ln=14, r=8, p=1 with a salt of 16 bytes."""

    ln: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    def __str__(self) -> str:
        """The PHC string."""
        return f"{_PREFIX}ln={self.ln},r={self.r},p={self.p}${_b64(self.salt)}${_b64(self.hash)}"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def is_hash(text: str) -> bool:
    """Whether a setting means a ready hash, not a clear password."""
    return text.startswith(_PREFIX)


def parse(text: str) -> ScryptHash:
    """A ready hash, checked for form: a wrong one makes chasquid panic at the login (internal/userdb)."""
    match = _PHC.fullmatch(text.strip())
    if match is None:
        raise _not_a_hash("the hash does not have the PHC form of scrypt")
    ln, r, p = int(match["ln"]), int(match["r"]), int(match["p"])
    if ln not in _LN or r != _R or p not in _P:
        raise _not_a_hash(f"the hash has ln={ln}, r={r}, p={p}")
    salt, key = _bytes(match["salt"]), _bytes(match["hash"])
    if len(salt) < _SALT_MIN:
        raise _not_a_hash(f"the salt has {len(salt)} bytes, at least {_SALT_MIN} are needed")
    if len(key) != _KEY:
        raise _not_a_hash(f"the hash has {len(key)} bytes, not {_KEY}")
    return ScryptHash(ln=ln, r=r, p=p, salt=salt, hash=key)


def _bytes(text: str) -> bytes:
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error as error:
        raise _not_a_hash("salt or hash is not base64") from error


def _not_a_hash(found: str) -> Invalid:
    return Invalid(
        found,
        id="password-hash-invalid",
        expected=f"{_EXAMPLE} with ln {_LN.start} to {_LN.stop - 1}, r={_R}, p {_P.start} to {_P.stop - 1}",
        why="the server could never verify a login with it",
        fix="make the hash again with scrypt, or store the password itself: it is hashed for you",
    )


def check(text: str) -> str:
    """A password or ready hash as a setting may hold it; the value is never repeated."""
    if is_hash(text):
        return str(parse(text))
    if _OTHER_SCHEME.match(text):
        raise _not_a_hash("the value is a hash of another scheme than scrypt")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # how Python hands on bytes that are no UTF-8
        raise Invalid(
            "the password is not UTF-8 text",
            id="password-invalid",
            expected="a password that can be typed, such as `openssl rand -base64 24` makes",
            why="mail programs send passwords as UTF-8, so no login could match it",
            fix="encode it, or make another one",
        )
    if not text or "\0" in text or text != text.strip():
        raise Invalid(
            "the password is empty"
            if not text.strip()
            else "the password starts or ends with white space, or holds a NUL",
            id="password-invalid",
            expected="a long random password, or a hash in the form $scrypt$ln=14,r=8,p=1$...",
            why="mail programs cut or refuse such a password, so every login fails",
            fix="make one, for example with `openssl rand -base64 24`, and store it with --secret",
        )
    return text


def clear(text: str) -> str:
    """A password to make a hash of; raises `Invalid` where `check` does, and for what is a hash already."""
    if is_hash(check(text)):
        raise Invalid(
            "it is a hash already",
            id="password-hashed",
            expected="the password itself",
            fix="store the hash as it is",
        )
    return text


def same(typed: str, again: str) -> str:
    """A password that was typed twice."""
    if typed == again:
        return typed
    raise Invalid("the two differ", id="password-differs", expected="the same password twice", fix="type it again")


def token(random: bytes) -> str:
    """An application token of `TOKEN_BYTES` random bytes."""
    if len(random) != TOKEN_BYTES:
        raise ValueError(f"a token is made of {TOKEN_BYTES} random bytes, not {len(random)}")
    secret = base64.urlsafe_b64encode(random).decode("ascii")
    return f"mrt_{secret}{_check_of(secret)}"


def is_token(text: str) -> bool:
    """Whether `text` is a generated token: nobody guesses it, so its hash may be cheap."""
    found = _TOKEN.fullmatch(text)
    return found is not None and found["check"] == _check_of(found["secret"])


def _check_of(secret: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()).decode("ascii")[:6]


def scrypt_hash(password: str, salt: bytes) -> ScryptHash:
    """The hash of `password` with `salt`: as chasquid makes it, or a cheap one of a token.

    Mail programs that log in for each message spend most of the server's time on the hash.
    """
    ln = _LN_TOKEN if is_token(password) else _LN_PASSWORD
    key = hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=1 << ln,
        r=_R,
        p=1,
        dklen=_KEY,
        maxmem=(1 << ln) * 128 * _R + (1 << 20),
    )
    return ScryptHash(ln=ln, r=_R, p=1, salt=salt, hash=key)


def users_file(users: Mapping[str, ScryptHash]) -> str:
    """chasquid's `users` file (text form of internal/userdb/userdb.proto): sorted by name."""
    return "".join(_entry(user, users[user]) for user in sorted(users))


def _entry(user: str, hashed: ScryptHash) -> str:
    scrypt = (
        f"logN: {hashed.ln} r: {hashed.r} p: {hashed.p} keyLen: {len(hashed.hash)} "
        f'salt: "{_octal(hashed.salt)}" encrypted: "{_octal(hashed.hash)}"'
    )
    return f'users: {{ key: "{_octal_unless_plain(user)}" value: {{ scrypt: {{ {scrypt} }} }} }}\n'


def _octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


def _octal_unless_plain(text: str) -> str:
    return "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\' else _octal(char.encode()) for char in text
    )
