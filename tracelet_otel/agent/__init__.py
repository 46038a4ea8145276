"""The agent: a gateway on a Unix socket, in a process of its own beside the one that trains."""
