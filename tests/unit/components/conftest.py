"""One recording mock engine for whole programs; no test here talks to an engine, a host or an API."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pulumi
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pulumi.runtime.mocks import MockMonitor

from components.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLIC_KEY = base64.b64encode(
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()
COMPUTED = {
    "pulumi-python:dynamic/mailroom:DkimKey": {"private": "PRIVATE-KEY", "public": PUBLIC_KEY},
    "pulumi-python:dynamic/mailroom:HostGate": {"os": "debian 12"},
    "pulumi-python:dynamic/mailroom:Users": {"files": {"example.test": "users"}, "hashes": {}, "changed": {}},
    "command:remote:Command": {"stdout": "ok", "stderr": ""},
}


class Engine(pulumi.runtime.Mocks):
    """Gives each resource an ID and the outputs a provider would compute; `resources` by name."""

    def __init__(self) -> None:
        self.resources: dict[str, Any] = {}

    def new_resource(self, args: Any) -> tuple[str, dict[str, Any]]:
        self.resources[args.name] = args
        return f"{args.name}-id", {**args.inputs, **COMPUTED.get(args.typ, {})}

    def call(self, args: Any) -> dict[str, Any]:
        raise AssertionError(f"the program must not invoke anything in a preview: {args.token}")


class Monitor(MockMonitor):
    """Keeps each registration request: its options are what a mock resource does not show."""

    def __init__(self, mocks: Engine) -> None:
        super().__init__(mocks)
        self.requests: dict[str, Any] = {}
        self.registered: list[str] = []  # components of one name included; called by several threads

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        self.requests[request.name] = request
        if request.type != "pulumi:pulumi:Stack":  # the SDK makes it once a process
            self.registered.append(request.name)
        return super().RegisterResource(request)


class Run:
    """What one program registered and exported; `secrets` are the names of the outputs that are secret."""

    def __init__(self, engine: Engine, monitor: Monitor) -> None:
        self.resources, self.requests, self.total = engine.resources, monitor.requests, len(monitor.registered)
        self.outputs: dict[str, Any] = {}
        self.secrets: set[str] = set()

    def inputs(self, name: str) -> dict[str, Any]:
        return dict(self.resources[name].inputs)

    def names(self, kind: str) -> set[str]:
        return {name for name, args in self.resources.items() if args.typ == kind}

    def waits_for(self, name: str) -> set[str]:
        """The names of everything `name` depends on, over all steps."""
        found: set[str] = set()
        queue = [name]
        while queue:
            for urn in self.requests[queue.pop()].dependencies:
                dependency = urn.split("::")[-1]
                if dependency not in found and dependency in self.requests:
                    found.add(dependency)
                    queue.append(dependency)
        return found


def dev_config() -> dict[str, Any]:
    with open("Pulumi.dev.yaml", encoding="utf-8") as file:
        config: dict[str, Any] = yaml.safe_load(file)["config"]
    config["mailroom:passwords"] = {"alice@example.test": "CANARY-password-1"}
    config["mailroom:acme"]["token"] = "CANARY-acme-token-0000000000000000000000002"
    config["cloudflare:apiToken"] = "CANARY-cloudflare-token-00000000000000000001"
    config["mailroom:sshPrivateKey"] = (
        "-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    return config


@pytest.fixture(autouse=True)
def thread_loop() -> Iterator[None]:
    """The SDK runs on the thread's event loop, which another test may have taken away."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)


def observed(program: Callable[[], Any], *, preview: bool = False) -> Run:
    """What a program registers with an engine that takes everything."""
    engine = Engine()
    monitor = Monitor(engine)
    pulumi.runtime.set_mocks(engine, project="mailroom", stack="dev", preview=preview, monitor=monitor)
    pulumi.runtime.test(program)()
    return Run(engine, monitor)


@pytest.fixture
def observe() -> Callable[[Callable[[], None]], Run]:
    """Run any program."""
    return observed


@pytest.fixture
def run_program() -> Callable[..., Run]:
    """Run the MailServer of the dev stack's settings, as changed by `change(config)`."""

    def run(change: Callable[[dict[str, Any]], None] = lambda _: None, *, preview: bool = False) -> Run:
        config = dev_config()
        change(config)
        exported: dict[str, Any] = {}
        secrets: set[str] = set()

        async def program() -> None:
            from components.mail_server import MailServer, MailServerArgs
            from components.outputs import outputs

            settings = Settings.load(config.get, "dev")
            server = MailServer("mailroom", MailServerArgs(settings=settings))
            for name, value in outputs(settings, server).items():
                output = pulumi.Output.from_input(value)
                exported[name] = await output.future()
                secrets.update({name} if await output.is_secret() else ())

        ran = observed(program, preview=preview)
        ran.outputs, ran.secrets = exported, secrets
        return ran

    return run
