"""What `shoal watch` tells of changes in etcd, and of how they converge. Pure, but for `reading`."""
