#!/usr/bin/python3
"""certbot's manual hook: answers a DNS-01 challenge in a zone for challenges, where a CNAME record leads.

`auth` writes the TXT record, `cleanup` takes it away; certbot sets CERTBOT_DOMAIN and CERTBOT_VALIDATION. A copy of
this file is /etc/letsencrypt/mailroom/challenge, so it imports nothing of ours; beside it challenge.json, which
root alone reads: {"dns": "cloudflare" | "rfc2136", "challenge_zone", "propagation_seconds", "api_base",
"credentials": {the plugin's ini keys}}. certbot's own plugins do not follow a CNAME.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/letsencrypt/mailroom/challenge.json")
CLOUDFLARE = "https://api.cloudflare.com/client/v4"
TTL = 60  # seconds, the least Cloudflare takes
MAX_ALIASES = 8
LIMIT = 30  # seconds for a query, an update or a request
MD5 = "HMAC-MD5.SIG-ALG.REG.INT"  # RFC 8945 section 6


class ChallengeError(Exception):
    """One line that says what is wrong, what is expected and what to do."""


def main(action: str) -> None:
    """Write or remove the record; after the last of several, wait until name servers have it."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    domain, value = os.environ["CERTBOT_DOMAIN"], os.environ["CERTBOT_VALIDATION"]
    name = followed(f"_acme-challenge.{domain.removeprefix('*.')}", config["challenge_zone"])
    change = {"cloudflare": by_cloudflare, "rfc2136": by_rfc2136}[config["dns"]]
    change(config, name, value, add=action == "auth")
    if action == "auth" and os.environ.get("CERTBOT_REMAINING_CHALLENGES", "0") == "0":
        time.sleep(config["propagation_seconds"])


def followed(name: str, zone: str) -> str:
    """Where the CNAME records that begin at `name` end, which has to be in `zone`."""
    import dns.exception
    import dns.resolver

    end = name
    for _ in range(MAX_ALIASES):
        try:
            answer = dns.resolver.resolve(f"{end}.", "CNAME", lifetime=LIMIT)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            break
        except dns.exception.DNSException as error:
            raise ChallengeError(f"DNS does not say where {end} leads ({error}), try again later") from error
        end = answer[0].target.to_text(omit_final_dot=True).lower()
    if not end.endswith(f".{zone}"):
        leads = f"leads to {end}" if end != name else "has no CNAME record"
        raise ChallengeError(
            f"{name} {leads}, a CNAME record to {name}.{zone} is expected: run `pulumi up`, which publishes it"
        )
    return end


# --- RFC 2136 -----------------------------------------------------------------------------------------------


def by_rfc2136(config: dict[str, Any], name: str, value: str, *, add: bool) -> None:
    """One update of the zone, signed with TSIG."""
    import dns.exception
    import dns.name
    import dns.query
    import dns.rcode
    import dns.tsigkeyring
    import dns.update

    said = {key.removeprefix("dns_rfc2136_"): text for key, text in config["credentials"].items()}
    algorithm = MD5 if said["algorithm"].upper() == "HMAC-MD5" else said["algorithm"]
    update = dns.update.Update(
        config["challenge_zone"],
        keyring=dns.tsigkeyring.from_text({said["name"]: said["secret"]}),
        keyname=dns.name.from_text(said["name"]),
        keyalgorithm=dns.name.from_text(algorithm.lower()),
    )
    owner = dns.name.from_text(name)
    if add:
        update.add(owner, TTL, "TXT", f'"{value}"')
    else:
        update.delete(owner, "TXT", f'"{value}"')
    try:
        answer = dns.query.tcp(update, said["server"], timeout=LIMIT, port=int(said.get("port", "53")))
    except (OSError, dns.exception.DNSException) as error:
        raise ChallengeError(
            f"{said['server']} takes no update ({type(error).__name__}: {error}), check dns_rfc2136_server, its key "
            "and its firewall"
        ) from error
    if answer.rcode() != dns.rcode.NOERROR:
        raise ChallengeError(
            f"{said['server']} refuses an update of {config['challenge_zone']} ({dns.rcode.to_text(answer.rcode())}), "
            f"allow it there for the key {said['name']}"
        )


# --- Cloudflare ---------------------------------------------------------------------------------------------


def by_cloudflare(config: dict[str, Any], name: str, value: str, *, add: bool) -> None:
    """One record by the API; the token needs rights for the zone of challenges and no other."""
    zones = ask(config, "GET", f"/zones?{urllib.parse.urlencode({'name': config['challenge_zone']})}")
    if not zones:
        raise ChallengeError(
            f"the token sees no zone {config['challenge_zone']}, Zone DNS Edit and Zone Zone Read are expected, give "
            "them to the token of mailroom:acme"
        )
    records = f"/zones/{zones[0]['id']}/dns_records"
    if add:
        ask(config, "POST", records, {"type": "TXT", "name": name, "content": f'"{value}"', "ttl": TTL})
        return
    query = urllib.parse.urlencode({"type": "TXT", "name": name, "per_page": 100})
    for record in ask(config, "GET", f"{records}?{query}"):
        if record["content"].strip('"') == value:
            ask(config, "DELETE", f"{records}/{record['id']}")


def ask(config: dict[str, Any], method: str, path: str, body: object = None) -> Any:
    """One request; returns what the API's envelope holds."""
    request = urllib.request.Request(  # noqa: S310  (the URL is the settings')
        (config["api_base"] or CLOUDFLARE) + path,
        None if body is None else json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {config['credentials']['dns_cloudflare_api_token']}",
            "Content-Type": "application/json",
        },
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
            return json.load(answer)["result"]
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace")
        raise ChallengeError(
            f"Cloudflare refuses {method} {path.partition('?')[0]} ({error.code} {' '.join(said.split())[:300]}), "
            "check the token of mailroom:acme: it needs Zone DNS Edit and Zone Zone Read for the challenge zone"
        ) from error
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise ChallengeError(f"Cloudflare's API does not answer ({error!r}), try again later") from error


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (ChallengeError, ImportError) as reason:
        print(f"challenge hook: {reason}", file=sys.stderr)
        sys.exit(1)
