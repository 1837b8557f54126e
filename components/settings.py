"""The typed settings of a stack: what may stand in Pulumi.<stack>.yaml, and what it means.

Rules between settings live in settings_rules.py, the wording of refusals in settings_explain.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from components import settings_explain, settings_rules
from standards import acme, aliases, dkim, dmarc, names, passwords, spf
from standards import limits as standard_limits
from standards.finding import Finding, Invalid, Problems

Fqdn = Annotated[str, AfterValidator(names.fqdn)]
EmailAddress = Annotated[str, AfterValidator(names.email_address)]
ZoneId = Annotated[str, AfterValidator(names.zone_id)]
AliasName = Annotated[str, AfterValidator(aliases.alias_name)]
AliasTarget = Annotated[str, AfterValidator(aliases.target)]
Identity = Annotated[str, AfterValidator(names.identity)]
Port = Annotated[int, Field(ge=1, le=65535)]

DIRECTORIES: Final = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


def _secret(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda secret: SecretStr(check(secret.get_secret_value())))


Password = Annotated[SecretStr, _secret(passwords.check)]


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _somewhere(targets: tuple[str, ...]) -> tuple[str, ...]:
    if targets:
        return targets
    raise Invalid(
        "the alias leads nowhere",
        id="alias-empty",
        expected="at least one destination, such as [someone@gmail.com]",
        fix="add one, or remove the alias",
    )


def _directory(text: str) -> str:
    if text in DIRECTORIES or (text.startswith("https://") and urlsplit(text).hostname):
        return text
    raise Invalid(
        f"{names.shown(text)} is not an ACME directory",
        id="acme-directory-invalid",
        expected="letsencrypt, letsencrypt-staging, or a URL such as https://acme.example.com/directory",
        fix="try with letsencrypt-staging first: its limits are wide, but no client trusts its certificates",
    )


def _script(text: str) -> str:
    if text.strip() and "\0" not in text:
        return text.strip() + "\n"
    raise Invalid(
        "the command is empty",
        id="reload-hook-empty",
        expected="a command such as systemctl reload nginx",
        fix="write one, or take the entry out",
    )


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _base_url(text: str) -> str:
    url = text.rstrip("/")
    if urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname and url.endswith("/client/v4"):
        return url
    raise Invalid(
        f"{names.shown(text)} is not the base of a Cloudflare API",
        id="base-url-invalid",
        expected="a URL such as https://api.cloudflare.com/client/v4",
        fix="leave the key out to use Cloudflare itself",
    )


def _api_url(text: str) -> str:
    url = text.rstrip("/")
    if urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname and not urlsplit(url).query:
        return url
    raise Invalid(
        f"{names.shown(text)} is not the address of an API",
        id="api-url-invalid",
        expected="a URL such as https://api.example.com",
        fix="leave the key out to use the provider's own",
    )


def _credential(text: str) -> str:
    value = text.strip()
    if value and value.isprintable():
        return value
    raise Invalid(
        f"the value ({len(value)} characters) is {'more than one line' if value else 'empty'}",
        id="credential-invalid",
        expected="one line, exactly as the provider shows it",
        fix="store it again with `pulumi config set --secret --path`, which asks for it",
    )


def _private_key(text: str) -> str:
    if text.lstrip().startswith("-----BEGIN ") and "PRIVATE KEY-----" in text:
        return text.strip() + "\n"
    raise Invalid(
        "the value is not a private key",
        id="private-key-invalid",
        expected="a key file beginning with -----BEGIN OPENSSH PRIVATE KEY-----",
        fix="store it with `pulumi config set --secret mailroom:sshPrivateKey < ~/.ssh/id_ed25519`, "
        "or leave the key out and use an SSH agent",
    )


class _Settings(BaseModel):
    """What all have in common: camelCase keys in YAML, nothing unknown, nothing changed later."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,
    )


class SshSettings(_Settings):
    """How to log in on a host; another user than root needs sudo without password."""

    user: str = Field(
        default="root", description="a login name", examples=["root"], pattern=r"^[a-z_][a-z0-9_-]{0,31}$"
    )
    port: int = Field(default=22, description="a port number from 1 to 65535", examples=[22], ge=1, le=65535)


