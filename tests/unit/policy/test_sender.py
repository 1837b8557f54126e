"""The user, MAIL FROM, From and Sender must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import sender
from components.chasquid.policy.message import Headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from components.chasquid.policy.message import Request

ALICE, SALES = "alice@example.com", "sales@example.com"


def objection(request: Request, settings: dict[str, Any]) -> str | None:
    return sender.objection(request, Headers.parse(request.message), settings)


@pytest.mark.parametrize(
    ("envelope", "fields"),
    [
        (ALICE, {}),
        ("Alice+tag@EXAMPLE.com", {"From": "Al <a.lice@example.com>"}),
        (SALES, {"From": f"Sales <{SALES}>", "Sender": ALICE}),
        ("bounce@lists.example.com", {"From": "news@lists.example.com"}),
    ],
)
def test_own_addresses_and_identities_are_accepted(
    ask: Callable[..., Request], settings: dict[str, Any], envelope: str, fields: dict[str, str]
) -> None:
    assert objection(ask(sender=envelope, **fields), settings) is None


@pytest.mark.parametrize(
    ("envelope", "fields", "code"),
    [
        ("", {}, "5.7.1"),
        ("bob@example.com", {}, "5.7.1"),
        (ALICE, {"From": "bob@example.com"}, "5.7.1"),
        (ALICE, {"Sender": "bob@example.com"}, "5.7.1"),
        (ALICE, {"From": "news@lists.example.com"}, "5.7.1"),
        (ALICE, {"From": "alice@example.com.evil.test"}, "5.7.1"),
        (ALICE, {"From": "alice@sub.lists.example.com"}, "5.7.1"),
        ("news@bank.test@lists.example.com", {"From": "news@lists.example.com"}, "5.6.0"),
        ("alice@example.com@bank.test", {}, "5.6.0"),
        ("alice@example.com.", {}, "5.6.0"),
        ("alice@\uff45xample.com", {}, "5.6.0"),
        (ALICE, {"From": f"{ALICE}, {ALICE}"}, "5.6.0"),
        (ALICE, {"FROM": ALICE}, "5.6.0"),
        (ALICE, {"Sender": f"{ALICE}, {ALICE}"}, "5.6.0"),
    ],
)
def test_anything_else_is_refused(
    ask: Callable[..., Request], settings: dict[str, Any], envelope: str, fields: dict[str, str], code: str
) -> None:
    answer = objection(ask(sender=envelope, **fields), settings)
    assert answer is not None
    assert answer.startswith(code)


def test_a_message_without_from_is_refused_with_the_line_to_add(
    ask: Callable[..., Request], settings: dict[str, Any]
) -> None:
    request = ask()
    headers = Headers(tuple(field for field in Headers.parse(request.message).fields if field[0] != "From"))
    assert f"From: {ALICE}" in str(sender.objection(request, headers, settings))


def test_a_user_that_the_settings_do_not_know_has_its_own_address_alone(
    ask: Callable[..., Request], settings: dict[str, Any]
) -> None:
    carol = "carol@example.com"
    assert objection(ask(sender=carol, user=carol, From=carol), settings) is None
    assert objection(ask(sender=SALES, user=carol, From=SALES), settings)


def test_the_probe_hears_of_its_forgery_and_can_send_nothing_else(
    ask: Callable[..., Request], settings: dict[str, Any]
) -> None:
    probe, forged = "probe@probe.invalid", "forged@probe.invalid"
    answer = str(objection(ask(sender=forged, user=probe, From=forged), settings))
    assert answer.startswith("5.7.1")
    assert forged in answer
    assert str(objection(ask(sender=probe, user=probe, From=probe), settings)).startswith("5.7.1")


def test_an_identity_of_a_domain_is_none_of_a_domain_that_only_looks_the_same(
    ask: Callable[..., Request], settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["identities"] += ["*@strasse.example", "*@xn--bcher-kva.example"]
    assert objection(ask(sender="a@stra\u00dfe.example", From="a@stra\u00dfe.example"), settings)
    assert objection(ask(sender="a@b\u00fccher.example", From="a@xn--bcher-kva.example"), settings) is None


def test_a_user_of_a_domain_in_u_labels_finds_its_settings(
    ask: Callable[..., Request], settings: dict[str, Any]
) -> None:
    settings["users"]["i@xn--bcher-kva.example"] = {"identities": ["sales@xn--bcher-kva.example"]}
    asked = ask(user="i@b\u00fccher.example", sender="sales@b\u00fccher.example", From="sales@b\u00fccher.example")
    assert objection(asked, settings) is None
