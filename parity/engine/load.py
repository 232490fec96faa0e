"""From a checkpoint on disk to an engine ready to step."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.ends import listed_ends
from ..core.errors import Unsupported, UsageError
from ..core.service import ModelInfo
from ..hub import account, open_checkpoint
from ..hub.checkpoint import Checkpoint
from ..hub.derived import DerivedCheckpoint
from ..hub.once import ReadOnce
from ..hub.pooling import pools_last
from ..hub.quantised import QuantisedCheckpoint, recipe_for
from ..hub.weights import Plan, all_to_model
from ..models import registry
from ..models.decoder import Decoder
from ..models.layers.weight import Slot
from ..stacks.base import Stack
from ..stacks.registry import dtype_of, open_stack, with_table
from .engine import Engine
from .limits import SchedulerConfig
from .memory import StateMemory, choose_num_pages, choose_page_size, page_bytes, slot_bytes
from .placer import Placer, dtype_name
from .runner import Runner
from .sampler import Sampler
from .scheduler import Scheduler

log = logging.getLogger("parity")

_DETERMINISTIC = "deterministic"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model is run; None lets the model, the stack and the free memory decide. Checked on construction.

    Args:
        stack: such as `cpu` or `cpu:reference:float32`.
        dtype: compute dtype by name; `auto` is None.
        max_model_len: most tokens of prompt and answer together.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: most tokens computed in one step; None takes the stack's own number.
        max_num_waiting: most requests queued.
        memory_fraction: share of the free memory, after the weights, that pages may take.
        num_pages: pages of state, instead of a share of the memory.
        page_size: tokens in a page.
        kv_cache_dtype: dtype of the pages by name, one of `PAGE_DTYPES`; None and `auto` are the compute dtype.
        enable_prefix_caching: keep state for requests to come.
        enforce_eager: record no graphs.
        num_snapshots: copies of per-request state kept for prefix reuse.
        quantize: `q8` or `q4` packs the matrices of a plain checkpoint while loading; None keeps what it has.
        threads: threads of the host to compute with; None takes all that this process may use.
        deterministic: the stack's table whose results for a row do not depend on its batch.

    Raises:
        UsageError: a number is out of its range.
    """

    stack: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    max_num_waiting: int = 1024
    memory_fraction: float | None = None
    num_pages: int | None = None
    page_size: int | None = None
    kv_cache_dtype: str | None = None
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    num_snapshots: int = 32
    quantize: str | None = None
    threads: int | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")
        fraction = self.memory_fraction
        if fraction is not None and not (isinstance(fraction, int | float) and 0 < fraction <= 1):
            raise UsageError(f"memory_fraction must be above 0 and at most 1, not {fraction!r}")


_LEAST = {
    "max_model_len": 1,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "max_num_waiting": 1,
    "num_pages": 1,
    "page_size": 1,
    "num_snapshots": 0,
}


@dataclass(frozen=True)
class Accounted:
    """A model without its weights, the places for them by name, and which tensor goes to which."""

    model: Decoder
    slots: Mapping[str, Slot]
    plan: Plan

    @property
    def exact(self) -> frozenset[str]:
        """The checkpoint's tensors that are kept in float32."""
        return frozenset(self.plan.sources[name] for name, slot in self.slots.items() if slot.exact)


@dataclass(frozen=True)
class Opened:
    """A model on its stack, every tensor accounted for, before its weights are read."""

    name: str
    checkpoint: Checkpoint
    stack: Stack
    dtype: torch.dtype
    config: EngineConfig
    accounted: Accounted

    def load(self) -> Engine:
        """Reads the weights and lays out the state; once.

        Raises:
            ParityError: the weights or the settings do not fit; the text says which and why.
        """
        started = time.monotonic()
        model = _filled(self.accounted, self.checkpoint, self.stack, self.dtype)
        log.info("loaded %s on %s in %.1f s", self.name, self.stack.name, time.monotonic() - started)
        return make_engine(model, self.checkpoint, self.stack, self.dtype, self.name, self.config)


def open_engine(path: Path, name: str, config: EngineConfig) -> Opened:
    """Opens a checkpoint on a stack: all that may be refused without reading a weight.

    Raises:
        ParityError: the checkpoint, the stack or the settings do not fit; the text says which and why.
    """
    stack, stack_dtype = open_stack(config.stack)
    if config.threads is not None:
        use_threads(stack, config.threads)
    if config.deterministic and not stack.name.endswith(f":{_DETERMINISTIC}"):
        stack = with_table(stack, _DETERMINISTIC)
    checkpoint = open_checkpoint(path)
    dtype = compute_dtype(stack, stack_dtype, config.dtype, checkpoint.config)
    if config.quantize is not None:
        checkpoint = quantised(checkpoint, config.quantize, stack, dtype)
    return Opened(name, checkpoint, stack, dtype, config, accounted(checkpoint, stack, dtype))