class ReverseDnsSettings(_Settings):
    """Who sets the PTR record: with `manual` a person does, and the run checks it; else the run, by that API."""

    provider: Literal["manual", "contabo", "hetzner"] = Field(
        default="manual", description="who sets the PTR record", examples=["manual"]
    )


class FirewallSettings(_Settings):
    """What is let in beside mail (25, 465, 587) and the SSH port: nothing that is not named."""

    allow_tcp: tuple[Port, ...] = Field(
        default=(), description="a list of TCP ports from 1 to 65535", examples=["[443]"]
    )
    allow_udp: tuple[Port, ...] = Field(
        default=(), description="a list of UDP ports from 1 to 65535", examples=["[51820]"]
    )


ReloadHooks = Annotated[tuple[Annotated[str, AfterValidator(_script)], ...], BeforeValidator(_one_or_many)]


class CopySettings(_Settings):
    """Where other services of the host read its certificates, and the group that may."""

    folder: Annotated[str, AfterValidator(acme.folder)] = Field(
        description="a folder of its own below /etc, /opt, /srv or /var", examples=["/srv/certificates"]
    )
    group: str = Field(
        description="a group of the host", examples=["certificates"], pattern=r"^[a-z_][a-z0-9_-]{0,31}$"
    )


class Ipv6Settings(_Settings):
    """How the host's `ipv6` gets onto its interface, where the image did not put it there."""

    prefix: int = Field(
        default=64, description="the length of the network's prefix, 1 to 128", examples=[64], ge=1, le=128
    )
    gateway: Annotated[str, AfterValidator(names.ipv6_gateway)] = Field(
        description="the router's IPv6 address, as the provider shows it", examples=["fe80::1"]
    )


class NetworkSettings(_Settings):
    """What is changed in the host's network: nothing, unless it is named here."""

    ipv6: Ipv6Settings | None = Field(
        default=None, description="how IPv6 is switched on", examples=["{prefix: 64, gateway: fe80::1}"]
    )
    addresses: tuple[Annotated[str, AfterValidator(names.ipv6)], ...] = Field(
        default=(),
        description="a list of further IPv6 addresses, which receive and never send",
        examples=['["2001:db8::11"]'],
    )
    echo: Annotated[str, AfterValidator(names.http_url)] | None = Field(
        default=None,
        description="the URL of a service that answers with the address it is called from",
        examples=["https://echo.example.net/ip"],
    )

    @property
    def is_set(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.ipv6 or self.addresses)


class BootstrapSettings(_Settings):
    """What the host gets beside mail; what is not named stays as it is, what is no more named goes back."""

    timezone: Annotated[str, AfterValidator(names.timezone)] | None = Field(
        default=None, description="a name of the time zone database", examples=["Europe/Berlin"]
    )
    locale: Annotated[str, AfterValidator(names.locale)] | None = Field(
        default=None, description="the locale of the system", examples=["de_DE.UTF-8"]
    )
    apt_mirror: Annotated[str, AfterValidator(names.http_url)] | None = Field(
        default=None,
        description="the URL of a mirror of the host's distribution",
        examples=["https://deb.example.net/debian"],
    )
    packages: tuple[Annotated[str, AfterValidator(names.package)], ...] = Field(
        default=(), description="a list of packages", examples=["[htop, tmux]"]
    )


