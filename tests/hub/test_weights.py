"""Names both ways, and the accounting of every tensor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity.core.errors import WeightError
from parity.core.weights import Ignore, Rename
from parity.hub.checkpoint import TensorInfo
from parity.hub.weights import account, all_to_model, inverse, to_checkpoint, to_model

RULES = (
    Rename(r"^layers\.(\d+)\.", r"model.layers.\1."),
    Rename(r"\.attn\.wq_a\.", ".self_attn.q_a_proj."),
    Rename(r"\.ffn\.experts\.(\d+)\.w1\.(weight|scale)$", r".mlp.experts.\1.gate_proj.\2"),
    Rename(r"^embed\.", "model.embed_tokens."),
    Ignore(r"mtp\.", "draft layers"),
)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layers.3.attn.wq_a.weight", "model.layers.3.self_attn.q_a_proj.weight"),
        ("layers.12.ffn.experts.7.w1.weight", "model.layers.12.mlp.experts.7.gate_proj.weight"),
        ("embed.weight", "model.embed_tokens.weight"),
        ("norm.weight", "norm.weight"),
    ],
)
def test_names_both_ways(theirs: str, ours: str) -> None:
    assert to_model(theirs, RULES) == ours
    assert to_checkpoint(ours, RULES) == theirs


def test_many_names_at_once_are_each_by_itself() -> None:
    names = ["layers.3.attn.wq_a.weight", "embed.weight", "x.embed.weight", "", "layers.1.ffn.experts.7.w1.scale"]
    names += ["layers.1.ffn.experts.7.w1.scale.y", "embed.\nembed.weight"]
    for some in (names, names[:-1], []):
        assert all_to_model(some, RULES) == {name: to_model(name, RULES) for name in some}


def test_another_spelling_is_read_and_never_written() -> None:
    rules = [Rename(r"\.attn\.", ".self_attn."), Rename(r"\.self_attn\.norm\.", ".self_attn.kv_norm.", back=False)]
    assert to_model("0.attn.norm.weight", rules) == to_model("0.attn.kv_norm.weight", rules) == "0.self_attn.kv_norm.weight"
    assert to_checkpoint("0.self_attn.kv_norm.weight", rules) == "0.attn.kv_norm.weight"


def test_irreversible_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="same groups"):
        inverse(Rename(r"a\.(\d+)\.(\d+)", r"b.\2.\1"))
    with pytest.raises(ValueError, match="same groups"):
        inverse(Rename(r"a\.(\d+)", "b"))


def checkpoint(**shapes: tuple[int, ...]) -> Any:
    tensors = {}
    for name, shape in shapes.items():
        name = name.replace("__", ".")
        tensors[name] = TensorInfo(name, shape, "float32", 4, Path("f"))
    return SimpleNamespace(tensors=tensors, path=Path("m"))


def test_account() -> None:
    plan = account({"model.embed_tokens.weight": (4, 2)}, checkpoint(embed__weight=(4, 2), mtp__a=(1,), mtp__b=(1,)), RULES)
    assert plan.sources == {"model.embed_tokens.weight": "embed.weight"}
    assert plan.ignored == {"draft layers": ("mtp.a", "mtp.b")}


def test_everything_wrong_is_named() -> None:
    found = checkpoint(embed__weight=(2, 4), model__embed_tokens__weight=(4, 2), extra=(1,))
    with pytest.raises(WeightError) as error:
        account({"model.embed_tokens.weight": (4, 2), "lm_head.weight": (4, 2)}, found, RULES)
    text = str(error.value)
    assert "embed.weight has shape [2, 4], the model wants [4, 2]" in text
    assert "model.embed_tokens.weight is filled by both embed.weight and model.embed_tokens.weight" in text
    assert "extra is in the checkpoint and has no place" in text
    assert "lm_head.weight is missing" in text
    assert "4 problems" in text


def test_ten_are_named() -> None:
    with pytest.raises(WeightError, match="and 15 more"):
        account({f"p{i}": (1,) for i in range(25)}, checkpoint())
