"""What the lab has in place of the public internet: DNS, an ACME authority, provider APIs, a receiver that judges."""
