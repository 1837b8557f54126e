"""DNS records: the components that publish them, the gate before them and the waits after them."""
