"""Names of files in a model's folder that several modules look for."""

INDEX = "model.safetensors.index.json"
"""Which tensor is in which file."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of weights that can run code when they are read: never read, never fetched."""
