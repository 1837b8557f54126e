"""The host: the component, the resources that log in by themselves, and what runs there."""
