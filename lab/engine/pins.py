"""The versions everything in this package is made for; nothing else, so that reading them costs nothing."""

from __future__ import annotations

ENGINE = "3.259.0"
"""The engine that is built, and the oldest official one that is accepted."""

GO = "1.27.3"
"""The Go that builds it, as locked in requirements-go.txt."""

PLUGINS = {"command": "1.2.1", "cloudflare": "6.23.1"}
"""The providers with a stand-in; the SDKs in requirements.txt ask the engine for exactly these."""
