"""DKIM key pairs as Pulumi resources."""
