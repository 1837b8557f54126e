"""What `pulumi preview --policy-pack policy` runs; the engine starts it with this folder as the current one."""

import mailroom_policy.pack  # noqa: F401
