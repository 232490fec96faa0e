"""Many prompts at once, each printed as it finishes. `python examples/batch.py [MODEL]`"""

import sys

from parity import LLM, Answer, SamplingParams

prompts = ["def is_even(n):", "def factorial(n):", "SELECT name FROM", "#include <stdio.h>\nint main("]


def show(index: int, answer: Answer) -> None:
    print(f"--- {prompts[index]}{answer.text}")


with LLM(*sys.argv[1:]) as llm:
    answers = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=24), on_answer=show)
    print(
        f"{sum(len(answer.tokens) for answer in answers)} tokens in {max(answer.timings.total_s for answer in answers):.1f} s"
    )
