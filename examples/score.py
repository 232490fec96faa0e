"""How likely a model finds a text, token by token. `python examples/score.py [MODEL]`"""

import math
import sys

from parity import LLM

with LLM(*sys.argv[1:]) as llm:
    tokens = llm.encode("for index in range(10):\n    print(index)\n")
    scores = llm.score(tokens, top=2)
    for score in scores:
        best = llm.tokenizer.decode([score.top[0][0]])
        print(f"{score.logprob:8.3f}  rank {score.rank:>4}  {llm.tokenizer.decode([score.token])!r:16} best {best!r}")
    print(f"perplexity {math.exp(-sum(score.logprob for score in scores) / len(scores)):.2f}")

    # The same numbers from the logits, float32 [tokens, vocabulary].
    logits = llm.logits(tokens)
    print(f"logits {logits.shape}, largest {logits.max():.2f}")
