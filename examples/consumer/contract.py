"""The outputs of a Mailroom stack as this application needs them, checked before anything uses them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pulumi

VERSION = 1  # of docs/outputs.md, which this file was written for
NEEDED = {"submissionHost": str, "submissionPort": int, "logins": list, "users": list}
NAMES = ("outputsVersion", *NEEDED, "passwords")
HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


def read_stack(name: str) -> pulumi.Output[dict[str, Any]]:
    """The outputs of the stack `name`, one by one: all but the secret `passwords` stay plain."""
    stack = pulumi.StackReference(name)
    return pulumi.Output.all(**{each: stack.get_output(each) for each in NAMES})


def read_file(path: str) -> pulumi.Output[dict[str, Any]]:
    """The outputs that `pulumi stack output --json` wrote; raises `RunError`."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise pulumi.RunError(
            f"{path} cannot be read: {error}\n  write it again: pulumi stack output -s prod --json > {path}"
        ) from None
    return pulumi.Output.from_input(found if isinstance(found, dict) else {})


class Contract:
    """Outputs of a version and of types that this program knows; raises `RunError` with every reason."""

    def __init__(self, outputs: Any, source: str) -> None:
        self._outputs, self._source = outputs, source
        version = outputs.get("outputsVersion")
        if version is None:
            self._refuse("it has no outputs, or is no Mailroom stack", "is the name right, and was it deployed?")
        if version != VERSION:
            self._refuse(
                f"its outputs have version {version!r}",
                f"this program knows version {VERSION}: read what changed in docs/outputs.md, adapt contract.py",
            )
        wrong = [
            f"{name} is {'missing' if outputs.get(name) is None else 'no ' + kind.__name__}"
            for name, kind in NEEDED.items()
            if not isinstance(outputs.get(name), (int, float) if kind is int else kind)
        ]
        if wrong:
            self._refuse("; ".join(wrong), "deploy it once more with a version that keeps docs/outputs.md")
        lists = [name for name, kind in NEEDED.items() if kind is list]
        wrong = [name for name in lists if not all(isinstance(item, str) for item in outputs[name])]
        if not HOST.fullmatch(outputs["submissionHost"]):
            wrong.append("submissionHost")
        if wrong:
            self._refuse(f"no names of users or of a host are in {', '.join(wrong)}", "ask whoever runs that stack")
        self.submission_host: str = outputs["submissionHost"]
        self.submission_port = int(outputs["submissionPort"])

    def login(self, user: str) -> str:
        """The login name, which has to be one of the stack's."""
        if user not in self._outputs["logins"]:
            self._refuse(f"nobody logs in as {user}", f"set `user` to one of {', '.join(self._outputs['logins'])}")
        return user

    def sender(self, user: str) -> str:
        """The address that a login sends as: an application token sends as its user."""
        name, _, domain = self.login(user).partition("@")
        return f"{name.partition('+')[0]}@{domain}"

    def password(self, user: str, own: Any) -> str:
        """This stack's own, or what the mail stack exports: an engine without its passphrase sees nothing there."""
        exported = self._outputs.get("passwords")
        shown = exported.get(user) if isinstance(exported, dict) else None
        if not (found := own or shown):
            self._refuse(
                f"no password of {user} can be read there",
                "store it here, too: pulumi config set --secret password",
            )
        return str(found)

    def _refuse(self, found: str, fix: str) -> None:
        raise pulumi.RunError(f"{self._source}: {found}\n  {fix}")
