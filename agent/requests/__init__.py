"""Records of requests, as everybody has them: which ones somebody wants, and as what lines they are written. Pure."""