class HostSettings(_Settings):
    """One server that sends and receives; `name` is its EHLO name, certificate name and PTR."""

    name: Fqdn = Field(description="the host's full name", examples=["smtp.example.com"])
    ipv4: Annotated[str, AfterValidator(names.ipv4)] | None = Field(
        default=None, description="an IPv4 address; a host has this, `ipv6` or both", examples=["192.0.2.10"]
    )
    ipv6: Annotated[str, AfterValidator(names.ipv6)] | None = Field(
        default=None, description="an IPv6 address; a host has this, `ipv4` or both", examples=["2001:db8::10"]
    )
    host_key: Annotated[str, AfterValidator(names.host_key)] = Field(
        description="the host's ed25519 key line, /etc/ssh/ssh_host_ed25519_key.pub there",
        json_schema_extra={"fix": f"`{names.PIN}` writes it into the stack's file"},
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI..."],
    )
    arch: Literal["amd64", "arm64"] = Field(default="amd64", description="the processor", examples=["amd64"])
    ssh: SshSettings = Field(
        default=SshSettings.model_construct(), description="user and port", examples=["{user: root, port: 22}"]
    )
    ipv6_outbound: bool = Field(default=True, description="whether mail may leave over IPv6", examples=["on"])
    reverse_dns: ReverseDnsSettings = Field(
        default=ReverseDnsSettings.model_construct(),
        description="who sets the PTR record",
        examples=["{provider: manual}"],
    )
    firewall: FirewallSettings = Field(
        default=FirewallSettings.model_construct(),
        description="ports open beside mail and SSH",
        examples=["{allowTcp: [443]}"],
    )
    certificate_copies: CopySettings | None = Field(
        default=None,
        description="where other services of the host read its certificates",
        examples=["{folder: /srv/certificates, group: certificates}"],
    )
    reload_hooks: ReloadHooks = Field(
        default=(),
        description="a list of commands to run as root when the host's certificate was renewed",
        examples=["[systemctl reload nginx]"],
    )
    network: NetworkSettings = Field(
        default=NetworkSettings.model_construct(),
        description="how IPv6 is switched on, and further addresses",
        examples=["{ipv6: {prefix: 64, gateway: fe80::1}}"],
    )
    bootstrap: BootstrapSettings = Field(
        default=BootstrapSettings.model_construct(),
        description="time zone, locale, package mirror and further packages",
        examples=["{timezone: Europe/Berlin, packages: [htop]}"],
    )
    zone_id: ZoneId | None = Field(
        default=None,
        description="the id of the zone that holds the host's name, 32 hexadecimal digits in quotes",
        examples=['"0123456789abcdef0123456789abcdef"'],
    )

    @property
    def address(self) -> str:
        """Where it is reached: its IPv4 address, else its IPv6 one."""
        return str(self.ipv4 or self.ipv6)


class SpfSettings(_Settings):
    """What else may send for a domain beside our hosts, and what happens to the rest."""

    mechanisms: tuple[Annotated[str, AfterValidator(spf.mechanism)], ...] = Field(
        default=(), description="a list of SPF mechanisms", examples=["[ip4:192.0.2.7]"]
    )
    includes: tuple[Annotated[str, AfterValidator(spf.included)], ...] = Field(
        default=(), description="a list of domains whose SPF is included", examples=["[_spf.google.com]"]
    )
    all: Annotated[str, AfterValidator(spf.all_term)] = Field(
        default="~all", description="the end of the record, in quotes", examples=['"~all"']
    )
    adopt: bool = Field(
        default=False,
        description="whether an SPF record of others is replaced once all it allows stands here",
        examples=["true"],
    )


class DmarcSettings(_Settings):
    """The DMARC policy; `sp` and `np` (subdomains, names that do not exist) follow `policy` when left out."""

    policy: dmarc.Policy = Field(default="none", description="the policy", examples=["quarantine"])
    sp: dmarc.Policy | None = Field(default=None, description="the policy for subdomains", examples=["reject"])
    np: dmarc.Policy | None = Field(default=None, description="the policy for unknown subdomains", examples=["reject"])
    adkim: dmarc.Alignment | None = Field(
        default=None, description="s: a DKIM signature of this very domain alone counts", examples=["s"]
    )
    aspf: dmarc.Alignment | None = Field(
        default=None, description="s: an envelope sender of this very domain alone counts", examples=["s"]
    )
    rua: tuple[EmailAddress, ...] = Field(
        default=(), description="a list of addresses for daily reports", examples=["[dmarc@example.com]"]
    )
    ruf: tuple[EmailAddress, ...] = Field(
        default=(), description="a list of addresses for reports of single failures", examples=["[dmarc@example.com]"]
    )
    fo: Annotated[str, BeforeValidator(lambda value: str(value) if value in {0, 1} else value),
                  AfterValidator(dmarc.failure_options)] | None = Field(
        default=None, description="which failures are reported, in quotes", examples=['"1"']
    )  # fmt: skip


class DkimSettings(_Settings):
    """One DKIM key by its selector, and the stage of its life."""

    selector: Annotated[str, AfterValidator(names.selector)] = Field(
        description="the selector, in quotes", examples=['"m1"']
    )
    stage: dkim.Stage = Field(default="active", description="the stage of the key", examples=["active"])


