"""Pulumi component resources, one folder a part; a part owns its host scripts."""
