"""What the sender policy goes by: identities, limits and what is known of each domain, in one spelling."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from standards import sender_policy
from tests.unit.standards.example_stack import domain, host, load, second_domain

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[dict[str, Any]], object]

ELSEWHERE = "someone@gmail.com"
LIMITS = {"minute": 60, "hour": 300, "day": 1000, "newRecipients": 200, "recipientsPerMessage": 50, "warmUp": 100}


def together(*changes: Change) -> Change:
    return lambda values: [change(values) for change in changes]


def top(**keys: Any) -> Change:
    return lambda values: values.update({f"mailroom:{key}": value for key, value in keys.items()})


def passwords(*addresses: str) -> Change:
    return top(passwords=dict.fromkeys(addresses, "correct horse battery"))


def policy(*changes: Change) -> dict[str, Any]:
    settings = load(together(*changes))
    return sender_policy.policy(settings, settings.hosts[0])


def identities(*changes: Change, user: str = "i@example.com") -> set[str]:
    own, *others = policy(*changes)["users"][user]["identities"]
    assert own not in others
    return set(others)


def test_a_small_stack_has_this_policy() -> None:
    assert policy() == {
        "hostname": "smtp.example.com",
        "addresses": ["192.0.2.10", "2001:db8::10"],
        "postmaster": "postmaster@example.com",
        "warmUp": 500,
        "gate": True,
        "rspamd": False,
        "forwardRate": 500,
        "domains": {
            "example.com": {
                "mail": "forward",
                "policy": "none",
                "sp": "none",
                "selectors": ["m1"],
                "aliases": {"abuse": ["i"], "i": [ELSEWHERE], "postmaster": ["i"]},
            }
        },
        "users": {
            "i@example.com": {
                "logins": ["i@example.com"],
                "identities": ["i@example.com", "abuse@example.com", "postmaster@example.com"],
                "limits": LIMITS,
            }
        },
    }


def test_what_the_stack_says_of_the_whole_host_is_in_it() -> None:
    stack = policy(top(warmUp=0, gate="off", rspamd="on", forwardRate=7), host(ipv6Outbound="off"))
    assert [stack[key] for key in ("warmUp", "gate", "rspamd", "forwardRate")] == [0, False, True, 7]
    assert stack["addresses"] == ["192.0.2.10"]


def test_the_order_of_the_settings_does_not_matter() -> None:
    def stack(direction: int) -> str:
        def some(*items: Any) -> list[Any]:
            return list(items)[::direction]

        lines = {"i": ELSEWHERE, "j": ELSEWHERE, "sales": ["j", "i"], "abuse": "i", "postmaster": "i"}
        people = some("i", {"name": "j", "identities": some("a@example.com", "b@example.com")})
        change = together(
            domain(users=people, aliases=dict(some(*lines.items())), dkim=some({"selector": "a"}, {"selector": "m"})),
            second_domain(mail="external", mx=["mx.example.net"]),
            passwords("i@example.com", "j@example.com"),
            lambda values: values.update({"mailroom:domains": some(*values["mailroom:domains"])}),
        )
        return json.dumps(policy(change))

    assert stack(1) == stack(-1)


def test_postmaster_is_that_of_the_first_domain_we_receive_for() -> None:
    external = domain(mail="external", mx=["mx.example.net"], aliases={})
    assert policy(external, second_domain(aliases={"a": ELSEWHERE}))["postmaster"] == "postmaster@second.test"
    assert policy(external)["postmaster"] == "you@example.com"


def test_only_keys_that_sign_and_domains_that_send_are_known() -> None:
    keys = [{"selector": stage, "stage": stage} for stage in ("published", "active", "retiring", "revoked")]
    domains = policy(domain(dkim=keys, dmarc={"policy": "reject", "sp": "quarantine"}), second_domain(mail="none"))
    assert list(domains["domains"]) == ["example.com"]
    assert domains["domains"]["example.com"]["selectors"] == ["active"]
    assert (domains["domains"]["example.com"]["policy"], domains["domains"]["example.com"]["sp"]) == (
        "reject", "quarantine",
    )  # fmt: skip


def test_subdomains_follow_the_policy_when_nothing_is_said_of_them() -> None:
    assert policy(domain(dmarc={"policy": "reject"}))["domains"]["example.com"]["sp"] == "reject"


def test_the_aliases_of_an_external_domain_lead_to_its_servers() -> None:
    domains = policy(domain(mail="external", mx=["mx.example.net"], aliases={}))["domains"]
    assert domains["example.com"]["aliases"] == {"*": ["* via mx.example.net"], "i": ["* via mx.example.net"]}


# What user i may send as beside its own address.
ALIASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "its alias": ({"sales": "i"}, {"sales@example.com"}),
    "with its full address": ({"sales": "I@example.com"}, {"sales@example.com"}),
    "among others": ({"sales": ["x@example.net", "i"]}, {"sales@example.com"}),
    "through an alias": ({"sales": "team", "team": ["x@example.net", "i"]}, {"sales@example.com", "team@example.com"}),
    "with dots": ({"our.sales": "i"}, {"oursales@example.com"}),
    "to a suffix": ({"sales": "i+sales"}, {"sales@example.com"}),
    "to a suffix that leads elsewhere": ({"sales": "i+sales", "i+sales": "x@example.net"}, set()),
    "a suffix of somebody else's name": ({"sales": "x@example.net", "sales+news": "i"}, set()),
    "to the same mailbox elsewhere": ({"sales": ELSEWHERE}, set()),
    "at other servers": ({"sales": "i@example.com via mx.example.net"}, set()),
    "everybody": ({"*": "i"}, set()),
    "through everybody": ({"sales": "whoever", "*": "i"}, {"sales@example.com"}),
    "roles of its own": ({"abuse": "x@example.net", "postmaster": "i"}, {"postmaster@example.com"}),
}


@pytest.mark.parametrize("case", ALIASES)
def test_a_user_may_send_as_every_alias_that_ends_at_it(case: str) -> None:
    lines, others = ALIASES[case]
    roles = {} if "*" in lines else {"abuse": "x@example.net", "postmaster": "x@example.net"}
    assert identities(domain(aliases={"i": ELSEWHERE, **roles, **lines})) == others


def test_aliases_of_other_domains_count_as_well() -> None:
    lines = {"info": "sales@example.com", "abuse": ELSEWHERE, "postmaster": ELSEWHERE}
    change = together(domain(aliases={"i": ELSEWHERE, "sales": "i"}), second_domain(aliases=lines))
    assert {"info@second.test", "sales@example.com"} <= identities(change)
    assert "abuse@second.test" not in identities(change)


def test_a_catch_all_does_not_give_one_user_the_name_of_another() -> None:
    change = together(domain(users=["i", "j"], aliases={"i": ELSEWHERE, "*": "i"}),
                      passwords("i@example.com", "j@example.com"))  # fmt: skip
    assert policy(change)["domains"]["example.com"]["aliases"]["j"] == ["i"]
    assert identities(change) == set()


def test_further_identities_are_in_the_form_chasquid_compares() -> None:
    extra = ["First.Last@Example.com", "*@second.test", "i@example.com"]
    change = together(domain(users=[{"name": "i", "identities": extra}], aliases={"*": ELSEWHERE}),
                      second_domain(aliases={"a": ELSEWHERE}))  # fmt: skip
    assert identities(change) == {"firstlast@example.com", "*@second.test"}


def test_a_user_is_listed_by_its_login_and_known_without_dots() -> None:
    change = together(domain(users=["f.l"], aliases={"f.l": ELSEWHERE, "sales": "fl"}), passwords("f.l@example.com"))
    assert policy(change)["users"]["f.l@example.com"]["identities"][0] == "fl@example.com"
    assert "sales@example.com" in identities(change, user="f.l@example.com")


def test_limits_of_a_user_come_before_those_of_the_stack() -> None:
    change = together(top(limits={"hour": 200}), domain(users=[{"name": "i", "limits": {"newRecipients": 10}}]))
    assert policy(change)["users"]["i@example.com"]["limits"] == LIMITS | {"hour": 200, "newRecipients": 10}


def test_a_thousand_users_and_aliases_take_no_time() -> None:
    names = [f"u{number}" for number in range(1000)]
    lines = dict.fromkeys(names, ELSEWHERE) | {f"a{name}": name for name in names}
    change = together(domain(users=names, aliases=lines), passwords(*(f"{name}@example.com" for name in names)))
    assert identities(change, user="u999@example.com") == {"au999@example.com"}
