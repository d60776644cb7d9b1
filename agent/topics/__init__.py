"""Durable topics: requests that wait on disk, and then with a broker, until they can be served.

Nothing here knows the proxy or etcd: a spool is given records, a relay a spool and an address.
"""