class LimitSettings(_Settings):
    """How many recipients a user may write to; a stolen password does no more harm than this."""

    minute: int = Field(default=60, description="recipients a minute, 1 or more", examples=[60], ge=1)
    hour: int = Field(default=300, description="recipients an hour, 1 or more", examples=[300], ge=1)
    day: int = Field(default=1000, description="recipients a day, 1 or more", examples=[1000], ge=1)
    new_recipients: int = Field(
        default=200, description="recipients a day never written to before, 1 or more", examples=[200], ge=1
    )
    recipients_per_message: int = Field(
        default=50,
        description=f"recipients of one message, 1 to {standard_limits.MESSAGE_RECIPIENTS}",
        examples=[50],
        ge=1,
        le=standard_limits.MESSAGE_RECIPIENTS,
    )
    warm_up: int = Field(
        default=100,
        description="recipients on the first day of a user, doubled daily up to `day`; 0 for no warm-up",
        examples=[100],
        ge=0,
    )

    # Each limit and the one that holds it, the widest first: more than the second lets through never counts.
    ORDER: ClassVar = (
        ("hour", "day"),
        ("minute", "hour"),
        ("recipients_per_message", "minute"),
        ("new_recipients", "day"),
        ("warm_up", "day"),
    )

    def over(self, stack: LimitSettings) -> LimitSettings:
        """These limits where they are given, else the stack's, which yield to a wider one that is given."""
        values = {**stack.model_dump(), **self.model_dump(exclude_unset=True)}
        for narrow, wide in self.ORDER:
            if narrow not in self.model_fields_set:
                values[narrow] = min(values[narrow], values[wide])
        return LimitSettings(**values)


class UserSettings(_Settings):
    """An account that may send; `export` puts its passwords into the (secret) stack outputs.

    Beside its own address and the aliases that end at it, it may use the addresses in `identities`. Each of `tokens`
    is a login of its own for a program, `name+token@domain`, that sends as the user and within the user's limits.
    """

    name: Annotated[str, AfterValidator(names.user)] = Field(
        description="the part of the address before the @", examples=["i"]
    )
    export: bool = Field(default=False, description="whether the stack outputs hold the password", examples=["true"])
    identities: tuple[Identity, ...] = Field(
        default=(),
        description="a list of further addresses it may send as",
        examples=['[sales@example.com, "*@lists.example.com"]'],
    )
    limits: LimitSettings = Field(
        default=LimitSettings.model_construct(),
        description="limits of this user instead of the stack's",
        examples=["{day: 5000}"],
    )
    send: bool = Field(default=True, description="whether it may log in and send, or only receive", examples=["off"])
    tokens: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], ...] = Field(
        default=(), description="a list of names of application tokens", examples=["[shop, printer]"]
    )

    def logins(self, domain: str) -> list[str]:
        """The addresses it logs in with, its own first; none when it only receives."""
        names = [self.name, *(f"{self.name}{passwords.TOKEN_MARK}{token}" for token in self.tokens)]
        return [f"{name}@{domain}" for name in names] if self.send else []

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | UserSettings) else {"name": value}


