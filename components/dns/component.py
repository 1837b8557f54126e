"""HostDns and MailDns: the wanted records of standards/records.py as Cloudflare records, and their propagation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulumi

from components.dns.record import DnsRecord
from standards.records import Record, with_dkim_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from components.dkim.provider import DkimKey


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    """`records` are published once `after` is done; `stack` marks them as ours; `keys` fill in DKIM records.

    Those whose keys are in `protected` the engine does not delete.
    """

    records: Sequence[Record]
    stack: str
    after: Sequence[pulumi.Resource]
    keys: Mapping[tuple[str, str], DkimKey] = field(default_factory=dict)
    protected: Collection[str] = ()


class _Dns(pulumi.ComponentResource):
    """Publishes records; `published` holds the resources, `values` each record with its content."""

    published: list[pulumi.Resource]
    values: list[tuple[Record, pulumi.Output[str]]]
    token: str

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(self.token, name, None, opts)
        self.values = [(record, _content(record, args.keys)) for record in args.records]
        self.published = [self._publish(record, content, args) for record, content in self.values]
        self.register_outputs({"names": [record.name for record in args.records]})

    def _publish(self, record: Record, content: pulumi.Output[str], args: DnsArgs) -> pulumi.Resource:
        return DnsRecord(
            record.key,
            zone_id=record.zone_id,
            name=record.name,
            type=record.type,
            ttl=record.ttl,
            content=content,
            priority=record.priority,
            proxied=False,  # a proxied name answers with an edge that speaks no SMTP
            comment=record.comment(args.stack),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=list(args.after),
                protect=record.key in args.protected,
                delete_before_replace=True,  # the API refuses the new record while the old one stands
            ),
        )


class HostDns(_Dns):
    """A, AAAA and the EHLO name's SPF of one host."""

    token = "mailroom:index:HostDns"  # noqa: S105


class MailDns(_Dns):
    """The records of one domain in one wave: SPF and DKIM before the service, MX and DMARC after it."""

    token = "mailroom:index:MailDns"  # noqa: S105


def _content(record: Record, keys: Mapping[tuple[str, str], DkimKey]) -> pulumi.Output[str]:
    if record.content is not None:
        return pulumi.Output.from_input(record.content)
    assert record.dkim is not None, f"{record.key} has neither content nor a key"  # noqa: S101
    return keys[record.dkim].public.apply(lambda public: str(with_dkim_key(record, public).content))
