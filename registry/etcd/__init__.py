"""etcd behind the Store contract."""
