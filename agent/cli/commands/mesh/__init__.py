"""`shoal mesh`: what concerns all of a mesh."""
