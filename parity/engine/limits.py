"""What the scheduler may use, and its rules."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..core.errors import UsageError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Sizes and rules. Checked on construction.

    Args:
        page_size: tokens in a page.
        num_pages: pages of per-token state.
        max_model_len: most tokens of prompt and answer together.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: most tokens computed in one step; at least `max_num_seqs`, so that no one is left out.
        max_num_waiting: most requests queued; more are refused.
        eos_token_ids: the model's own end tokens.
        prefix_caching: whether state is kept for requests to come.
        has_slots: whether the model has per-request state, which is reused from snapshots only.
        num_slots: places for per-request state; unused without `has_slots`.
        num_snapshots: places for its copies; unused without `has_slots`.
        snapshot_every: pages between two snapshots of a request; the last page boundary of a prompt always gets one.

    Raises:
        UsageError: a value is out of its range.
    """

    page_size: int = 16
    num_pages: int = 1024
    max_model_len: int = 4096
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_num_waiting: int = 1024
    eos_token_ids: frozenset[int] = frozenset()
    prefix_caching: bool = True
    has_slots: bool = False
    num_slots: int = 0
    num_snapshots: int = 0
    snapshot_every: int = 16

    def __post_init__(self) -> None:
        optional = {"num_snapshots"} if self.has_slots else {"num_snapshots", "num_slots"}
        for name in (f.name for f in fields(self) if f.type == "int"):
            value, least = getattr(self, name), 0 if name in optional else 1
            if value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise UsageError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) is below max_num_seqs ({self.max_num_seqs}); "
                "every running request needs one token a step: raise the first or lower the second"
            )
