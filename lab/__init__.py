"""The small internet: machines, network, DNS, ACME, API, a receiver that judges. Imports nothing from components."""