def use_threads(stack: Stack, count: int) -> None:
    """Computes with so many threads of the host, at most as many as there are processors.

    Raises:
        UsageError: not a number that this machine has.
        Unsupported: the stack does not compute on the host.
    """
    most = os.cpu_count() or 1
    if not 1 <= count <= most:
        raise UsageError(f"threads must be 1 to {most}, the processors of this machine, not {count}")
    stack.device.use_threads(count)


def load_model(checkpoint: Checkpoint, stack: Stack, dtype: torch.dtype, *, draft: bool = False) -> Decoder:
    """The model with its weights on the stack; nothing big is allocated before every tensor is accounted for.

    Args:
        draft: its draft layers, too (`Decoder.mtp`); else they are listed as not loaded.

    Raises:
        Unsupported, ConfigError: the architecture or a setting of it is not computed.
        WeightError: a tensor is missing, left over, or of another shape.
    """
    return _filled(accounted(checkpoint, stack, dtype, draft=draft), checkpoint, stack, dtype)


def _filled(found: Accounted, checkpoint: Checkpoint, stack: Stack, dtype: torch.dtype) -> Decoder:
    model, slots, plan = found.model, found.slots, found.plan
    for read in model.readers:
        read(checkpoint.path)
    placer, weights = Placer(stack, dtype), ReadOnce(checkpoint)
    # In the file's order, so that reading it is one pass.
    order = {source: index for index, source in enumerate(checkpoint.tensors)}
    for name, source in sorted(plan.sources.items(), key=lambda pair: order[pair[1]]):
        slot = slots[name]
        slot.put(weights.read(source), placer.exact if slot.exact else placer.place)
    weights.sweep()
    for why, names in plan.ignored.items():
        log.info("not loaded: %d tensor(s) such as %s: %s", len(names), names[0], why)
    placer.report()
    model.to(stack.device.torch_device)
    return model.eval()


def quantised(checkpoint: Checkpoint, quantize: str, stack: Stack, dtype: torch.dtype) -> QuantisedCheckpoint:
    """The checkpoint with its matrices packed as they are read, into formats that the stack computes on if it has any.

    Raises:
        Unsupported: it is packed already, or `quantize` is no name of a recipe.
    """
    recipe = recipe_for(quantize, stack.formats)
    places = accounted(checkpoint, stack, dtype)
    found = QuantisedCheckpoint(checkpoint, recipe, places.exact, tied=places.model.tied)
    log.info("%s: %s while loading", quantize, found.describe())
    if not recipe.formats <= stack.formats:
        log.warning("%s does not compute on %s: the weights are expanded again", stack.name, ", ".join(sorted(recipe.formats)))
    return found


def accounted(checkpoint: Checkpoint, stack: Stack, dtype: torch.dtype, *, draft: bool = False) -> Accounted:
    """The model without its weights, and where each tensor goes.

    Raises:
        Unsupported, ConfigError, WeightError: as `load_model`.
    """
    config = checkpoint.config
    if not any(name.endswith("lm_head.weight") for name in checkpoint.tensors) and pools_last(checkpoint):
        config = {**config, "tie_word_embeddings": True}  # made without a head, whatever its config says: it takes none
    model, architecture = registry.build(config, stack.ops, dtype, draft=draft)
    rules = registry.rules(model, architecture)
    targets = all_to_model(checkpoint.tensors, rules)
    slots = model.all_slots({targets[name]: info.shape for name, info in checkpoint.tensors.items()})
    plan = account({name: slot.shape for name, slot in slots.items()}, checkpoint, rules, targets)
    if not isinstance(checkpoint, DerivedCheckpoint):  # what that is made of was looked at
        plan.check(checkpoint)
    return Accounted(model, slots, plan)


def compute_dtype(stack: Stack, from_spec: torch.dtype | None, asked: str | None, config: Mapping[str, Any]) -> torch.dtype:
    """What was asked for, else the model's own dtype where the stack is good at it, else the stack's first."""
    if asked not in (None, "auto"):
        dtype = dtype_of(str(asked))
        if from_spec not in (None, dtype):
            raise UsageError(f"the stack names dtype {dtype_name(from_spec)} and dtype={asked} was given; give one")
        return dtype
    if from_spec is not None:
        return from_spec
    own = {dtype_name(dtype): dtype for dtype in stack.dtypes}.get(str(config.get("dtype") or config.get("torch_dtype")))
    return own or stack.dtypes[0]


PAGE_DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")
"""What pages may be kept in; `int8` has a scale for each row."""


