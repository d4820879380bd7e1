"""int4 levels that make up for each other's errors, from what a matrix is multiplied with: GPTQ (Frantar et al., 2023).

``int4`` rounds every weight to its nearest level. What a product loses by that depends on its inputs x as well: with
H = Σ x xᵀ over a sample, a row w stored as v costs (w − v) H (w − v)ᵀ. Columns are rounded in ascending k, and what one
loses the later ones of its row take over, as far as their inputs go together with its own. A group's scale is searched
when its first column comes, for the weights as they are by then. Takes seconds a matrix, in torch alone.
"""

from __future__ import annotations

import torch

from ..errors import InvalidArgumentError
from .int4 import Int4Tensor, check_groups, check_matrix
from .int4_search import GroupFit, levels_of, search_asymmetric, search_symmetric
from .packing import pack_nibbles

DAMPING = 0.01  # of the mean of H's diagonal, on it: inputs that were hardly seen are not trusted


def quantize_int4_gptq(
    weight: torch.Tensor,
    gram: torch.Tensor,
    group_size: int = 32,
    symmetric: bool = True,
    *,
    damping: float = DAMPING,
    name: str = "weight",
) -> Int4Tensor:
    """Quantise ``weight`` float32 [N, K] to the int4 format of ``quantize_int4`` for inputs with ``gram`` [K, K].

    ``gram`` is Σ x xᵀ of a sample of the matrix's inputs, float32 or float64, of any scale. Where it is a multiple of
    the identity the result is that of ``quantize_int4``. The result has no ``error`` record: nearest levels are what
    that speaks of.

    Raises InvalidArgumentError for another shape or dtype of either, a ``gram`` that is not finite or has a negative
    diagonal or none above 0, and ``damping`` not above 0; CheckpointError, naming ``name``, for weights that are not
    finite or need a scale above float16's.
    """
    check_matrix(weight, group_size, name)
    rest, factor = weight.detach().clone(), _factor(gram, weight.shape[1], damping)
    N, K = rest.shape
    groups = -(-K // group_size)
    levels = torch.empty(N, K, dtype=torch.uint8)
    scales, zeros = torch.empty(N, groups, dtype=torch.float16), torch.empty(N, groups, dtype=torch.uint8)
    for group in range(groups):
        start, stop = group * group_size, min((group + 1) * group_size, K)
        block = rest[:, start:stop]
        fit = _searched(block, group_size, symmetric, name, group)
        errors = torch.empty_like(block)
        for j in range(stop - start):
            p_N = levels_of(block[:, j][None], fit.scale, fit.zero)[0]
            levels[:, start + j] = (p_N + fit.zero).to(torch.uint8)
            row = factor[start + j]
            errors[:, j] = (block[:, j] - p_N * fit.scale) / row[start + j]
            block[:, j + 1 :] -= torch.outer(errors[:, j], row[start + j + 1 : stop])
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
        scales[:, group], zeros[:, group] = fit.scale.half(), fit.zero.to(torch.uint8)
    packed = pack_nibbles(levels, pad=zeros[:, -1])
    return Int4Tensor(packed, scales, None if symmetric else pack_nibbles(zeros), K, group_size)


def _searched(block: torch.Tensor, group_size: int, symmetric: bool, name: str, group: int) -> GroupFit:
    """The scales of one group of every row; ``block`` [N, up to G]."""
    w_GN = torch.nn.functional.pad(block, (0, group_size - block.shape[1])).t().contiguous()
    check_groups(w_GN, symmetric, name, 0, 1, group)
    return search_symmetric(w_GN) if symmetric else search_asymmetric(w_GN)


def _factor(gram: torch.Tensor, columns: int, damping: float) -> torch.Tensor:
    """Upper triangular U f32 [K, K] with Uᵀ U = (H + damping)⁻¹: U[k, j] / U[k, k] is what column j takes over of
    column k's error, since with each column done the inverse of what is left is again a corner of this product."""
    if gram.shape != (columns, columns) or gram.dtype not in (torch.float32, torch.float64):
        raise InvalidArgumentError(
            f"gram is {list(gram.shape)} {gram.dtype}, expected [K, K] = [{columns}, {columns}] float32 or float64"
        )
    if not damping > 0:
        raise InvalidArgumentError(f"damping is {damping!r}, expected a number above 0")
    H = gram.detach().double()
    diagonal = H.diagonal()
    if not bool(torch.isfinite(H).all()) or bool((diagonal < 0).any()) or not bool((diagonal > 0).any()):
        raise InvalidArgumentError("gram is not finite or its diagonal is negative or all 0, expected a sum of x xᵀ")
    H = H + torch.eye(columns, dtype=torch.float64) * (damping * diagonal.mean())
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        return torch.linalg.cholesky(inverse, upper=True).float()
    except torch.linalg.LinAlgError as error:
        raise InvalidArgumentError(
            f"gram with a damping of {damping} is not positive definite, expected a sum of x xᵀ"
        ) from error
