"""The table that does not depend on the batch, asked for by a flag: taken where a stack has one, refused by name elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from parity.core.errors import Unsupported
from parity.engine import load
from parity.stacks.base import Stack
from parity.stacks.registry import open_stack

from ..models import test_dense, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny.save(transformers.LlamaForCausalLM, transformers.LlamaConfig(**test_dense.SIZES), folder)
    return folder


def test_the_table_of_that_name_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, dtype = open_stack(tiny.REFERENCE)
    fixed = replace(plain, name="some:deterministic")

    def opened(stack: Stack) -> None:
        monkeypatch.setattr(load, "open_stack", lambda spec: (stack, dtype))

    opened(replace(plain, tables={"deterministic": lambda: fixed}))
    assert tiny.open_engine(folder, deterministic=True).info.stack == "some:deterministic"
    assert tiny.open_engine(folder).info.stack == "cpu:reference"
    opened(fixed)  # it was named in the spec already
    assert tiny.open_engine(folder, deterministic=True).info.stack == "some:deterministic"


def test_a_stack_without_one_says_so(folder: Path) -> None:
    with pytest.raises(Unsupported, match="has no table 'deterministic'"):
        tiny.open_engine(folder, deterministic=True)
