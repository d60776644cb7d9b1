"""Shoal: a service mesh with no central server."""

VERSION = "0.1.0"