class DomainSettings(_Settings):
    """One mail domain and what happens with mail to it: forwarded by us, received elsewhere, or none at all."""

    name: Fqdn = Field(description="the domain", examples=["example.com"])
    zone_id: ZoneId = Field(
        description="the zone's id, 32 hexadecimal digits in quotes",
        examples=['"0123456789abcdef0123456789abcdef"'],
    )
    mail: Literal["forward", "external", "none"] = Field(
        default="forward", description="who receives this domain's mail", examples=["forward"]
    )
    mx: tuple[Fqdn, ...] = Field(
        default=(), description="a list of the hosts that receive its mail elsewhere", examples=["[mx.example.net]"]
    )
    certificate: Literal["wildcard"] | None = Field(
        default=None, description="an extra certificate", examples=["wildcard"]
    )
    reload_hooks: ReloadHooks = Field(
        default=(),
        description="a list of commands to run as root when the domain's own certificate was renewed",
        examples=["[systemctl reload nginx]"],
    )
    spf: SpfSettings = Field(
        default=SpfSettings.model_construct(), description="SPF settings", examples=["{includes: [_spf.google.com]}"]
    )
    dmarc: DmarcSettings = Field(
        default=DmarcSettings.model_construct(), description="DMARC settings", examples=["{policy: quarantine}"]
    )
    dkim: tuple[DkimSettings, ...] = Field(
        default=(DkimSettings(selector="m1"),),
        description="a list of DKIM keys",
        examples=['[{selector: "m1", stage: active}]'],
    )
    users: tuple[UserSettings, ...] = Field(default=(), description="a list of users", examples=["[i]"])
    aliases: Mapping[
        AliasName,
        Annotated[tuple[AliasTarget, ...], BeforeValidator(_one_or_many), AfterValidator(_somewhere)],
    ] = Field(default={}, description="names and lists of destinations", examples=["{i: [someone@gmail.com]}"])

    @model_validator(mode="after")
    def _follow_mail(self) -> Self:
        """Fill in what `mail` decides: a silent domain rejects and has no keys, others report to postmaster."""
        given = self.dmarc.model_fields_set
        if self.mail == "none":
            policy = {} if "policy" in given else {"policy": "reject"}
            object.__setattr__(self, "dmarc", self.dmarc.model_copy(update=policy))
            if "dkim" not in self.model_fields_set:
                object.__setattr__(self, "dkim", ())
        elif "rua" not in given:
            # postmaster@ is the one address every domain has (RFC 5321 section 4.5.1)
            object.__setattr__(self, "dmarc", self.dmarc.model_copy(update={"rua": (f"postmaster@{self.name}",)}))
        return self


class AcmeSettings(_Settings):
    """The certificate authority, and the host's own DNS token for its challenges."""

    email: EmailAddress = Field(description="the address of the ACME account", examples=["you@example.com"])
    directory: Annotated[str, AfterValidator(_directory)] = Field(
        description="letsencrypt, letsencrypt-staging or the https URL of a directory",
        examples=["letsencrypt"],
    )
    dns: Annotated[str, AfterValidator(acme.plugin)] = Field(
        default=acme.CLOUDFLARE,
        description="certbot's name for its DNS plugin, without the dns- in front",
        examples=["rfc2136"],
    )
    token: Annotated[SecretStr, _secret(names.api_token)] | None = Field(
        default=None,
        description="a Cloudflare API token for the host alone, stored with `--secret`; with `dns: cloudflare`",
        examples=["{secure: ...}"],
    )
    credentials: Mapping[str, Annotated[SecretStr, BeforeValidator(_as_text), _secret(acme.credential)]] = Field(
        default={},
        description="the keys of another DNS plugin's credentials file, each stored with `--secret`",
        examples=["{dns_rfc2136_server: {secure: ...}, dns_rfc2136_secret: {secure: ...}}"],
    )
    challenge_zone: Fqdn | None = Field(
        default=None,
        description="a zone that holds nothing but challenges, where CNAME records of ours lead",
        examples=["acme.example.net"],
    )
    ca_file: str | None = Field(
        default=None,
        description="a PEM file, relative to the project, that certifies the directory's own HTTPS",
        examples=["ca.pem"],
        min_length=1,
    )
    propagation_seconds: int = Field(
        default=10, description="seconds to wait for a challenge record, 0 to 3600", examples=[10], ge=0, le=3600
    )

    @property
    def directory_url(self) -> str:
        """The URL of the directory."""
        return DIRECTORIES.get(self.directory, self.directory)

    @property
    def ini(self) -> dict[str, SecretStr]:
        """What certbot's DNS plugin reads in its credentials file."""
        return {acme.TOKEN_KEY: self.token} if self.token else dict(self.credentials)


class CloudflareSettings(_Settings):
    """Access to the zones, from the operator's machine only."""

    token_is_kept: ClassVar[bool] = True  # in the stack file, and so in the state

    api_token: Annotated[SecretStr, _secret(names.api_token)] = Field(
        description="a Cloudflare API token that may edit DNS in the zones, stored with `--secret`; unset: that of the "
        "environment variable CLOUDFLARE_API_TOKEN, which no state and no plan then holds",
        examples=["{secure: ...}"],
    )
    base_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        default=None, description="another base URL of the API", examples=["https://api.cloudflare.com/client/v4"]
    )


class ExportedToken(CloudflareSettings):
    """The token is that of the environment: reading and writing runs may have different ones."""

    token_is_kept = False


