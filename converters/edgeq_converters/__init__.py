"""One backend a folder: a QDQ graph in, an engine's artifact out. See edgeq.backend."""
