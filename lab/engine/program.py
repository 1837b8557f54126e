"""One run of a Python Pulumi program, started by `language` with the program's own interpreter as

    python program.py SETTINGS_JSON ENTRY_POINT [ARGUMENT...]

with the stack's configuration in PULUMI_CONFIG and PULUMI_CONFIG_SECRET_KEYS.  It imports nothing of ours: the program
must not see that it is not the official host that runs it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import os
import runpy
import signal
import sys
import traceback
from typing import Any

USER_SAW_THE_ERROR = 32


def main() -> int:
    """Run the program and return the exit code the language host expects."""
    signal.signal(signal.SIGINT, _leave)
    try:
        import pulumi  # noqa: F401
    except ImportError:
        traceback.print_exc()
        sys.exit("The Pulumi SDK is not installed for this interpreter; run `pulumi install`.")
    settings, entry = json.loads(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    # After a failure many futures stay unread; asyncio's complaints about them would bury the message that matters.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pool = concurrent.futures.ThreadPoolExecutor(max(settings["parallel"], 1) * 4)
    loop.set_default_executor(pool)
    try:
        return _run(loop, settings, entry)
    finally:
        pool.shutdown(wait=True)
        loop.close()
        _flush()


def _run(loop: asyncio.AbstractEventLoop, settings: dict[str, Any], entry: str) -> int:
    import pulumi
    import pulumi.runtime

    pulumi.runtime.set_all_config(pulumi.runtime.get_config_env(), pulumi.runtime.get_config_secret_keys_env())
    pulumi.runtime.configure(pulumi.runtime.Settings(**settings))
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(lambda: _program(entry)))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception:  # noqa: BLE001  (whatever the program raised is the user's to see)
        pulumi.log.error("Program failed with an unhandled exception:\n" + _user_traceback(entry))
        return USER_SAW_THE_ERROR
    return 0


def _leave(*_: object) -> None:
    """End at once: the engine cancels us, often twice in a row, and says itself why."""
    os._exit(130)


def _program(entry: str) -> None:
    runpy.run_path(entry, run_name="__main__")


def _user_traceback(entry: str) -> str:
    """The current traceback, from the program's first own frame on."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    entry = os.path.realpath(entry)
    for index, frame in enumerate(frames):
        if os.path.realpath(frame.filename) in (entry, os.path.join(entry, "__main__.py")):
            return traceback.format_exc(limit=index - len(frames))
    return traceback.format_exc()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.path.pop(0)  # our own directory: the program must not see it
    sys.exit(main())
