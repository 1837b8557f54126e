"""A host in a temporary folder for the scripts that close it: sshd, nftables, systemd and others as stand-ins."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = Path(__file__).resolve().parents[3] / "components" / "host"
# Every call is logged with what it is told on standard input; files in $FAKE are the state of the host.
TOOLS = {
    "nft": """
case "$*" in
  "list table inet mailroom") cat "$FAKE/table" ;;
  "delete table inet mailroom") rm "$FAKE/table" ;;
  "--check --file -") if [ -e "$FAKE/nft-refuses" ]; then cat "$FAKE/nft-refuses" >&2; exit 1; fi ;;
  "--file -")
    if [ -e "$FAKE/kernel-refuses" ]; then cat "$FAKE/kernel-refuses" >&2; exit 1; fi
    sed '/^table inet mailroom$/d; /^delete table inet mailroom$/d; /^#/d' >"$FAKE/table"
    [ -s "$FAKE/table" ] || rm "$FAKE/table" ;;
esac
""",
    "systemctl": """
verb=$1; shift
for unit; do :; done
case "$verb" in
  is-enabled) test -e "$FAKE/enabled/$unit" ;;
  is-active) test -e "$FAKE/active/$unit" ;;
  cat) test -e "$FAKE/known/$unit" ;;
  enable) touch "$FAKE/enabled/$unit"; case "$*" in *--now*) touch "$FAKE/active/$unit" ;; esac ;;
  disable) rm -f "$FAKE/enabled/$unit" "$FAKE/active/$unit" ;;
  stop) rm -f "$FAKE/active/$unit" ;;
  restart)
    touch "$FAKE/active/$unit"
    [ "$unit" != mailroom-firewall.service ] || sed '1,3d' "$FAKE/state/firewall.nft" >"$FAKE/table" ;;
esac
""",
    "sshd": """
expand() {
  while read -r key value; do
    case "$key" in
      Include) for file in $value; do [ ! -e "$file" ] || expand <"$file"; done ;;
      *) echo "$key $value" ;;
    esac
  done
}
case "$1" in
  -t) if [ -e "$FAKE/sshd-refuses" ]; then cat "$FAKE/sshd-refuses" >&2; exit 255; fi ;;
  -T)
    {
      expand <"$FAKE/ssh/sshd_config"
      echo "listenaddress 0.0.0.0:22"
      echo "listenaddress [::]:2200"
      echo "passwordauthentication yes"
      echo "kbdinteractiveauthentication yes"
    } | tr '[:upper:]' '[:lower:]' | awk '$1 == "listenaddress" || !seen[$1]++' ;;
esac
""",
    "ss": 'cat "$FAKE/listeners"\n',
    "fail2ban-client": """
case "$1" in
  status) test -e "$FAKE/active/fail2ban" -a ! -e "$FAKE/fail2ban-sleeps" ;;
  --test) test ! -e "$FAKE/fail2ban-refuses" ;;
esac
""",
    "apt-config": 'cat "$FAKE/apt"\n',
    "ip": """
case "$*" in
  "-4 route show default") cat "$FAKE/route" ;;
  "-6 -j address show dev eth0") python3 "$FAKE/bin/interface" address ;;
  "-6 -j route show default dev eth0") python3 "$FAKE/bin/interface" route ;;
  "-6 neigh show "*) [ -e "$FAKE/silent" ] || echo "$4 lladdr 02:00:00:00:00:01 REACHABLE" ;;
esac
""",
    "networkctl": """
case "$1" in
  status) cat "$FAKE/networkctl" ;;
  reconfigure) if [ -e "$FAKE/networkd-fails" ]; then echo "no such link" >&2; exit 1; fi ;;
esac
""",
    "systemd-detect-virt": 'test -e "$FAKE/container"\n',
}

# What networkd makes of its files, as `ip -j` shows it; `lost` holds what never arrives, `flags` is put on addresses.
INTERFACE = """
import json, os, pathlib, re, sys
root = pathlib.Path(os.environ["FAKE"])
text = "".join(path.read_text() for path in (root / "networkd").glob("*.network.d/*.conf"))
lost = (root / "lost").read_text() if (root / "lost").exists() else "nothing"
if sys.argv[1] == "route":
    print(json.dumps([{"gateway": gateway} for gateway in re.findall("Gateway=(.*)", text) if gateway != lost]))
