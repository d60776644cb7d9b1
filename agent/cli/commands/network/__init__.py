"""Commands about the network of a host."""
