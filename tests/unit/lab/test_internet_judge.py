"""The receiver's verdict, with a DNS that is a dictionary."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import dkim
import dns.rdata
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from lab.internet.judge import Envelope, Unanswered, Verdict, judge
from lab.internet.receiver import entry

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVELOPE = Envelope(mail_from="alice@example.test", ehlo="smtp.example.test", client_ip="2001:db8:99::10")
MESSAGE = (
    b"From: Alice <alice@example.test>\r\nTo: check@receiver.test\r\nSubject: Hello\r\n"
    b"Message-ID: <1@example.test>\r\n\r\nHello\r\n"
)
POINTER = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.9.0.0.8.b.d.0.1.0.0.2.ip6.arpa"


class Keys:
    """Two signing keys and what the DNS says about them."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 1024)
        self.ed25519 = ed25519.Ed25519PrivateKey.generate()

    def sign(self, message: bytes, selector: str, domain: str = "example.test") -> bytes:
        if selector == "e1":
            raw = self.ed25519.private_bytes(
                serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
            )
            key, algorithm = base64.b64encode(raw), b"ed25519-sha256"
        else:
            pkcs1 = serialization.PrivateFormat.TraditionalOpenSSL
            key = self.rsa.private_bytes(serialization.Encoding.PEM, pkcs1, serialization.NoEncryption())
            algorithm = b"rsa-sha256"
        options = {"signature_algorithm": algorithm, "include_headers": [b"from", b"subject"]}
        return bytes(dkim.sign(message, selector.encode(), domain.encode(), key, **options)) + message

    def records(self) -> dict[tuple[str, str], list[str]]:
        public = self.rsa.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        raw = self.ed25519.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        texts = {
            "m1": f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}",
            "e1": f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}",
        }
        return {(f"{selector}._domainkey.example.test", "TXT"): [_txt(text)] for selector, text in texts.items()}


class World:
    """A DNS of values in zone file form; a name in `broken` does not answer."""

    def __init__(self, keys: Keys) -> None:
        self.broken: set[str] = set()
        self.values = keys.records() | {
            ("example.test", "TXT"): ['"v=spf1 a:smtp.example.test -all"'],
            ("_dmarc.example.test", "TXT"): ['"v=DMARC1; p=reject; adkim=s; aspf=s"'],
            ("smtp.example.test", "AAAA"): ["2001:db8:99::10"],
            (POINTER, "PTR"): ["smtp.example.test."],
        }

    def __call__(self, name: str, kind: str) -> Sequence[Any]:
        if name in self.broken:
            raise Unanswered(name)
        return [dns.rdata.from_text("IN", kind, value) for value in self.values.get((name.lower(), kind), [])]


def _txt(text: str) -> str:
    return " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


@pytest.fixture
def world(keys: Keys) -> World:
    return World(keys)


def results(verdict: Verdict) -> list[tuple[str, str]]:
    return [(signature.selector, signature.result) for signature in verdict.dkim]


def test_an_honest_message_passes_everything(world: World, keys: Keys) -> None:
    verdict = judge(keys.sign(keys.sign(MESSAGE, "m1"), "e1"), ENVELOPE, world)
    assert (verdict.spf, verdict.dmarc, verdict.dmarc_policy) == ("pass", "pass", "reject")
    assert sorted(results(verdict)) == [("e1", "pass"), ("m1", "pass")]
    assert (verdict.ptr, verdict.fcrdns) == (("smtp.example.test",), True)
    assert (verdict.message_id, verdict.subject) == ("<1@example.test>", "Hello")
    assert not verdict.rejects


def test_a_forged_message_is_rejected_by_the_policy_of_the_domain_it_abuses(world: World) -> None:
    forger = Envelope(mail_from="alice@example.test", ehlo="forger.test", client_ip="2001:db8:99::66")
    verdict = judge(MESSAGE, forger, world)
    assert (verdict.spf, verdict.dkim, verdict.dmarc) == ("fail", (), "fail")
    assert (verdict.ptr, verdict.fcrdns) == ((), False)
    assert verdict.rejects


def test_each_signature_is_judged_alone(world: World, keys: Keys) -> None:
    signed = keys.sign(MESSAGE, "m1").replace(b"Subject: Hello", b"Subject: Bye")
    verdict = judge(keys.sign(signed, "e1"), ENVELOPE, world)
    assert sorted(results(verdict)) == [("e1", "pass"), ("m1", "fail")]
    assert verdict.dmarc == "pass"


def test_a_signature_whose_key_is_not_published_is_no_plain_failure(world: World, keys: Keys) -> None:
    del world.values["m1._domainkey.example.test", "TXT"]
    assert results(judge(keys.sign(MESSAGE, "m1"), ENVELOPE, world)) == [("m1", "permerror")]


