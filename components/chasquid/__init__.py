"""Chasquid: the component, the users' passwords, the binary, and what serves on the host."""
