"""The policy pack: what the properties of a stack's resources alone show to be unsafe for a mail server."""
