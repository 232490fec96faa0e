"""Every error that Parity raises on purpose.

    ParityError
    ├── UsageError            the caller asked for something wrong: fix the call
    │   ├── ModelNotFound     no such model, file or source
    │   ├── Unsupported       known, and refused by name
    │   ├── ConfigError       a model's config has a key or value that we do not compute
    │   ├── RequestError      one request is wrong (HTTP 400)
    │   │   └── ContextExceeded
    │   └── Offline           the network is needed and switched off
    ├── DownloadError         every source failed; the text names each and why
    ├── FormatError           a file is truncated, corrupt or not what it says
    │   └── HashMismatch
    ├── WeightError           a checkpoint tensor is missing, left over or of another shape
    ├── CapacityError         not enough memory, pages or disk
    │   └── Overloaded        the queue is full: try later (HTTP 429)
    └── EngineError           a step failed; the requests in it are ended with this reason

The text of an error says what was wrong and what to do, in one or two sentences; the command line prints it without a
traceback and exits with `exit_code`.
"""


class ParityError(Exception):
    """Base of all errors raised on purpose; its text is meant for the user."""

    exit_code = 2


class UsageError(ParityError):
    """The caller asked for something that cannot be."""


class ModelNotFound(UsageError):
    """No model, file or source by that name."""


class Unsupported(UsageError):
    """Something known that Parity does not do, refused by name."""


class ConfigError(UsageError):
    """A model's config has a key or a value that would change what is computed and that we do not compute."""


class RequestError(UsageError):
    """One request is wrong; the engine and the other requests are unaffected.

    `field` is the name of the offending request field, where there is one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextExceeded(RequestError):
    """The prompt, or the prompt and the tokens asked for, do not fit the context."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            # Agents make room by themselves where they read "prompt is too long: N tokens > M" or "maximum context length".
            f"the prompt is too long: {num_prompt_tokens} tokens > {max_model_len - 1}; the maximum context length is "
            f"{max_model_len} tokens, one of them generated: shorten the prompt or raise --max-model-len",
            field="messages",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_model_len = max_model_len


class Offline(UsageError):
    """The network is needed and offline mode forbids it."""


class DownloadError(ParityError):
    """Every source failed; the text names each and why."""


class FormatError(ParityError):
    """A file is truncated, corrupt or not what it says it is."""


class HashMismatch(FormatError):
    """A file's SHA-256 is not the pinned one."""


class WeightError(ParityError):
    """A checkpoint tensor is missing, left over, or of another shape than the model's."""


class CapacityError(ParityError):
    """Not enough memory, pages or disk."""


class Overloaded(CapacityError):
    """The waiting queue is full; `retry_after_s` is a guess at when to try again."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(ParityError):
    """A step of the engine failed; the requests that were in it end with this reason."""

    exit_code = 1
