"""The nouns: frozen dataclasses and protocols that every other folder shares. Imports nothing of ours."""
