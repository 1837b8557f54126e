"""Staging: a set is there as a whole under the name both sides compute, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.chasquid import config

if TYPE_CHECKING:
    from conftest import FakeHost

ALIASES: dict[str, Any] = {
    "domains/example.com/aliases": {"mode": "0640", "lines": ["i: me@example.net", "ü: x@y.example"]}
}


def sets(host: FakeHost, kind: str) -> list[str]:
    return sorted(path.name for path in host.path(f"etc/mailroom/staged/{kind}").iterdir())


def test_a_set_is_named_by_the_digest_that_the_program_computes(host: FakeHost) -> None:
    answer = host.run("stage", {"kind": "plain", "files": ALIASES})
    assert answer.stdout.startswith("changed: ")
    assert sets(host, "plain") == [config.digest(ALIASES)]
    staged = host.path(f"etc/mailroom/staged/plain/{config.digest(ALIASES)}/domains/example.com/aliases")
    assert staged.read_text() == "i: me@example.net\nü: x@y.example\n"


def test_staging_again_changes_nothing(host: FakeHost) -> None:
    host.run("stage", {"kind": "plain", "files": ALIASES})
    assert host.run("stage", {"kind": "plain", "files": ALIASES}).stdout == "ok: nothing to do\n"


def test_nobody_but_root_can_read_what_is_staged(host: FakeHost) -> None:
    host.run("stage", {"kind": "secret", "files": ALIASES})
    staged = host.path("etc/mailroom/staged")
    for path in [staged, *staged.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    "path", ["../current", "/etc/passwd", "domains/../../x", "domains//x", "", ".", "domains/./x", "domains/"]
)
def test_a_path_that_leaves_the_set_is_refused_before_anything_is_written(host: FakeHost, path: str) -> None:
    answer = host.run("stage", {"kind": "plain", "files": {**ALIASES, path: {"mode": "0640", "lines": ["x"]}}})
    assert answer.status == 1
    assert repr(path) in answer.stderr
    assert not host.path("etc/mailroom/staged").exists()


def test_an_unknown_kind_is_refused(host: FakeHost) -> None:
    assert host.run("stage", {"kind": "../plain", "files": ALIASES}).status == 1


def test_the_newest_two_sets_of_a_kind_are_kept(host: FakeHost) -> None:
    files = [{"a": {"mode": "0640", "lines": [str(number)]}} for number in range(4)]
    for one in files:
        host.run("stage", {"kind": "secret", "files": one})
    host.run("stage", {"kind": "plain", "files": ALIASES})
    assert sets(host, "secret") == sorted(config.digest(one) for one in files[2:])


def test_a_run_killed_anywhere_leaves_no_half_set(host: FakeHost) -> None:
    step = 0
    while host.killed_at(step, lambda: host.run("stage", {"kind": "plain", "files": ALIASES})):
        target = host.path(f"etc/mailroom/staged/plain/{config.digest(ALIASES)}")
        assert not target.exists() or (target / ".modes.json").is_file()
        step += 1
    assert step > 3
    assert host.run("stage", {"kind": "plain", "files": ALIASES}).stdout == "ok: nothing to do\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the function under test is pure
@given(
    st.dictionaries(
        st.text(max_size=9),
        st.fixed_dictionaries({"mode": st.sampled_from(["0640", "0755"]), "lines": st.lists(st.text(max_size=9))}),
        max_size=3,
    )
)
def test_both_sides_compute_one_digest(host: FakeHost, files: dict[str, Any]) -> None:
    assert host.modules["stage"].digest(files) == config.digest(files)
