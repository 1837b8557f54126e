#!/usr/bin/python3
"""Put a bundle of host scripts (JSON name -> text on stdin) into the directory given as argument; runs on the host.

It is sent as text to a host that has nothing of ours yet, so it imports nothing of ours.
"""

import json
import os
import shutil
import sys

target = sys.argv[1]
parent = os.path.dirname(target)
files = json.load(sys.stdin)["files"]
os.makedirs(parent, mode=0o755, exist_ok=True)
if not os.path.isdir(target):
    fresh = target + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh, 0o755)
    for name, text in files.items():
        path = os.path.join(fresh, os.path.basename(name))
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path, 0o755)  # noqa: S103
    os.rename(fresh, target)
link = os.path.join(parent, "current")
if not os.path.islink(link) or os.readlink(link) != target:
    temporary = link + ".new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, link)
print("ok: scripts are in", target)
