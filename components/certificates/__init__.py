"""Certificates: the component, and what obtains and renews them on the host."""
