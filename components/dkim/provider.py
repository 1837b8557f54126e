"""DKIM key pairs as resources, made or imported once: the state keeps them secret, a lost host costs no DNS change."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import DiffResult, Resource

from components.dynamic_provider import Properties, Provider
from standards import dkim
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standards.finding import Finding

RSA_BITS = 2048  # RFC 8301 section 3.2: signers SHOULD use at least 2048; larger ones need three TXT strings


class DkimKeyProvider(Provider):
    """Generates an RSA key pair, or takes the private key it is given; a changed domain or selector is another key.

    A key that exists is never exchanged for another: receivers would still have the old record when the first
    signature of the new one arrives. Raises `Problems` instead, in a preview already.
    """

    outputs = ("private", "public")
    replaced_by = ("domain", "selector")

    def identity(self, inputs: Properties) -> str:
        """`<selector>._domainkey.<domain>`."""
        return dkim.record_name(inputs["selector"], inputs["domain"])

    def diff(self, _id: str, olds: Properties, news: Properties) -> DiffResult:
        """Compare, and refuse another key for the same record."""
        found = super().diff(_id, olds, news)
        if not found.replaces:
            self._same_key(news, olds)
        return found

    def _same_key(self, inputs: Properties, previous: Mapping[str, Any]) -> None:
        private = inputs.get("imported")
        if private and previous.get("public") and dkim.public_half(private)[1] != previous["public"]:
            raise Problems("a DKIM key in use cannot be exchanged; nothing was changed", [_another_key(inputs)])

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:
        """Return `private` (PKCS#8 PEM) and `public` (SubjectPublicKeyInfo, base64: RFC 6376 3.6.1 `p=`)."""
        if previous:
            self._same_key(inputs, previous)
            return {key: previous[key] for key in self.outputs}
        if private := inputs.get("imported"):
            return {"private": private, "public": dkim.public_half(private)[1]}
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


def _another_key(inputs: Properties) -> Finding:
    name = dkim.record_name(inputs["selector"], inputs["domain"])
    return error_about(
        f'mailroom:dkimKeys["{name}"]',
        "dkim-key-exchanged",
        expected="the key that stands in this record already, or a selector that is new",
        found=f"another key than the one published at {name}",
        why="receivers keep the old record for its TTL: what the new key signs fails there until then",
        fix="import it under a new selector with `stage: published`, make that active in the next run, and this one "
        "retiring",
    )


class DkimKey(Resource, module="mailroom", name="DkimKey"):
    """One key pair of one selector: `private` is a secret PKCS#8 PEM, `public` its SubjectPublicKeyInfo in base64.

    `imported` is a private key made elsewhere, in the same form and as secret.
    """

    private: pulumi.Output[str]
    public: pulumi.Output[str]

    def __init__(self, name: str, *, domain: str, selector: str, imported: pulumi.Input[str] | None = None,
                 opts: pulumi.ResourceOptions) -> None:  # fmt: skip
        inputs: dict[str, Any] = {"domain": domain, "selector": selector, "private": None, "public": None}
        if imported is not None:
            inputs["imported"] = imported
        secret = pulumi.ResourceOptions(additional_secret_outputs=["private", "imported"])
        super().__init__(DkimKeyProvider(), name, inputs, pulumi.ResourceOptions.merge(opts, secret))
