"""What the RFCs and the big receivers ask for, as pure functions: no I/O and no Pulumi import."""
