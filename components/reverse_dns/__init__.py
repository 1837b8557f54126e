"""Reverse DNS: the component, and the resource that sets names at the hosting provider."""