def test_one_aligned_signature_is_enough_when_spf_fails(world: World, keys: Keys) -> None:
    forwarder = Envelope(mail_from="list@lists.test", ehlo="lists.test", client_ip="2001:db8:99::66")
    verdict = judge(keys.sign(MESSAGE, "m1"), forwarder, world)
    assert (verdict.spf, verdict.dmarc) == ("none", "pass")


def test_a_strict_policy_wants_the_very_domain(world: World, keys: Keys) -> None:
    message = keys.sign(MESSAGE.replace(b"alice@example.test", b"alice@sub.example.test"), "m1")
    world.values["_dmarc.sub.example.test", "TXT"] = ['"v=DMARC1; p=quarantine; adkim=s; aspf=s"']
    strict = judge(message, ENVELOPE, world)
    world.values["_dmarc.sub.example.test", "TXT"] = ['"v=DMARC1; p=quarantine"']
    relaxed = judge(message, ENVELOPE, world)
    assert (strict.dmarc, relaxed.dmarc) == ("fail", "pass")
    assert not strict.rejects


def test_two_domains_of_one_registry_are_not_aligned(world: World) -> None:
    world.values["other.test", "TXT"] = ['"v=spf1 ip6:2001:db8:99::66 -all"']
    world.values["_dmarc.example.test", "TXT"] = ['"v=DMARC1; p=reject"']
    forger = Envelope(mail_from="a@other.test", ehlo="forger.test", client_ip="2001:db8:99::66")
    verdict = judge(MESSAGE, forger, world)
    assert (verdict.spf, verdict.dmarc) == ("pass", "fail")


def test_a_subdomain_without_a_policy_has_that_of_its_organization(world: World) -> None:
    world.values["_dmarc.example.test", "TXT"] = ['"v=DMARC1; p=none; sp=reject"']
    message = MESSAGE.replace(b"alice@example.test", b"alice@sub.example.test")
    forger = Envelope(mail_from="", ehlo="forger.test", client_ip="2001:db8:99::66")
    assert judge(message, forger, world).dmarc_policy == "reject"


def test_two_policies_are_none(world: World) -> None:
    world.values["_dmarc.example.test", "TXT"] *= 2
    assert judge(MESSAGE, ENVELOPE, world).dmarc == "none"


def test_a_domain_with_a_hyphen_aligns_by_spf(world: World) -> None:
    world.values["my-shop.test", "TXT"] = ['"v=spf1 ip6:2001:db8:99::10 -all"']
    world.values["_dmarc.my-shop.test", "TXT"] = ['"v=DMARC1; p=reject"']
    sender = Envelope(mail_from="a@my-shop.test", ehlo="smtp.example.test", client_ip="2001:db8:99::10")
    assert judge(MESSAGE.replace(b"alice@example.test", b"a@my-shop.test"), sender, world).dmarc == "pass"


def test_a_bounce_is_judged_by_its_ehlo_name(world: World) -> None:
    world.values["smtp.example.test", "TXT"] = ['"v=spf1 a -all"']
    bounce = Envelope(mail_from="", ehlo="smtp.example.test", client_ip="2001:db8:99::10")
    assert judge(MESSAGE, bounce, world).spf == "pass"


def test_a_silent_dns_is_a_temporary_error_and_no_reason_to_reject(world: World, keys: Keys) -> None:
    world.broken = {"example.test", "m1._domainkey.example.test", "_dmarc.example.test", POINTER}
    verdict = judge(keys.sign(MESSAGE, "m1"), ENVELOPE, world)
    assert (verdict.spf, results(verdict), verdict.dmarc) == ("temperror", [("m1", "temperror")], "temperror")
    assert not verdict.rejects


def test_a_ptr_that_does_not_lead_back_is_not_confirmed(world: World) -> None:
    world.values["smtp.example.test", "AAAA"] = ["2001:db8:99::11"]
    verdict = judge(MESSAGE, ENVELOPE, world)
    assert (verdict.ptr, verdict.fcrdns) == (("smtp.example.test",), False)


def test_a_verdict_is_written_with_the_agreed_keys(world: World, keys: Keys) -> None:
    verdict = judge(keys.sign(MESSAGE, "m1"), ENVELOPE, world)
    written = json.loads(json.dumps(entry(ENVELOPE, ["check@receiver.test"], verdict, None)))
    assert written.pop("id")
    assert written.pop("received_at").endswith("+00:00")
    assert written == {
        "mail_from": "alice@example.test",
        "rcpt_to": ["check@receiver.test"],
        "ehlo": "smtp.example.test",
        "client_ip": "2001:db8:99::10",
        "ptr": ["smtp.example.test"],
        "fcrdns": True,
        "spf": "pass",
        "dkim": [{"selector": "m1", "domain": "example.test", "result": "pass"}],
        "dmarc": "pass",
        "dmarc_policy": "reject",
        "tls": None,
        "message_id": "<1@example.test>",
        "subject": "Hello",
    }
