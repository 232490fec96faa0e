"""Two packs, prompt by prompt: the numbers that the levels judge. Holds a few numbers a position, never two packs."""

from .answers import common_prefix
from .records import compare, compare_records, rows
from .results import ANSWER, Change, Forced, PromptResult, Where, flat, worst_path

__all__ = [
    "ANSWER",
    "Change",
    "Forced",
    "PromptResult",
    "Where",
    "common_prefix",
    "compare",
    "compare_records",
    "flat",
    "rows",
    "worst_path",
]
