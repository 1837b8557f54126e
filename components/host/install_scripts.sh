#!/bin/sh
# Puts a bundle of host scripts (JSON {name: text} on stdin, by bzip2 and base64) into the directory $1, on the host.
# It is sent as text to a host that has nothing of ours yet; a bare Debian lacks even Python's json module.
set -eu
if ! python3 -c 'import bz2, json, shutil' 2>/dev/null; then
  apt-get -qq -o DPkg::Lock::Timeout=200 update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=200 --no-install-recommends \
    install python3 >/dev/null
fi
exec python3 -c '
import base64, bz2, json, os, shutil, sys

target = sys.argv[1]
parent = os.path.dirname(target)
files = json.loads(bz2.decompress(base64.b64decode(sys.stdin.read())))
os.umask(0o022)  # services that are not root run some of them
os.makedirs(parent, mode=0o755, exist_ok=True)
if not os.path.isdir(target):
    fresh = target + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh, 0o755)
    for name, text in files.items():
        folder, base = os.path.split(name)
        folder = os.path.join(fresh, os.path.basename(folder))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, base)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
    os.rename(fresh, target)
link = os.path.join(parent, "current")
fresh = link + ".new"
if os.path.lexists(fresh):
    os.unlink(fresh)
os.symlink(target, fresh)
os.rename(fresh, link)
print("ok: scripts are in", target)
' "$1"
