"""The Pulumi engine of a checkout and small Python stand-ins for the plugins that come only as binaries.

    build       finds the official engine, or builds the pinned one
    install     puts engine and stand-ins into the checkout
    language    pulumi-language-python: runs Python programs and plugins
    program     its child process: one run of a Python program
    dynamic     pulumi-resource-pulumi-python: the SDK's dynamic provider
    command     pulumi-resource-command: commands over SSH and here, file copies
    cloudflare  pulumi-resource-cloudflare: DNS records, DNSSEC, the zone look-up

The stand-ins speak the engine's own gRPC protocols and follow the official plugins, traps included, so a
program runs unchanged with either.  They cover what a mail server needs and no more; anything else is refused
by name.
"""
