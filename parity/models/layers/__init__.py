"""The building blocks that architectures share; each takes the kernel table that it computes with."""
