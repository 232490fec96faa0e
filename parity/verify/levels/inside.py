"""Level 7: which operation is the first whose own error is out of its band.

Every value that A's inside showed is put in the place of B's as B computes. So each stretch between two sites is computed
by B from A's input, and its error is its own, not what earlier layers handed on.
"""

from __future__ import annotations

from ..gates import Measurement, Rules
from ..packs import Pack


def layer_measurements(a: Pack, b: Pack, rules: Rules) -> list[Measurement]:
    """The sites out of their band, the first one first."""
    errors = b.isolated()
    if errors is None or errors.reference != a.layers_hash():
        return [Measurement("layers", 0, "B was not run on A's inner values: capture B against A's pack, with the model")]
    band = max(rules.layer_band(a.identity.dtype), rules.layer_band(b.identity.dtype))
    out = [(layer, site, error) for layer, site, error in errors.sites if not error <= band]
    events = tuple(f"layer {layer}, {site}: relative error {error:.3g}, band {band:.3g}" for layer, site, error in out)
    worst = max((error for *_, error in errors.sites), default=0.0)
    text = f"{len(errors.sites)} sites, largest relative error {worst:.3g}"
    return [Measurement("layers", len(errors.sites), "no site in common", events=events, identical=worst == 0, text=text)]
