"""An application's stack: reads how to send mail from a Mailroom stack, and writes the application's .env file.

Settings: `mailStack` (or `mailOutputs`, a file), `user`, `password` (secret), `envFile`; for a smoke mail `smokeTo`,
and where DNS or the CA are not public `connectTo` (an address) and `caFile`.
"""

from __future__ import annotations

import json
import shlex

import pulumi
from contract import Contract, read_file, read_stack
from pulumi_command import local

config = pulumi.Config()
mail_stack, mail_outputs = config.get("mailStack"), config.get("mailOutputs")
if bool(mail_stack) == bool(mail_outputs):
    raise pulumi.RunError("set one of `mailStack`, such as organization/mailroom/prod, and `mailOutputs`, a file")
found = read_stack(mail_stack) if mail_stack else read_file(mail_outputs or "")
user, env_file = config.require("user"), config.get("envFile") or ".env"
own_password = config.get_secret("password") or pulumi.Output.from_input(None)


def application(values: dict[str, object]) -> dict[str, str]:
    """The application's settings, by the names it reads."""
    contract = Contract(values["outputs"], mail_stack or mail_outputs or "")
    return {
        "SMTP_HOST": contract.submission_host,
        "SMTP_PORT": str(contract.submission_port),
        "SMTP_SECURITY": "tls",
        "SMTP_USER": contract.login(user),
        "SMTP_PASSWORD": contract.password(user, values["password"]),
        "MAIL_FROM": contract.sender(user),
    }


settings = pulumi.Output.all(outputs=found, password=own_password).apply(application)
path = shlex.quote(env_file)
written = local.Command(
    "env",
    create=f"python3 env_file.py write {path}",
    delete=f"python3 env_file.py remove {path}",
    stdin=pulumi.Output.secret(settings.apply(json.dumps)),
    triggers=[env_file],
    logging=local.Logging.NONE,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"], delete_before_replace=True),
)

if smoke_to := config.get("smokeTo"):  # sent when it is set, and again when anything in the .env file changes
    extra = {"to": smoke_to, "address": config.get("connectTo"), "ca_file": config.get("caFile")}
    local.Command(
        "smoke-mail",
        create="python3 smoke_mail.py",
        stdin=pulumi.Output.secret(settings.apply(lambda known: json.dumps({"settings": known, **extra}))),
        logging=local.Logging.NONE,
        opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"], depends_on=[written]),
    )

pulumi.export("envFile", env_file)
