"""A bundle as a folder, and as one file for transport."""
