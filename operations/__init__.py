"""The library under scripts/ and the dynamic providers: outside views and actions, findings, reports."""
