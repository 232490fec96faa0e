"""Weights through staging memory, to a device that copies as late as it may."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from parity.core.weights import Packed, Rows
from parity.engine import upload
from parity.engine.upload import Upload
from parity.hub import open_checkpoint
from parity.stacks.host import HostDevice
from parity.stacks.registry import open_stack

from ..models import test_dense, tiny

DEVICE = type(open_stack("cpu:reference")[0].device)


class LateDevice(HostDevice):
    """Copies what it was given when it is waited for."""

    asynchronous = True

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, Tensor]] = []
        self.num_copies = self.num_staged = 0

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.num_staged += 1
        return super().staging(shape, dtype)

    def synchronize(self) -> None:
        for piece, sink in self.given:
            sink.copy_(piece)
        self.num_copies += len(self.given)
        self.given.clear()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LateDevice:
    """Pieces of 48 bytes, and copies that are late."""
    device = LateDevice()
    monkeypatch.setattr(upload, "_PIECE_BYTES", 48)
    monkeypatch.setattr(Upload, "_send", lambda self, piece, sink: device.given.append((piece, sink)))
    return device


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float8_e4m3fn])
def test_every_byte_arrives(dtype: torch.dtype, device: LateDevice) -> None:
    bring = Upload(device)
    numbers = torch.randint(0, 250, (7, 40), generator=torch.Generator().manual_seed(0)).float()
    sent = [numbers, numbers.T, numbers[2], numbers[1:3, 5], numbers[0, 0], numbers[:0]]
    sent = [tensor.to(dtype) for tensor in sent]
    found = [bring.tensor(tensor) for tensor in sent]
    device.synchronize()
    for tensor, there in zip(sent, found, strict=True):
        assert there.dtype == dtype
        assert torch.equal(there.float(), tensor.float())
    assert device.num_staged == 2
    assert device.num_copies == sum(-(-tensor.nbytes // 48) for tensor in sent)


def test_all_arrays_of_a_weight_arrive(device: LateDevice) -> None:
    packed = Packed(
        "int8_group", (3, 32), {"data": torch.arange(96).view(3, 32).char(), "scale": torch.ones(3, 1)}, {"group_size": 32}
    )
    found = Upload(device).weight(Rows((packed, torch.arange(64.0).view(2, 32))))
    device.synchronize()
    assert isinstance(found, Rows)
    first, second = found.parts
    assert isinstance(first, Packed)
    assert (first.format, first.shape, first.meta) == (packed.format, packed.shape, packed.meta)
    assert all(torch.equal(first.arrays[role], array) for role, array in packed.arrays.items())
    assert isinstance(second, Tensor)
    assert torch.equal(second, torch.arange(64.0).view(2, 32))


def test_a_model_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save(transformers.LlamaForCausalLM, transformers.LlamaConfig(**test_dense.SIZES), tmp_path)
    tokens = tiny.prompt(9, 160)
    expected = tiny.logits(tiny.open_engine(tmp_path), tokens)
    sent: list[int] = []
    send = Upload._send
    monkeypatch.setattr(upload, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(DEVICE, "asynchronous", True)
    monkeypatch.setattr(Upload, "_send", lambda self, piece, sink: (sent.append(len(piece)), send(self, piece, sink)))
    found = tiny.logits(tiny.open_engine(tmp_path), tokens)
    tensors = open_checkpoint(tmp_path).tensors.values()
    assert sum(sent) == sum(4 * torch.Size(tensor.shape).numel() for tensor in tensors)
    assert (found == expected).all()


def test_a_host_is_given_the_tensors_as_they_are_but_small_ones_as_copies() -> None:
    """Whoever keeps a small view of a mapped file keeps far more of the file in memory."""
    large, small = torch.ones(128, 129), torch.ones(128, 128)
    upload = Upload(HostDevice())
    assert upload.tensor(large) is large
    copy = upload.tensor(small)
    assert torch.equal(copy, small)
    assert copy.data_ptr() != small.data_ptr()
