"""What a stack is: the protocols that each one fills in, and nothing of any vendor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..core.weights import Weight
    from .ops import Ops


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the memory that weights and pages live in."""

    total: int
    free: int


class Graph(Protocol):
    """A recorded step. `replay` computes it again over the same tensors, with whatever stands in them now."""

    @property
    def num_bytes(self) -> int:
        """Memory that it alone holds on to."""

    def replay(self) -> None:
        """Runs the recorded step; its results are in the tensors it left at capture."""


class Device(Protocol):
    """The few things that differ between devices and are not computations."""

    @property
    def torch_device(self) -> torch.device:
        """Where tensors live."""

    @property
    def asynchronous(self) -> bool:
        """Whether it goes on with what it was given, in the order given, while the host does other things."""

    @property
    def recorded_rows(self) -> Sequence[int]:
        """Numbers of rows, rising, that decode steps are recorded for: one of fewer rows is filled up to the next."""

    def memory(self) -> Memory:
        """Bytes now."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeroed memory for state. Much of it may never be used, so where the device can, it is taken on first touch."""

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeroed memory of the host that is copied to the device fastest, and without the host waiting."""

    def use_threads(self, count: int) -> None:
        """Computes with so many threads of the host from now on; 0 takes all that this process may use.

        Raises:
            Unsupported: this device does not compute on the host.
        """

    def synchronize(self) -> None:
        """Waits for all work given to the device."""

    def capture(self, run: Callable[[], Tensor], beside: Graph | None = None) -> tuple[Graph | None, Tensor]:
        """Computes `run` exactly once, since it moves state on, and records it: (the graph, the result's tensor).

        The graph is None where this device, or the table that `run` computes with, cannot be recorded. Where `beside` is
        given, the two never run at once and may share the memory that they work in and leave their results in: capture or
        replay of the one overwrites what the other left.
        """

    def send(self, data: Tensor) -> Tensor:
        """The host's numbers on the device, there before any work given later; the host does not wait for work given before.

        Args:
            data: given over: nobody changes it any more.
        """

    def fetch(self, data: Tensor) -> Callable[[], Tensor]:
        """Begins to bring numbers to the host, once all work given so far is done; what is returned waits for them only."""

    def read(self, data: Tensor) -> None:
        """Reads contiguous float32 numbers once, as fast as the device can: the speed that memory-bound work is held to."""

    def describe(self) -> Mapping[str, str]:
        """Names and versions that change numbers or speed: device, driver, runtime, threads, instruction set."""


class Comm(Protocol):
    """How the ranks of one model talk."""

    @property
    def rank(self) -> int:
        """This process among `size`."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, on each."""

    def all_gather(self, x: Tensor) -> Tensor:
        """The ranks' tensors joined along the last dimension, on each."""

    def broadcast(self, value: object) -> object:
        """Rank 0's value, on each."""


class Alone:
    """The communication of a single rank."""

    rank = 0
    size = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x

    def broadcast(self, value: object) -> object:
        return value


def _alone(rank: int, size: int) -> Comm:
    if size != 1:
        raise ValueError(f"this stack runs one rank, not {size}")
    return Alone()


def as_is(weight: Weight) -> Weight:
    """Weights are computed on as they come."""
    return weight


@dataclass(frozen=True)
class Stack:
    """A place to run: a device, the kernels that are good there, and how ranks talk.

    Args:
        name: such as `cpu`, or `cpu:reference` for another table on the same device.
        device: memory, capture, description.
        ops: the kernels that serve.
        train_ops: the differentiable table.
        dtypes: the compute dtypes that it is good at, best first; a model's own dtype is taken if it is among them.
        formats: packed weight formats that `ops.linear`, `ops.embed` and `ops.experts` compute on.
        rounded: those of `formats` whose products round the activations to fewer bits than the compute dtype's.
        prepare: called once for each weight at load, given that its format is in `formats`; may copy it into the order
            that the kernels read. The argument is not used again.
        memory_fraction: share of the free memory that pages take by default.
        page_size: tokens in a page, unless the model's state asks for more.
        step_tokens: tokens that one step computes at most by default; more would not compute any faster.
        head_rows: rows whose logits are computed and held at a time in steps that are not recorded; fewer hold less memory.
        int8_pages: whether its ops keep and read pages of int8.
        comm: (rank, size) -> Comm.
        notes: op name to why it is not the stack's own here.
        tables: other tables on the same device by name, such as a batch-invariant one. One that is called like a dtype
            computes everything in it, and is what a spec such as `cpu:float32` means.
        reference: the reference table where this device multiplies matrices by another library than PyTorch's default; None
            is the definition as it stands.
    """

    name: str
    device: Device
    ops: Ops
    train_ops: Ops
    dtypes: tuple[torch.dtype, ...]
    formats: frozenset[str] = frozenset()
    rounded: frozenset[str] = frozenset()
    prepare: Callable[[Weight], Weight] = as_is
    memory_fraction: float = 0.9
    page_size: int = 64
    step_tokens: int = 2048
    head_rows: int = 128
    int8_pages: bool = False
    comm: Callable[[int, int], Comm] = _alone
    notes: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Callable[[], Stack]] = field(default_factory=dict)
    reference: Ops | None = None
