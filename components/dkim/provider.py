"""DKIM key pairs as resources: made once, kept in the state as secrets, so a lost host costs no DNS change."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider

if TYPE_CHECKING:
    from collections.abc import Mapping

RSA_BITS = 2048  # RFC 8301 section 3.2: signers SHOULD use at least 2048; larger ones need three TXT strings


class DkimKeyProvider(Provider):
    """Generates an RSA key pair; a changed domain or selector is another key."""

    outputs = ("private", "public")
    replaced_by = ("domain", "selector")

    def identity(self, inputs: Properties) -> str:
        """`<selector>._domainkey.<domain>`."""
        return f"{inputs['selector']}._domainkey.{inputs['domain']}"

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return `private` (PKCS#8 PEM) and `public` (SubjectPublicKeyInfo, base64: RFC 6376 3.6.1 `p=`)."""
        if previous:
            return {key: previous[key] for key in self.outputs}
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {"private": private.decode(), "public": base64.b64encode(public).decode()}


class DkimKey(Resource, module="mailroom", name="DkimKey"):
    """One key pair of one selector: `private` is a secret PKCS#8 PEM, `public` the value of the `p=` tag."""

    private: pulumi.Output[str]
    public: pulumi.Output[str]

    def __init__(self, name: str, *, domain: str, selector: str, opts: pulumi.ResourceOptions) -> None:
        inputs = {"domain": domain, "selector": selector, "private": None, "public": None}
        secret = pulumi.ResourceOptions(additional_secret_outputs=["private"])
        super().__init__(DkimKeyProvider(), name, inputs, pulumi.ResourceOptions.merge(opts, secret))