class ContaboSettings(_Settings):
    """Access to the account at Contabo that the hosts' addresses belong to, for their reverse DNS."""

    client_id: str = Field(description="the ClientId of the API", examples=["INT-12345678"], min_length=1)
    client_secret: Annotated[SecretStr, _secret(_credential)] = Field(
        description="the ClientSecret of the API, stored with `--secret`", examples=["{secure: ...}"]
    )
    api_user: str = Field(description="the API user", examples=["you@example.com"], min_length=1)
    api_password: Annotated[SecretStr, _secret(_credential)] = Field(
        description="the API password, stored with `--secret`", examples=["{secure: ...}"]
    )
    api_url: Annotated[str, AfterValidator(_api_url)] | None = Field(
        default=None, description="another address of the API", examples=["https://api.contabo.com"]
    )
    auth_url: Annotated[str, AfterValidator(_api_url)] | None = Field(
        default=None,
        description="another address of the login",
        examples=["https://auth.contabo.com/auth/realms/contabo/protocol/openid-connect/token"],
    )


class HetznerSettings(_Settings):
    """Access to the Hetzner Cloud project that the hosts' addresses belong to, for their reverse DNS."""

    token: Annotated[SecretStr, _secret(_credential)] = Field(
        description="an API token of the project, Read & Write, stored with `--secret`", examples=["{secure: ...}"]
    )
    api_url: Annotated[str, AfterValidator(_api_url)] | None = Field(
        default=None, description="another address of the API", examples=["https://api.hetzner.cloud/v1"]
    )


class Options(_Settings):
    """The settings that stand alone."""

    backend: str | None = Field(
        default=None,
        description="the URL of the backend that holds the stack's state: scripts find the stack by it, and a run that "
        "keeps its state elsewhere is refused",
        examples=["s3://my-bucket", "file://~"],
        pattern=r"^(https|file|s3|gs|azblob)://",
    )
    protect: bool | None = Field(
        default=None,
        description="whether hosts, DKIM keys that sign, and the records that mail and trust hang on are protected "
        "from deletion; left out, they are with `directory: letsencrypt`. To remove one: first a run with `off` and "
        "nothing else changed, then the run that removes it",
        examples=["on"],
    )
    passwords: Mapping[Annotated[EmailAddress, AfterValidator(str.lower)], Password] = Field(
        default={}, description="address -> password or hash, secret", examples=["{i@example.com: {secure: ...}}"]
    )
    dkim_keys: Mapping[
        Annotated[str, AfterValidator(dkim.key_name)], Annotated[SecretStr, _secret(dkim.private_key)]
    ] = Field(
        default={},
        description="name of a DKIM record -> private key made elsewhere, PEM, secret",
        examples=["{m1._domainkey.example.com: {secure: ...}}"],
    )
    adopted: tuple[Annotated[str, AfterValidator(names.record_id)], ...] = Field(
        default=(),
        description="a list of ids of records that scripts/adopt.py took over, until a run has changed them",
        examples=['["372e67954025e0ba6aaa6d586b9e0b59"]'],
    )
    resolver: Annotated[str, AfterValidator(names.ip_address)] | None = Field(
        default=None, description="the address of a resolver to ask instead of the system's", examples=["192.0.2.53"]
    )
    outbound_check: tuple[Annotated[str, AfterValidator(names.dns_name)], ...] = Field(
        default=("gmail-smtp-in.l.google.com", "outlook-com.olc.protection.outlook.com", "mx1.mailbox.org"),
        description="a list of mail servers of different operators, to see whether a host's port 25 is open",
        examples=["[gmail-smtp-in.l.google.com, mx1.mailbox.org]"],
        min_length=1,
    )
    ssh_private_key: Annotated[SecretStr, _secret(_private_key)] | None = Field(
        default=None, description="an SSH private key, secret", examples=["{secure: ...}"]
    )
    contabo: ContaboSettings | None = Field(
        default=None,
        description="access to the account at Contabo",
        examples=["{clientId: INT-12345678, clientSecret: {secure: ...}, apiUser: ..., apiPassword: {secure: ...}}"],
    )
    hetzner: HetznerSettings | None = Field(
        default=None, description="access to the project at Hetzner Cloud", examples=["{token: {secure: ...}}"]
    )
    propagation_timeout: int = Field(
        default=600, description="seconds to wait for name servers, 1 to 86400", examples=[600], ge=1, le=86400
    )
    limits: LimitSettings = Field(
        default=LimitSettings.model_construct(), description="limits of every user", examples=["{hour: 300, day: 1000}"]
    )
    warm_up: int = Field(
        default=500,
        description="recipients of a host on the first day of a new IP address, doubled daily for two weeks; 0 for off",
        examples=[500],
        ge=0,
    )
    gate: bool = Field(default=True, description="whether forged mail is refused, not forwarded", examples=["on"])
    rspamd: bool = Field(default=False, description="whether rspamd judges mail from outside", examples=["off"])
    forward_rate: int = Field(
        default=500, description="messages forwarded to one target an hour, 1 or more", examples=[500], ge=1
    )
    drain_timeout: int = Field(
        default=60, description="seconds to wait for the queue at a destroy, 0 to 3600", examples=[60], ge=0, le=3600
    )

    def reverse_dns_access(self, host: HostSettings) -> dict[str, str] | None:
        """The values that open the API which sets a host's PTR, secrets in clear; None where a person sets it."""
        if host.reverse_dns.provider == "manual":
            return None
        access: _Settings = getattr(self, host.reverse_dns.provider)
        given = access.model_dump(by_alias=True, exclude_none=True)
        return {
            key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in given.items()
        }

    def limits_of(self, user: UserSettings | None = None) -> LimitSettings:
        """The limits of a user, or those of everybody else."""
        everybody = self.limits.over(LimitSettings())
        return user.limits.over(everybody) if user else everybody


