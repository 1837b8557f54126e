"""The process that owns the lab's DNS: creates the zones, then serves all the APIs that change them."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.addresses import Plan
from lab.internet import cloudflare_api, contabo_api, control, hetzner_api, provider_api, world
from lab.internet.account import Account
from lab.internet.authoritative import PowerDns, Publisher
from lab.internet.web import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.internet.authoritative import Server as NameServer

PORT: Final = 8080
NAMESERVER_APIS: Final = (8081, 8082)
"""HTTP API ports of ns1 and ns2 on the guest's loopback."""
NAMESERVER_API_KEY: Final = "lab"
PLAN_FILE: Final = Path("/etc/mailroom-lab/plan.json")
STATE: Final = Path("/var/lib/mailroom-lab")
"""Folder of the databases."""


class Apis:
    """All APIs over two authoritative servers; `handle` is what the HTTP server calls."""

    def __init__(self, plan: Plan, primary: NameServer, secondary: NameServer, store: Path | str = ":memory:") -> None:
        self._plan = plan
        self._publisher = Publisher(primary, secondary)
        self._account = Account(self._publisher, store)
        self._cloudflare = cloudflare_api.CloudflareApi(self._account)
        self._others: dict[str, Callable[[Request], Response]] = {
            provider_api.PREFIX: provider_api.ProviderApi(self._publisher).handle,
            contabo_api.PREFIX: contabo_api.ContaboApi(self._publisher).handle,
            hetzner_api.PREFIX: hetzner_api.HetznerApi(self._publisher, plan).handle,
        }
        self._control = control.Control(self._account, self._publisher)

    def open(self) -> None:
        """Create or repair all zones."""
        self._publisher.open(world.zones(self._plan))
        self._account.open(world.account_records(self._plan))
        self._control.ready = True

    def handle(self, request: Request) -> Response:
        """Route by prefix."""
        if request.path.startswith(control.PREFIX):
            return self._control.handle(request)
        if not self._control.ready:
            return Response(status=503, body={"error": "the lab's zones are being created, try again"})
        if request.path.startswith(cloudflare_api.PREFIX):
            return self._control.around(request, self._cloudflare.handle)
        for prefix, handle in self._others.items():
            if request.path.startswith(prefix):
                return self._control.around(request, handle)
        return Response(status=404, body={"error": f"no API at {request.path}"})


def main() -> None:
    """Serve until killed; a start before the name servers are up waits for them."""
    saved = json.loads(PLAN_FILE.read_text())
    plan = Plan(name=saved["name"], index=saved["index"])
    primary, secondary = (PowerDns(f"http://127.0.0.1:{port}", NAMESERVER_API_KEY) for port in NAMESERVER_APIS)
    apis = Apis(plan, primary, secondary, STATE / "account.sqlite3")
    for address in plan.api:
        threading.Thread(target=Server(address, PORT, apis.handle).serve_forever, daemon=True).start()
    while True:
        try:
            apis.open()
            break
        except OSError as error:
            print(f"waiting for the name servers: {error}", file=sys.stderr, flush=True)
            time.sleep(0.1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
