"""A conversation of two turns, streamed. `python examples/chat.py [MODEL]`"""

import sys

from parity import LLM, Message
from parity.core.chat import Finished, TextDelta

with LLM(*sys.argv[1:]) as llm:
    messages = [Message("system", "You answer in one short sentence.")]
    for question in ("What is a prime number?", "Name three of them."):
        messages.append(Message("user", question))
        answer = ""
        for event in llm.stream(messages, llm.params(temperature=0.0, max_tokens=48)):
            match event:
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                    answer += text
                case Finished(finish=finish, usage=usage):
                    print(f"\n[{finish.reason}: {usage.num_generated_tokens} tokens, {usage.num_cached_tokens} cached]")
        messages.append(Message("assistant", answer))
