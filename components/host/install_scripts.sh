#!/bin/sh
# Puts a bundle of host scripts, JSON {name: text}, into the directory $1 of a host: from the file $2 that was uploaded,
# whose texts must have the SHA-256 that stdin says (JSON {name: hex}); without $2 from stdin itself.
# It is sent as text to a host that has nothing of ours yet; a bare Debian lacks even Python's json module.
set -eu
if ! python3 -c 'import hashlib, json, shutil' 2>/dev/null; then
  apt-get -qq -o DPkg::Lock::Timeout=200 update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=200 --no-install-recommends \
    install python3 >/dev/null
fi
exec python3 -c '
import hashlib, json, os, shutil, sys

target, upload = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
parent = os.path.dirname(target)
said = json.load(sys.stdin)


def uploaded():
    try:
        with open(upload, encoding="utf-8") as file:
            texts = json.load(file)
        found = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    except (OSError, ValueError, AttributeError) as trouble:
        found = trouble
    if found != said:
        what = "holds other scripts" if isinstance(found, dict) else "cannot be read (%s)" % found
        print("error: %s %s, expected the scripts that were uploaded," % (upload, what),
              "upload them again: pulumi up --replace \"**/bundle\"", file=sys.stderr)
        sys.exit(1)
    return texts


os.umask(0o022)  # services that are not root run some of them
os.makedirs(parent, mode=0o755, exist_ok=True)
if not os.path.isdir(target):
    fresh = target + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh, 0o755)
    for name, text in (uploaded() if upload else said).items():
        folder, base = os.path.split(name)
        folder = os.path.join(fresh, os.path.basename(folder))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, base)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
    os.rename(fresh, target)
if upload and os.path.lexists(upload):
    os.unlink(upload)
link = os.path.join(parent, "current")
fresh = link + ".new"
if os.path.lexists(fresh):
    os.unlink(fresh)
os.symlink(target, fresh)
os.rename(fresh, link)
print("ok: scripts are in", target)
' "$@"
