"""Sizes that standards, receivers and providers set, each with its source; no checks of values live here."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = 253  # RFC 1035 section 3.1: 255 octets on the wire
LABEL: Final = 63  # RFC 1035 section 2.3.4
LOCAL_PART: Final = 64  # RFC 5321 section 4.5.3.1.1
MESSAGE_RECIPIENTS: Final = 100  # RFC 5321 section 4.5.3.1.8; chasquid: internal/smtpsrv RCPT
ADDRESS: Final = 254  # RFC 5321 section 4.5.3.1.3: a path is 256 with its angle brackets

TXT_STRING: Final = 255  # RFC 1035 section 3.3: one length octet
ROTATION_TTL: Final = 3600  # seconds an old key or address may go on being used after a change; our own
CLOUDFLARE_COMMENT: Final = 100  # characters of a record's comment on the Free plan

SPF_LOOKUPS: Final = 10  # RFC 7208 section 4.6.4
SPF_VOID_LOOKUPS: Final = 2  # RFC 7208 section 4.6.4, second last paragraph
ALIAS_DEPTH: Final = 10  # chasquid: internal/aliases recursionLimit
RSA_BITS_MIN: Final = 2048  # RFC 8301 section 3.2: signers SHOULD
RSA_BITS_MAX: Final = 4096  # RFC 8301 section 3.2: verifiers MUST handle up to this
