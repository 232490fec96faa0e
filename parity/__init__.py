"""Run, serve, tune and verify DeepSeek, Qwen and Kimi models on any hardware stack."""

__version__ = "0.1.0"
