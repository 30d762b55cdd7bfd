"""Language models for LiteRT-LM: prefill and single tokens over one set of weights, tokenizer and numbers in one file.

The package litert-lm-builder writes the container: https://github.com/google-ai-edge/LiteRT-LM/tree/main/python
"""
from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.backend import Artifact, DecoderWords
from edgeq.errors import MissingExtra, UsageError
from edgeq.frontends.decoder.builder import weight_name
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.passes.shapes import fix_shapes
from edgeq.quant.decoder import QuantizedDecoder
from edgeq.quant.formats import row_format
from edgeq_converters.prepare import lower_form
from edgeq_converters.tflite import flatbuffer
from edgeq_converters.tflite.backend import lower
from edgeq_converters.tflite.decoder_graph import build_static
from edgeq_converters.tflite.decoder_parts import CODES, stored_parts
from edgeq_converters.tflite.ops import table
from edgeq_converters.tflite.program import Program
from edgeq_converters.tflite.validate import validate

ENTRY: Final = "model.litertlm"
ENGINE_VERSION: Final = ">=2.1"
DECODE: Final = "decode"
# Tokens of a prompt that one run takes; LiteRT-LM pads the last run, edgeq's engine takes what is left one by one.
PREFILLS: Final = (64, 512)
_TYPES: Final[Mapping[str, int]] = MappingProxyType({"INT4": 4, "INT8": 8})
_FLOAT: Final = 32
_CACHE: Final = 1280  # as the files of https://huggingface.co/litert-community, which are called ekv1280
_HEAD: Final = 1 << 14  # bytes in front of the first section
_CHANCE: Final = (rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", rb"\d{4}-\d\d-\d\dT[0-9:.+]+")


def types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    """One scale a row; 8 bits for embedding and head beside 4-bit layers.

    Raises:
        UsageError: a type that LiteRT has no kernel for.
    """
    if words.type and words.type not in (*_TYPES, "F32"):
        raise UsageError(f"LiteRT has no kernel for weights of the type {words.type}; there are INT4, INT8 and F32")
    bits = _TYPES.get(words.type, _FLOAT) if words.type else words.bits

    def type_for(role: str, layer: int | None) -> str:
        columns = shape_of(spec, role, "weight")[1]
        if bits == _FLOAT:
            return "F32"
        return row_format(8 if layer is None or columns % 2 else bits, columns)

    return type_for


def cache_of(spec: Spec) -> int:
    """Tokens that the cache holds, which is a part of the file."""
    return min(spec.context, _CACHE)


def check(checkpoint: Checkpoint, tokenizer: Path, words: DecoderWords) -> None:
    """Raises MissingExtra: what writes the container, or the schema, is not installed."""
    if any(find_spec(name) is None for name in ("litert_lm_builder", "ai_edge_litert", "tokenizers")):
        raise MissingExtra("language models for LiteRT-LM", "litertlm")


def emit(checkpoint: Checkpoint, tokenizer: Path, decoder: QuantizedDecoder, folder: Path, words: DecoderWords,
         ) -> Artifact:
    """Write `model.litertlm`. tokenizer: the folder with tokenizer.json, tokenizer_config.json and config.json."""
    spec, cache = checkpoint.spec, cache_of(checkpoint.spec)
    prefills = [size for size in PREFILLS if size <= cache]
    with tempfile.TemporaryDirectory(prefix="edgeq-") as made:
        model = Path(made) / "model.tflite"
        sizes = {DECODE: 1, **{f"prefill_{size}": size for size in prefills}}
        validate(flatbuffer.write_several(
            {key: _program(spec, decoder, size, cache) for key, size in sizes.items()}, model))
        _pack(checkpoint, tokenizer, model, folder / ENTRY, cache)
        start = _place(folder / ENTRY)
        options = {"model_at": [start, start + model.stat().st_size], "context": cache, "prefills": prefills}
    return Artifact(ENTRY, "litertlm", ENGINE_VERSION, options=options)


def _program(spec: Spec, decoder: QuantizedDecoder, tokens: int, cache: int) -> Program:
    model = build_static(spec, stored_parts(spec, decoder), tokens, cache)
    fix_shapes(model)
    program = lower(lower_form(model, table().handlers, limits_in_integers=True))[0]
    for name in [name for name in program.outputs if name.endswith(".new")]:  # inputs and outputs share their names
        program.outputs[name.removesuffix(".new")] = program.outputs.pop(name)
    return program


def _pack(checkpoint: Checkpoint, tokenizer: Path, model: Path, entry: Path, cache: int) -> None:
    from litert_lm_builder import litertlm_builder as lm

    builder = lm.LitertLmFileBuilder()
    builder.add_system_metadata(lm.Metadata(key="Authors", value="edgeq", dtype=lm.DType.STRING))
    said = entry.with_suffix(".pb")
    try:
        said.write_bytes(_said(tokenizer, cache))
        builder.add_llm_metadata(str(said))
        builder.add_hf_tokenizer(str(tokenizer / "tokenizer.json"))
        builder.add_tflite_model(str(model), lm.TfLiteModelType.PREFILL_DECODE)
        with entry.open("w+b") as file:
            builder.build(file)
            _forget_when(file)
    finally:
        said.unlink(missing_ok=True)


def _forget_when(file: BinaryIO) -> None:
    """The builder writes a random number and the time, so that no two files are the same; here they always are."""
    file.seek(0)
    head = file.read(_HEAD)
    for pattern in _CHANCE:
        head = re.sub(pattern, lambda found: re.sub(rb"[0-9a-f]", b"0", found[0]), head)
    file.seek(0)
    file.write(head)


def _said(tokenizer: Path, cache: int) -> bytes:
    """The numbers of https://github.com/google-ai-edge/LiteRT-LM/blob/main/runtime/proto/llm_metadata.proto"""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2
    from tokenizers import Tokenizer

    words: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (tokenizer / name).is_file():
            words |= json.loads((tokenizer / name).read_text())
    found = llm_metadata_pb2.LlmMetadata(max_num_tokens=cache)
    ends = words.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends] if ends is not None else []:
        found.stop_tokens.add().token_ids.ids.append(end)
    first = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode("a").ids[0]
    if first == words.get("bos_token_id"):  # the engine puts it in front of every prompt, where the tokenizer may not
        found.start_token.token_ids.ids.append(first)
    template = tokenizer / "chat_template.jinja"
    text = template.read_text() if template.is_file() else words.get("chat_template", "")
    if isinstance(text, str) and text:
        found.jinja_prompt_template = text
    found.llm_model_type.generic_model.SetInParent()
    return bytes(found.SerializeToString())


