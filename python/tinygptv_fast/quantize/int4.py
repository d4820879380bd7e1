"""int4 matrices: groups of 32, 64 or 128 weights along K share one float16 scale (and an integer zero).

value = (q − z)·s, q in 0..15, z = 8 when symmetric; s may be negative when symmetric. Packed two to a byte, the low
nibble being the even k. Groups may be short at the end of K. The search for s is in ``int4_search`` (torch) and in the
native module (the same operations, the same result); docs/quantization.md has the method and the figures.
Knows no names of tensors beyond the one it quotes in errors, and no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from ..env import read_settings
from ..errors import CheckpointError, InvalidArgumentError, UnsupportedError
from .int4_search import SCALE_MAX, levels_of, search_asymmetric, search_symmetric
from .measure import ErrorSums
from .packing import pack_nibbles, unpack_nibbles

GROUP_SIZES = (32, 64, 128)
BACKENDS = ("native", "torch")
_BLOCK_ELEMENTS = 1 << 20  # bounds the temporaries of the torch paths; results do not depend on it


@dataclass(frozen=True)
class Int4Tensor:
    """A matrix [N, K=columns] in int4. ``error`` is what quantising cost, when it was quantised here.

    qweight uint8 [N, ceil(K/2)], low nibble = even k; an odd K pads the last nibble with its group's z (value 0).
    scales float16 [N, ceil(K/G)]. zeros None (z = 8) or uint8 [N, ceil(ceil(K/G)/2)], packed likewise, padded with 0.
    """

    qweight: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    columns: int
    group_size: int
    error: ErrorSums | None = None

    def __post_init__(self) -> None:
        _check_group_size(self.group_size)
        if type(self.columns) is not int or self.columns < 1:
            raise InvalidArgumentError(f"columns is {self.columns!r}, expected an integer >= 1")
        rows = self.qweight.shape[0] if self.qweight.dim() else 0
        _check_part("qweight", self.qweight, (rows, (self.columns + 1) // 2), torch.uint8)
        _check_part("scales", self.scales, (rows, self.groups), torch.float16)
        if self.zeros is not None:
            _check_part("zeros", self.zeros, (rows, (self.groups + 1) // 2), torch.uint8)

    @property
    def rows(self) -> int:
        return int(self.qweight.shape[0])

    @property
    def groups(self) -> int:
        """Groups per row, the short one included."""
        return -(-self.columns // self.group_size)

    @property
    def symmetric(self) -> bool:
        return self.zeros is None

    @property
    def nbytes(self) -> int:
        parts = [self.qweight, self.scales] + ([] if self.zeros is None else [self.zeros])
        return sum(part.numel() * part.element_size() for part in parts)


def quantize_int4(
    weight: torch.Tensor,
    group_size: int = 32,
    symmetric: bool = True,
    *,
    name: str = "weight",
    backend: str = "native",
    threads: int | None = None,
) -> Int4Tensor:
    """Quantise ``weight`` float32 [N, K] (N, K >= 1) to int4 with the error-minimising scale per group.

    Deterministic; each group depends on its own values alone. ``backend="torch"`` gives the same bytes, far slower.
    ``threads`` (native only): None means ``TINYGPTV_THREADS``, else the physical cores.

    Raises ``CheckpointError``, naming ``name`` and the place, for NaN or infinity and for a group whose scale would
    pass float16's 65504 (|w| above 524,032 when symmetric, a span above 982,560 otherwise); ``InvalidArgumentError``
    for a wrong shape, dtype or group size; ``UnsupportedError`` if the native module is not built or
    ``TINYGPTV_CPU_ISA`` asks for what this CPU lacks.
    A group too small for float16 scales (below about 2e-7) becomes zero with s = 0; the error record shows it.
    """
    check_matrix(weight, group_size, name)
    if backend not in BACKENDS:
        raise InvalidArgumentError(f"backend is {backend!r}, expected one of {BACKENDS}")
    if backend == "torch":
        return _quantize_torch(weight.detach(), group_size, symmetric, name)
    return _quantize_native(weight.detach().contiguous(), group_size, symmetric, name, threads)


def check_matrix(weight: torch.Tensor, group_size: int, name: str) -> None:
    """Raises InvalidArgumentError unless ``weight`` is float32 [N, K] and ``group_size`` one of GROUP_SIZES."""
    _check_group_size(group_size)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or weight.dtype != torch.float32 or not weight.numel():
        what = f"{list(weight.shape)} {weight.dtype}" if isinstance(weight, torch.Tensor) else type(weight).__name__
        raise InvalidArgumentError(f"{name} is {what}, expected [N, K] torch.float32 with N, K >= 1")


def dequantize_int4(tensor: Int4Tensor) -> torch.Tensor:
    """float32 [N, K] of ``tensor``, exactly (q − z)·s. Raises ``CheckpointError`` for a scale that is not finite."""
    if not bool(torch.isfinite(tensor.scales).all()):
        raise CheckpointError("scales of an int4 tensor hold NaN or infinity, expected finite float16")
    out = torch.empty(tensor.rows, tensor.columns)
    step = max(1, _BLOCK_ELEMENTS // tensor.columns)
    for start in range(0, tensor.rows, step):
        rows = slice(start, min(start + step, tensor.rows))
        out[rows] = _dequantize_rows(tensor, rows)
    return out


def _dequantize_rows(tensor: Int4Tensor, rows: slice) -> torch.Tensor:
    levels = unpack_nibbles(tensor.qweight[rows], tensor.columns).float()
    count, width = levels.shape[0], tensor.groups * tensor.group_size
    grouped = torch.nn.functional.pad(levels, (0, width - tensor.columns)).view(count, tensor.groups, -1)
    zero: float | torch.Tensor = 8.0
    if tensor.zeros is not None:
        zero = unpack_nibbles(tensor.zeros[rows], tensor.groups).float()[:, :, None]
    values = (grouped - zero) * tensor.scales[rows].float()[:, :, None]
    return values.view(count, width)[:, : tensor.columns]


def _quantize_native(
    weight: torch.Tensor, group_size: int, symmetric: bool, name: str, threads: int | None
) -> Int4Tensor:
    native, settings = _native_module(), read_settings()
    rows, columns = weight.shape
    groups = -(-columns // group_size)
    qweight = torch.empty(rows, (columns + 1) // 2, dtype=torch.uint8)
    scales = torch.empty(rows, groups, dtype=torch.float16)
    zeros = None if symmetric else torch.empty(rows, groups, dtype=torch.uint8)
    error, norm, worst = torch.empty(3, rows, groups)
    not_finite, overflow = native.quantize_int4(
        qweight.numpy(),
        scales.numpy(),
        None if zeros is None else zeros.numpy(),
        error.numpy(),
        norm.numpy(),
        worst.numpy(),
        weight.numpy(),
        group_size,
        threads or settings.threads or native.physical_cores(),
        settings.cpu_isa,
    )
    if not_finite >= 0:
        raise _not_finite_error(name, not_finite // groups)
    if overflow >= 0:
        raise _scale_error(name, overflow // groups, overflow % groups)
    sums = ErrorSums(rows * columns, error.double().sum().item(), norm.double().sum().item(), worst.max().item())
    return Int4Tensor(qweight, scales, None if zeros is None else pack_nibbles(zeros), columns, group_size, sums)


def _native_module() -> ModuleType:
    try:
        from .. import _native
    except ImportError as error:
        raise UnsupportedError(
            f"tinygptv_fast._native cannot be imported ({error}), expected the compiled core: install the package; "
            "backend='torch' does the same without it, slowly"
        ) from error
    return _native


def _quantize_torch(weight: torch.Tensor, group_size: int, symmetric: bool, name: str) -> Int4Tensor:
    rows, columns = weight.shape
    groups = -(-columns // group_size)
    qweight = torch.empty(rows, (columns + 1) // 2, dtype=torch.uint8)
    scales = torch.empty(rows, groups, dtype=torch.float16)
    zeros = None if symmetric else torch.empty(rows, (groups + 1) // 2, dtype=torch.uint8)
    error = ErrorSums()
    step = max(1, _BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = torch.nn.functional.pad(weight[start:stop], (0, groups * group_size - columns))
        w_Gn = block.view(-1, group_size).t().contiguous()
        check_groups(w_Gn, symmetric, name, start, groups)
        fit = search_symmetric(w_Gn) if symmetric else search_asymmetric(w_Gn)
        p_Gn = levels_of(w_Gn, fit.scale, fit.zero)
        q = (p_Gn + fit.zero).to(torch.uint8).t().reshape(stop - start, -1)[:, :columns]
        zero = fit.zero.to(torch.uint8).view(-1, groups)
        qweight[start:stop] = pack_nibbles(q.contiguous(), pad=zero[:, -1])
        scales[start:stop] = fit.scale.half().view(-1, groups)
        if zeros is not None:
            zeros[start:stop] = pack_nibbles(zero)
        worst = float((w_Gn - p_Gn * fit.scale).abs().max())
        norm = fit.norm.double().sum().item()
        error += ErrorSums((stop - start) * columns, fit.error.double().sum().item(), norm, worst)
    return Int4Tensor(qweight, scales, zeros, columns, group_size, error)


def check_groups(w_Gn: torch.Tensor, symmetric: bool, name: str, row: int, groups: int, group: int = 0) -> None:
    """Raises CheckpointError for a column of ``w_Gn`` that no scale fits. The columns are ``groups`` of each row from
    ``row`` on, the first of them being ``group``."""
    finite = torch.isfinite(w_Gn).all(0)
    if not bool(finite.all()):
        raise _not_finite_error(name, row + int((~finite).nonzero()[0]) // groups)
    needed = w_Gn.abs().amax(0) / 8.0 if symmetric else (w_Gn.amax(0).clamp_min(0) - w_Gn.amin(0).clamp_max(0)) / 15.0
    bad = (needed > SCALE_MAX).nonzero()
    if bad.numel():
        raise _scale_error(name, row + int(bad[0]) // groups, group + int(bad[0]) % groups)


def _not_finite_error(name: str, row: int) -> CheckpointError:
    return CheckpointError(f"{name} holds NaN or infinity in row {row}, expected finite weights")


def _scale_error(name: str, row: int, group: int) -> CheckpointError:
    return CheckpointError(
        f"{name} row {row}, group {group} needs an int4 scale above 65504, the largest float16; "
        "expected smaller weights (keep this tensor in float32 or int8)"
    )


def _check_group_size(group_size: int) -> None:
    if type(group_size) is not int or group_size not in GROUP_SIZES:
        raise InvalidArgumentError(f"group_size is {group_size!r}, expected one of {GROUP_SIZES}")


def _check_part(name: str, part: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if tuple(part.shape) != shape or part.dtype != dtype or shape[0] < 1:
        raise InvalidArgumentError(
            f"{name} is {list(part.shape)} {part.dtype}, expected [N={shape[0]}, {shape[1]}] {dtype} with N >= 1"
        )
