"""What stands in etcd of events, and what is written there about them."""
