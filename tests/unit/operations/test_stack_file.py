"""Values written into a stack file: each of them changes, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from operations.stack_file import Quoted, StackFile, listing, of_stack, with_host_key, with_value
from standards.finding import Problems

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1haWxyb29tTWFpbHJvb21NYWlscm9vbU1haWxyb29t"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJpPEQfz2RN0X9sXlVJ4Ud5jzqxRkQy0sQ6yWb0mV3cT"
FILE = f"""\
# my stack
config:
  mailroom:hosts:
    - name: a.example.com # the first
      ipv4: 192.0.2.9
      hostKey: {OTHER}
    - name: smtp.example.com   # EHLO name
      ipv4: 192.0.2.10 # rented
      ipv6: "2001:db8::10" # the /64's ten
      # comes later

      arch: amd64
  cloudflare:apiToken:
    secure: v1:abc=
"""


def test_a_missing_key_is_put_below_the_addresses_and_comments_stay() -> None:
    changed = with_host_key(FILE, "192.0.2.10", KEY)
    place = '      ipv6: "2001:db8::10" # the /64\'s ten\n'
    assert changed == FILE.replace(place, f"{place}      hostKey: {KEY}\n")


def test_the_host_is_found_by_its_ipv6_address_too() -> None:
    assert with_host_key(FILE, "2001:db8::10", KEY) == with_host_key(FILE, "192.0.2.10", KEY)


@pytest.mark.parametrize("value", [OTHER, f'"{OTHER}"', f"'{OTHER}'", f"{OTHER} # old"])
def test_another_key_is_replaced_in_its_place(value: str) -> None:
    text = FILE.replace("      arch", f"      hostKey: {value}\n      arch")
    changed = with_host_key(text, "192.0.2.10", KEY)
    comment = " # old" if "#" in value else ""
    assert changed == FILE.replace("      arch", f"      hostKey: {KEY}{comment}\n      arch")


@pytest.mark.parametrize(
    "empty", ["hostKey:", "hostKey: ", "hostKey: # to come", "hostKey: ''", "hostKey: |\n        x"]
)
def test_a_key_without_a_value_gets_one(empty: str) -> None:
    text = FILE.replace("      arch", f"      {empty}\n      arch")
    changed = with_host_key(text, "192.0.2.10", KEY)
    assert changed is not None
    hosts = yaml.safe_load(changed)["config"]["mailroom:hosts"]
    assert hosts[1]["hostKey"] == KEY
    assert hosts[0]["hostKey"] == OTHER
    assert ("# to come" in changed) == ("# to come" in empty)


def test_a_host_on_one_line_stays_on_one_line() -> None:
    text = "config:\n  mailroom:hosts: [{ipv4: 192.0.2.10, name: a.example.com}] # short\n"
    expected = f"config:\n  mailroom:hosts: [{{ipv4: 192.0.2.10, hostKey: {KEY}, name: a.example.com}}] # short\n"
    assert with_host_key(text, "192.0.2.10", KEY) == expected


def test_a_file_without_a_final_line_end_is_no_obstacle() -> None:
    text = "config:\n  mailroom:hosts:\n  - ipv4: 192.0.2.10"
    assert with_host_key(text, "192.0.2.10", KEY) == f"{text}\n    hostKey: {KEY}"


def test_a_layout_in_which_more_would_change_is_left_to_a_person(tmp_path: Path) -> None:
    shared = "config:\n  mailroom:hosts:\n  - &a {ipv4: 192.0.2.10}\n  - *a\n"
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(shared)
    assert with_host_key(shared, "192.0.2.10", KEY) is None
    with pytest.raises(Problems, match=f"write it yourself: hostKey: {KEY}"):
        StackFile.read(path).pin("192.0.2.10", KEY)
    assert path.read_text() == shared


def test_the_file_is_replaced_as_a_whole_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "Pulumi.prod.yaml"
    real.write_text(FILE)
    real.chmod(0o640)
    link.symlink_to(real)
    StackFile.read(link).pin("192.0.2.10", KEY)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert KEY in real.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Pulumi.prod.yaml", "real.yaml"]


def test_stacks_that_list_an_address_are_found_and_broken_files_are_passed_by(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text(FILE)
    (tmp_path / "Pulumi.other.yaml").write_text("config: {}\n")
    (tmp_path / "Pulumi.broken.yaml").write_text("config: [\n")
    assert [file.stack for file in listing("192.0.2.10", tmp_path)] == ["prod"]
    assert of_stack("organization/prod", tmp_path).entry("192.0.2.9") is not None


def test_a_stack_without_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Problems, match=r"Pulumi\.nope\.yaml: there is none"):
        of_stack("nope", tmp_path)


DOMAINS = """\
# my stack
config:
  mailroom:hosts: # one
    - name: smtp.example.com
  mailroom:domains:
    - name: example.com # the first
      spf: {mechanisms: [], all: "~all"} # ours
      dkim: [{selector: m1}]
    - zoneId: "0123" # the second
      name: second.test
      spf: # by hand
        includes:
          - _spf.google.com # the office
        # the end
        all: '~all' # soft
    - {name: third.test}
    - name: fourth.test
      spf:
