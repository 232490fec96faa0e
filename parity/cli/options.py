"""The flags that several verbs share, in the spelling that vLLM and mlx-lm use, and what they become."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..core.errors import RequestError
from ..core.flags import add_flags, flag, given, json_object, positive
from .lasting import lasting
from .terminal import waiting

if TYPE_CHECKING:
    from ..core.request import SamplingParams
    from ..llm import LLM

PLACE = (
    flag("stack", metavar="SPEC", help="where to run, such as cpu, cuda or cpu:reference:float32"),
    flag("threads", type=positive, metavar="N", help="threads to compute with (default: all that we may use)"),
    flag("dtype", choices=("auto", "float32", "bfloat16", "float16"), help="compute dtype (default: auto)"),
    flag("quantize", choices=("q8", "q4"), help="pack a plain model's matrices while loading"),
)
"""Where the model is loaded, and in what form: fields of `EngineConfig`."""

ENGINE = (
    *PLACE,
    flag("max_model_len", type=positive, metavar="N", help="most tokens of prompt and answer together"),
    flag("max_num_seqs", type=positive, metavar="N", help="most requests running at once"),
    flag(
        "max_num_batched_tokens",
        type=positive,
        metavar="N",
        help="most tokens computed in one step (default: as many as suit the stack)",
    ),
    flag(
        "memory_fraction",
        "--memory-fraction",
        "--gpu-memory-utilization",
        type=float,
        metavar="F",
        help="share of the free memory that state may take, after the weights",
    ),
    flag("page_size", "--page-size", "--block-size", type=positive, metavar="N", help="tokens in a page of state"),
    flag(
        "kv_cache_dtype",
        choices=("auto", "float32", "float16", "bfloat16", "int8"),
        help="dtype of the pages of state (default: auto, the compute dtype)",
    ),
    flag(
        "enable_prefix_caching",
        action=argparse.BooleanOptionalAction,
        help="keep the state of prompts for requests to come (default: yes)",
    ),
    flag("enforce_eager", action="store_true", help="record no graphs"),
    flag("deterministic", action="store_true", help="the same tokens whatever the batch, where the stack can"),
)
"""How the model is run: fields of `EngineConfig`."""

SAMPLING = (
    flag("temperature", "--temperature", "--temp", type=float, metavar="T", help="0 takes the most likely token"),
    flag("top_p", type=float, metavar="P", help="keep the likeliest tokens that reach this probability"),
    flag("top_k", type=int, metavar="K", help="keep this many of the likeliest tokens; 0 keeps all"),
    flag("min_p", type=float, metavar="P", help="drop tokens less likely than this times the likeliest"),
    flag("repetition_penalty", type=float, metavar="X", help="above 1 discourages what was said before"),
    flag("presence_penalty", type=float, metavar="X", help="subtracted from tokens in the answer"),
    flag("frequency_penalty", type=float, metavar="X", help="subtracted for each time in the answer"),
    flag("seed", type=int, metavar="N", help="the same seed gives the same answer"),
    flag("max_tokens", "--max-tokens", "-n", type=int, metavar="N", help="most tokens generated"),
    flag("min_tokens", type=int, metavar="N", help="no end before this many"),
    flag("stop", action="append", metavar="TEXT", help="ends the answer; may be repeated"),
    flag("stop_token_ids", type=int, nargs="+", metavar="ID", help="tokens that end the answer"),
    flag("ignore_eos", action="store_true", help="go on past the model's own end token"),
)
"""How tokens are chosen: fields of `SamplingParams`."""


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
    if None not in (word, flag) and word != flag:
        raise UsageError(f"two models are given, {word} and --model {flag}; give one")
    return next((str(name) for name in (word, flag) if name is not None), default_model())


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where the model is loaded, and in what form."""
    add_flags(parser, PLACE)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """How the model is run."""
    add_flags(parser.add_argument_group("engine"), ENGINE)


def open_model(arguments: argparse.Namespace, **more: Any) -> LLM:
    """The model that the flags describe, pulled first if it is not here.

    Raises:
        ParityError: it cannot be found, read or run.
    """
    from .pull import pull

    name = model_of(arguments)
    pull(name)
    with waiting(f"loading {name}"), lasting():
        from ..llm import LLM

        return LLM(name, **given(arguments, ENGINE), **more)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    group = parser.add_argument_group("sampling", "what is not given is taken from the model's generation_config")
    add_flags(group, SAMPLING)


def given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling flags that were given, by the names of `SamplingParams`; checked.

    Raises:
        RequestError: a value is out of its range.
    """
    from ..core.request import SamplingParams

    values = given(arguments, SAMPLING)
    SamplingParams.of(None, **values)
    return values


def params_of(llm: LLM, values: dict[str, Any]) -> SamplingParams:
    """The model's defaults with what was given."""
    return llm.params(**values)


def add_template(parser: argparse.ArgumentParser) -> None:
    """What the chat template is given."""
    parser.add_argument("--system-prompt", "--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--chat-template-kwargs",
        "--chat-template-args",
        type=_template_options,
        default={},
        metavar="JSON",
        help="more for the chat template, such as '{\"enable_thinking\": false}'",
    )


def _template_options(text: str) -> dict[str, Any]:
    """A JSON object of what a chat template may be given."""
    from ..text.switches import check_options

    options = json_object(text)
    try:
        check_options(options, "prompt", "params", "raw")
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return options
