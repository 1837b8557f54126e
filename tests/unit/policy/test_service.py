"""The service that chasquid asks about each message: whatever goes wrong defers, nothing is taken unjudged."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import limits, notices, service
from components.chasquid.policy.message import ACCEPT, DEFER, REFUSE, Verdict
from components.chasquid.policy.service import Service, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Clock

    from components.chasquid.policy.limits import Store
    from components.chasquid.policy.message import Request

ALICE = "alice@example.com"
MESSAGE = f"From: {ALICE}\nTo: to@receiver.test\n\nHello\n".encode()


@pytest.fixture
def file(tmp_path: Path, settings: dict[str, Any]) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def policy(file: Path, store: Store) -> Service:
    return Service(Settings(file), store)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Subjects of the notices."""
    said: list[str] = []
    monkeypatch.setattr(notices, "tell", lambda subject, *_: said.append(subject))
    return said


def judge(policy: Service, request: Request) -> Verdict:
    return policy._verdict(request)


def test_a_users_own_message_is_taken(policy: Service, ask: Callable[..., Request]) -> None:
    assert judge(policy, ask()) == Verdict(ACCEPT)


def test_too_many_recipients_are_refused_for_good_and_counted_nowhere(
    policy: Service, ask: Callable[..., Request]
) -> None:
    verdict = judge(policy, ask(recipients=tuple(f"{number}@x.test" for number in range(4))))
    assert (verdict.status, verdict.text[:5]) == (REFUSE, "5.5.3")
    assert "3 are allowed" in verdict.text
    assert judge(policy, ask(recipients=("a@x.test", "b@x.test", "c@x.test"))).status == ACCEPT


def test_over_a_limit_the_message_waits_at_the_client(
    policy: Service, ask: Callable[..., Request], told: list[str]
) -> None:
    assert [judge(policy, ask()).status for _ in range(4)] == [ACCEPT] * 4
    verdict = judge(policy, ask())
    assert (verdict.status, verdict.text[:5]) == (DEFER, "4.7.1")
    assert told == [f"{ALICE} is close to a sending limit"]


def test_a_message_that_can_never_be_sent_is_refused_for_good(
    policy: Service, ask: Callable[..., Request], settings: dict[str, Any], file: Path, told: list[str]
) -> None:
    settings["users"][ALICE]["limits"]["minute"] = 1
    file.write_text(json.dumps(settings))
    verdict = judge(policy, ask(recipients=("a@x.test", "b@x.test")))
    assert (verdict.status, verdict.text[:5]) == (REFUSE, "5.5.3")
    assert told == []


def test_the_postmaster_hears_of_a_limit_once_a_day_whatever_restarts(
    policy: Service, ask: Callable[..., Request], file: Path, tmp_path: Path, clock: Clock, told: list[str]
) -> None:
    for _ in range(4):
        judge(policy, ask())
    clock.now += limits.MINUTE
    again = Service(Settings(file), limits.Store(tmp_path, clock))
    for _ in range(4):
        judge(again, ask())
    assert told == [f"{ALICE} is close to a sending limit"] * 2  # a minute, and an hour
    clock.now += limits.DAY + limits.DAY / limits.STEPS
    for _ in range(4):
        judge(again, ask())
    assert len(told) == 3


def test_the_postmaster_hears_of_mail_that_waits_without_having_come_close(
    policy: Service, ask: Callable[..., Request], told: list[str]
) -> None:
    judge(policy, ask(recipients=("to@receiver.test",) * 2))
    assert told == []
    assert judge(policy, ask(recipients=("to@receiver.test",) * 3)).status == DEFER
    assert told == [f"{ALICE} is close to a sending limit"]


