"""What etcd says and is not believed: losses without a word, and another etcd."""
