"""What commands of identity share: what etcd has of it, what is decided on that, and files of keys."""