def _page_dtype(stack: Stack, asked: str | None, compute: torch.dtype) -> torch.dtype:
    """What was asked for, where the stack keeps such pages.

    Raises:
        UsageError: there is no such dtype of pages, or not on this stack.
    """
    if asked is None or asked == "auto":
        return compute
    if asked not in PAGE_DTYPES:
        raise UsageError(f"kv_cache_dtype {asked!r} is not kept in pages: there are {', '.join(PAGE_DTYPES)}")
    dtype: torch.dtype = getattr(torch, asked)
    if dtype == torch.int8 and not stack.int8_pages:
        raise UsageError(f"kv_cache_dtype int8: the kernels of {stack.name} do not read pages of int8; bfloat16 halves them")
    return dtype


def make_engine(
    model: Decoder, checkpoint: Checkpoint, stack: Stack, dtype: torch.dtype, name: str, config: EngineConfig
) -> Engine:
    """Lays out the state for a loaded model.

    Raises:
        CapacityError: no page fits in the memory.
        UsageError: a setting is out of its range.
    """
    specs = model.state
    page_dtype = _page_dtype(stack, config.kv_cache_dtype, dtype)
    page_size = choose_page_size(specs, config.page_size or stack.page_size)
    max_model_len = config.max_model_len or model.max_position
    if max_model_len > model.max_position:
        raise UsageError(
            f"max_model_len {max_model_len} is above the {model.max_position} tokens that {name} was made for; lower it"
        )
    per_page, per_slot = page_bytes(specs, page_size, page_dtype), slot_bytes(specs, dtype)
    num_snapshots = config.num_snapshots if per_slot and config.enable_prefix_caching else 0
    num_pages = config.num_pages
    if num_pages is None:
        fraction = config.memory_fraction if config.memory_fraction is not None else stack.memory_fraction
        free = int(stack.device.memory().free * fraction) - per_slot * (config.max_num_seqs + num_snapshots)
        num_pages = choose_num_pages(free, per_page, page_size, max_model_len, config.max_num_seqs)
    if config.max_model_len is None:
        max_model_len = min(max_model_len, num_pages * page_size)
    eos = eos_token_ids(checkpoint)
    rules = SchedulerConfig(
        page_size=page_size,
        num_pages=num_pages,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or max(stack.step_tokens, config.max_num_seqs),
        max_num_waiting=config.max_num_waiting,
        eos_token_ids=eos,
        prefix_caching=config.enable_prefix_caching,
        has_slots=bool(per_slot),
        num_slots=config.max_num_seqs if per_slot else 0,
        num_snapshots=num_snapshots,
    )

    def build() -> tuple[Scheduler, Runner]:
        memory = StateMemory(
            specs,
            num_pages=num_pages,
            page_size=page_size,
            num_slots=config.max_num_seqs,
            num_snapshots=num_snapshots,
            dtype=dtype,
            page_dtype=page_dtype,
            device=stack.device,
        )
        runner = Runner(
            stack,
            model,
            memory,
            Sampler(stack.ops, eos, stack.device.send),
            page_size=page_size,
            max_pages=-(-max_model_len // page_size),
            graphs=not config.enforce_eager and model.recordable_on(stack.device.torch_device),
        )
        return Scheduler(rules), runner

    log.info(
        "state: %d pages of %d tokens (%.0f MiB), context %d", num_pages, page_size, num_pages * per_page / 2**20, max_model_len
    )
    info = ModelInfo(
        name=name,
        architecture=str(checkpoint.config["model_type"]),
        max_model_len=max_model_len,
        vocab_size=model.vocab_size,
        stack=stack.name,
        dtype=dtype_name(dtype),
        num_pages=num_pages,
        page_size=page_size,
        state_bytes=num_pages * per_page + per_slot * (config.max_num_seqs + num_snapshots),
        eos_token_ids=eos,
        sampling_defaults=sampling_defaults(checkpoint.generation_config),
        embeds=pools_last(checkpoint),
        packed=any(tensor.format in stack.rounded for tensor in checkpoint.tensors.values()),
        modified_s=int(max((file.stat().st_mtime for file in {one.file for one in checkpoint.tensors.values()}), default=0)),
    )
    return Engine(info, build)


def eos_token_ids(checkpoint: Checkpoint) -> frozenset[int]:
    """The tokens that end an answer, from both configs and the text part of a multimodal one."""
    found: set[int] = set()
    for config in (checkpoint.generation_config, checkpoint.config, checkpoint.config.get("text_config") or {}):
        found.update(listed_ends(config, str(checkpoint.path)))
    return frozenset(found)


def sampling_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a generation_config says of sampling, in the names of `SamplingParams`.

    Raises:
        Unsupported: it asks for a decoding method that Parity does not have.
    """
    if config.get("num_beams", 1) not in (None, 1):
        raise Unsupported("the model's generation_config asks for beam search, which Parity does not do")
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    defaults = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults
