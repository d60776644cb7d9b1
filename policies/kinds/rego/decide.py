# mypyc: interpreted, because it has nothing to decide
"""`rego`: control puts modules into the `authz` documents that name them; no request is held against them alone."""
