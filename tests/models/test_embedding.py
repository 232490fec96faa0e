"""Qwen3-Embedding: files without a head and without a prefix, the last token's hidden state."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from parity.core.errors import FormatError, Unsupported
from parity.core.request import Request, SamplingParams

from . import tiny
from .test_dense import SIZES

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def saved(folder: Path, tied: bool) -> torch.nn.Module:
    config = transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=tied)
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(MODULES))
    return tiny.save(transformers.Qwen3Model, config, folder)


@pytest.mark.parametrize("tied", [True, False])
def test_the_last_hidden_state_is_that_of_transformers(tied: bool, tmp_path: Path) -> None:
    model = saved(tmp_path, tied)
    engine = tiny.open_engine(tmp_path)
    assert engine.info.embeds
    tokens = tuple(range(3, 40))
    outputs = tiny.finish(engine, [Request("one", tokens, SamplingParams(max_tokens=0), want="embedding", cache=False)])["one"]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).last_hidden_state[0, -1].numpy()
    assert outputs[-1].array is not None
    assert np.abs(outputs[-1].array - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("pooling", [{"pooling_mode": "lasttoken"}, {"pooling_mode_lasttoken": True}])
def test_a_pooling_of_the_last_token_embeds(pooling: dict[str, object], tmp_path: Path) -> None:
    saved(tmp_path, True)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert tiny.open_engine(tmp_path).info.embeds


def test_another_pooling_does_not(tmp_path: Path) -> None:
    saved(tmp_path, True)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert not tiny.open_engine(tmp_path).info.embeds


def test_a_further_step_behind_the_pooling_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, True)
    dense = {"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*MODULES, dense]))
    with pytest.raises(Unsupported, match=r"modules\.json: embeddings go through Dense"):
        tiny.open_engine(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", "[", '[{"type": "Pooling"}]'])
def test_a_list_of_modules_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    saved(tmp_path, True)
    (tmp_path / "modules.json").write_text(text)
    if text == "{}":
        assert not tiny.open_engine(tmp_path).info.embeds
        return
    with pytest.raises(FormatError, match=r"modules\.json is not a list of modules"):
        tiny.open_engine(tmp_path)
