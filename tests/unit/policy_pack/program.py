"""A program that keeps every rule of the policy pack but those named in $BREAK, with a canary for every secret.

A name there is a rule's, or a rule's with another way to break it: `mx-reachable/missing`.
"""

import base64
import json
import os

import pulumi
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pulumi_command import remote

BREAK = os.environ["BREAK"].split()
CANARY = pulumi.Config().require_secret("canary")
ZONE = "0123456789abcdef0123456789abcdef"
OUTPUTS = ("stdout", "stderr")


def record(name: str, kind: str, content: str, ttl: int = 300, **more: object) -> None:
    pulumi.CustomResource(
        "cloudflare:index/dnsRecord:DnsRecord",
        f"{name}/{kind}/{content[:12]}",
        {"zoneId": ZONE, "name": name, "type": kind, "content": content, "ttl": ttl, **more},
        pulumi.ResourceOptions(version="6.23.1"),
    )


def public_key(bits: int) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


record("example.test", "TXT", '"v=spf1 mx -all"')
if "one-spf" in BREAK:
    record("example.test", "TXT", '"v=spf1 a -all"')
includes = 11 if "spf-lookups" in BREAK else 10
record("many.test", "TXT", f'"v=spf1 {" ".join(f"include:s{n}.example.net" for n in range(includes))} -all"')
bits = 1024 if "dkim-strength" in BREAK else 2048
record("m1._domainkey.example.test", "TXT", f'"v=DKIM1; k=rsa; p={public_key(bits)}"')
record("mx.example.test", "TXT", '"v=spf1 a -all"')
if "mx-reachable/missing" not in BREAK:
    record("mx.example.test", "A", "198.51.100.10", ttl=86400 if "short-ttl" in BREAK else 300)
    record("mx.example.test", "AAAA", "2001:db8::10", proxied="mx-reachable" in BREAK)
record("example.test", "MX", "mx.example.test", priority=10)

pinned = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJpPEQfz2RN0X9sXlVJ4Ud5jzqxRkQy0sQ6yWb0mV3cT"
host_key = {} if "pinned-hosts" in BREAK else {"hostKey": "no" if "pinned-hosts/no-key" in BREAK else pinned}
names = ["example.test" if "names-certified" in BREAK else "mx.example.test"]
remote.Command(
    "mx.example.test/certificate",
    connection={"host": "198.51.100.10", "privateKey": CANARY, **host_key},
    logging=None if "quiet-commands" in BREAK else remote.Logging.NONE,
    stdin=CANARY.apply(
        lambda canary: json.dumps({"token": canary, "certificates": [{"name": names[0], "names": names}]})
    ),
    create=CANARY.apply("echo {}".format),
    opts=pulumi.ResourceOptions(additional_secret_outputs=[] if "secret-outputs" in BREAK else [*OUTPUTS]),
)
