"""Who this host can prove to be: what stands in etcd about identity, its own keys and certificates, and issuing."""