else:
    flags = json.loads((root / "flags").read_text()) if (root / "flags").exists() else {}
    found = re.findall("Address=(.*)/.*\\nPreferredLifetime=(.*)", text)
    listed = [{"local": address, "preferred_life_time": 0 if life == "0" else 4294967295, **flags}
              for address, life in found if address != lost]
    print(json.dumps([{"addr_info": listed}, {}]))
"""


@dataclass
class FakeHost:
    """One host made of a folder; `run` runs a script's function as if it were the script."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def tell(self, name: str, text: str = "") -> None:
        (self.root / name).write_text(text)

    def calls(self) -> list[str]:
        """What was called since the last look, in order."""
        log = self.root / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def run(self, action: Callable[[], None], payload: object = None) -> tuple[Any, str]:
        """Exit status, and what it said: its summary or its error."""
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(payload)))
        with pytest.raises(SystemExit) as stop:
            action()
        captured = self.capsys.readouterr()
        return stop.value.code, captured.out or captured.err

    @property
    def table(self) -> str:
        """The rules in the kernel."""
        path = self.root / "table"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FakeHost:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("hostlib", "firewall", "network", "sshd", "access"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # others patch modules of their own
    import access
    import firewall
    import network
    import sshd

    (tmp_path / "bin").mkdir()
    for name, body in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >>"$FAKE/calls"\n{body}')
        tool.chmod(0o755)
    (tmp_path / "bin/interface").write_text(INTERFACE)
    (tmp_path / "route").write_text("default via 192.0.2.1 dev eth0 proto static\n")
    (tmp_path / "networkctl").write_text("* 2: eth0\n  Network File: /run/systemd/network/10-netplan-eth0.network\n")
    for name in ("all", "default", "eth0", "lo"):
        (tmp_path / "conf" / name).mkdir(parents=True)
        (tmp_path / "conf" / name / "disable_ipv6").write_text("1\n")
    for folder in ("networkd", "sysctl", "enabled", "active", "known", "units", "ssh/sshd_config.d", "state"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "state").rmdir()
    (tmp_path / "ssh/sshd_config").write_text(f"Include {tmp_path}/ssh/sshd_config.d/*.conf\nPort 22\n")
    (tmp_path / "active/ssh.service").touch()
    (tmp_path / "listeners").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.10 22")
    monkeypatch.setattr(firewall, "SENDER", tmp_path.owner())
    monkeypatch.setattr(firewall, "KEPT", tmp_path / "state/firewall.nft")
    monkeypatch.setattr(firewall, "LOADED", tmp_path / "state/firewall.loaded")
    monkeypatch.setattr(sshd, "CONFIG", tmp_path / "ssh/sshd_config")
    monkeypatch.setattr(sshd, "DROP_IN", tmp_path / "ssh/sshd_config.d/00-mailroom.conf")
    monkeypatch.setattr(sshd, "RUNTIME", tmp_path / "run-sshd")
    monkeypatch.setattr(sshd, "connection", lambda: ["192.0.2.7", "50000", "192.0.2.10", "22"])
    monkeypatch.setattr(network, "NETWORKD", tmp_path / "networkd")
    monkeypatch.setattr(network, "SYSCTL", tmp_path / "sysctl/99-zz-mailroom.conf")
    monkeypatch.setattr(network, "MEMORY", tmp_path / "state/network.json")
    monkeypatch.setattr(network, "CONF", tmp_path / "conf")
    monkeypatch.setattr(network, "PATIENCE", 0)
    monkeypatch.setattr(network, "ANSWER", 0)
    monkeypatch.setattr(access, "STATE", tmp_path / "state")
    monkeypatch.setattr(access, "BEFORE", tmp_path / "state/before")
    monkeypatch.setattr(access, "NEW", tmp_path / "state/firewall.new")
    monkeypatch.setattr(access, "UNITS", tmp_path / "units")
    return FakeHost(tmp_path, monkeypatch, capsys)
