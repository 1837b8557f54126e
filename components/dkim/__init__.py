"""DKIM key pairs as Pulumi resources."""

from components.dkim.provider import DkimKey

__all__ = ["DkimKey"]
