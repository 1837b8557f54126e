"""MailServer: puts the parts together in their four waves (gates, identity, service, mail); owns no resource itself."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import pulumi

from components.certificates.component import Certificate, CertificateArgs, challenge_packages
from components.chasquid.component import Chasquid, ChasquidArgs
from components.chasquid.provider import Users
from components.dkim.provider import DkimKey
from components.dns.component import DnsArgs, HostDns, MailDns
from components.dns.provider import Propagated, SpfTakeover, ZoneGate
from components.host.component import Host, HostArgs
from components.host.provider import Reachable
from components.reverse_dns.component import ReverseDns, ReverseDnsArgs
from standards import dkim, ownership
from standards.finding import Finding
from standards.records import Record, domain_spf, ours_around, report_receivers, unquoted, wanted_records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.settings import CloudflareSettings, HostSettings, Settings
    from standards.records import Wave

MANY: Final = 300  # resources: from there on a run spends more time on writing its state than on all else
NO_KEYS: Final[Mapping[tuple[str, str], DkimKey]] = MappingProxyType({})
# The records that mail and trust hang on. Not AAAA: `ipv6Outbound: off` has to work at once when IPv6 is refused.
LASTING: Final = frozenset({"a", "dmarc", "mx", "spf", "spf-hosts"})


@dataclass(frozen=True, kw_only=True)
class MailServerArgs:
    """Everything a stack says, validated."""

    settings: Settings


class MailServer(pulumi.ComponentResource):
    """Hosts that send for domains: DNS, certificates, keys and chasquid, in the order that keeps mail safe.

    A DKIM key reaches a host only after its TXT record is visible at every authoritative server; MX and DMARC
    come last, so a failed run attracts no mail.
    """

    values: list[tuple[Record, pulumi.Output[str]]]
    systems: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: MailServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        registered: list[str] = []
        counting = pulumi.ResourceOptions(transformations=[lambda it: registered.append(it.name)])
        super().__init__("mailroom:index:MailServer", name, None, pulumi.ResourceOptions.merge(counting, opts))
        self._settings = settings = args.settings
        self._records = wanted_records(settings)
        self._lasting = lasting(settings, self._records) if settings.protected else frozenset()

        # Wave 1: gates, read-only. Everything waits for all of them.
        zones = self._zone_gates(self._records)
        hosts = {host.name: self._host(host, zones) for host in settings.hosts}
        gates = [*zones, *(host.gate for host in hosts.values())]
        self.systems = {name: host.gate.os for name, host in hosts.items()}

        # Wave 2: addresses, then their names; keys, then their records; then all of it seen everywhere.
        keys = {key: self._dkim_key(*key) for key in self._dkim_keys()}
        host_dns = [HostDns(host.name, self._dns("host", host.name, gates), self._child())
                    for host in settings.hosts]  # fmt: skip
        published = [record for dns in host_dns for record in dns.published]
        reverse = [self._reverse_dns(host, published) for host in settings.hosts]
        room = self._room_for_spf(gates)
        identity = [MailDns(f"{domain.name}/identity",
                            self._dns("identity", domain.name, [*gates, *room.get(domain.name, ())], keys),
                            self._child()) for domain in settings.domains]  # fmt: skip
        propagated = self._propagated([*host_dns, *identity])

        # Wave 3: the service. Wave 4: what attracts mail.
        users = self._users()
        ready = [propagated, *reverse]
        services = [self._service(host, hosts[host.name], keys, users, ready) for host in settings.hosts]
        # A run that stopped half-way may go on days later: the zone is read again before MX and DMARC.
        late = [record for record in self._records if record.wave == "mail"]
        open_zones = self._zone_gates(late, "mail-", services)
        mail = [MailDns(f"{domain.name}/mail", self._dns("mail", domain.name, open_zones), self._child())
                for domain in settings.domains]  # fmt: skip
        self.values = [value for dns in (*host_dns, *identity, *mail) for value in dns.values]
        if len(registered) > MANY:
            pulumi.log.warn(_large(settings.stack, len(registered)), self)
        self.register_outputs({})

    def _child(self, depends_on: Sequence[pulumi.Resource] = ()) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=list(depends_on) or None)

    def _zone_gates(
        self, records: Sequence[Record], wave: str = "", after: Sequence[pulumi.Resource] = ()
    ) -> list[pulumi.Resource]:
        """One gate a zone that we write to; it is told every name and kind we want there."""
        api = self._settings.cloudflare
        published = [
            {"name": record.name, "type": record.type, "value": value}
            for record in records
            if record.dkim is None and record.content is not None
            for value in (unquoted(record.content) if record.type == "TXT" else record.answer,)
        ]
        return [
            ZoneGate(
                f"{zone_id}/{wave}gate",
                names=names,
                zone_id=zone_id,
                wanted=ownership.claims(self._settings, records, zone_id),
                senders=[
                    {"domain": domain.name, "text": domain_spf(domain)}
                    for domain in self._settings.served
                    if domain.zone_id == zone_id and not wave
                ],
                published=[] if wave else published,
                reports=[] if wave else self._reports_to_others(zone_id),
                resolver=self._settings.resolver,
                stack=self._settings.stack,
                token=_kept_token(api),
                base_url=api.base_url,
                opts=self._child(after),
            )
            for zone_id, names in ownership.owners(self._settings, records).items()
        ]

    def _reports_to_others(self, zone_id: str) -> list[dict[str, str]]:
        domains = self._settings.domains
        return [
            {"domain": domain.name, "receiver": receiver}
            for domain in domains
            if domain.zone_id == zone_id
            for receiver in report_receivers(domain)
            if ours_around(receiver, domains) is None
        ]

    def _room_for_spf(self, gates: Sequence[pulumi.Resource]) -> dict[str, list[pulumi.Resource]]:
        """By domain what makes room for its SPF record, where the settings allow to replace one of others."""
        api = self._settings.cloudflare
        adopting = {domain.name: domain.zone_id for domain in self._settings.served if domain.spf.adopt}
        return {
            claim["name"]: [
                SpfTakeover(
                    f"{claim['name']}/spf-takeover",
                    claim=claim,
                    token=_kept_token(api),
                    base_url=api.base_url,
                    opts=self._child(gates),
                )
            ]
            for zone_id in dict.fromkeys(adopting.values())
            for claim in ownership.claims(self._settings, self._records, zone_id)
            if claim["name"] in adopting
        }

    def _host(self, host: HostSettings, gates: Sequence[pulumi.Resource]) -> Host:
        key = self._settings.ssh_private_key
        private = pulumi.Output.secret(key.get_secret_value()) if key else None
        settings = self._settings
        packages, check = challenge_packages(settings.acme), settings.outbound_check
        args = HostArgs(settings=host, private_key=private, gates=gates, outbound_check=check, packages=packages)
        return Host(host.name, args, self._child())

    def _dkim_keys(self) -> list[tuple[str, str]]:
        return [record.dkim for record in self._records if record.dkim is not None and record.content is None]

    def _dkim_key(self, domain: str, selector: str) -> DkimKey:
        ready = self._settings.dkim_keys.get(dkim.record_name(selector, domain))
        imported = pulumi.Output.secret(ready.get_secret_value()) if ready else None
        name = f"{domain}/dkim-key/{selector}"
        opts = pulumi.ResourceOptions.merge(self._child(), pulumi.ResourceOptions(protect=name in self._lasting))
        return DkimKey(name, domain=domain, selector=selector, imported=imported, opts=opts)

    def _dns(
        self,
        wave: Wave,
        owner: str,
        after: Sequence[pulumi.Resource],
        keys: Mapping[tuple[str, str], DkimKey] = NO_KEYS,
    ) -> DnsArgs:
        """The records of one host or domain in one wave."""
        records = [record for record in self._records if record.wave == wave and record.owner == owner]
        return DnsArgs(records=records, stack=self._settings.stack, after=after, keys=keys, protected=self._lasting)

    def _reverse_dns(self, host: HostSettings, published: Sequence[pulumi.Resource]) -> pulumi.Resource:
        args = ReverseDnsArgs(
            settings=host,
            access=self._settings.reverse_dns_access(host),
            resolver=self._settings.resolver,
            timeout=self._settings.propagation_timeout,
            addresses_published=published,
        )
        return ReverseDns(host.name, args, self._child()).checked

    def _propagated(self, parts: Sequence[HostDns | MailDns]) -> Propagated:
        return Propagated(
            "identity/propagated",
            records=[value for part in parts for value in part.values],
            resolver=self._settings.resolver,
            timeout=self._settings.propagation_timeout,
            opts=self._child([record for part in parts for record in part.published]),
        )

    def _users(self) -> Users:
        passwords = {
            address: pulumi.Output.secret(self._settings.passwords[address].get_secret_value())
            for address in self._settings.logins
        }
        domains = [domain.name for domain in self._settings.served]
        return Users("users", domains=domains, passwords=passwords, opts=self._child())

    def _service(
        self,
        settings: HostSettings,
        host: Host,
        keys: dict[tuple[str, str], DkimKey],
        users: Users,
        ready: Sequence[pulumi.Resource],
    ) -> pulumi.Resource:
        """Certificates and chasquid of one host; returns its last resource before mail: ports that are reachable."""
        names = certificate_names(self._settings, settings)
        api_base = self._settings.cloudflare.base_url
        certificate = Certificate(
            settings.name,
            CertificateArgs(
                host=host,
                host_settings=settings,
                names=names,
                hooks=reload_hooks(self._settings, settings),
                acme=self._settings.acme,
                api_base=api_base,
                gates=ready,
            ),
            self._child(),
        )
        chasquid = Chasquid(
            settings.name,
            ChasquidArgs(
                settings=self._settings,
                host_settings=settings,
                host=host,
                certificate=certificate,
                certificate_names=names,
                keys=keys,
                users=users,
                before_signing=ready,
            ),
            self._child(),
        )
        name = f"{settings.name}/uninstall"
        uninstall = host.uninstall(
            name,
            {"hostname": settings.name, "drain_seconds": self._settings.drain_timeout},
            timeout=300 + self._settings.drain_timeout,
            protect=name in self._lasting,
            parent=self,
            depends_on=[chasquid.serving, *ready],
        )
        return Reachable(
            f"{settings.name}/reachable",
            settings=settings,
            outbound_check=self._settings.outbound_check,
            resolver=self._settings.resolver,
            opts=self._child([uninstall]),
        )


def _kept_token(api: CloudflareSettings) -> pulumi.Output[str] | None:
    """The API token for a resource that writes; None where every run brings its own."""
    return pulumi.Output.secret(api.api_token.get_secret_value()) if api.token_is_kept else None


def lasting(settings: Settings, records: Sequence[Record]) -> frozenset[str]:
    """The names of the resources whose deletion takes a domain's mail, its trust or a host away.

    A DKIM key is one while its stage is `active`: a rotation takes it out later without further leave. With the last
    records and the uninstall step no destroy gets anywhere: all else is deleted after them.
    """
    signing = {
        (domain.name, key.selector) for domain in settings.domains for key in domain.dkim if key.stage == "active"
    }
    return frozenset(
        {f"{host.name}/uninstall" for host in settings.hosts}
        | {f"{domain}/dkim-key/{selector}" for domain, selector in signing}
        | {
            record.key
            for record in records
            if record.dkim in signing or record.key.removeprefix(f"{record.owner}/").partition("/")[0] in LASTING
        }
    )


def certificate_names(settings: Settings, host: HostSettings) -> dict[str, list[str]]:
    """The certificates of a host: its own name first, then D and *.D for each domain that asks for a wildcard."""
    wildcards = [domain.name for domain in settings.domains if domain.certificate == "wildcard"]
    return {host.name: [host.name], **{name: [name, f"*.{name}"] for name in wildcards}}


def reload_hooks(settings: Settings, host: HostSettings) -> dict[str, Sequence[str]]:
    """What to run when each of these certificates was renewed."""
    hooks = {host.name: host.reload_hooks}
    for domain in settings.domains:
        hooks[domain.name] = (*hooks.get(domain.name, ()), *domain.reload_hooks)
    return {name: commands for name, commands in hooks.items() if commands}


def _large(stack: str, resources: int) -> str:
    """What to do about a stack of that many resources."""
    return str(
        Finding(
            severity="warning",
            id="large-stack",
            subject=f"stack {stack}",
            expected=f"at most {MANY} resources in a stack whose state is a file or a bucket",
            found=f"{resources}",
            why="the engine writes the whole state anew for each of them, so twice the size takes four times as long",
            fix="move domains into a second stack; or run with PULUMI_SKIP_CHECKPOINTS=1, which writes the state "
            "once at the end (25 times as fast with 2,300 resources), but a killed run then forgets what it made",
        )
    ).removeprefix("warning: ")
