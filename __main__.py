"""The program of every stack: its settings become one MailServer, and the stack's outputs."""

# ruff: noqa: E402  (the imports are what takes long)

from __future__ import annotations

import gc
import json
import os

# A run makes objects and ends: a tenth of its time would go into looking for cycles among them, and some into looking
# for plugins of pydantic.
gc.disable()
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

import pulumi

from components import lean_sdk
from components.mail_server import MailServer, MailServerArgs
from components.outputs import outputs
from components.settings import Settings
from operations import backend
from standards.finding import Problems


def read(key: str) -> object | None:
    """One value of the stack's configuration: parsed where it is a list or a mapping, else its text."""
    namespace, _, name = key.partition(":")
    text = pulumi.Config(namespace).get(name)
    if text is None or not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        return text  # [2001:db8::53] is text, too


lean_sdk.leave_out()
try:
    settings = Settings.load(read, pulumi.get_stack(), pulumi.runtime.get_config_env())
    backend.require(settings.backend, settings.stack)
    for warning in settings.warnings():
        pulumi.log.warn(str(warning).removeprefix("warning: "))
    server = MailServer("mailroom", MailServerArgs(settings=settings))
    for name, value in outputs(settings, server).items():
        pulumi.export(name, value)
except Problems as problems:
    raise pulumi.RunError(str(problems)) from None

gc.freeze()  # nor at the interpreter's end
