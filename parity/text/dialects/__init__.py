"""The dialects in which models think and call tools: what marks what, as data, and how each call is read."""

from .base import CallFormat, Dialect, Thinking
from .registry import dialect_by_name, dialect_for

__all__ = ["CallFormat", "Dialect", "Thinking", "dialect_by_name", "dialect_for"]
