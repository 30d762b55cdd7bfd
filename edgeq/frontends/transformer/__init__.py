"""Checkpoints of encoders, and of encoders with a decoder: a folder -> what the networks are, and their graphs."""