def _place(entry: Path) -> int:
    """Where the model begins in the container, whose sections its header lists."""
    from litert_lm_builder import litertlm_header_schema_py_generated as schema

    with entry.open("rb") as file:
        file.seek(24)
        end = int.from_bytes(file.read(8), "little")
        file.seek(32)
        header = schema.LiteRTLMMetaData.GetRootAs(file.read(end - 32), 0)
    sections = header.SectionMetadata()
    for k in range(sections.ObjectsLength()):
        part = sections.Objects(k)
        if part.DataType() == schema.AnySectionDataType.TFLiteModel:
            return int(part.BeginOffset())
    raise AssertionError("the container holds no model")


def read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    """The written weights, from the schema's own reader."""
    from ai_edge_litert import schema_py_generated as schema

    data = np.memmap(entry, np.uint8, mode="r")[_place(entry):]
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    tensors = {graph.Tensors(k).Name().decode(): graph.Tensors(k) for k in range(graph.TensorsLength())}

    def matrix(role: str, layer: int | None) -> NDArray[Any]:
        name = weight_name("embedding" if role == "head" and spec.tied else role, layer) + CODES
        tensor = tensors[name]
        shape, stored = tuple(tensor.ShapeAsNumpy()), stored_in(tensor)
        if tensor.Type() == schema.TensorType.FLOAT32:
            return np.asarray(stored.view(np.float32).reshape(shape))
        levels = stored.view(np.int8)
        if tensor.Type() == schema.TensorType.INT4:
            levels = np.stack([levels << 4 >> 4, levels >> 4], axis=-1)
        return np.asarray(levels.reshape(shape).astype(np.float32) * scale_of(name)[:, None])

    def scale_of(name: str) -> Any:
        """Of a weight on the tensor itself; of a table beside it, since rows are looked up."""
        if tensors[name].Quantization() is not None:
            return tensors[name].Quantization().ScaleAsNumpy()
        return stored_in(tensors[f"{name}_scale"]).view(np.float32)

    def stored_in(tensor: Any) -> Any:
        """Bytes; of large files they lie behind the head."""
        buffer = model.Buffers(tensor.Buffer())
        return data[buffer.Offset():buffer.Offset() + buffer.Size()] if buffer.Size() else buffer.DataAsNumpy()

    return matrix
