"""What the registry says of architectures."""

from __future__ import annotations

import pytest

from parity.cli import main
from parity.core.errors import Unsupported
from parity.models import registry


def test_every_architecture_says_what_it_was_tested_against() -> None:
    for one in registry.architectures():
        assert one.checkpoints, one.model_types
        assert one.reference, one.model_types
        assert all(registry.find(model_type) is one for model_type in one.model_types)


def test_the_table_lists_every_model_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--architectures"]) == 0
    printed = capsys.readouterr().out
    for one in registry.architectures():
        (row,) = [line for line in printed.splitlines() if line.startswith(", ".join(one.model_types) + "  ")]
        assert one.checkpoints in row
        assert one.formats in row
        assert one.reference in row
        assert one.missing in row


def test_an_unknown_model_type_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"'gpt9'.*kimi_k3"):
        registry.find("gpt9")
