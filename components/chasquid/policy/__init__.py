"""The sender policy of a host: chasquid asks it about each message; standard library and distribution packages only."""
