"""What the engine costs above the kernels: decode steps of a model through the engine, and the same recorded steps alone.

    python bench/engine.py MODEL [--stack cpu] [--streams 1,4,16] [--tokens 48] [--temperature 0.7] [--profile]

For each number of streams: the median step of the engine (plan, step, sampling, bookkeeping), the median replay of the
recording alone, in turns with it, and what is left; then the time from asking to the first text through `LLM`. Prints a
table and JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import statistics
import sys
import time

from parity import LLM, SamplingParams
from parity.core.request import Request

PROMPT = 32
Times = tuple[float, float]


def requests(streams: int, tokens: int, params: SamplingParams, rng: random.Random) -> list[Request]:
    prompts = [tuple(rng.randrange(1000, 100_000) for _ in range(PROMPT)) for _ in range(streams)]
    chosen = params.replace(max_tokens=tokens, ignore_eos=True, seed=1)
    return [Request(f"{streams}-{rng.random()}", prompt, chosen, cache=False) for prompt in prompts]


def decode(llm: LLM, streams: int, tokens: int, params: SamplingParams, profile: cProfile.Profile | None) -> list[Times]:
    """(seconds of a step, of a replay of it alone right after) of the steps in which every stream decodes."""
    engine, times = llm._engine, []

    def run() -> None:
        for request in requests(streams, tokens, params, random.Random(streams)):
            engine.add(request)
        while engine.has_work and not (streams in engine.runner.recorded and len(engine.scheduler.running) == streams):
            engine.step()
        engine.step()
        graph = engine.runner.recorded[streams].graph
        while len(engine.scheduler.running) == streams:
            if profile is not None:
                profile.enable()
            start = time.perf_counter()
            engine.step()
            end = time.perf_counter()
            if profile is not None:
                profile.disable()
            graph.replay()  # computes the step's last token once more, in the same place
            times.append((end - start, time.perf_counter() - end))
        while engine.has_work:
            engine.step()

    llm.service.call(run)
    return times[:-1]


def first_text(llm: LLM, words: int) -> float:
    """Seconds from asking to the first text, for a prompt not seen before."""
    prompt = " ".join(str(random.random()) for _ in range(words))
    start = time.perf_counter()
    for _ in llm.stream(prompt, SamplingParams(temperature=0.0, max_tokens=4)):
        return time.perf_counter() - start
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--stack", default=None)
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the engine's time goes instead")
    arguments = parser.parse_args()
    params = SamplingParams(temperature=arguments.temperature, top_p=0.9 if arguments.temperature else 1.0)
    results = {}
    with LLM(arguments.model, stack=arguments.stack, max_num_seqs=64, max_model_len=4096) as llm:
        for streams in map(int, arguments.streams.split(",")):
            profile = cProfile.Profile() if arguments.profile else None
            times = [one for _ in range(arguments.rounds) for one in decode(llm, streams, arguments.tokens, params, profile)]
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            engine, stack = (statistics.median(seconds) for seconds in zip(*times, strict=True))
            above = statistics.median(step - replay for step, replay in times)
            results[streams] = {"engine_s": engine, "stack_s": stack, "above_s": above}
            print(
                f"{streams:>3} streams: engine {1000 * engine:7.2f} ms {streams / engine:7.1f} tok/s   stack "
                f"{1000 * stack:7.2f} ms {streams / stack:7.1f} tok/s   above the kernels {1000 * above:5.2f} ms"
            )
        waits = [first_text(llm, 4) for _ in range(5)]
        print(f"first text of a short prompt after {1000 * statistics.median(waits):.1f} ms")
    json.dump(results, sys.stdout)
    print()


if __name__ == "__main__":
    main()
