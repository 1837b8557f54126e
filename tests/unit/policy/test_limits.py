"""How much a user may send: windows that slide, counters that last, and what a refused message does not count."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import limits
from components.chasquid.policy.limits import DAY, HOUR, MINUTE, Near, Over, Store

if TYPE_CHECKING:
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
    clock.now += over.wait - 1
    assert isinstance(send(store, settings, to=("new@x",)), Over)
    clock.now += 1
    assert not isinstance(send(store, settings, to=("new@x",)), Over)


def test_a_recipient_not_written_to_for_ninety_days_is_new_again(
    store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_forget", lambda *_: None)  # it may come late
    send(store, settings, to=("a@x", "A@X"))
    assert limits.usage(tmp_path, ALICE, settings, clock.now)["newRecipients"] == (1, 6)
    clock.now += limits.REMEMBERED - 1
    send(store, settings, to=("a@x",))
    assert limits.usage(tmp_path, ALICE, settings, clock.now)["newRecipients"] == (0, 6)
    clock.now += limits.REMEMBERED - 1
    send(store, settings, to=("a@x",))
    assert limits.usage(tmp_path, ALICE, settings, clock.now)["newRecipients"] == (0, 6)
    clock.now += limits.REMEMBERED
    send(store, settings, to=("a@x",))
    assert limits.usage(tmp_path, ALICE, settings, clock.now)["newRecipients"] == (1, 6)


@pytest.mark.parametrize(("limit", "what"), [("minute", "a minute"), ("newRecipients", "never wrote to")])
def test_a_message_too_big_for_a_limit_hears_that_it_never_fits(
    store: Store, settings: dict[str, Any], limit: str, what: str
) -> None:
    settings["users"][ALICE]["limits"][limit] = 2
    over = send(store, settings, to=("a@x", "b@x", "c@x"))
    assert isinstance(over, Over)
    assert over.is_final
    assert over.text(0).startswith("5.5.3")
    assert f"2 recipients {over.what}" in over.text(0)
    assert what in over.what


def test_a_message_too_big_for_a_ramp_alone_waits(store: Store, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(warmUp=2)
    over = send(store, settings, to=("a@x", "b@x", "c@x"))
    assert isinstance(over, Over)
    assert (over.wait, over.what) == (DAY, "a day while the user is new")
    settings["users"][ALICE]["limits"].update(warmUp=0)
    settings["warmUp"] = 2
    over = send(store, settings, to=("a@x", "b@x", "c@x"))
    assert isinstance(over, Over)
    assert (over.wait, over.what) == (DAY, "a day while this server's address is new")


def test_the_reply_names_the_limit_that_holds_longest(store: Store, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=1, hour=1)
    send(store, settings)
    over = send(store, settings)
    assert isinstance(over, Over)
    assert (over.what, over.wait) == ("an hour", HOUR)


def test_a_refused_message_does_not_start_a_ramp(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=100, hour=100, day=100, warmUp=1)
    assert isinstance(send(store, settings, to=("a@x", "b@x")), Over)
    clock.now += 3 * DAY
    assert isinstance(send(store, settings, to=("a@x", "b@x")), Over)


def test_what_a_clock_that_was_ahead_counted_does_not_block_for_long(
    store: Store, clock: Clock, settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["limits"].update(hour=100, day=100, newRecipients=2)
    clock.now += 1000 * DAY
    send(store, settings, 2, to=("a@x", "b@x"))
    clock.now -= 1000 * DAY
    assert not isinstance(send(store, settings, 2, to=("c@x", "d@x")), Over)
    clock.now -= 30  # set back a little, all still counts
    assert isinstance(send(store, settings), Over)


def test_a_busy_users_window_has_few_rows_and_never_lets_more_through(
    store: Store, clock: Clock, settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["limits"].update(minute=30, hour=1000, day=10**6)
    taken = []
    for _ in range(400):
        clock.now += 0.37
        if not isinstance(send(store, settings), Over):
            taken.append(clock.now)
    for start in taken:
        assert sum(start <= at < start + MINUTE for at in taken) <= 30
    assert len(taken) >= 30 * 2
    (rows,) = store._database.execute("SELECT COUNT(*) FROM sent WHERE key = ?", (ALICE,)).fetchone()
    assert rows <= 61 + 4 + 2


def test_one_user_does_not_count_for_another(store: Store, settings: dict[str, Any]) -> None:
    send(store, settings, 9)
    assert not isinstance(store.admit(BOB, SAME, settings), Over)


def test_counters_survive_a_restart(store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any]) -> None:
    send(store, settings, 4)
    assert isinstance(send(Store(tmp_path, clock), settings), Over)


def test_counters_survive_a_kill(clock: Clock, tmp_path: Path, settings: dict[str, Any]) -> None:
    program = (
        "import os, signal, pathlib, policy.limits as limits\n"
        f"store = limits.Store(pathlib.Path({str(tmp_path)!r}), lambda: {clock.now})\n"
        f"store.admit({ALICE!r}, [{SAME[0]!r}] * 4, {settings!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-B", "-c", program], cwd=Path(limits.__file__).parents[1], check=False)
    over = send(Store(tmp_path, clock), settings)
    assert isinstance(over, Over)
    assert over.what == "a minute"


def test_two_processes_cannot_pass_a_limit_together(
    store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any]
) -> None:
    other = Store(tmp_path, clock)
    answers = [send(one, settings) for _ in range(4) for one in (store, other)]
    assert [isinstance(answer, Over) for answer in answers] == [False] * 4 + [True] * 4


def test_a_damaged_file_is_put_aside_and_counting_begins_anew(
    tmp_path: Path, clock: Clock, settings: dict[str, Any]
) -> None:
    (tmp_path / limits.FILE).write_bytes(b"no database" * 1000)
    store = Store(tmp_path, clock)
    assert store.damaged
    assert not isinstance(send(store, settings), Over)
    assert (tmp_path / f"damaged-{limits.FILE}").read_bytes().startswith(b"no database")


def test_what_belongs_to_a_damaged_file_goes_with_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{limits.FILE}{suffix}" for suffix in ("", "-wal", "-shm")]
    for name in names:
        (tmp_path / name).write_text(f"old {name}")
    connect, problems = limits._connect, [sqlite3.DatabaseError("database disk image is malformed")]

    def damaged_once(path: Path) -> sqlite3.Connection:
        if problems:
            raise problems.pop()
        return connect(path)

    monkeypatch.setattr(limits, "_connect", damaged_once)
    Store(tmp_path, clock)
    for name in names:
        assert (tmp_path / f"damaged-{name}").read_text() == f"old {name}"


def test_damage_deep_in_a_file_is_found_at_the_start(
    store: Store, clock: Clock, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["limits"].update(minute=10**4, hour=10**4, day=10**4, newRecipients=10**4)
    send(store, settings, to=tuple(f"{number}@x" for number in range(2000)))
    store._database.close()
    file = tmp_path / limits.FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    assert Store(tmp_path, clock).damaged


def test_a_file_that_cannot_be_opened_for_now_is_left_alone(
    store: Store, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(limits, "_connect", fail)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Store(tmp_path, clock)
    assert [file for file in tmp_path.iterdir() if "damaged" in file.name] == []


def test_counters_are_written_ahead_so_that_a_kill_tears_none(store: Store, tmp_path: Path) -> None:
    assert (tmp_path / f"{limits.FILE}-wal").exists()


def test_a_file_damaged_while_in_use_costs_one_message_its_verdict(
    store: Store, tmp_path: Path, settings: dict[str, Any]
) -> None:
    send(store, settings, 4)
    assert isinstance(send(store, settings), Over)
    store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database.execute("PRAGMA shrink_memory")  # or it goes by what it has read
    (tmp_path / limits.FILE).write_bytes(b"no database" * 10000)
    with pytest.raises(sqlite3.DatabaseError):
        send(store, settings)
    assert store.damaged
    assert not isinstance(send(store, settings), Over)


def test_a_file_that_is_only_locked_is_not_put_aside(
    store: Store, tmp_path: Path, clock: Clock, settings: dict[str, Any]
) -> None:
    send(store, settings, 4)
    store._database.execute("PRAGMA busy_timeout = 0")
    with sqlite3.connect(tmp_path / limits.FILE, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            send(store, settings)
        other.execute("ROLLBACK")
    other.close()
    assert isinstance(send(store, settings), Over)
    assert [file for file in tmp_path.iterdir() if "damaged" in file.name] == []


def test_a_failed_message_counts_nothing(
    store: Store, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(limits, "_forget", fail)
        for _ in range(5):
            with pytest.raises(OSError):  # noqa: PT011
                send(store, settings)
    assert not isinstance(send(store, settings, 4), Over)


def test_a_new_user_is_held_back_and_let_go_day_by_day(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=100, hour=100, day=7, warmUp=2)
    assert isinstance(send(store, settings, 3), Over)
    clock.now += DAY
    assert not isinstance(send(store, settings, 4), Over)
    assert isinstance(send(store, settings), Over)
    clock.now += DAY
    assert not isinstance(send(store, settings, 7), Over)
    assert isinstance(send(store, settings), Over)
    clock.now += 2000 * DAY
    assert not isinstance(send(store, settings, 7), Over)


def test_a_ramp_grows_by_whole_days(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    settings["users"][ALICE]["limits"].update(minute=100, hour=100, day=100, warmUp=10)
    send(store, settings)
    clock.now += 2 * DAY - 1
    assert isinstance(send(store, settings, 21), Over)


def test_the_ramp_of_a_host_ends_after_two_weeks_and_goes_by_its_youngest_address(
    store: Store, clock: Clock, settings: dict[str, Any]
) -> None:
    settings["users"][ALICE]["limits"].update(minute=10**6, hour=10**6, day=10**6, newRecipients=10**6)
    settings["warmUp"] = 1
    send(store, settings)
    clock.now += limits.RAMP_DAYS * DAY - 1
    assert isinstance(send(store, settings, to=SAME * (2**13 + 1)), Over)
    assert not isinstance(send(store, settings, to=SAME * 2**13), Over)
    clock.now += 1
    assert not isinstance(send(store, settings, to=SAME * 2**14), Over)
    settings["addresses"] = ["192.0.2.10", "2001:db8::1"]
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


def test_marks_that_cannot_be_looked_at_are_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "suspended").write_text("no folder")
    with pytest.raises(NotADirectoryError):
        store.suspended(ALICE)


def test_a_target_has_a_rate_of_its_own(store: Store, clock: Clock) -> None:
    assert [store.take("forward:a@x", 1, HOUR, 2) for _ in range(2)] == [0, 0]
    assert store.take("forward:a@x", 1, HOUR, 2) == HOUR
    clock.now += HOUR - 0.5
    assert store.take("forward:a@x", 1, HOUR, 2) == 1
    clock.now -= HOUR - 0.5
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
    store.take("forward:a@x", 1, HOUR, 2)
    rows = store._database.execute("SELECT COUNT(*) FROM sent WHERE at < ?", (clock.now,)).fetchone()
    assert rows == (0,)
    send(store, settings, to=("other@x",))
    assert store._database.execute("SELECT recipient FROM known ORDER BY 1").fetchall() == [("other@x",), SAME]


def test_forgetting_is_bounded(store: Store, clock: Clock, settings: dict[str, Any]) -> None:
    for number in range(120):
        store.take(f"forward:{number}", 1, MINUTE, 2)
    clock.now += HOUR
    store.take("forward:a", 1, MINUTE, 2)
    assert store._database.execute("SELECT COUNT(*) FROM sent").fetchone() == (71,)
