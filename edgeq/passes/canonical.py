"""The passes and their order, as data."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeq.graph import QUANTIZED, all_nodes
from edgeq.passes.activations import recognize_gelu, recognize_hard_swish, recognize_sigmoid
from edgeq.passes.affine import fold_affine, sum_to_adds
from edgeq.passes.batch_norm import batch_norm_to_conv, fold_batch_norm
from edgeq.passes.clean import deduplicate_initializers, remove_no_ops, remove_unused, rename_clashes
from edgeq.passes.constants import (
    cast_like_to_cast,
    compress_to_gather,
    conv_integer_to_conv,
    fold_quantized_weights,
    plain_optionals,
)
from edgeq.passes.control_flow import weights_to_main_graph
from edgeq.passes.fold import fold_constants
from edgeq.passes.fourier import dft_to_matmul, stft_to_matmul
from edgeq.passes.layer_norm import recognize_layer_norm
from edgeq.passes.merge import merge_bounds, merge_reshapes, merge_transposes
from edgeq.passes.missing_kernels import whole_indices, wide_integers
from edgeq.passes.narrow_clipped_ranges import narrow_grids
from edgeq.passes.padding import explicit_padding, fold_padding
from edgeq.passes.pooling import count_no_padding, mean_to_global_pool
from edgeq.passes.quantized_moves import extend_grids, move_weights
from edgeq.passes.recurrent import steps_first
from edgeq.passes.reshape_targets import constant_targets
from edgeq.passes.rewrite import nodes_of
from edgeq.passes.slices import positive_axes


@dataclass(frozen=True, slots=True)
class Pass:
    """One rewrite, in place -> how often it fired.

    why: what its place in the order is for; a test reads what it says of "before" and "after". exact: the results keep
    every bit; the others reorder float arithmetic, and stay away from a model that is quantized already, where one bit
    can move a result to the next integer.
    """

    run: Callable[[ir.Model], int]
    exact: bool
    why: str

    @property
    def name(self) -> str:
        return self.run.__name__


@dataclass(frozen=True, slots=True)
class Applied:
    """A pass that changed the graph, and how often."""

    name: str
    count: int


PASSES: Final[tuple[Pass, ...]] = (
    Pass(narrow_grids, True, "before fold_constants, which would take the Clip and leave bytes where 4 bits do"),
    Pass(fold_constants, True, "first of the others: every later pattern asks for constants"),
    Pass(constant_targets, True, "after fold_constants, before merge_reshapes: what computed the shape is then unused"),
    Pass(fold_quantized_weights, True, "after fold_constants, which may compute what is quantized"),
    Pass(move_weights, True, "after fold_quantized_weights, which makes the integers"),
    Pass(conv_integer_to_conv, True, "anywhere: no other pass looks at integers"),
    Pass(plain_optionals, True, "before remove_no_ops, which takes out the Identity"),
    Pass(wide_integers, True, "anywhere: these two give the reference operators that it has kernels for"),
    Pass(whole_indices, True, "with wide_integers"),
    Pass(cast_like_to_cast, True, "before remove_no_ops, which takes out a Cast to the same type"),
    Pass(compress_to_gather, True, "once its condition is known to be constant"),
    Pass(steps_first, True, "before merge_transposes, which joins its Transposes with those of the model"),
    Pass(dft_to_matmul, False, "before merge_reshapes and merge_transposes, which tidy up behind it"),
    Pass(stft_to_matmul, False, "with dft_to_matmul"),
    Pass(remove_no_ops, True, "before the patterns, which would not look through a Dropout or an Identity"),
    Pass(sum_to_adds, True, "behind remove_no_ops, which takes out a Sum of one; before the patterns that hold an Add"),
    Pass(positive_axes, True, "before the patterns that compare axes"),
    Pass(merge_transposes, True, "before merge_reshapes: opposite Transposes between two Reshapes are gone by then"),
    Pass(merge_reshapes, True, "after remove_no_ops, so that no chain ends in a Reshape to the same shape"),
    Pass(extend_grids, True, "after what merges and removes moves, around which it writes grids"),
    Pass(explicit_padding, True, "before fold_padding, which adds numbers to pads"),
    Pass(fold_padding, True, "before the foldings into weights, whose Conv it then follows directly"),
    Pass(count_no_padding, True, "after fold_padding, which gives a pooling its pads"),
    Pass(merge_bounds, True, "before recognize_hard_swish, which looks for one Clip"),
    Pass(fold_batch_norm, False, "before the activations: what they call x is then the Conv itself"),
    Pass(recognize_sigmoid, False, "before fold_affine, which could take the Add(1) of a pattern"),
    Pass(recognize_hard_swish, False, "before fold_affine, which could take the Add(3)"),
    Pass(recognize_gelu, False, "before fold_affine, which could take the Mul(0.5)"),
    Pass(recognize_layer_norm, False, "before mean_to_global_pool, which would take its ReduceMean away"),
    Pass(fold_affine, False, "after all patterns that hold an Add or a Mul"),
    Pass(mean_to_global_pool, False, "after recognize_layer_norm"),
    Pass(batch_norm_to_conv, False, "after everything that may bring a Conv before a BatchNormalization"),
    Pass(weights_to_main_graph, True, "before deduplicate_initializers, which then sees what bodies have in common"),
    Pass(deduplicate_initializers, True, "once the rewrites have made their constants"),
    Pass(remove_unused, True, "last: what the others left behind"),
)


def canonicalize(model: ir.Model, *, exact: bool = False, fired: Callable[[Pass], None] = lambda step: None,
                 ) -> list[Applied]:
    """Run every pass in order, in place, until none fires -> what fired, in order of the table.

    The model has its shapes (see `fix_shapes`); every pass keeps them. A model that is quantized already keeps its
    integers to the bit: no pass touches those nodes or folds their constants, and passes that are not exact are
    skipped, as they are with ``exact``. fired: called behind every pass that changed the model.
    """
    if nodes_of(model, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
        exact, model.metadata_props[QUANTIZED] = True, "1"
    steps = [step for step in PASSES if step.exact or not exact]
    counts = dict.fromkeys((step.name for step in steps), 0)
    given = set(all_nodes(model.graph))
    before = None
    while counts != before:
        before = dict(counts)
        for step in steps:
            if count := step.run(model):
                counts[step.name] += count
                fired(step)
    rename_clashes(model, given)
    return [Applied(name, count) for name, count in counts.items() if count]
