"""The flags that several verbs share, in the spelling that vLLM and mlx-lm use, and what they become."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .parser import positive
from .terminal import waiting

if TYPE_CHECKING:
    from ..core.request import SamplingParams
    from ..llm import LLM

_ENGINE = (
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "memory_fraction",
    "page_size",
    "kv_cache_dtype",
    "enable_prefix_caching",
    "enforce_eager",
    "quantize",
)
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, or --model."""
    parser.add_argument(
        "model_word",
        nargs="?",
        metavar="MODEL",
        help="a catalogue name, org/repo, a folder, or a .gguf file (default: a small model that is pulled on first use)",
    )
    parser.add_argument("--model", "-m", dest="model_flag", metavar="MODEL", help="the same as a flag")


def model_of(arguments: argparse.Namespace) -> str:
    """The model that was asked for, or the default one.

    Raises:
        UsageError: it was given twice.
    """
    from ..core.errors import UsageError
    from ..hub import default_model

    word, flag = arguments.model_word, arguments.model_flag
    if word and flag and word != flag:
        raise UsageError(f"two models are given, {word} and --model {flag}; give one")
    return word or flag or default_model()


def add_place(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Where the model is loaded, and in what form."""
    parser.add_argument("--stack", metavar="SPEC", help="where to run, such as cpu, cuda or cpu:reference:float32")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="compute dtype (default: auto)")
    parser.add_argument("--quantize", choices=("q8", "q4"), help="pack a plain model's matrices while loading")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """How the model is run."""
    group = parser.add_argument_group("engine")
    add_place(group)
    group.add_argument("--max-model-len", type=positive, metavar="N", help="most tokens of prompt and answer together")
    group.add_argument("--max-num-seqs", type=positive, metavar="N", help="most requests running at once")
    group.add_argument("--max-num-batched-tokens", type=positive, metavar="N", help="most tokens computed in one step")
    group.add_argument(
        "--memory-fraction",
        "--gpu-memory-utilization",
        type=float,
        metavar="F",
        help="share of the free memory that state may take, after the weights",
    )
    group.add_argument("--page-size", "--block-size", type=positive, metavar="N", help="tokens in a page of state")
    group.add_argument("--kv-cache-dtype", metavar="DTYPE", help="dtype of the state (default: the compute dtype)")
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="keep the state of prompts for requests to come (default: yes)",
    )
    group.add_argument("--enforce-eager", action="store_true", default=None, help="record no graphs")


def open_model(arguments: argparse.Namespace, **more: Any) -> LLM:
    """The model that the flags describe, pulled first if it is not here.

    Raises:
        ParityError: it cannot be found, read or run.
    """
    from ..llm import LLM
    from .pull import pull

    name = model_of(arguments)
    pull(name)
    options = {name: getattr(arguments, name) for name in _ENGINE if getattr(arguments, name) is not None}
    with waiting(f"loading {name}"):
        return LLM(name, stack=arguments.stack, **options, **more)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    group = parser.add_argument_group("sampling", "what is not given is taken from the model's generation_config")
    group.add_argument("--temperature", "--temp", type=float, metavar="T", help="0 takes the most likely token")
    group.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that reach this probability")
    group.add_argument("--top-k", type=int, metavar="K", help="keep this many of the likeliest tokens; 0 keeps all")
    group.add_argument("--min-p", type=float, metavar="P", help="drop tokens less likely than this times the likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 discourages what was said before")
    group.add_argument("--presence-penalty", type=float, metavar="X", help="subtracted from tokens in the answer")
    group.add_argument("--frequency-penalty", type=float, metavar="X", help="subtracted for each time in the answer")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    group.add_argument("--max-tokens", "-n", type=int, metavar="N", help="most tokens generated")
    group.add_argument("--min-tokens", type=int, metavar="N", help="no end before this many")
    group.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer; may be repeated")
    group.add_argument("--stop-token-ids", type=int, nargs="+", metavar="ID", help="tokens that end the answer")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on past the model's own end token")


def given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling flags that were given, by the names of `SamplingParams`; checked.

    Raises:
        RequestError: a value is out of its range.
    """
    from ..core.request import SamplingParams

    given = {name: getattr(arguments, name) for name in _SAMPLING if getattr(arguments, name) is not None}
    SamplingParams.of(None, **given)
    return given


def params_of(llm: LLM, given: dict[str, Any]) -> SamplingParams:
    """The model's defaults with what was given."""
    return llm.params(**given)


def add_template(parser: argparse.ArgumentParser) -> None:
    """What the chat template is given."""
    parser.add_argument("--system-prompt", "--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--chat-template-kwargs",
        "--chat-template-args",
        type=json_object,
        default={},
        metavar="JSON",
        help="more for the chat template, such as '{\"enable_thinking\": false}'",
    )


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
