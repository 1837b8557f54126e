"""What the contract tests of the stand-ins share: an engine that notes messages, a server to log in to, an API."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class NotingEngine:
    """Stands for the engine's own service; `messages` is what a user would see."""

    messages: list[tuple[int, str]] = field(default_factory=list)

    def Log(self, request: Any) -> Any:  # noqa: N802
        self.messages.append((request.severity, request.message))
        return asyncio.sleep(0) if _in_loop() else None

    def texts(self) -> list[str]:
        return [text for _, text in self.messages]


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.fixture
def engine() -> NotingEngine:
    return NotingEngine()


# --- a server to log in to -----------------------------------------------------------


class SshServer:
    """An SSH server on the loopback that runs commands with /bin/sh and has the AcceptEnv of a fresh Debian."""

    def __init__(self) -> None:
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.rsa_host_key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.logins = 0
        self.port = 0
        self.ready, self.loop, self.done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        owner = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: Any) -> None:
                owner.logins += 1

        (rsa,) = asyncssh.load_keypairs([self.rsa_host_key])
        rsa.host_key_algorithms = [b"rsa-sha2-512", b"rsa-sha2-256"]  # OpenSSH has refused SHA-1 since 8.8
        listener = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            0,
            server_host_keys=[self.host_key, rsa],
            authorized_client_keys=asyncssh.import_authorized_keys(_line(self.user_key)),
            process_factory=_shell,
            encoding=None,
            sftp_factory=True,
        )
        self.port = listener.get_port()
        self.ready.set()
        await self.done.wait()
        listener.close()
        await listener.wait_closed()

    def connection(self, **changes: Any) -> dict[str, Any]:
        """The connection inputs that lead here, with the provider's defaults but a single attempt."""
        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "privateKey": self.user_key.export_private_key().decode(),
            "hostKey": _line(self.host_key),
            "dialErrorLimit": 0,
            "perDialTimeout": 15,
        }
        merged = {**given, **changes}
        return {key: value for key, value in merged.items() if value is not None}

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(10)


def _line(key: Any) -> str:
    return str(key.export_public_key().decode().strip())


async def _shell(process: Any) -> None:
    child = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", process.command),
        env={"PATH": "/usr/bin:/bin", **process.env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate(await process.stdin.read())
    process.stdout.write(out)
    process.stderr.write(err)
    process.exit(child.returncode)


@pytest.fixture(scope="session")
def _one_server() -> Iterator[SshServer]:
    server = SshServer()
    yield server
    server.stop()


@pytest.fixture
def server(_one_server: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """The server; like sshd with Debian's settings it takes no variable but LANG and LC_*."""

    def accept_env(channel: Any, packet: Any) -> bool:
        name, value = packet.get_string(), packet.get_string()
        if name == b"LANG" or name.startswith(b"LC_"):
            channel._env[name] = value
            return True
        return False

    monkeypatch.setattr(asyncssh.channel.SSHServerChannel, "_process_env_request", accept_env)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    _one_server.logins = 0
    return _one_server


# --- an API ----------------------------------------------------------------------------


TOKEN = "lab-cloudflare-api-token-not-a-secret-000001"
ZONE = "f" * 32


class FakeApi:
    """A Cloudflare v4 API with one zone, example.test, that notes each request as (method, path, body)."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: list[tuple[int, dict[str, str]]] = []  # answered before anything else
        self.close_after = False
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.http.server_address[1]}/client/v4"

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.requests]

    def answer(self, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
        if token != f"Bearer {TOKEN}":
            return 403, (9109, "Invalid access token")
        if path == "/zones?match=all&name=example.test":
            return 200, [{"id": ZONE}]
        if path == f"/zones/{ZONE}":
            return 200, {"id": ZONE, "name": "example.test", "name_servers": ["ns1.lab.test"]}
        if path.startswith("/zones?"):
            return 200, []
        identity = path.removeprefix(f"/zones/{ZONE}/dns_records").lstrip("/")
        return self._record(method, identity, body)

    def _record(self, method: str, identity: str, body: Any) -> tuple[int, Any]:
        if identity and identity not in self.records:
            return 404, (81044, "Record does not exist.")
        if method == "DELETE":
            return 200, {"id": self.records.pop(identity)["id"]}
        if method == "GET":
            return 200, self.records[identity]
        key = ("name", "type", "content", "data")
        if method == "POST" and any(all(other.get(k) == body.get(k) for k in key) for other in self.records.values()):
            return 400, (81058, "An identical record already exists.")
        identity = identity or f"{len(self.records) + 1:032x}"
        known = {"id": identity, "created_on": "2026-01-01T00:00:00Z", "modified_on": "2026-01-01T00:00:00Z"}
        record = {"proxied": False, "tags": [], "settings": {}, "meta": {}, "comment": None, **body, **known}
        self.records[identity] = {**record, "name": body["name"].lower().rstrip(".")}
        return 200, self.records[identity]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def answer(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
                path = self.path.removeprefix("/client/v4")
                api.requests.append((self.command, path, body))
                headers: dict[str, str] = {}
                if api.faults:
                    status, headers = api.faults.pop(0)
                    result: Any = (10000, "fault")
                else:
                    status, result = api.answer(self.command, path, body, self.headers.get("Authorization", ""))
                good = status == 200
                errors = [] if good else [{"code": result[0], "message": result[1]}]
                envelope = {"result": result if good else None, "success": good, "errors": errors, "messages": []}
                data = json.dumps(envelope).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = api.close_after  # without a word, as an idle connection ends

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()
