"""People of a mesh: who may log in, and who has."""