class Settings(Options):
    """Everything a stack says. `load` is the way in: it applies the rules between settings, too."""

    stack: str
    hosts: tuple[HostSettings, ...]
    domains: tuple[DomainSettings, ...]
    acme: AcmeSettings
    cloudflare: CloudflareSettings

    @classmethod
    def load(cls, read: Callable[[str], object | None], stack: str, keys: Iterable[str] = ()) -> Settings:
        """Parse and validate; `read` gives the parsed value of a key (`mailroom:hosts`) or None.

        `keys` are the keys that the stack file has, to find mistyped ones. Raises `Problems` with every reason.
        """
        parser = _Parser(read)
        parser.check_keys(keys)
        hosts = parser.each("mailroom:hosts", HostSettings)
        domains = parser.each("mailroom:domains", DomainSettings)
        acme = parser.one(AcmeSettings, "mailroom:acme", read("mailroom:acme"))
        section = parser.section("cloudflare", CloudflareSettings)
        exported = None if "apiToken" in section else os.environ.get("CLOUDFLARE_API_TOKEN")
        if exported:
            cloudflare: CloudflareSettings | None = parser.one(
                ExportedToken, "cloudflare:", {**section, "apiToken": exported}
            )
        else:
            cloudflare = parser.one(CloudflareSettings, "cloudflare:", section)
        options = parser.one(Options, "mailroom:", parser.section("mailroom", Options))
        parts = settings_rules.Parts(
            stack=stack,
            hosts=hosts,
            domains=domains,
            acme=acme,
            cloudflare=cloudflare,
            options=options,
            accounts=parser.accounts(),
            listed=parser.listed_domains(),
        )
        findings = [*parser.told(), *settings_rules.errors(parts)]
        if findings or acme is None or cloudflare is None or options is None:
            raise Problems(f"the settings of stack {stack} cannot be used; nothing was changed", findings)
        return cls(
            stack=stack,
            hosts=tuple(host for _, host in hosts),
            domains=tuple(domain for _, domain in domains),
            acme=acme,
            cloudflare=cloudflare,
            **{name: getattr(options, name) for name in Options.model_fields},
        )

    @property
    def served(self) -> tuple[DomainSettings, ...]:
        """The domains whose mail we handle: all but the silent ones."""
        return tuple(domain for domain in self.domains if domain.mail != "none")

    @property
    def protected(self) -> bool:
        """Whether deletion is refused: where it is not said, a certificate that clients trust tells production."""
        return self.acme.directory == "letsencrypt" if self.protect is None else self.protect

    @property
    def logins(self) -> list[str]:
        """Every address that somebody logs in with; each has a password."""
        return [login for domain in self.domains for user in domain.users for login in user.logins(domain.name)]

    def warnings(self) -> list[Finding]:
        """What works but deserves a word."""
        return settings_rules.warnings(self)


