"""Checkpoints of language models in: a folder or a .gguf -> what the network is, its tensors, and its graph."""
