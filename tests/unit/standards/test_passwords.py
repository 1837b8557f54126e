"""Password hashes and the users file, against hashlib's own scrypt and the text form chasquid parses."""

from __future__ import annotations

import ast
import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standards import passwords
from standards.finding import Invalid
from standards.passwords import ScryptHash

SALT = bytes(range(240, 256))
SALT64 = base64.b64encode(SALT).decode()
KEY64 = base64.b64encode(b"k" * 32).decode()


def test_a_password_is_hashed_as_chasquid_hashes_it() -> None:
    hashed = passwords.scrypt_hash("pässword", SALT)
    assert (hashed.ln, hashed.r, hashed.p, hashed.salt) == (14, 8, 1, SALT)
    assert hashed.hash == hashlib.scrypt("pässword".encode(), salt=SALT, n=16384, r=8, p=1, dklen=32)


@given(st.integers(10, 20), st.integers(1, 4), st.binary(min_size=8, max_size=40), st.binary(min_size=32, max_size=32))
def test_a_hash_survives_its_text_form(ln: int, p: int, salt: bytes, key: bytes) -> None:
    hashed = ScryptHash(ln=ln, r=8, p=p, salt=salt, hash=key)
    assert passwords.parse(str(hashed)) == hashed
    assert passwords.is_hash(str(hashed))
    assert passwords.check(str(hashed)) == str(hashed)


def test_padded_base64_is_read_too() -> None:
    assert passwords.parse(f"$scrypt$ln=14,r=8,p=1${SALT64}${KEY64}").salt == SALT


@pytest.mark.parametrize(
    "text",
    [
        "$scrypt$",
        f"$scrypt$ln=9,r=8,p=1${SALT64}${KEY64}",
        f"$scrypt$ln=21,r=8,p=1${SALT64}${KEY64}",
        f"$scrypt$ln=14,r=9,p=1${SALT64}${KEY64}",
        f"$scrypt$ln=14,r=8,p=0${SALT64}${KEY64}",
        f"$scrypt$ln=14,r=8,p=5${SALT64}${KEY64}",
        f"$scrypt$ln=14,r=8,p=1$AAAAAAAAAA${KEY64}",
        f"$scrypt$ln=14,r=8,p=1${SALT64}$AAAA",
        f"$scrypt$ln=14,r=8,p=1${SALT64}${KEY64}$more",
        f"$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAA${KEY64}",
        f"$scrypt$r=8,ln=14,p=1${SALT64}${KEY64}",
        "$2b$12$SECRETSECRETSECRET",
        "$6$rounds=5000$SECRET$SECRET",
        "$argon2id$v=19$m=65536,t=2,p=1$SECRET$SECRET",
        "{SSHA}SECRET",
    ],
)
def test_a_hash_that_could_never_match_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        passwords.check(text)
    said = str(refused.value.at("x"))
    assert "scrypt" in said
    assert SALT64 not in said
    assert "SECRET" not in said


@pytest.mark.parametrize("text", ["", " ", "SECRET ", " SECRET", "SEC\0RET", "SECRET\n"])
def test_a_password_that_no_client_can_send_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        passwords.check(text)
    assert "SECRET" not in str(refused.value.at("x"))


@pytest.mark.parametrize("text", ["correct horse", "$money$", "$scrypted", "{curly}"])
def test_any_other_text_is_a_password_as_it_is(text: str) -> None:
    assert passwords.check(text) == text
    assert not passwords.is_hash(text)


def test_a_hash_does_not_print_itself_by_accident() -> None:
    assert KEY64[:8] not in repr(passwords.parse(f"$scrypt$ln=14,r=8,p=1${SALT64}${KEY64}"))


ENTRY = re.compile(
    r'users: \{ key: ("[^"]*") value: \{ scrypt: \{ logN: (\d+) r: (\d+) p: (\d+) keyLen: 32 '
    r'salt: ("[^"]*") encrypted: ("[^"]*") \} \} \}'
)


def test_the_users_file_holds_every_value_and_is_sorted() -> None:
    nasty = ScryptHash(ln=15, r=8, p=2, salt=b'"\\\n\x00\xff1234', hash=bytes(range(32)))
    plain = ScryptHash(ln=14, r=8, p=1, salt=SALT, hash=b"k" * 32)
    text = passwords.users_file({"z": nasty, "a": plain})
    entries = [match.groups() for line in text.splitlines() if (match := ENTRY.fullmatch(line))]
    read = {
        ast.literal_eval(key): (int(ln), int(r), int(p), ast.literal_eval(f"b{salt}"), ast.literal_eval(f"b{hashed}"))
        for key, ln, r, p, salt, hashed in entries
    }
    assert read == {"a": (14, 8, 1, SALT, b"k" * 32), "z": (15, 8, 2, nasty.salt, nasty.hash)}
    assert list(read) == ["a", "z"]
    assert len(text.splitlines()) == 2


def test_no_users_make_an_empty_file() -> None:
    assert passwords.users_file({}) == ""


def test_a_name_cannot_end_its_string() -> None:
    hashed = ScryptHash(ln=14, r=8, p=1, salt=SALT, hash=b"k" * 32)
    assert 'key: "\\042\\134\\303\\274"' in passwords.users_file({'"\\ü': hashed})


TOKEN = passwords.token(bytes(range(24)))


def test_a_token_is_known_as_one_and_its_hash_is_cheap() -> None:
    assert passwords.is_token(TOKEN)
    assert passwords.check(TOKEN) == TOKEN
    hashed = passwords.scrypt_hash(TOKEN, SALT)
    assert hashed.ln == 10
    assert hashed.hash == hashlib.scrypt(TOKEN.encode(), salt=SALT, n=1024, r=8, p=1, dklen=32)
    assert passwords.parse(str(hashed)) == hashed


@given(st.binary(min_size=24, max_size=24))
def test_every_random_number_makes_a_token_of_192_bits(random: bytes) -> None:
    token = passwords.token(random)
    assert passwords.is_token(token)
    assert base64.urlsafe_b64decode(token[4:36]) == random


@pytest.mark.parametrize("random", [b"", b"x" * 16, b"x" * 25])
def test_a_token_of_less_randomness_is_never_made(random: bytes) -> None:
    with pytest.raises(ValueError, match="24 random bytes"):
        passwords.token(random)


@pytest.mark.parametrize(
    "text",
    [
        f"mrt_{'a' * 38}",
        "correct horse battery staple",
        TOKEN[4:],
        TOKEN.replace("B", "b", 1),
        TOKEN[:-1],
        f"{TOKEN}x",
        f"{TOKEN}\n",
        TOKEN.upper(),
        "",
    ],
)
def test_what_a_person_made_up_is_no_token_and_its_hash_is_dear(text: str) -> None:
    assert not passwords.is_token(text)
    assert passwords.scrypt_hash(text, SALT).ln == 14
