"""What must hold for every architecture, whatever it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from parity.core.request import Output
from parity.hub import open_checkpoint, write_safetensors

from . import tiny

TOLERANCE = 1e-5


@dataclass
class Case:
    """A tiny checkpoint and its reference.

    Args:
        folder: the checkpoint.
        reference: float32 [tokens, vocabulary] for `tokens`.
        tokens: a prompt long enough for every branch.
        tolerance: relative error of logits.
    """

    folder: Path
    reference: np.ndarray
    tokens: list[int]
    vocab_size: int
    tolerance: float = TOLERANCE
    page_size: int = 8

    def engine(self, **options: object):  # type: ignore[no-untyped-def]
        return tiny.open_engine(self.folder, page_size=self.page_size, **options)

    def other(self, seed: int, length: int = 21) -> list[int]:
        return tiny.prompt(length, self.vocab_size, seed)


def case_from_transformers(model: torch.nn.Module, folder: Path, length: int, **more: object) -> Case:
    """The case of a model that `tiny.save` made."""
    vocab_size = model.config.get_text_config().vocab_size
    tokens = tiny.prompt(length, vocab_size)
    return Case(folder, tiny.reference_logits(model, tokens), tokens, vocab_size, **more)  # type: ignore[arg-type]


def check_all(case: Case) -> None:
    """Every path computes the same as the reference."""
    check_logits(case)
    check_chunks(case)
    check_steps(case)
    check_mixed(case)
    check_prefix(case)
    check_preempted(case)
    check_resumed(case)


def check_logits(case: Case) -> None:
    """The whole prompt in one step."""
    ours = tiny.logits(case.engine(max_num_batched_tokens=4096), case.tokens)
    assert tiny.relative_error(ours, case.reference) < case.tolerance


def check_chunks(case: Case) -> None:
    """The prompt in uneven chunks."""
    for budget in (8, 13):
        ours = tiny.logits(case.engine(max_num_batched_tokens=budget), case.tokens)
        assert tiny.relative_error(ours, case.reference) < case.tolerance, budget


def check_steps(case: Case) -> None:
    """Token by token, each from the state that the one before left."""
    engine = case.engine(max_num_seqs=1, max_num_batched_tokens=1)
    ours = tiny.logits(engine, case.tokens)
    assert tiny.relative_error(ours, case.reference) < case.tolerance


def check_greedy(case: Case, outputs: Mapping[str, Sequence[Output]], prompts: Mapping[str, list[int]], count: int) -> None:
    """Each answer is what its prompt alone gives: of all its tokens at once, every one follows from those before it."""
    engine = case.engine(max_num_batched_tokens=4096, enable_prefix_caching=False)
    for name, prompt in prompts.items():
        answer = tiny.generated(outputs[name])
        assert len(answer) == count
        rows = tiny.logits(engine, [*prompt, *answer[:-1]], f"{name} at once")[len(prompt) - 1 :]
        assert rows.argmax(-1).tolist() == answer, name


def check_mixed(case: Case) -> None:
    """Requests of several lengths in one batch, prefilling beside decoding, give what each gives alone."""
    prompts = {"a": case.tokens[:19], "b": case.other(2, 5), "c": case.tokens, "d": case.other(3, 30)}
    engine = case.engine(max_num_batched_tokens=16, num_pages=256)
    outputs = tiny.finish(engine, [tiny.greedy(name, prompt, 12) for name, prompt in prompts.items()])
    check_greedy(case, outputs, prompts, 12)


def check_prefix(case: Case) -> None:
    """A prompt whose beginning is cached gives what it gives cold."""
    prompts = {"first": case.tokens, "second": [*case.tokens, *case.other(5, 12)]}
    engine = case.engine(num_pages=256, max_num_batched_tokens=16)
    outputs: dict[str, list[Output]] = {}
    for name, prompt in prompts.items():
        outputs |= tiny.finish(engine, [tiny.greedy(name, prompt, 10)])
    assert outputs["second"][-1].usage.num_cached_tokens > 0, "nothing was reused"
    check_greedy(case, outputs, prompts, 10)
    engine.scheduler.check()


def check_preempted(case: Case) -> None:
    """Too few pages for all: some are preempted and computed again, and none differs."""
    prompts = {str(seed): case.other(seed, 20) for seed in (6, 7, 8)}
    pages = -(-44 // case.page_size)
    engine = case.engine(num_pages=2 * pages, max_num_batched_tokens=64)
    outputs = tiny.finish(engine, [tiny.greedy(name, prompt, 24) for name, prompt in prompts.items()])
    assert engine.stats().num_preemptions > 0, "nothing was preempted"
    check_greedy(case, outputs, prompts, 24)
    engine.scheduler.check()


def check_resumed(case: Case) -> None:
    """Stopped after some tokens and asked again with them, it goes on as if it had never stopped."""
    engine = case.engine(num_pages=256)
    outputs = tiny.finish(engine, [tiny.greedy("begun", case.tokens, 7)])
    check_greedy(case, outputs, {"begun": case.tokens}, 7)
    prompt = [*case.tokens, *tiny.generated(outputs["begun"])]
    check_greedy(case, tiny.finish(engine, [tiny.greedy("resumed", prompt, 9)]), {"resumed": prompt}, 9)


def check_written(case: Case, model: torch.nn.Module, folder: Path) -> None:
    """What our writer writes, the reference implementation reads: the same logits."""
    checkpoint = open_checkpoint(case.folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    write_safetensors(folder, checkpoint.config, tensors, shard_bytes=100_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(folder).eval()  # type: ignore[attr-defined]
    weights = again.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    # Equal weights at other addresses: only the order of summing may differ.
    assert tiny.relative_error(tiny.reference_logits(again, case.tokens), case.reference) < 1e-6
