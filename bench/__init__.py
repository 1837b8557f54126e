"""Measurements against what we compare ourselves with; each prints its figures and judges them by its exit status."""
