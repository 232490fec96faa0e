"""Reading a checkpoint's config strictly: every key is used, known to be harmless, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..core.errors import ConfigError
from .config_keys import HARMLESS, VISION_KEYS

T = TypeVar("T")
_MISSING: Any = object()
_LARGEST = sys.float_info.max
MOST_LAYERS = 10_000
"""What is said of each layer is made when the model is built, before a tensor is looked at."""


class Fields:
    """A config's keys, each taken once by name; `finish` refuses what nobody took.

    Raises (from every method):
        ConfigError: a key is missing, of the wrong type, or has a value that is not computed.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self._values = values
        self._where = where
        self._taken: set[str] = set(HARMLESS)
        self.nested: list[Fields] = []
        """Parts of the config that are read as configs of their own; finished with this one."""

    @property
    def model_type(self) -> str:
        """The architecture's name."""
        return str(self._values.get("model_type", ""))

    def _take(self, key: str, kind: type[T] | tuple[type, ...], default: Any) -> Any:
        self._taken.add(key)
        value = self._values.get(key)
        if value is None:
            if default is _MISSING:
                raise ConfigError(f"{self._where} of {self.model_type!r} lacks {key!r}")
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f"{self._where}: {key} must be {names}, not {value!r}")
        return value

    def int(self, key: str, default: Any = _MISSING) -> Any:
        """A whole number above or equal to 0."""
        value = self._take(key, int, default)
        if isinstance(value, int) and value < 0:
            raise ConfigError(f"{self._where}: {key} must not be negative, not {value}")
        if isinstance(value, int) and key.endswith("_layers") and value > MOST_LAYERS:
            raise ConfigError(f"{self._where}: {key} must be at most {MOST_LAYERS}, not {value}")
        return value

    def size(self, key: str, default: Any = _MISSING) -> Any:
        """A whole number above 0."""
        value = self.int(key, default)
        if value is not None and value <= 0:
            raise ConfigError(f"{self._where}: {key} must be above 0, not {value}")
        return value

    def float(self, key: str, default: Any = _MISSING) -> Any:
        """A number, not infinite."""
        value = self._take(key, (int, float), default)
        if value is not None and not -_LARGEST <= value <= _LARGEST:
            raise ConfigError(f"{self._where}: {key} must be a finite number, not {value}")
        return value if value is None else float(value)

    def bool(self, key: str, default: Any = _MISSING) -> Any:
        """True or false."""
        return self._take(key, bool, default)

    def list(self, key: str, default: Any = _MISSING) -> Any:
        """A list."""
        return self._take(key, list, default)

    def tokens(self, key: Any, default: Any = _MISSING) -> Any:
        """Token ids, from one or a list of them."""
        value = self._take(key, (int, list), default)
        listed = value if isinstance(value, list) else [value]
        if value is not None and not (listed and all(type(token) is int and token >= 0 for token in listed)):
            raise ConfigError(f"{self._where}: {key} must be token ids, not {value!r}")
        return value if value is None else listed

    def mapping(self, key: str, default: Any = _MISSING) -> Any:
        """A nested object."""
        return self._take(key, dict, default)

    def expect(self, key: str, *allowed: Any, default: Any = None) -> Any:
        """A value that must be one of `allowed` (or absent, which means `default`): others are not computed."""
        self._taken.add(key)
        value = self._values.get(key)
        if value is None:
            return default
        if value not in allowed:
            choice = " or ".join(repr(one) for one in allowed)
            raise ConfigError(f"{self._where}: {key} = {value!r} is not supported for {self.model_type!r} (only {choice})")
        return value

    def either(self, *keys: Any) -> Any:
        """The one of several names that the config uses for the same thing; the first if it has none of them."""
        return next((key for key in keys if self._values.get(key) is not None), keys[0])

    def has(self, key: Any) -> Any:
        """Whether the config has the key at all, be it null."""
        return key in self._values

    def skip(self, *keys: str) -> None:
        """Keys that this architecture carries and that change nothing here."""
        self._taken.update(keys)

    def finish(self) -> None:
        """Refuses the keys that were not taken, here and in nested parts."""
        for part in self.nested:
            part.finish()
        left = sorted(key for key, value in self._values.items() if key not in self._taken and value is not None)
        if left:
            text = ", ".join(f"{key} = {self._values[key]!r}"[:80] for key in left[:8])
            raise ConfigError(
                f"{self._where} of {self.model_type!r} has {len(left)} key(s) that Parity does not know, and ignoring them "
                f"could change the answers: {text}"
            )

    def str(self, key: str, default: Any = _MISSING) -> Any:
        """A string."""
        return self._take(key, str, default)


def divides(fields: Fields, whole: str, total: int, part: str, count: int) -> int:
    """total / count, exactly.

    Raises:
        ConfigError: it does not divide.
    """
    if total % count:
        raise ConfigError(f"config of {fields.model_type!r}: {part} = {count} must divide {whole} = {total}")
    return total // count


def layer_types(fields: Fields, num_layers: int, allowed: Sequence[str], default: Sequence[str]) -> list[str]:
    """The kind of each layer, from `layer_types` if it is there."""
    kinds = fields.list("layer_types", None) or list(default)
    if len(kinds) != num_layers:
        raise ConfigError(f"layer_types has {len(kinds)} entries for {num_layers} layers")
    for kind in kinds:
        if kind not in allowed:
            raise ConfigError(f"layer_types holds {kind!r}: {fields.model_type!r} computes {', '.join(allowed)}")
    return kinds


def text_fields(fields: Fields, *kinds: str) -> Fields:
    """The text part of a multimodal config, or the config itself; the parent's other keys are finished with.

    Args:
        kinds: the `model_type`s that a text part of this architecture has; none if the caller looks at it.

    Raises:
        ConfigError: the parent has a key that is not known, or a text part of another kind.
    """
    text = fields.mapping("text_config", None)
    if text is None:
        return fields
    fields.skip(*VISION_KEYS)
    if kinds and text.get("model_type") not in (None, fields.model_type, *kinds):
        raise ConfigError(f"text_config has model_type {text['model_type']!r}: {fields.model_type!r} has {' or '.join(kinds)}")
    merged = dict(text)
    tied = fields.bool("tie_word_embeddings", None)
    if tied is not None:
        merged["tie_word_embeddings"] = tied
    inner = Fields(merged, "text_config of config.json")
    fields.nested.append(inner)
    return inner
