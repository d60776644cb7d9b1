"""Certificates from SPIFFE's Workload API, as SPIRE serves it, in place of issuers of the mesh."""
