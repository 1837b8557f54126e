"""What becomes of mail from outside: refused, deferred, forwarded, forwarded with a mark."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import gate, notices, rspamd
from components.chasquid.policy.dmarc import Unanswered
from components.chasquid.policy.message import ACCEPT, DEFER, REFUSE, Headers, Request, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from components.chasquid.policy.limits import Store

SILENT = "does not answer"
DNS = {
    "_dmarc.bank.test": "v=DMARC1; p=reject",
    "_dmarc.shop.test": "v=DMARC1; p=quarantine",
    "_dmarc.list.test": "v=DMARC1; p=none",
    "_dmarc.example.com": "v=DMARC1; p=none",
    "_dmarc.silent.test": SILENT,
}


def resolver(name: str, _seconds: float) -> Sequence[str] | None:
    if DNS.get(name) == SILENT:
        raise Unanswered(f"DNS does not answer for {name}")
    return [DNS[name]] if name in DNS else None


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """alice, `first.last` and `team` forward; `user` has nothing; `other.test` is elsewhere, `strict.test` rejects."""
    domains = settings["domains"]
    domains["example.com"] |= {
        "policy": "quarantine",
        "sp": "reject",
        "aliases": {
            "alice": ["alice@gmail.test"],
            "first.last": ["alice", "bob@gmail.test"],
            "team": ["first.last@example.com", "alice+x"],
            "shop+orders": ["orders@gmail.test"],
            "relay": ["*@moved.test via mx1.moved.test/mx2.moved.test"],
            "*": ["rest@gmail.test"],
        },
    }
    external = {"mail": "external", "policy": "none", "sp": "none", "aliases": {"*": ["* via mx1.o.test/mx2.o.test"]}}
    strict = {"mail": "forward", "policy": "reject", "sp": "none", "aliases": {"eve": ["eve@gmail.test"]}}
    books = strict | {"aliases": {"eve": ["eve@gmail.test"], "*": ["all@gmail.test"]}}
    domains |= {"other.test": external, "strict.test": strict, "xn--bcher-kva.test": books}
    settings["users"] |= {"user@example.com": {}, "max@xn--bcher-kva.test": {}}
    return settings


def mail(
    author: str = "a@list.test",
    *,
    sender: str = "a@list.test",
    to: tuple[str, ...] = ("alice@example.com",),
    spf: str = "none",
    dkim: tuple[str, ...] = (),
    more: str = "",
    **fields: str,
) -> Request:
    """A message as chasquid hands it over; `dkim` are domains with a valid signature, `?d` with an unknown one."""
    results = "".join(
        f'\t;dkim=temperror  reason="timeout"\r\n\t  header.d={domain[1:]}\r\n'
        if domain.startswith("?")
        else f"\t;dkim=pass  header.b=AAAA  header.d={domain}\r\n"
        for domain in dkim
    ) or "\t;dkim=none\r\n"  # fmt: skip
    spf_line, spf_field = (f"\t;spf={spf} (x)\r\n", f"Received-SPF: {spf} (x)\n") if sender else ("", "")
    top = (
        f"Authentication-Results: smtp.example.com\r\n{spf_line}{results.removesuffix(chr(13) + chr(10))}\n{spf_field}"
        "Received: from client ([192.0.2.1])\n\tby smtp.example.com (chasquid) with ESMTPS\n\t; a date\n"
    )
    header = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in {"From": author, **fields}.items())
    text = f"{top}{more}{header}\nHello\n"
    return Request("192.0.2.1:4711", "client", sender, to, "", True, spf == "pass", text.encode())


@pytest.fixture
def judge(settings: dict[str, Any], store: Store) -> Any:
    def judge(request: Request, **changed: Any) -> Verdict:
        return gate.judge(request, Headers.parse(request.message), settings | changed, store, resolver)

    return judge


def ends(address: str, settings: dict[str, Any]) -> set[str]:
    return set(gate.targets(address, gate.book_of(settings), settings["users"]))


PROVEN: dict[str, Any] = {"spf": "pass"}


# DMARC of other people's domains


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (mail("a@bank.test", sender="a@bank.test", spf="pass"), ACCEPT, "dmarc=pass header.from=bank.test"),
        (mail("a@bank.test", sender="a@bank.test", dkim=("bank.test",)), ACCEPT, "dmarc=pass"),
        (mail("a@bank.test", sender="a@bank.test", spf="pass", dkim=("?x.bank.test",)), ACCEPT, "dmarc=pass"),
        (mail("a@x.bank.test", sender="a@bank.test", dkim=("y.bank.test",)), ACCEPT, "dmarc=pass"),
        (mail("a@bank.test", spf="pass"), REFUSE, "5.7.26 bank.test"),
        (mail("a@x.bank.test", spf="pass"), REFUSE, "5.7.26 x.bank.test"),
        (mail("a@bank.test", sender=""), REFUSE, "5.7.26 bank.test"),
        (mail("a@bank.test", sender="", dkim=("bank.test",)), ACCEPT, "dmarc=pass"),
        (mail("a@bank.test", spf="pass", dkim=("?bank.test",)), DEFER, "4.4.3"),
        (mail("a@bank.test", sender="a@bank.test", spf="temperror"), DEFER, "4.4.3"),
        (mail("a@bank.test", spf="pass", dkim=("?list.test",)), REFUSE, "5.7.26 bank.test"),
        (mail("a@shop.test", spf="pass"), ACCEPT, "dmarc=fail header.from=shop.test policy.dmarc=quarantine"),
        (mail("a@shop.test", spf="pass", dkim=("?shop.test",)), ACCEPT, "dmarc=temperror header.from=shop.test"),
        (mail("a@new.test", spf="pass"), ACCEPT, "dmarc=none header.from=new.test"),
        (mail("a@silent.test", spf="pass"), DEFER, "4.4.3"),
        (mail("a@silent.test", sender="a@silent.test", spf="pass"), ACCEPT, "dmarc=temperror"),
    ],
)
def test_a_domain_is_spoken_for_by_its_owner_alone(judge: Any, request_: Request, status: int, text: str) -> None:
    verdict = judge(request_)
    assert (verdict.status, text in verdict.text) == (status, True), verdict


@pytest.mark.parametrize(
    "request_",
    [
        mail("", **PROVEN),
        mail("nobody", **PROVEN),
        mail("undisclosed:;", **PROVEN),
        mail("a@bank.test, b@list.test", **PROVEN),
        mail(more="From: b@list.test\n", **PROVEN),
        replace(mail(**PROVEN), message=mail(**PROVEN).message.replace(b"\nFrom:", b"\nX-From:")),
    ],
)
def test_mail_without_one_readable_author_is_refused(judge: Any, request_: Request) -> None:
    verdict = judge(request_)
    assert (verdict.status, verdict.text[:5]) == (REFUSE, "5.7.1"), verdict
    assert judge(request_, gate=False).text == "Authentication-Results: smtp.example.com;\n\tnone"


def test_two_authors_of_one_domain_have_one_policy(judge: Any) -> None:
    assert "dmarc=pass header.from=list.test" in judge(mail("a@list.test, b@list.test", **PROVEN)).text


# Our own domains

MARK = "X-Mailroom-Warning: nothing proves that this message is from example.com"


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (mail("alice@example.com", spf="pass"), ACCEPT, MARK),
        (mail("alice@example.com", spf="pass", dkim=("list.test",)), ACCEPT, "dmarc=fail header.from=example.com"),
        (mail("alice@example.com", spf="pass", dkim=("?example.com",)), ACCEPT, MARK),
        (mail("alice@sub.example.com", sender="", dkim=("other.test",)), ACCEPT, "sub.example.com"),
        (mail("eve@strict.test", spf="pass"), REFUSE, "5.7.26 Mail from strict.test"),
        (mail("eve@strict.test", sender=""), REFUSE, "5.7.26 Mail from strict.test"),
        (mail("eve@strict.test", spf="pass", dkim=("?strict.test",)), DEFER, "4.4.3"),
        (mail("a@sub.strict.test", spf="pass"), ACCEPT, "X-Mailroom-Warning"),
    ],
)
@pytest.mark.parametrize("on", [True, False])
def test_strangers_in_our_name_are_refused_or_marked_as_our_policy_says(
    judge: Any, request_: Request, status: int, text: str, on: bool
) -> None:
    verdict = judge(request_, gate=on)
    assert (verdict.status, text in verdict.text) == (status, True), verdict


@pytest.mark.parametrize("proof", [{"dkim": ("example.com",)}, {"sender": "x@sub.example.com", "spf": "pass"}])
def test_our_own_mail_that_comes_back_is_not_marked(judge: Any, proof: dict[str, Any]) -> None:
    verdict = judge(mail("alice@example.com", **{"spf": "pass", **proof}))
    assert (verdict.status, "Warning" in verdict.text) == (ACCEPT, False)
    assert "dmarc=pass" in verdict.text


def test_a_subdomain_of_ours_without_a_record_in_dns_has_our_policy_for_subdomains(
    judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DNS, "_dmarc.example.com")
    assert judge(mail("alice@sub.example.com", spf="pass")).text.startswith("5.7.26 Mail from sub.example.com")
    assert MARK in judge(mail("alice@example.com", spf="pass")).text


# The envelope


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (mail(spf="pass"), ACCEPT),
        (mail(dkim=("list.test",)), ACCEPT),
        (mail(sender="x@bounce.list.test", dkim=("list.test",)), ACCEPT),
        (mail(), REFUSE),
        (mail(dkim=("spammer.test",)), REFUSE),
        (mail(spf="softfail", dkim=("gmail.test",)), REFUSE),
        (mail(spf="temperror"), DEFER),
        (mail(dkim=("?list.test",)), DEFER),
        (mail(dkim=("?gmail.test",)), REFUSE),
        (mail(sender=""), ACCEPT),
        (mail(sender="a@silent.test", dkim=("x.silent.test",)), DEFER),
        (mail(sender="a@silent.test", dkim=("silent.test",)), ACCEPT),
        (mail(sender="list.test@gmail.test@list.test", dkim=("list.test",)), REFUSE),
    ],
)
def test_what_nobody_confirms_is_not_forwarded(judge: Any, request_: Request, status: int) -> None:
    assert judge(request_).status == status


def test_different_domains_that_old_software_takes_for_one_prove_nothing_for_each_other(
    judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """straße.test is another domain than strasse.test, but IDNA 2003 makes one of them."""
    monkeypatch.setitem(DNS, "_dmarc.strasse.test", "v=DMARC1; p=reject")
    assert judge(mail("a@strasse.test", sender="a@straße.test", spf="pass")).status == REFUSE
    assert judge(mail("a@straße.test", sender="a@straße.test", spf="pass")).status == ACCEPT


def test_results_that_the_message_brings_along_count_nothing(judge: Any) -> None:
    claimed = "Authentication-Results: smtp.example.com\r\n\t;spf=pass (x)\r\n\t;dkim=pass  header.d=bank.test\n"
    assert judge(mail("a@bank.test", sender="a@bank.test", more=claimed)).status == REFUSE


# Where mail goes


def test_mail_for_a_domain_elsewhere_is_told_where_it_is_received(judge: Any) -> None:
    verdict = judge(mail(to=("x@other.test",), **PROVEN), gate=False)
    assert verdict.status == REFUSE
    assert verdict.text.startswith("5.7.1 Mail for other.test is received by mx1.o.test or mx2.o.test")


def test_the_probe_gets_no_mail_whatever_else_is_said(judge: Any) -> None:
    verdict = judge(mail(to=("alice@example.com", "probe@probe.invalid"), **PROVEN), gate=False)
    assert (verdict.status, verdict.text[:5]) == (REFUSE, "5.7.1")


def test_our_own_notice_passes_to_wherever_it_goes(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(notices, "is_own", lambda *facts: seen.append(facts) or True)
    notice = mail("postmaster@strict.test", sender="", to=("x@other.test",), Message_ID="<1@host>")
    assert judge(notice) == Verdict(ACCEPT)
    assert [(message_id.strip(), remote) for message_id, remote in seen] == [("<1@host>", "192.0.2.1:4711")]
    assert judge(mail(to=("probe@probe.invalid",))).status == REFUSE


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("alice@example.com", {"alice@gmail.test"}),
        ("a.li.ce+tag@example.com", {"alice@gmail.test"}),
        ("firstlast@example.com", {"alice@gmail.test", "bob@gmail.test"}),
        ("team@example.com", {"alice@gmail.test", "bob@gmail.test"}),
        ("shop+orders@example.com", {"orders@gmail.test"}),
        ("shop+other@example.com", {"rest@gmail.test"}),
        ("unknown@example.com", {"rest@gmail.test"}),
        ("user@example.com", set()),
        ("re.lay+x@example.com", {"re.lay+x@moved.test"}),
        ("x@other.test", {"x@other.test"}),
        ("nobody@strict.test", set()),
        ("eve@bücher.test", {"eve@gmail.test"}),
        ("max@bücher.test", set()),
        ("any@bücher.test", {"all@gmail.test"}),
        ("x@gmail.test", {"x@gmail.test"}),
    ],
)
def test_mail_goes_where_chasquids_resolver_would_send_it(
    settings: dict[str, Any], address: str, expected: set[str]
) -> None:
    assert ends(address, settings) == expected


def test_aliases_are_followed_as_deep_as_chasquid_does(settings: dict[str, Any]) -> None:
    chain = {f"a{number}": [f"a{number + 1}"] for number in range(10)}
    settings["domains"]["strict.test"]["aliases"] = chain | {"a10": ["end@gmail.test"]}
    assert ends("a1@strict.test", settings) == {"end@gmail.test"}
    assert ends("a0@strict.test", settings) == set()


def test_the_nearest_domain_of_ours_decides_about_a_name_below_both(judge: Any, settings: dict[str, Any]) -> None:
    settings["domains"]["in.strict.test"] = settings["domains"]["strict.test"] | {"sp": "reject"}
    assert judge(mail("a@x.in.strict.test", **PROVEN)).status == REFUSE
    assert judge(mail("a@x.strict.test", **PROVEN)).status == ACCEPT


def test_a_loop_of_aliases_ends(settings: dict[str, Any]) -> None:
    settings["domains"]["strict.test"]["aliases"] = {"a": ["b"], "b": ["a", "a@gmail.test"]}
    assert ends("a@strict.test", settings) == {"a@gmail.test"}


# The rewritten sender: `alice+fwd_from=` and `=list.test` take 15 + 10 of the 64 octets


@pytest.mark.parametrize(
    ("sender", "to", "status"),
    [
        (f"{'x' * 39}@list.test", "alice@example.com", ACCEPT),
        (f"{'x' * 40}@list.test", "alice@example.com", REFUSE),
        (f"{'x' * 38}@list.test", "a.lice@example.com", ACCEPT),
        (f"{'x' * 39}@list.test", "a.lice@example.com", REFUSE),
        (f"{'x' * 60}@list.test", "user@example.com", ACCEPT),
        (f"{'x' * 40}@list.test", "relay@example.com", REFUSE),
        (f"{'ü' * 20}@list.test", "alice@example.com", REFUSE),
        (f"{'x' * 40}@strict.test", "alice@example.com", ACCEPT),
        (f"{'x' * 31}@bücher2.test", "alice@example.com", ACCEPT),
        ("", "alice@example.com", ACCEPT),
    ],
)
def test_a_sender_too_long_when_rewritten_is_refused_where_mail_is_forwarded(
    judge: Any, sender: str, to: str, status: int
) -> None:
    verdict = judge(mail(sender=sender, to=(to,), spf="pass"), gate=False)
    assert verdict.status == status, verdict
    assert status == ACCEPT or ("5.7.1" in verdict.text and "64 are allowed" in verdict.text)


# Rates and scanners


def test_a_target_gets_so_many_messages_an_hour_from_all_of_its_aliases(judge: Any, clock: Any) -> None:
    first, second = mail(to=("alice@example.com",), **PROVEN), mail(to=("team@example.com",), **PROVEN)
    assert [judge(first, forwardRate=2).status, judge(second, forwardRate=2).status] == [ACCEPT, ACCEPT]
    over = judge(first, forwardRate=2)
    assert (over.status, over.text[:5]) == (DEFER, "4.7.1")
    assert judge(mail(to=("unknown@example.com",), **PROVEN), forwardRate=2).status == ACCEPT
    clock.now += 3500
    assert judge(first, forwardRate=2).status == DEFER
    clock.now += 101
    assert judge(first, forwardRate=2).status == ACCEPT


def test_what_is_refused_counts_nowhere(judge: Any) -> None:
    assert judge(mail(), forwardRate=1).status == REFUSE
    assert judge(mail(**PROVEN), forwardRate=1).status == ACCEPT


def test_rspamd_is_asked_only_where_it_is_set(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rspamd, "judge", lambda _: Verdict.refuse("5.7.1 spam"))
    assert judge(mail(**PROVEN)).status == ACCEPT
    assert judge(mail(**PROVEN), rspamd=True).status == REFUSE
    monkeypatch.setattr(rspamd, "judge", lambda _: Verdict.accept(["X-Spam-Status: Yes"]))
    assert judge(mail(**PROVEN), rspamd=True).text.endswith("\nX-Spam-Status: Yes")
    monkeypatch.setattr(rspamd, "judge", lambda _: Verdict.accept())
    assert "\n\n" not in judge(mail(**PROVEN), rspamd=True).text


def test_without_the_gate_nothing_is_asked_of_strangers(judge: Any) -> None:
    for request in (mail(), mail("a@bank.test", spf="pass"), mail("a@silent.test")):
        assert judge(request, gate=False).status == ACCEPT


# What chasquid makes of it


def looks_like_headers(text: str) -> bool:
    """internal/smtpsrv/conn.go isHeader; otherwise chasquid drops it all without a word."""
    lines = text.splitlines(keepends=True)
    return (
        "\n\n" not in text
        and text.endswith("\n")
        and all(line.startswith((" ", "\t")) or ":" in line for line in lines)
        and not lines[0].startswith((" ", "\t"))
    )


@pytest.mark.parametrize(
    "request_",
    [
        mail(**PROVEN),
        mail("alice@example.com", **PROVEN),
        mail("a@new.test", **PROVEN),
        mail(f"a@{'x' * 60}.test", **PROVEN),
    ],
)
def test_the_fields_of_an_accepted_message_are_what_chasquid_takes_for_headers(judge: Any, request_: Request) -> None:
    text = judge(request_).text + "\n"
    assert looks_like_headers(text)
    assert text.startswith("Authentication-Results: smtp.example.com;\n\tdmarc=")
    assert all(len(line) <= 998 and line.isascii() for line in text.splitlines())


@pytest.mark.parametrize("author", ["a@b@c", "a@\u2028evil", "a@evil\\", "a@[192.0.2.1]", "a@evil;dmarc=pass", "a@-"])
def test_no_author_writes_into_our_results(judge: Any, author: str) -> None:
    verdict = judge(mail(author, sender="", dkim=("list.test",)), gate=False)
    fields = verdict.text.split("\n")
    assert (fields[0], len(fields)) == ("Authentication-Results: smtp.example.com;", 2)
    assert fields[1] in {"\tnone", "\tdmarc=none header.from=-"}


@pytest.mark.parametrize("sender", ['"a,b"@list.test', "\ufffd\ufffd@list.test", "a b@list.test", "nobody"])
def test_a_sender_that_chasquid_would_write_otherwise_is_not_forwarded(judge: Any, sender: str) -> None:
    verdict = judge(mail(**PROVEN | {"sender": sender}))
    assert (verdict.status, verdict.text[:5]) == (REFUSE, "5.1.7")


def test_bounces_have_a_rate_of_their_own_and_take_none_from_mail(judge: Any) -> None:
    bounce = mail(**PROVEN | {"sender": ""})
    assert [judge(bounce, forwardRate=20).status for _ in range(3)] == [ACCEPT, ACCEPT, DEFER]
    assert judge(mail(**PROVEN), forwardRate=20).status == ACCEPT


def test_every_copy_counts_even_when_many_recipients_lead_to_one_address(judge: Any) -> None:
    many = mail(to=("alice@example.com", "alice+1@example.com", "alice@example.com"), **PROVEN)
    assert judge(many, forwardRate=3).status == ACCEPT
    assert judge(many, forwardRate=5).status == DEFER


def test_more_copies_than_an_hour_allows_never_fit_so_they_are_refused(judge: Any) -> None:
    refused = judge(mail(to=("alice@example.com", "alice+1@example.com"), **PROVEN), forwardRate=1)
    assert (refused.status, refused.text[:5]) == (REFUSE, "5.5.3")
    assert judge(mail(to=("alice@example.com",), **PROVEN), forwardRate=1).status == ACCEPT


def test_a_message_that_waits_for_one_target_takes_nothing_of_anothers_rate(judge: Any) -> None:
    alone, other = mail(to=("alice@example.com",), **PROVEN), mail(to=("unknown@example.com",), **PROVEN)
    both = mail(to=("unknown@example.com", "alice@example.com"), **PROVEN)
    assert judge(alone, forwardRate=1).status == ACCEPT
    assert judge(both, forwardRate=1).status == DEFER
    assert judge(other, forwardRate=1).status == ACCEPT
