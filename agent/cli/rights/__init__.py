"""Users and roles of etcd, as commands make them with the rights of whoever runs them."""