_Model = TypeVar("_Model", bound=_Settings)
_LISTS: Final[Mapping[str, tuple[type[_Settings], str]]] = {
    "mailroom:hosts": (
        HostSettings,
        "[{name: smtp.example.com, ipv4: 192.0.2.10, hostKey: ssh-ed25519 AAAA...}]",
    ),
    "mailroom:domains": (DomainSettings, '[{name: example.com, zoneId: "0123...", users: [i]}]'),
}


def _canonical(spelling: Callable[[str], str], text: str) -> str:
    """`text` as it is compared with others, also if it cannot be used."""
    try:
        return spelling(text)
    except Invalid:
        return text.strip()


class _Parser:
    """Parses part by part and goes on after an error, so that one run tells them all."""

    def __init__(self, read: Callable[[str], object | None]) -> None:
        self._read = read
        self.findings: list[Finding] = []
        self._meant: set[str] = set()  # keys that stand there, but mistyped

    def told(self) -> list[Finding]:
        """What was wrong: a mistyped key is not also a missing one."""
        return [
            finding
            for finding in self.findings
            if finding.id != settings_explain.MISSING or finding.subject not in self._meant
        ]

    def section(self, namespace: str, model: type[_Settings]) -> dict[str, object]:
        """The keys of a model that stand on the top level of the stack file."""
        keys = [str(field.alias) for field in model.model_fields.values()]
        values = {key: self._read(f"{namespace}:{key}") for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def one(self, model: type[_Model], path: str, raw: object) -> _Model | None:
        """`raw` as a model, or None after noting what is wrong."""
        if raw is None:
            example = "{email: you@example.com, directory: letsencrypt, token: {secure: ...}}"
            self.findings.append(settings_explain.missing(path, "a mapping", example))
            return None
        try:
            return model.model_validate(raw, by_alias=True, by_name=False)
        except ValidationError as error:
            self.findings += settings_explain.explain(error, model, raw, path)
            return None

    def each(self, key: str, model: type[_Model]) -> list[tuple[str, _Model]]:
        """The usable items of a list, each with its path."""
        raw = self._read(key)
        example = _LISTS[key][1]
        if raw is None:
            self.findings.append(settings_explain.missing(key, "a list of at least one", example))
            return []
        if not isinstance(raw, list | tuple) or not raw:
            self.findings.append(settings_explain.wrong_kind(key, raw, "a list of at least one", example))
            return []
        items = [(f"{key}[{position}]", item) for position, item in enumerate(raw)]
        return [(path, model_) for path, item in items if (model_ := self.one(model, path, item or {})) is not None]

    def listed_domains(self) -> set[str] | None:
        """Names of all domains, those with other mistakes included; None if that cannot be told."""
        raw = self._read("mailroom:domains")
        items = raw if isinstance(raw, list | tuple) else [None]
        listed = [item.get("name") if isinstance(item, Mapping) else None for item in items]
        return {_canonical(names.dns_name, str(name)) for name in listed} if all(listed) else None

    def accounts(self) -> list[str] | None:
        """All addresses that have a password, unusable passwords included; None if that cannot be told."""
        raw = self._read("mailroom:passwords")
        if raw is None:
            return None if "mailroom:passwords" in self._meant else []
        if not isinstance(raw, Mapping):
            return None
        return [_canonical(names.email_address, str(key)).lower() for key in raw if "@" in str(key)]

    def check_keys(self, keys: Iterable[str]) -> None:
        """Note keys of our namespace that do not exist."""
        known: Collection[str] = [
            *_LISTS,
            "mailroom:acme",
            *(f"mailroom:{field.alias}" for field in Options.model_fields.values()),
        ]
        for key in keys:
            if key.startswith("mailroom:") and key not in known:
                self._mistyped(key, known)
        # The official provider has keys of its own in this namespace: only a misspelling of ours is a mistake.
        ours = {f"cloudflare:{field.alias}" for field in CloudflareSettings.model_fields.values()}
        for key in keys:
            if key not in ours and key.casefold() in {name.casefold() for name in ours}:
                self._mistyped(key, sorted(ours))

    def _mistyped(self, key: str, known: Collection[str]) -> None:
        self.findings.append(settings_explain.unknown(key, key, known))
        self._meant |= {settings_explain.nearest(key, known) or key}
