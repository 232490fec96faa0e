"""Which tensors of a folder belong together: a quantised matrix with its scales, zero points and shape is one weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from parity.core.errors import FormatError, Unsupported

from .safetensors import Entry

Entries = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Folded:
    """One logical tensor: its arrays' names in the files by role; `format` None is a plain tensor in role `data`.

    Where `one_scale`, the scale is a single number of any shape, to be read as [1, 1]: one block as large as the matrix.
    """

    sources: Mapping[str, str]
    shape: tuple[int, ...]
    format: str | None = None
    meta: Mapping[str, int] = field(default_factory=dict)
    one_scale: bool = False


@dataclass(frozen=True)
class Scheme:
    """Companion tensors found by the ending of their names.

    Args:
        endings: role to ending; the role `data` comes first and says where to look.
        dropped: endings that only repeat what the others say.
        build: (sources, entries, quantization config) -> the tensor.
        refused: endings that change the meaning and are not computed.
    """

    endings: Mapping[str, str]
    build: Callable[[Mapping[str, str], Entries, Mapping[str, Any]], Folded]
    dropped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def fold(entries: Entries, config: Mapping[str, Any]) -> dict[str, Folded]:
    """Every logical tensor by name; what no scheme claims stays as it is.

    Raises:
        Unsupported: a quantisation that Parity does not compute.
        FormatError: a matrix and its companions do not fit together.
    """
    settings = quantization(config)
    folded: dict[str, Folded] = {}
    used: set[str] = set()
    present = {name[name.rfind(".") :] for name in entries}
    found = {ending: _possible(schemes, present) for ending, schemes in BY_ENDING.items()}
    for name, entry in entries.items():
        at = name.rfind(".")
        ending, stem = name[at:], name[:at]
        schemes = found.get(ending)
        if not schemes or name in used:
            continue
        if ending == ".weight" and entry.dtype not in ONE_BYTE:
            continue  # a plain weight whose module happens to have a scale
        for scheme in schemes:
            sources = {role: stem + other for role, other in scheme.endings.items()}
            if not all(map(entries.__contains__, sources.values())):
                continue
            for refused in scheme.refused:
                if stem + refused in entries:
                    raise Unsupported(f"{stem + refused}: this kind of quantisation is not computed")
            try:
                folded[stem + ".weight"] = scheme.build(sources, entries, settings)
            except (LookupError, ValueError, TypeError, ArithmeticError) as error:
                raise FormatError(f"{name} and quantization_config do not fit together ({error!r})") from None
            used.update(sources.values())
            used.update([stem + other for other in scheme.dropped])
            break
    for name in _sharing(entries, used):
        sources = {"data": name, "scale": _shared_scale(name)}
        folded[name] = _one_block(sources, entries[name].shape)
        used.update(sources.values())
    plain = {name: Folded({"data": name}, entry.shape) for name, entry in entries.items() if name not in used}
    clash = sorted(plain.keys() & folded.keys())
    if clash:
        raise FormatError(f"{clash[0]} is there both plain and packed")
    return plain | folded


def _shared_scale(name: str) -> str:
    """The scale that `table.part.weight` has in common with the table's other parts."""
    return f"{name.rsplit('.', 2)[0]}.weight_scale"


def _sharing(entries: Entries, used: Collection[str]) -> list[str]:
    """The FP8 parts of tables with one scale for all of them, as Qwen3.8-Flash-Next's n-grams are released in FP8."""
    alone = {name for name, entry in entries.items() if name.endswith(".weight_scale") and _one_number(entry)}
    return [
        name
        for name, entry in (entries.items() if alone else ())
        if entry.dtype == torch.float8_e4m3fn and len(entry.shape) == 2 and name not in used and _shared_scale(name) in alone
    ]


def _one_number(entry: Entry) -> bool:
    return entry.shape in ((), (1,)) and entry.dtype in SCALES


def _possible(schemes: Sequence[Scheme], present: Collection[str]) -> list[Scheme]:
    """Those of which all endings are there at all, without those that are nowhere: Kimi K3 has half a million names."""
    return [
        replace(
            scheme,
            dropped=tuple(ending for ending in scheme.dropped if ending in present),
            refused=tuple(ending for ending in scheme.refused if ending in present),
        )
        for scheme in schemes
        if all(ending in present for ending in scheme.endings.values())
    ]


def quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantization_config, wherever it stands.

    Raises:
        Unsupported: its method is not one that Parity reads.
    """
    nested = config.get("text_config")
    settings = config.get("quantization_config") or config.get("compression_config")
    if settings is None and isinstance(nested, Mapping):
        settings = nested.get("quantization_config")
    if settings is None:
        return {}
    method = str(settings.get("quant_method", "")) if isinstance(settings, Mapping) else str(settings)
    if method not in METHODS:
        raise Unsupported(f"quant_method {method!r} is not supported; Parity reads {', '.join(METHODS)}")
    return dict(settings)


METHODS = ("fp8", "compressed-tensors", "awq", "gptq", "mxfp4")
SMALL = (torch.uint8, torch.int8)
ONE_BYTE = frozenset((*SMALL, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu))
SCALES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu, torch.uint8)


def _divide(whole: int, parts: int, allowed: tuple[int, ...], name: str) -> int:
    """The block length of which `parts` cover `whole`, the last perhaps in part."""
    for length in allowed:
        if math.ceil(whole / length) == parts:
            return length
    raise FormatError(f"{name}: {parts} scales for {whole} weights fit no block length")


def _blocked(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    """FP8 with one scale, or rectangles of them; bytes with one scale for 32 columns are MXFP4 (DeepSeek V4's experts)."""
    data, scale = entries[sources["data"]], entries[sources["scale"]]
    name = sources["data"]
    if data.dtype in SMALL:
        return _mxfp4(sources, entries, settings)
    if data.dtype != torch.float8_e4m3fn:
        raise Unsupported(f"{name} is {data.dtype} with scales; only float8_e4m3fn is read so")
    if scale.dtype not in SCALES:
        raise Unsupported(f"{name} has scales of {scale.dtype}: float32, bfloat16, float16 and e8m0 (or its bytes) are read")
    if _one_number(scale) and len(data.shape) == 2:
        return _one_block(sources, data.shape)
    if len(data.shape) < 2 or len(scale.shape) != len(data.shape) or scale.shape[:-2] != data.shape[:-2]:
        raise FormatError(f"{name} {data.shape} has scales of shape {scale.shape}")
    block = settings.get("weight_block_size")
    lengths = []
    for axis in (-2, -1):
        whole, parts = data.shape[axis], scale.shape[axis]
        wanted = (int(block[axis]),) if block else ()
        lengths.append(_divide(whole, parts, (*wanted, 1 if parts == whole else whole, 128, 64, 32, whole), name))
    return Folded(sources, data.shape, "fp8_block", {"block_rows": lengths[0], "block_columns": lengths[1]})


def _one_block(sources: Mapping[str, str], shape: tuple[int, ...]) -> Folded:
    """An FP8 matrix with one scale for all of it."""
    block = {"block_rows": max(shape[0], 1), "block_columns": max(shape[1], 1)}
    return Folded(sources, shape, "fp8_block", block, one_scale=True)


def _mxfp4(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    data, scale = entries[sources["data"]], entries[sources["scale"]]
    shape = (*data.shape[:-1], 2 * data.shape[-1]) if data.shape else ()
    if data.dtype not in SMALL or scale.dtype not in (torch.uint8, torch.float8_e8m0fnu):
        raise Unsupported(f"{sources['data']} is {data.dtype} with {scale.dtype} scales: not MXFP4")
    if len(shape) < 2 or shape[-1] % 32 or scale.shape != (*shape[:-1], shape[-1] // 32):
        raise FormatError(f"{sources['data']} {data.shape} has scales of shape {scale.shape}: not one for 32 weights")
    return Folded(sources, shape, "mxfp4")


def _compressed(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    """compressed-tensors: int32 words of eight 4-bit integers, or bytes of two e2m1 floats."""
    data, scale = entries[sources["data"]], entries[sources["scale"]]
    name = sources["data"]
    if data.dtype in SMALL:
        return _mxfp4(sources, entries, settings)
    weights = _group_weights(settings)
    if weights.get("num_bits", 4) != 4 or not weights.get("symmetric", True) or weights.get("type", "int") != "int":
        raise Unsupported(f"{name}: compressed-tensors weights {dict(weights)} are not read; symmetric 4-bit integers are")
    if data.dtype != torch.int32 or len(data.shape) < 2:
        raise FormatError(f"{name} is {data.dtype} {data.shape}; packed integers are int32 words")
    shape = (*data.shape[:-1], 8 * data.shape[-1])
    groups = scale.shape[-1] if scale.shape else 0
    if scale.shape[:-1] != shape[:-1] or not groups or shape[-1] % groups:
        raise FormatError(f"{name} {data.shape} has scales of shape {scale.shape}")
    return Folded(sources, shape, "int4_group", {"group_size": shape[-1] // groups})


def _group_weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = settings.get("config_groups")
    # JSON's own type: asked for each of a quarter of a million tensors, and `Mapping` takes five times as long.
    if not isinstance(groups, dict) or not groups:
        return {}
    first = next(iter(groups.values()))
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _scaled(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    """compressed-tensors' one-byte weights under their plain name: FP8, or 8-bit integers."""
    data, scale = entries[sources["data"]], entries[sources["scale"]]
    if data.dtype != torch.int8:
        return _blocked(sources, entries, settings)
    groups = scale.shape[-1] if scale.shape else 0
    if len(data.shape) < 2 or scale.shape[:-1] != data.shape[:-1] or not groups or data.shape[-1] % groups:
        raise FormatError(f"{sources['data']} {data.shape} has scales of shape {scale.shape}")
    return Folded(sources, data.shape, "int8_group", {"group_size": data.shape[-1] // groups})


def _four_bits(settings: Mapping[str, Any], name: str) -> None:
    if int(settings.get("bits", settings.get("w_bit", 4))) != 4:
        raise Unsupported(f"{name}: {settings.get('quant_method')} with {settings.get('bits')} bits is not read; 4 bits are")


def _awq(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    data, scale = entries[sources["data"]], entries[sources["scale"]]
    name = sources["data"]
    _four_bits(settings, name)
    if settings.get("quant_method") == "gptq":
        raise Unsupported(f"{name}: GPTQ without g_idx is not read")
    if str(settings.get("version", "gemm")).lower() != "gemm":
        raise Unsupported(f"{name}: AWQ version {settings['version']!r} is not read; gemm is")
    if len(data.shape) != 2 or data.dtype != torch.int32 or len(scale.shape) != 2:
        raise FormatError(f"{name} is {data.dtype} {data.shape}; AWQ matrices are int32 [in, out / 8]")
    width, height = data.shape[0], 8 * data.shape[1]
    groups = scale.shape[0]
    fits = groups and width % groups == 0 and scale.shape[1] == height
    if not fits or entries[sources["zeros"]].shape != (groups, data.shape[1]):
        raise FormatError(f"{name} {data.shape} has scales of shape {scale.shape}")
    return Folded(sources, (height, width), "awq", {"group_size": width // groups})


def _gptq(sources: Mapping[str, str], entries: Entries, settings: Mapping[str, Any]) -> Folded:
    data, scale, zeros = (entries[sources[role]] for role in ("data", "scale", "zeros"))
    name = sources["data"]
    _four_bits(settings, name)
    if len(data.shape) != 2 or data.dtype != torch.int32 or len(scale.shape) != 2:
        raise FormatError(f"{name} is {data.dtype} {data.shape}; GPTQ matrices are int32 [in / 8, out]")
    width, height = 8 * data.shape[0], data.shape[1]
    if scale.shape[1] != height or zeros.shape != (scale.shape[0], height // 8):
        raise FormatError(f"{name} {data.shape} has scales of shape {scale.shape}")
    if entries[sources["groups"]].shape != (width,):
        raise FormatError(f"{sources['groups']} has shape {entries[sources['groups']].shape}, not {(width,)}")
    offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    return Folded(sources, (height, width), "gptq", {"group_size": width // scale.shape[0], "zero_offset": offset})


SCHEMES = (
    Scheme({"data": ".weight", "scale": ".weight_scale_inv"}, _blocked),
    Scheme({"data": ".weight", "scale": ".scale"}, _blocked),
    Scheme({"data": ".weight", "scale": ".weight_scale"}, _scaled, refused=(".weight_zero_point", ".input_scale")),
    Scheme(
        {"data": ".weight_packed", "scale": ".weight_scale"},
        _compressed,
        dropped=(".weight_shape",),
        refused=(".weight_zero_point", ".weight_g_idx", ".weight_global_scale"),
    ),
    Scheme({"data": ".qweight", "zeros": ".qzeros", "scale": ".scales", "groups": ".g_idx"}, _gptq),
    Scheme({"data": ".qweight", "zeros": ".qzeros", "scale": ".scales"}, _awq),
)
BY_ENDING = {
    ending: [scheme for scheme in SCHEMES if scheme.endings["data"] == ending]
    for ending in dict.fromkeys(scheme.endings["data"] for scheme in SCHEMES)
}
"""Which schemes begin at a name with an ending, which is the last part of the name and its dot."""
