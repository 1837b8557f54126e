"""A program that breaks every rule of the policy pack once, with a canary for every secret."""

import base64
import json

import pulumi
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pulumi_command import remote

CANARY = pulumi.Config().require_secret("canary")
ZONE = "0123456789abcdef0123456789abcdef"


def record(name: str, kind: str, content: str, **more: object) -> None:
    pulumi.CustomResource(
        "cloudflare:index/dnsRecord:DnsRecord",
        f"{name}/{kind}/{content[:12]}",
        {"zoneId": ZONE, "name": name, "type": kind, "content": content, "ttl": 300, **more},
        pulumi.ResourceOptions(version="6.23.1"),
    )


def public_key(bits: int) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


record("example.test", "TXT", '"v=spf1 mx -all"')
record("example.test", "TXT", '"v=spf1 a -all"')
record("many.test", "TXT", f'"v=spf1 {" ".join(f"include:s{n}.example.net" for n in range(11))} -all"')
record("m1._domainkey.example.test", "TXT", f'"v=DKIM1; k=rsa; p={public_key(1024)}"')
record("edge.example.test", "A", "198.51.100.10", proxied=True)
record("smtp.example.test", "A", "198.51.100.10")
record("mx.example.test", "A", "198.51.100.10", ttl=86400)
for priority, target in enumerate(("edge", "nowhere", "mx")):
    record("example.test", "MX", f"{target}.example.test", priority=priority)

remote.Command(
    "smtp.example.test/certificate",
    connection={"host": "198.51.100.10", "privateKey": CANARY},
    stdin=CANARY.apply(
        lambda canary: json.dumps({"token": canary, "certificates": [{"name": "a", "names": ["smtp.example.test"]}]})
    ),
    create=CANARY.apply("echo {}".format),
)
