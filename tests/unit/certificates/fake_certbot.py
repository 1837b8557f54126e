#!python
"""A stand-in for certbot: writes lineages as certbot 2 does, signed by themselves; logs how it was called.

Files in $FAKE_LOGS change what it does: lifetime-days, busy (number of refusals left), fails (text).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

logs, folder = Path(os.environ["FAKE_LOGS"]), Path(os.environ["FAKE_LETSENCRYPT"])


def told(name: str, default: str = "") -> str:
    return (logs / name).read_text() if (logs / name).exists() else default


def values(option: str) -> list[str]:
    return [sys.argv[index + 1] for index, word in enumerate(sys.argv) if word == option]


with (logs / "certbot").open("a") as log:
    log.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\n")
if int(told("busy", "0")):
    (logs / "busy").write_text(str(int(told("busy")) - 1))
    sys.exit("Another instance of Certbot is already running.")
if told("fails"):
    sys.exit(told("fails"))
if sys.argv[1] == "update_account":
    sys.exit(0)

name, names = values("--cert-name")[0], values("-d")
archive, live, renewal = folder / "archive" / name, folder / "live" / name, folder / "renewal" / f"{name}.conf"
for path in (archive, live, renewal.parent):
    path.mkdir(parents=True, exist_ok=True)
number = 1 + len(list(archive.glob("cert*.pem")))
alternative = "subjectAltName=" + ",".join(f"DNS:{each}" for each in names)
subprocess.run(
    [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-addext", alternative, "-days", told("lifetime-days", "90")),
        *("-keyout", archive / f"privkey{number}.pem", "-out", archive / f"cert{number}.pem"),
    ],
    check=True,
    capture_output=True,
)
for kind in ("chain", "fullchain"):
    (archive / f"{kind}{number}.pem").write_bytes((archive / f"cert{number}.pem").read_bytes())
for kind in ("cert", "chain", "fullchain", "privkey"):
    (live / f"{kind}.pem").unlink(missing_ok=True)
    (live / f"{kind}.pem").symlink_to(f"../../archive/{name}/{kind}{number}.pem")
if not renewal.exists():
    renewal.write_text("# renew_before_expiry = 30 days\nversion = 2.1.0\n[renewalparams]\nserver = \n")
lines = [line for line in renewal.read_text().splitlines() if not line.startswith(("server", "authenticator"))]
how = (values("--authenticator") or ["dns-cloudflare"])[0]
renewal.write_text("\n".join([*lines, f"server = {values('--server')[0]}", f"authenticator = {how}", ""]))