def test_a_message_that_cannot_be_signed_waits_and_counts_nothing(
    policy: Service, ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def fail(*_: object) -> list[str]:
        raise service.signature.Unsigned("example.com cannot sign now")

    with monkeypatch.context() as patch:
        patch.setattr(service.signature, "headers", fail)
        for _ in range(5):
            verdict = judge(policy, ask())
    assert (verdict.status, verdict.text) == (DEFER, "4.7.5 example.com cannot sign now; ask the postmaster")
    assert judge(policy, ask(recipients=("a@x.test", "b@x.test", "c@x.test"))).status == ACCEPT


def test_lost_counters_are_told_once(
    policy: Service, store: Store, ask: Callable[..., Request], told: list[str]
) -> None:
    store.damaged = True
    judge(policy, ask())
    judge(policy, ask())
    assert told == ["The sender policy has lost its counters"]
    assert not store.damaged


def test_users_are_served_while_all_strangers_wait_for_dns(
    policy: Service, ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, waiting = threading.Event(), threading.Semaphore(0)

    def slowly(*_: object) -> Verdict:
        waiting.release()
        go.wait(10)
        return Verdict.accept()

    monkeypatch.setattr(service.gate, "judge", slowly)
    with ThreadPoolExecutor(service.WORKERS) as workers:
        asked = [workers.submit(judge, policy, ask(user="")) for _ in range(service.STRANGERS)]
        for _ in asked:
            assert waiting.acquire(timeout=10)
        assert judge(policy, ask()).status == ACCEPT
        verdict = judge(policy, ask(user=""))
        assert (verdict.status, verdict.text[:5]) == (DEFER, "4.3.2")
        go.set()
        assert {one.result().status for one in asked} == {ACCEPT}
    assert judge(policy, ask(user="")).status == ACCEPT


@pytest.mark.parametrize(
    ("error", "shown"), [(OSError(13, "Permission denied"), True), (ValueError("the text of a message"), False)]
)
def test_an_error_of_ours_defers_and_is_logged_without_a_word_of_the_message(
    policy: Service, ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: Exception, shown: bool,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(service.signature, "headers", fail)
    verdict = judge(policy, ask())
    assert (verdict.status, verdict.text[:5]) == (DEFER, "4.3.0")
    assert "test_service.py" in caplog.messages[0]
    assert type(error).__name__ in caplog.messages[0]
    assert (str(error) in caplog.text) is shown
    assert "\n" not in caplog.messages[0]


def test_parallel_messages_cannot_pass_a_limit_together(policy: Service, ask: Callable[..., Request]) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(judge(policy, ask()).status)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(ACCEPT) == 4


def test_a_suspended_user_is_refused_before_anything_else(
    policy: Service, ask: Callable[..., Request], tmp_path: Path
) -> None:
    (tmp_path / "suspended").mkdir()
    (tmp_path / "suspended" / ALICE).write_text("{}")
    assert judge(policy, ask(user="Alice@example.com")).status == REFUSE


@pytest.mark.parametrize("login", ["alice+shop@example.com", "Alice+Shop@EXAMPLE.com"])
def test_a_token_is_its_user_for_every_rule(
    policy: Service, file: Path, settings: dict[str, Any], ask: Callable[..., Request], tmp_path: Path, login: str
) -> None:
    settings["users"][ALICE]["logins"] = [ALICE, "alice+shop@example.com"]
    file.write_text(json.dumps(settings))
    assert judge(policy, ask(user=login, recipients=("a@x.test", "b@x.test"))).status == ACCEPT
    assert judge(policy, ask(user=ALICE, recipients=("a@x.test", "b@x.test"))).status == ACCEPT
    assert judge(policy, ask(user=login)).status == DEFER, "both count: four a minute"
    assert judge(policy, ask(user=login, From="bob@example.com")).status == REFUSE
    (tmp_path / "suspended").mkdir()
    (tmp_path / "suspended" / ALICE).write_text("{}")
    assert judge(policy, ask(user=login)).status == REFUSE


@pytest.mark.parametrize(
    ("logins", "login"),
    [
        ([ALICE, "alice+shop@example.com"], "alice+gone@example.com"),
        ([ALICE, "alice+shop@example.com"], "alice+shop+shop@example.com"),
        ([], ALICE),
        ([ALICE], "gone@example.com"),
        ([ALICE], "gone+shop@example.com"),
        ([ALICE], "alice@other.example"),
    ],
)
def test_a_session_that_outlives_its_login_sends_no_more(
    policy: Service, file: Path, settings: dict[str, Any], ask: Callable[..., Request], logins: list[str], login: str
) -> None:
    settings["users"][ALICE]["logins"] = logins
    file.write_text(json.dumps(settings))
    verdict = judge(policy, ask(login if "+" not in login else ALICE, user=login))
    assert verdict.status == REFUSE
    assert f"{login} may not send any more" in verdict.text


def test_the_log_tells_which_token_sent(
    policy: Service, ask: Callable[..., Request], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        judge(policy, ask(user="alice+shop@example.com"))
    assert "user=alice+shop@example.com " in caplog.text


def test_the_postmaster_hears_of_a_user_that_keeps_forging(
    policy: Service, ask: Callable[..., Request], told: list[str]
) -> None:
    for _ in range(10):
        assert judge(policy, ask(sender="ceo@bank.test")).status == REFUSE
    assert told == []
    judge(policy, ask(sender="ceo@bank.test"))
    assert told == [f"{ALICE} tries to send as somebody else"]


def test_the_probes_forgeries_are_nobodys_business(
    policy: Service, ask: Callable[..., Request], told: list[str]
) -> None:
    for _ in range(12):
        judge(policy, ask(sender="forged@probe.invalid", user="probe@probe.invalid", From="forged@probe.invalid"))
    assert told == []


def test_a_message_that_is_only_malformed_is_no_forgery(
    policy: Service, ask: Callable[..., Request], told: list[str]
) -> None:
    for _ in range(12):
        assert judge(policy, ask(Sender=f"{ALICE}, {ALICE}")).status == REFUSE
    assert told == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", None])
def test_settings_that_cannot_be_read_defer_everything(
    policy: Service, ask: Callable[..., Request], file: Path, content: str | None
) -> None:
    judge(policy, ask())
    file.unlink()
    if content is not None:
        file.write_text(content)
    verdict = judge(policy, ask())
    assert (verdict.status, verdict.text[:5]) == (DEFER, "4.3.0")


def test_changed_settings_hold_for_the_next_message(
    policy: Service, ask: Callable[..., Request], file: Path, settings: dict[str, Any]
) -> None:
    assert judge(policy, ask(sender="new@example.com", From="new@example.com")).status == REFUSE
    settings["users"][ALICE]["identities"].append("new@example.com")
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(settings))
    fresh.rename(file)
    assert judge(policy, ask(sender="new@example.com", From="new@example.com")).status == ACCEPT


def test_no_stranger_writes_a_second_line_into_the_log(
    policy: Service, ask: Callable[..., Request], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="policy"):
        judge(policy, ask(sender="a@x.test\nrefused user=bob"))
    assert "\n" not in caplog.messages[0]


# At its socket

Asked = "Callable[..., tuple[int | None, bytes]]"


@pytest.fixture
def asked(policy: Service, tmp_path: Path, exchange: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The service at a real socket; gives its verdict about a message and its text."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        thread = threading.Thread(target=policy.serve, args=(listener,))
        thread.start()
        yield lambda *message, **fields: exchange(path, *message, **fields)
        policy.stop()
        thread.join()


def test_a_message_is_taken_with_header_fields_and_nothing_else(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked() == (ACCEPT, b"")
    monkeypatch.setattr(service.signature, "headers", lambda *_: ["X-One: 1", "X-Two: 2\n more"])
    assert asked() == (ACCEPT, b"X-One: 1\nX-Two: 2\n more\n")


def test_each_part_and_every_byte_is_looked_at(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Service, "judge", lambda _, request, __: seen.append(request) or Verdict.accept())
    message = MESSAGE + bytes(range(256)) * 9000
    assert asked(message, RCPT_TO="a@x.test b@y.test", SPF_PASS="1", MAIL_FROM="<>")[0] == ACCEPT
    assert seen[0].message == message
    assert (seen[0].recipients, seen[0].spf_pass, seen[0].sender) == (("a@x.test", "b@y.test"), True, "")


def test_a_refusal_has_the_words_of_the_policy(asked: Asked) -> None:
    verdict, text = asked(MAIL_FROM="ceo@bank.test")
    assert verdict == REFUSE
    assert text.startswith(b"5.7.1 alice@example.com may not send as ceo@bank.test")


def test_a_request_that_nobody_waits_for_any_more_counts_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []
    monkeypatch.setattr(Service, "judge", lambda _, request, __: judged.append(request) or Verdict.accept())
    monkeypatch.setattr(service, "LIMIT", -1.0)  # every worker was busy for longer
    assert (asked(), judged) == ((None, b""), [])


def test_a_stopping_service_answers_who_has_asked(
    asked: Asked, policy: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = threading.Event()

    def slowly(*_: object) -> Verdict:
        at_work.set()
        time.sleep(0.3)
        return Verdict.accept()

    monkeypatch.setattr(Service, "judge", slowly)
    answers: list[int | None] = []
    thread = threading.Thread(target=lambda: answers.append(asked()[0]))
    thread.start()
    at_work.wait(5)
    policy.stop()
    thread.join()
    assert answers == [0]


@pytest.mark.parametrize(("root", "code"), [(os.getuid(), 0), (os.getuid() + 1, 20)])
def test_a_notice_of_root_is_sent_and_one_of_anybody_else_is_not(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, root: int, code: int
) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(notices, "tell", lambda subject, text, _: sent.append((subject, text)))
    monkeypatch.setattr(notices, "ROOT", root)
    message = b"Subject: Certificates\n\nnot renewed\n\nmore\n"
    assert asked(message, REMOTE_ADDR="notice", AUTH_AS="")[0] == code
    assert sent == ([("Certificates", "not renewed\n\nmore\n")] if code == 0 else [])
