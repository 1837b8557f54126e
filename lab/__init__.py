"""The small internet: machines, network, DNS, ACME, API and a receiver that judges. Imports nothing from components/."""
