"""This host, and that one agent is on it: sockets, ports, users, programs, the disk."""
