"""The one protocol of everything that can be captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..record import Answer, Exact, Identity, Int32s, Isolated, Layers, Path, Plan, Positions
from ..suites import Item


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A prompt as a side sees it; None for what it does not show."""

    ids: Int32s | None = None
    count: int | None = None


class Side(Protocol):
    """Answers for one model on one stack. A method returns None, or less, where the side cannot; `unreached` says why.

    Args:
        name: as it was asked for, without keys.
        paths: those that it has.
    """

    name: str
    paths: tuple[Path, ...]

    def identity(self) -> Identity:
        """What it says it is."""

    def tokens(self, items: Sequence[Item]) -> list[Tokens]:
        """The prompts' token ids, as rendered and cut by the side itself."""

    def capture(
        self, items: Sequence[Item], tokens: Sequence[Int32s], plan: Plan
    ) -> Iterator[tuple[int, Mapping[Path, Positions]]]:
        """The distributions along prompts, by path: (which prompt, its paths) as each is done, in any order."""

    def mixed(self, items: Sequence[Item], tokens: Sequence[Int32s | None], plan: Plan) -> list[Positions | None]:
        """The distributions at the end of those prompts that ask for every path, computed in one batch; None for others."""

    def generate(self, items: Sequence[Item], plan: Plan) -> list[Answer | None]:
        """The greedy answers to chats; None for an item that asks for none."""

    def sample(self, items: Sequence[Item], plan: Plan) -> list[Int32s | None]:
        """int32 [plan.num_samples, plan.sample_tokens] each: sampled answers at temperature 1, padded with -1."""

    def layers(self, tokens: Int32s) -> Layers | None:
        """The inside of the model on a short prompt."""

    def isolated(self, reference: Layers, reference_hash: str) -> Isolated | None:
        """Each site's own error when fed the reference's inner values."""

    def to_float32(self) -> bool:
        """Goes on with everything computed in float32; False where it was already, or cannot be. There is no way back."""

    def exact(self, plan: Plan) -> Mapping[str, Exact] | None:
        """Each exact probe's result."""

    def unreached(self) -> Mapping[str, str]:
        """What it could not give, by name, and why."""

    def close(self) -> None:
        """Lets go of what it holds."""