"""
SPF = ("mailroom:domains", 0, "spf")


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        ((*SPF, "mechanisms"), ["ip4:192.0.2.7", "mx"], "mechanisms: []", "mechanisms: ['ip4:192.0.2.7', mx]"),
        ((*SPF, "mechanisms"), ["exists:%{i}.x.example", "?a:x.example"], "mechanisms: []",
         "mechanisms: ['exists:%{i}.x.example', '?a:x.example']"),
        ((*SPF, "includes"), ["a.test"], '"~all"} # ours', '"~all", includes: [a.test]} # ours'),
        ((*SPF, "all"), Quoted("-all"), '"~all"} # ours', '"-all"} # ours'),
        (("mailroom:domains", 0, "dkim"), [{"selector": "m1"}, {"selector": "m2"}], "[{selector: m1}]",
         "[{selector: m1}, {selector: m2}]"),
        (("mailroom:domains", 1, "spf", "includes"), ["_spf.google.com", "a.test"], "# the office\n",
         "# the office\n          - a.test\n"),
        (("mailroom:domains", 1, "spf", "all"), Quoted("-all"), "'~all' # soft", '"-all" # soft'),
        (("mailroom:domains", 1, "spf", "adopt"), True, "# soft\n", "# soft\n        adopt: true\n"),
        (("mailroom:domains", 2, "spf", "includes"), ["a.test"], "third.test}",
         "third.test, spf: {includes: [a.test]}}"),
        (("mailroom:domains", 3, "spf", "all"), Quoted("?all"), "fourth.test\n      spf:",
         'fourth.test\n      spf: {all: "?all"}'),
        (("mailroom:adopted",), [Quoted("12e4")], "  mailroom:hosts", '  mailroom:adopted: ["12e4"]\n  mailroom:hosts'),
    ],
)  # fmt: skip
def test_a_value_is_written_where_it_belongs_and_comments_stay(
    path: tuple[str | int, ...], value: object, before: str, after: str
) -> None:
    assert with_value(DOMAINS, path, value) == DOMAINS.replace(before, after, 1)


ADOPTED = """\
config:
  mailroom:adopted: # of others
    - "0a" # the MX
    # the office's
    - '0b'
    - "0c" # the last
  mailroom:hosts: [] # none
"""
LINES = ADOPTED.partition("others\n")[2].partition("  mailroom:hosts")[0]
BRACKETS = ADOPTED.replace("# of others\n" + LINES, """["0a", '0b',  "0c"] # of others\n""")


@pytest.mark.parametrize(
    ("text", "value", "before", "after"),
    [
        (ADOPTED, ["0a", "0c"], "    - '0b'\n", ""),
        (ADOPTED, ["0b"], LINES, "    # the office's\n    - '0b'\n"),
        (ADOPTED, ["0b", Quoted("0d")], LINES, "    # the office's\n    - '0b'\n    - \"0d\"\n"),
        (ADOPTED, [Quoted("0d")], LINES, '    # the office\'s\n    - "0d"\n'),
        (ADOPTED, [], LINES, "      []\n    # the office's\n"),
        (ADOPTED.partition("  mailroom:hosts")[0].rstrip(), ["0a", "0b"], '\n    - "0c" # the last', "\n"),
        (BRACKETS, ["0a", "0b"], """'0b',  "0c"]""", "'0b']"),
        (BRACKETS, ["0c"], """["0a", '0b',  "0c"]""", '["0c"]'),
        (BRACKETS, ["0b", Quoted("0d")], """["0a", '0b',  "0c"]""", """['0b', "0d"]"""),
        (BRACKETS, [], """["0a", '0b',  "0c"]""", "[]"),
    ],
)
def test_an_item_goes_with_its_line_or_its_comma_and_the_others_stay_as_they_stand(
    text: str, value: list[str], before: str, after: str
) -> None:
    assert with_value(text, ("mailroom:adopted",), value) == text.replace(before, after, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (ADOPTED, ["0c", "0a"]),
        ("config:\n  mailroom:adopted: [0a, # why\n    0b]\n", ["0b"]),
        ("config:\n  mailroom:adopted:\n    - name: a # why\n    - name: b\n", [{"name": "b"}]),
    ],
    ids=["another order", "a comment in brackets", "items of several lines"],
)
def test_a_list_that_would_lose_more_than_an_item_is_left_to_a_person(text: str, value: list[object]) -> None:
    assert with_value(text, ("mailroom:adopted",), value) is None


@pytest.mark.parametrize(
    "text",
    [
        "config:\n  mailroom:domains:\n  - &a {name: x.test, spf: &s {all: x}}\n  - {name: y.test, spf: *s}\n",
        "config:\n  mailroom:domains:\n  - {name: x.test, spf: a text}\n",
        "config:\n  mailroom:domains: []\n",
        "config:\n",
    ],
    ids=["shared", "of another kind", "without the domain", "empty"],
)
def test_where_more_would_change_nothing_is_written(text: str, tmp_path: Path) -> None:
    assert with_value(text, (*SPF, "all"), "-all") is None
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(text)
    with pytest.raises(
        Problems, match=r"mailroom:domains\[0\].spf.all: .*\n(.*\n)*.*fix: write it yourself: all: -all"
    ):
        StackFile.read(path).with_values([((*SPF, "all"), "-all")])
    assert path.read_text() == text


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(DOMAINS)
    path.chmod(0o640)
    file, inode = StackFile.read(path), path.stat().st_ino
    file.write(file.with_values([((*SPF, "adopt"), True), (("mailroom:adopted",), ["a"])]))
    assert "adopt: true" in path.read_text()
    assert (path.stat().st_mode & 0o777, path.stat().st_ino != inode) == (0o640, True)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
