"""How much a user may send: windows that slide, counters that last, and what a refused message does not count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import limits
from components.chasquid.policy.limits import DAY, HOUR, MINUTE, Near, Over, Store

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Clock

ALICE, BOB = "alice@example.com", "bob@example.com"
SAME = ("to@receiver.test",)


def send(store: Store, settings: dict[str, Any], number: int = 1, to: tuple[str, ...] = SAME) -> Over | list[Near]:
    answer: Over | list[Near] = []
    for _ in range(number):
        answer = store.admit(ALICE, to, settings)
    return answer


def test_a_message_over_the_minute_waits_exactly_until_it_fits(
    store: Store, clock: Clock, settings: dict[str, Any]
) -> None:
    send(store, settings)
    clock.now += 10
    send(store, settings, 3)
    over = send(store, settings)
    assert isinstance(over, Over)
    assert (over.limit, over.wait) == (4, 50)
    clock.now += 49
    assert isinstance(send(store, settings), Over)
    clock.now += 1
    assert not isinstance(send(store, settings), Over)


@pytest.mark.parametrize(("window", "most"), [(HOUR, 8), (DAY, 12)])
def test_hours_and_days_are_limited_too(
    store: Store, clock: Clock, settings: dict[str, Any], window: int, most: int
) -> None:
    step = window / 20
    taken = 0
    for _ in range(19):
        taken += not isinstance(send(store, settings), Over)
        clock.now += step
    assert taken == most


def test_each_recipient_counts(store: Store, settings: dict[str, Any]) -> None:
    assert not isinstance(send(store, settings, to=("a@x", "b@x", "c@x")), Over)
    assert isinstance(send(store, settings, to=("a@x", "b@x")), Over)
    assert not isinstance(send(store, settings, to=("a@x",)), Over)


def test_a_refused_message_counts_nothing(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    send(store, settings, 50)
    clock.now += MINUTE
    assert not isinstance(send(store, settings, 4), Over)


def test_only_recipients_never_written_to_count_as_new(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    for number in range(6):
        assert not isinstance(send(store, settings, to=(f"{number}@x",)), Over)
        clock.now += MINUTE
    assert not isinstance(send(store, settings, to=("3@x",)), Over)
    clock.now += HOUR
    over = send(store, settings, to=("new@x",))
    assert isinstance(over, Over)
    assert "never wrote to" in over.what


def test_one_user_does_not_count_for_another(store: Store, settings: dict[str, Any]) -> None:
    send(store, settings, 9)
    assert not isinstance(store.admit(BOB, SAME, settings), Over)


def test_counters_survive_a_restart(store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any]) -> None:
    send(store, settings, 4)
    assert isinstance(send(Store(tmp_path, clock), settings), Over)


def test_a_damaged_file_is_put_aside_and_counting_begins_anew(
    tmp_path: Path, clock: Clock, settings: dict[str, Any]
) -> None:
    (tmp_path / limits.FILE).write_bytes(b"no database" * 1000)
    assert not isinstance(send(Store(tmp_path, clock), settings), Over)
    assert (tmp_path / f"damaged-{limits.FILE}").exists()


def test_a_new_user_is_held_back_and_let_go_day_by_day(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=100, hour=100, day=7, warmUp=2)
    assert isinstance(send(store, settings, 3), Over)
    clock.now += DAY
    assert not isinstance(send(store, settings, 4), Over)
    assert isinstance(send(store, settings), Over)
    clock.now += DAY
    assert not isinstance(send(store, settings, 7), Over)
    assert isinstance(send(store, settings), Over)


def test_a_new_address_of_the_server_holds_all_users_back_together_for_two_weeks(
    store: Store, clock: Clock, settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["limits"].update(minute=10**6, hour=10**6, day=10**6, newRecipients=10**6)
    settings["warmUp"] = 2
    assert not isinstance(send(store, settings), Over)
    assert not isinstance(store.admit(BOB, SAME, settings), Over)
    over = send(store, settings)
    assert isinstance(over, Over)
    assert "address is new" in over.what
    clock.now += limits.RAMP_DAYS * DAY
    assert not isinstance(send(store, settings, 100), Over)
    settings["addresses"] = ["192.0.2.11"]
    assert isinstance(send(store, settings, 3), Over)


def test_the_one_message_that_passes_four_fifths_is_told_of(store: Store, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=10, hour=100, day=100)
    tellings = [send(store, settings) for _ in range(10)]
    assert [index for index, near in enumerate(tellings) if near] == [7]
    assert tellings[7] == [Near(ALICE, "a minute", 8, 10)]


def test_a_suspension_is_a_file_that_a_person_can_see(store: Store, tmp_path: Path) -> None:
    (tmp_path / "suspended").mkdir()
    (tmp_path / "suspended" / ALICE).write_text('{"since": "2026-11-24T10:00:00Z", "reason": "lost"}')
    assert store.suspended(ALICE)
    assert not store.suspended(BOB)
    assert not store.suspended(f"../suspended/{ALICE}")
    assert limits.suspended(tmp_path) == [{"user": ALICE, "since": "2026-11-24T10:00:00Z", "reason": "lost"}]


def test_a_target_has_a_rate_of_its_own(store: Store, clock: Clock) -> None:
    assert [store.take("forward:a@x", 1, HOUR, 2) for _ in range(2)] == [0, 0]
    assert store.take("forward:a@x", 1, HOUR, 2) == HOUR
    assert store.take("forward:b@x", 1, HOUR, 2) == 0
    clock.now += HOUR
    assert store.take("forward:a@x", 1, HOUR, 2) == 0


def test_usage_shows_what_was_sent_against_each_limit(
    store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any]
) -> None:
    send(store, settings, 2)
    used = limits.usage(tmp_path, ALICE, settings, clock.now)
    assert used == {"minute": (2, 4), "hour": (2, 8), "day": (2, 12), "newRecipients": (1, 6)}
    assert limits.usage(tmp_path / "nowhere", ALICE, settings)["day"] == (0, 12)


def test_the_reply_says_which_limit_and_when_to_try_again() -> None:
    text = Over("an hour", 8, 90).text(0)
    assert text == "4.7.1 Sending limit reached: 8 recipients an hour; try again in 2 min, after 1970-01-01 00:02 UTC"


def test_what_no_window_sees_is_forgotten(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    send(store, settings, 3)
    clock.now += limits.REMEMBERED + 1
    send(store, settings)
    rows = store._database.execute("SELECT COUNT(*) FROM sent WHERE at < ?", (clock.now - DAY,)).fetchone()
    assert rows == (0,)
