"""A pinned key in a stack's file: that one value changes, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from operations.preflight.stack_file import StackFile, listing, of_stack, with_host_key
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
