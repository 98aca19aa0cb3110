"""Formulas of operators that multiply, and names of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)

aten = torch.ops.aten


def _deform_conv(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def _mv(matrix: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _addmv(_: Any, matrix: Any, *__: Any, **___: Any) -> int:
    return 2 * prod(matrix)


def _dot(vector: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(vector)


def _addmm(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return 2 * prod(a) * b[-1]


def _addbmm(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return 2 * prod(a) * b[-1]


def _affine_grid(theta: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * prod(out_shape) * theta[-1]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# FLOPs (two per multiply-add) of operators that torch.utils.flop_counter.FlopCounterMode lacks, as
# functions of the shapes of their tensors.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    torch.ops.torchvision.deform_conv2d: _deform_conv,
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addbmm: _addbmm,
    aten.addmm_: _addmm,
    aten.affine_grid_generator: _affine_grid,
    # The variants of GPUs are in FlopCounterMode.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}

# Operators of aten without convolutions or matrix products, other than views and those that PyTorch
# tags as element-wise. An operator that is neither listed nor counted is reported, so that no new
# one is overlooked.
_OF_ATEN = (
    # creation, copies
    """
    arange bernoulli clone contiguous copy empty empty_like empty_permuted empty_strided
    equal exponential eye fill full full_like is_pinned _local_scalar_dense lift_fresh
    linspace multinomial native_dropout new_empty new_empty_strided new_full new_ones
    new_zeros normal ones ones_like _pin_memory rand rand_like randint randint_like randn
    randn_like randperm random resize scalar_tensor _to_copy tril_indices triu_indices
    uniform _unsafe_view zero zeros zeros_like
    """
    # indexing, order
    """
    argsort bincount bucketize cat channel_shuffle col2im constant_pad_nd embedding flip
    gather im2col index index_add index_copy index_fill index_put _index_put_impl
    index_reduce index_select kthvalue masked_scatter masked_select nonzero nonzero_static
    pixel_shuffle pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d roll
    rot90 scatter scatter_add scatter_reduce searchsorted select_scatter slice_scatter sort
    squeeze stack t take topk transpose tril triu _unique _unique2 unique_consecutive
    unique_dim unsqueeze
    """
    # reduction
    """
    all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum
    linalg_vector_norm _log_softmax logcumsumexp logsumexp max mean median min nanmean
    nanmedian nansum norm prod _softmax std std_mean sum var var_mean
    """
    # pooling
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d fractional_max_pool2d max_pool1d
    max_pool2d max_pool2d_with_indices max_pool3d_with_indices
    """
    # normalisation
    """
    _batch_norm_no_update _batch_norm_with_update batch_norm_elemt batch_norm_stats
    cudnn_batch_norm _fused_rms_norm miopen_batch_norm native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training native_group_norm native_layer_norm
    """
    # interpolation; embedding bags sum four weighted pixels in deform_conv2d_by_bags
    """
    _embedding_bag _embedding_bag_forward_only
    cudnn_grid_sampler grid_sampler_2d grid_sampler_3d upsample_bicubic2d
    _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_trilinear3d
    """
    # element-wise, but not tagged
    """
    celu elu floor_divide gelu glu hardsigmoid hardswish hardtanh leaky_relu
    log_sigmoid_forward mish _prelu_kernel rrelu_with_noise
    """
)
# RoI operators only interpolate.
_OF_TORCHVISION = "nms ps_roi_align ps_roi_pool roi_align roi_pool"
NOT_MULTIPLYING = {f"aten.{name}" for name in _OF_ATEN.split()} | {
    f"torchvision.{name}" for name in _OF_TORCHVISION.split()
}


_RECTIFIERS = {"relu", "relu6", "leaky_relu", "elu", "hardtanh", "_prelu_kernel"}
_NORMS = ("batch norm", "group norm", "layer norm")

# Weights of count_operations() with which the counts are those of MMDetection 2's counter, except
# that transposed convolutions are counted as in version 1.
MMDETECTION: Mapping[str, int] = {
    "bias": 1,
    "rectifier": 1,
    "pooling": 1,
    "batch norm": 2,
    "group norm": 2,
    "layer norm": 2,
    "transposed": 1,
}


def count_operations(
    operator: torch._ops.OpOverload, args: tuple[Any, ...], output: Any
) -> dict[str, int]:
    """Count what published counters treat differently, apart from multiply-adds.

    Args:
        operator: operator that ran.
        args: positional arguments of the call.
        output: result of the call.

    Returns:
        Numbers of the kinds that apply to the operator: "rectifier" and "bias", elements of the
        output of an activation or of a convolution with bias; "pooling", "batch norm", "group norm"
        and "layer norm", elements of the input; "transposed", the additional multiply-adds of a
        transposed convolution if its whole kernel were applied at each pixel of the output.
    """
    name = operator_name(operator).removeprefix("aten.").removesuffix("_")
    if name in _RECTIFIERS:
        return {"rectifier": output.numel()}
    if "pool" in name and isinstance(args[0], torch.Tensor):
        return {"pooling": args[0].numel()}
    for norm in _NORMS:
        if norm.replace(" ", "_") in name:
            return {norm: args[0].numel()}
    if name != "convolution":
        return {}
    x, weight, bias, _, _, _, transposed = args[:7]
    counts = {} if bias is None else {"bias": output.numel()}
    if transposed:
        counts["transposed"] = weight.numel() * (_positions(output) - _positions(x))
    return counts


def _positions(x: torch.Tensor) -> int:
    """Return the number of pixels in a batch of maps ``(N, C, ...)``."""
    return x.numel() // x.shape[1] if x.numel() else 0


def operator_name(operator: torch._ops.OpOverload) -> str:
    """Return namespace and name without the overload, such as ``aten.add``."""
    return str(operator._overloadpacket)


def multiplies_nothing(operator: torch._ops.OpOverload) -> bool:
    """Return whether an operator is known to contain no convolution or matrix product."""
    if torch.Tag.pointwise in operator.tags:
        return True
    aliases = [r.alias_info for r in operator._schema.returns]
    if aliases and all(a is not None and not a.is_write for a in aliases):
        return True  # The output is a view of the input.
    name = operator_name(operator)
    # The in-place variant of x is x_.
    return name in NOT_MULTIPLYING or name.removesuffix("_") in NOT_MULTIPLYING
