"""The Jinja that chat templates run in: a template is a stranger's program, so it can change nothing and its use is bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 1 << 26
INTERNAL_PREFIX = "_parity_"
_TICK = f"{INTERNAL_PREFIX}tick"
_JOIN = f"{INTERNAL_PREFIX}join"


@dataclass(slots=True)
class Budget:
    """What one rendering may still use.

    Args:
        steps: turns of loops and calls of macros.
        deadline_s: on the monotonic clock.
    """

    steps: int
    deadline_s: float

    def tick(self) -> str:
        """Takes one step; called at the head of each loop body and macro."""
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError("the template takes too many steps")
        if self.steps % 256 == 0 and time.monotonic() > self.deadline_s:
            raise SecurityError("the template takes too long")
        return ""


_budget: ContextVar[Budget] = ContextVar("budget")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a rendering may use.

    Args:
        steps: turns of loops and calls of macros.
        seconds: of time.
    """

    steps: int = 1_000_000
    seconds: float = 10.0


@contextmanager
def budget(limits: Limits) -> Iterator[None]:
    """Renderings inside share one budget."""
    token = _budget.set(Budget(limits.steps, time.monotonic() + limits.seconds))
    try:
        yield
    finally:
        _budget.reset(token)


class Generation(Extension):
    """`{% generation %}`: marks what the model writes, for training; what is inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own way of naming tags)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing can be changed and nothing grows without end."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(optimized=False, trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.globals[_TICK] = lambda: _budget.get().tick()
        self.globals[_JOIN] = _join
        del self.globals["lipsum"]
        for name in ("replace", "join", "center", "indent", "format", "wordwrap", "batch", "slice"):
            self.filters[name] = _bounded_filter(name, self.filters[name])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = super()._parse(source, name, filename)
        bodies = [(block.body, block.lineno) for block in template.find_all(nodes.For)]
        bodies += [(block.body, block.lineno) for block in template.find_all(nodes.Macro)]
        for body, line in bodies:
            tick = nodes.ExprStmt(nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None))
            body.insert(0, tick.set_lineno(line))
        _replace_concatenations(template)
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, refused where its result would be huge."""
        if operator == "**" and (_size(left) > 1 << 16 or _size(right) > 64):
            raise SecurityError("the template computes too large a power")
        if operator == "*" and _is_sequence(left) != _is_sequence(right):
            _check(_size(left) * _size(right))
        if operator == "+" and _is_sequence(left) and _is_sequence(right):
            _check(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, callee: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, refused where a string method would build something huge."""
        text = getattr(callee, "__self__", None)
        if isinstance(text, str):
            _check_call(text, getattr(callee, "__name__", ""), args)
        return super().call(context, callee, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, refused for patterns with huge widths."""
        wrapped: Callable[..., str] | None = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped


def _replace_concatenations(node: nodes.Node) -> None:
    """Turns each `a ~ b` into a call that is bounded."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_without_concatenation(item) for item in value])
        else:
            setattr(node, name, _without_concatenation(value))
    for child in node.iter_child_nodes():
        _replace_concatenations(child)


def _without_concatenation(value: Any) -> Any:
    if not isinstance(value, nodes.Concat):
        return value
    return nodes.Call(nodes.Name(_JOIN, "load"), value.nodes, [], None, None).set_lineno(value.lineno)


def _join(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    _check(sum(map(len, texts)))
    return "".join(texts)


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refused on arguments that make it build something huge."""

    def bounded(*args: Any, **kwargs: Any) -> Any:
        plain = [arg for arg in args if not isinstance(arg, (jinja2.Environment, nodes.EvalContext, jinja2.runtime.Context))]
        if plain:
            _check_call(plain[0], name, (*plain[1:], *kwargs.values()))
        return function(*args, **kwargs)

    bounded.__dict__.update(function.__dict__)
    return bounded


def _check_call(subject: Any, name: str, args: tuple[Any, ...]) -> None:
    numbers = [arg for arg in args if isinstance(arg, int)]
    if any(number > MAX_CHARACTERS for number in numbers):
        raise SecurityError("the template asks for too large a number of things")
    if name == "join":
        parts = args[0] if isinstance(subject, str) and args and _is_sequence(args[0]) else subject
        between = subject if isinstance(subject, str) else next((arg for arg in args if isinstance(arg, str)), "")
        _check(sum(_size(part) + len(between) for part in parts if isinstance(part, str)) if _is_sequence(parts) else 0)
    elif not isinstance(subject, str):
        return
    elif name in ("center", "ljust", "rjust", "zfill", "expandtabs", "indent"):
        _check((subject.count("\n") + subject.count("\t") + 1) * max(numbers, default=0))
    elif name == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        _check(len(subject) + (subject.count(args[0]) * len(args[1])))
    elif name == "wordwrap":
        _check(len(subject) * max((len(arg) for arg in args if isinstance(arg, str)), default=1))
    elif name == "format":
        _check_widths(subject)


def _check_widths(pattern: str) -> None:
    """Refuses widths in a format such as `%999999999d`, and those taken from an argument."""
    if _WIDE.search(pattern):
        raise SecurityError("the template formats with too large a width, or one from an argument")


_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{6}|\*)|\{[^}]*:[^}]*(\d{6}|\{)")


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _size(value: Any) -> int:
    if isinstance(value, (str, list, tuple)):
        return len(value)
    return int(min(abs(value), 1 << 62)) if isinstance(value, (int, float)) else 1


def _check(num_characters: int) -> None:
    if num_characters > MAX_CHARACTERS:
        raise SecurityError("the template builds too long a text")
