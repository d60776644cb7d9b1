"""The API, version 1: typed resources, described by their own types, of one agent or of all of them."""
