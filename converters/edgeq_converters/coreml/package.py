"""A MIL program -> model.mlpackage, written and then read back."""
from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from edgeq.backend import EmitOptions
from edgeq.errors import Problem, UnsupportedModel, VerificationError
from edgeq.quiet import quiet
from edgeq_converters.coreml.builder import MAX_RANK
from edgeq_converters.coreml.description import CLASSES, classifier, describe
from edgeq_converters.coreml.lowering import TARGET, Lowered

UNUSED: Final = "common::dead_code_elimination"
FIXED_SIZES: Final = "common::add_conv_transpose_output_shape"  # the one pass that writes a size down
# Of coremltools' 107 passes, those that a graph from edgeq's own passes still profits from; in this order.
# The others look for patterns of TensorFlow and PyTorch, or harm (facts in their docstrings and our comments):
#   add_fp16_cast              the builder writes float16 itself; 9.0 turns masks into -inf
#   fuse_elementwise_to_batchnorm   adds an epsilon of 1e-5 that the model does not have
#   const_deduplication        merges float16 numbers below 6e-8; the builder writes equal constants once
#   remove_redundant_ops       merges reads of a state before and after its update
#   canonicalize_quantized_lut_pattern   doubles per-block files
PASSES: Final = (
    "common::cast_optimization",  # casts that handlers wrote back to back
    "common::noop_elimination",
    "common::int_op_canonicalization",  # reshape and transpose move int8 instead of floats
    "common::nullify_redundant_quantization_zero_point",
    "common::dequantize_quantize_pair_elimination",  # after the two above, which create such pairs
    FIXED_SIZES,
    "common::const_elimination",
    "common::merge_consecutive_reshapes",
    "common::merge_consecutive_transposes",
    UNUSED,
    "mil_backend::fuse_activation_silu",
    "mil_backend::sanitize_name_strings",
    "common::dedup_op_and_var_names",
    "nn_backend::handle_unused_inputs",  # these last three are what the writer expects of any program
)
# https://github.com/apple/coremltools/blob/main/mlmodel/src/MILBlob/Blob/StorageFormat.hpp
_BLOB_MAGIC: Final = 0xDEADBEEF
_FOUR_BITS: Final = frozenset({8, 11})  # Int4, UInt4
_UINT8: Final = 3


@contextmanager
def fresh_names() -> Iterator[None]:
    """Number the ops that coremltools' passes add from 0: it counts through all that a process converts, in one dict
    (https://github.com/apple/coremltools/blob/main/coremltools/converters/mil/mil/builder.py, name_count).
    """
    from coremltools.converters.mil import Builder

    counted, Builder.name_count = Builder.name_count, defaultdict(int)
    try:
        yield
    finally:
        Builder.name_count = counted


def tidy(program: Any, passes: Iterable[str] = PASSES) -> None:
    """Rewrite a program in place.

    Raises:
        UnsupportedModel: a rank above 5 is left.
    """
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    for name in passes:
        PASS_REGISTRY[name](program)
    program.validate()
    _check_ranks(program)


def write(lowered: Lowered, path: Path, options: EmitOptions) -> None:
    """Write a tidy program as a package, in place of one that is there, and check what was written.

    Raises:
        VerificationError: inputs or outputs were renamed, or 4-bit weights do not take 4 bits in the file.
    """
    import coremltools as ct
    from coremltools.converters.mil.backend.mil.load import load
    from coremltools.models.utils import save_spec

    with quiet("coremltools"), TemporaryDirectory() as weights:  # ct.convert does the same, with progress bars
        spec = load(lowered.program, weights, specification_version=getattr(ct.target, f"iOS{options.min_os}").value,
                    convert_from="milinternal", convert_to="mlprogram", **classifier(lowered, options.about))
        describe(spec.description, lowered, options)
        rmtree(path, ignore_errors=True)
        save_spec(spec, str(path), weights_dir=weights)  # an MLModel would leave a copy in the temporary folder
        _make_repeatable(spec, path)
        _check_names(spec, lowered.interface | (CLASSES if options.about.scores else frozenset()))
    _check_weights(path, lowered.weight_bytes4, options)


def _make_repeatable(spec: Any, package: Path) -> None:
    """Give equal programs equal bytes: protobuf orders its maps as they happen to lie in memory, and coremltools names
    the package's items by random UUIDs.
    """
    (package / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    manifest = package / "Manifest.json"
    found = json.loads(manifest.read_text())
    names = {old: str(uuid5(NAMESPACE_URL, item["path"])) for old, item in found["itemInfoEntries"].items()}
    found["itemInfoEntries"] = {names[old]: item for old, item in sorted(
        found["itemInfoEntries"].items(), key=lambda entry: str(entry[1]["path"]))}
    found["rootModelIdentifier"] = names[found["rootModelIdentifier"]]
    manifest.write_text(json.dumps(found, indent=4))


def _check_ranks(program: Any) -> None:
    problems = [Problem(op.name, op.op_type, f"rank {output.rank}; Core ML ends at {MAX_RANK}")
                for op in program.functions["main"].operations for output in op.outputs
                if op.op_type != "const" and output.rank > MAX_RANK]
    if problems:
        raise UnsupportedModel(TARGET, problems)


def _check_names(spec: Any, promised: frozenset[str]) -> None:
    written = {feature.name for feature in (*spec.description.input, *spec.description.output)}
    if written != promised:
        raise VerificationError(f"coreml renamed {sorted(promised - written)} to {sorted(written - promised)}")


def _check_weights(path: Path, weight_bytes4: int, options: EmitOptions) -> None:
    """coremltools stores int4 data at 8 bits without a word when numpy lost its dtype on the way."""
    if not weight_bytes4:
        return
    kinds = _FOUR_BITS if options.min_os >= 18 else frozenset({_UINT8})
    found = sum(size for kind, size in blobs(path) if kind in kinds)
    if found < weight_bytes4:
        raise VerificationError(f"{path.name}: {weight_bytes4} bytes of 4-bit weights expected, {found} found")


def blobs(package: Path) -> list[tuple[int, int]]:
    """The entries of a package's weight file -> (type code, bytes), in file order."""
    files = list(package.glob("Data/*/weights/weight.bin"))
    if not files:
        return []
    data = files[0].read_bytes()
    count, offset, found = struct.unpack_from("<I", data)[0], 64, []
    for _ in range(count):
        magic, kind, size, start = struct.unpack_from("<IIQQ", data, offset)
        if magic != _BLOB_MAGIC:
            raise VerificationError(f"{package.name}: the weight file is damaged at byte {offset}")
        found.append((kind, size))
        offset = (start + size + 63) // 64 * 64
    return found
