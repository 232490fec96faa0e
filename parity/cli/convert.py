"""`parity convert`: a model written as GGUF or safetensors, packed if asked, with what that cost it."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options
from .parser import existing_file, read_text
from .terminal import human_bytes, say, waiting

_EPILOG = """\
Without --quantize plain weights keep their dtype, and packed ones (GGUF, FP8, integers) are expanded. GGUF takes q8
(Q8_0) and q4 (Q4_K with Q6_K where errors cost most; Q5_0 and Q8_0 where 256 does not divide a width); safetensors take
groups of 32 integers with a scale, as compressed-tensors writes them. The quality is that of the result beside the
source on a text: both are loaded for it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.epilog = _EPILOG
    options.add_model(parser)
    parser.add_argument("--to", choices=("gguf", "safetensors"), required=True, help="the form to write")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="PATH", help="a .gguf file, or a new folder")
    parser.add_argument("--quantize", "-q", choices=("q8", "q4"), help="pack the matrices")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of what is not packed (default: as it is)")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--quality-text", type=existing_file, metavar="FILE", help="to compare on (default: a text of ours)")
    parser.add_argument("--no-quality", action="store_true", help="do not compare")
    parser.add_argument("--stack", metavar="SPEC", help="where to compare (default: the best that works here)")


def run(arguments: argparse.Namespace) -> int:
    """Writes, and says what came of it.

    Raises:
        ParityError: it cannot be read, written or compared; what was there before is still there.
    """
    from ..convert.run import convert
    from ..core.errors import UsageError
    from .pull import pull

    target: Path = arguments.output.expanduser()
    if (target.suffix == ".gguf") != (arguments.to == "gguf"):
        wanted = "a file that ends in .gguf" if arguments.to == "gguf" else "a folder"
        raise UsageError(f"--to {arguments.to} writes {wanted}, and -o is {arguments.output}")
    if arguments.no_quality and (arguments.quality_text or arguments.stack):
        raise UsageError("--quality-text and --stack are for the comparison that --no-quality leaves out")
    text = None if arguments.quality_text is None else read_text(arguments.quality_text)
    name = options.model_of(arguments)
    source = pull(name)
    with waiting(f"writing {target}"):
        done = convert(
            source,
            target,
            arguments.to,
            name=Path(name).stem,
            quantize=arguments.quantize,
            dtype=arguments.dtype,
            force=arguments.force,
        )
    sizes = f"{human_bytes(done.source_bytes)} became {human_bytes(done.nbytes)}"
    print(f"{done.path}: {sizes}, {done.bits:.2f} bits a weight")
    if not arguments.no_quality:
        say("comparing")
        print(_quality(source, target, arguments.stack, text))
    return 0


def _quality(source: Path, target: Path, stack: str | None, text: str | None) -> str:
    from ..convert.quality import open_pair, own_text, quality

    before, after = open_pair(source, target, stack)
    with before, after:
        return str(quality(before, after, own_text() if text is None else text))
