"""The config keys of DSpark, and what reads the layers that they name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import ConfigError
from ..core.state import LayerState
from .config import Fields
from .standard import Sizes
from .step import Step

KEYS = (
    "dspark_block_size",
    "dspark_noise_token_id",
    "dspark_target_layer_ids",
    "dspark_markov_rank",
    "dspark_n_routed_experts",
    "dspark_num_experts_per_tok",
)


@dataclass(frozen=True)
class Spark:
    """The keys of DSpark.

    Args:
        num_layers: draft layers.
        block: tokens guessed at a time.
        noise: the token that stands for those not known yet.
        targets: the model's layers that are read, in order.
        entering: they are read before their attention, else after their MLP.
        rank: of the matrix from the token before to what it adds to the logits.
        experts: (all, chosen) in a draft layer; None where they are as many as in the model's.
    """

    num_layers: int
    block: int
    noise: int
    targets: tuple[int, ...]
    entering: bool
    rank: int
    experts: tuple[int, int] | None

    @property
    def taps(self) -> tuple[str, ...]:
        """What is read, by name."""
        return tuple(f"tap{layer}" for layer in self.targets)

    def tap(self, layer: int) -> Tap | None:
        """What reads this layer, if anything does."""
        return Tap(f"tap{layer}") if layer in self.targets else None


def read_spark(fields: Fields, sizes: Sizes, *, entering: bool) -> Spark:
    """Takes the keys of DSpark.

    Raises:
        ConfigError: one is missing, or does not fit the model.
    """
    targets, noise = fields.list("dspark_target_layer_ids"), fields.int("dspark_noise_token_id")
    if not all(type(layer) is int and 0 <= layer < sizes.num_layers for layer in targets) or sorted(set(targets)) != targets:
        raise ConfigError(f"dspark_target_layer_ids = {targets!r} must rise and name some of {sizes.num_layers} layers")
    if noise >= sizes.vocab:
        raise ConfigError(f"dspark_noise_token_id = {noise} is not among the {sizes.vocab} tokens")
    # The list of ratios goes on with those of the draft layers, and so counts them: num_nextn_predict_layers is still 1 in the
    # 0731 release of V4, which has three.
    ratios = fields.list("compress_ratios", [])[sizes.num_layers :]
    if any(ratios):
        raise ConfigError(f"compress_ratios ends in {ratios!r}: DSpark's draft layers pool nothing, so these must be 0")
    given, chosen = fields.int("dspark_n_routed_experts", 0), fields.int("dspark_num_experts_per_tok", 0)
    if bool(given) != bool(chosen) or chosen > given:
        raise ConfigError(f"dspark_num_experts_per_tok = {chosen} does not fit dspark_n_routed_experts = {given}")
    return Spark(
        num_layers=len(ratios) or fields.size("num_nextn_predict_layers"),
        block=fields.size("dspark_block_size"),
        noise=noise,
        targets=tuple(targets),
        entering=entering,
        rank=fields.size("dspark_markov_rank", 256),
        experts=(given, chosen) if given else None,
    )


class Tap:
    """Leaves what it is given for the draft layers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor, step: Step, state: LayerState) -> Tensor:
        step.shared[self.name] = x
        return x
