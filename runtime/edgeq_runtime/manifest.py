"""The bundle's manifest: written on the host, read on the device. Standard library only."""
from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from .dimensions import Choice, Dimension, Range, from_json
from .errors import BundleError
from .integrity import FileEntry as FileEntry
from .integrity import check_files, inside

if TYPE_CHECKING:
    from pathlib import Path

# The newest: texts, encoders with decoders. 5: state. 4: a language model. 3: product, version. 2: limits of an axis.
FORMAT = 6
FILE_NAME = "manifest.json"
MAX_BYTES = 1 << 24  # of a manifest, with thousands of labels
MAX_FILES = 10_000  # a .mlpackage has four
VERSION = re.compile(r"\d+(\.\d+)*")
DTYPES = frozenset({
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
})


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the user sees it.

    shape: see dimensions. dtype: a numpy name. engine_name: what the engine calls it, where that differs. layout:
    "NCHW", "NHWC" ("NCW", "NWC", "NCDHW", "NDHWC") or "" where the converter knows of none. source_layout: of the model
    that was converted, where that is another. scale, zero_point: only where the user's array holds integers of a grid.
    """

    name: str
    dtype: str
    shape: Tuple[Dimension, ...]
    engine_name: str = ""
    layout: str = ""
    source_layout: str = ""
    scale: Optional[float] = None
    zero_point: Optional[int] = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BundleError(f"tensor '{self.name}': '{self.dtype}' is not a dtype of this runtime")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise BundleError(f"tensor '{self.name}': the scale must be a positive number, not {self.scale}")


@dataclass(frozen=True)
class Language:
    """Of a language model, what its tensors do not say.

    context: tokens that it reads at most. layers, kv_heads, head_size: of the keys and values that it keeps. bos, eos:
    numbers of the tokens that begin a text and end one. add_bos: whether a text is begun so. tokenizer, template: files
    of the bundle; template: of chats, or "". defaults: how it is meant to be sampled, such as temperature and top_p.
    """

    context: int
    vocabulary: int
    layers: int
    kv_heads: int
    head_size: int
    bos: Optional[int]
    eos: Tuple[int, ...]
    add_bos: bool
    tokenizer: str = "tokenizer.json"
    template: str = ""
    defaults: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = (self.context, self.vocabulary, self.layers, self.kv_heads, self.head_size)
        if min(sizes) < 1:
            raise BundleError(f"language: sizes must be positive, not {min(sizes)}")
        outside = [token for token in (self.bos, *self.eos) if token is not None and not 0 <= token < self.vocabulary]
        if outside:
            raise BundleError(f"language: there is no token {outside[0]} among {self.vocabulary}")


@dataclass(frozen=True)
class Text:
    """Of a network that makes a vector of a text. context: tokens that it reads at most. tokenizer: file of the bundle.
    """

    context: int
    vocabulary: int
    tokenizer: str = "tokenizer.json"

    def __post_init__(self) -> None:
        if min(self.context, self.vocabulary) < 1:
            raise BundleError("text: context and vocabulary must be positive")


@dataclass(frozen=True)
class EncoderDecoder:
    """Of an encoder in front of a decoder, the network of the manifest, which writes what the encoder has read.

    encoder: folder of the bundle that is the encoder's own bundle. context: tokens that the decoder writes at most.
    start: tokens that a text begins with; eos: that end one. suppressed: never written; suppressed_first: nor as the
    first. tokenizer: file of the bundle. timestamps: the token of 0 s, behind which each is .02 s later; no_timestamps:
    the token that asks for none. languages, tasks: tokens behind `start`, by name.
    """

    encoder: str
    context: int
    vocabulary: int
    start: Tuple[int, ...]
    eos: Tuple[int, ...]
    suppressed: Tuple[int, ...] = ()
    suppressed_first: Tuple[int, ...] = ()
    tokenizer: str = "tokenizer.json"
    timestamps: Optional[int] = None
    no_timestamps: Optional[int] = None
    languages: Dict[str, Any] = field(default_factory=dict)
    tasks: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.context, self.vocabulary) < 1 or not self.start or not self.eos:
            raise BundleError("encoder_decoder: sizes must be positive, and tokens that begin and end a text known")
        several = (*self.start, *self.eos, *self.suppressed, *self.suppressed_first, self.timestamps,
                   self.no_timestamps, *self.languages.values(), *self.tasks.values())
        for token in several:
            if token is not None and not (type(token) is int and 0 <= token < self.vocabulary):
                raise BundleError(f"encoder_decoder: there is no token {token!r} among {self.vocabulary}")


@dataclass(frozen=True)
class Manifest:
    """Everything a device must know. Unknown keys are errors; a newer `format` is refused by name.

    entry: the file or folder that the engine opens. engine_version: a specifier such as ">=1.23". options: what the
    engine is told at load. preprocessing: how an image or sound becomes the input, or None. postprocessing: what the
    outputs mean, or None. quantization: scheme, and the nodes kept in float with their reasons. calibration: number of
    samples, the sha256 of the data and the range of each input, or None. accuracy: what verification measured on the
    host. product: what the bundle is a version of, or "" for its name. version: numbers such as "1.4.2", or "".
    language: of a language model, text: of a text encoder, encoder_decoder: of an encoder with a decoder, else None.
    state: input -> the output that it is in the next step, of a streaming model.
    """

    name: str
    target: str
    engine: str
    engine_version: str
    entry: str
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    files: Tuple[FileEntry, ...]
    options: Dict[str, Any] = field(default_factory=dict)
    preprocessing: Optional[Dict[str, Any]] = None
    postprocessing: Optional[Dict[str, Any]] = None
    labels: Tuple[str, ...] = ()
    quantization: Dict[str, Any] = field(default_factory=dict)
    calibration: Optional[Dict[str, Any]] = None
    accuracy: Dict[str, Any] = field(default_factory=dict)
    source_sha256: str = ""
    edgeq_version: str = ""
    product: str = ""
    version: str = ""
    language: Optional[Language] = None
    state: Dict[str, str] = field(default_factory=dict)
    text: Optional[Text] = None
    encoder_decoder: Optional[EncoderDecoder] = None
    format: int = 1

    def __post_init__(self) -> None:
        """Older runtimes go on reading whatever they understand."""
        if self.version and not VERSION.fullmatch(self.version):
            raise BundleError(f"the version '{self.version}' must be numbers with dots, such as 1.4.2")
        if self.state:
            _check_state(self.state, self.inputs, self.outputs)
        if self.text is not None or self.encoder_decoder is not None:
            object.__setattr__(self, "format", 6)
        elif self.state:
            object.__setattr__(self, "format", 5)
        elif self.language is not None:
            object.__setattr__(self, "format", 4)
        elif self.product or self.version:
            object.__setattr__(self, "format", 3)
        elif any(isinstance(d, (Range, Choice)) for spec in (*self.inputs, *self.outputs) for d in spec.shape):
            object.__setattr__(self, "format", 2)

    def to_json(self) -> str:
        from .valid_json import json_text

        words = {key: value for key, value in asdict(self).items() if self.format >= _SINCE.get(key, 1)}
        return json_text(words) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The inverse of to_json.

        Raises:
            BundleError: not JSON, a newer format, or a key that is unknown, missing or of the wrong type.
        """
        import json

        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{FILE_NAME} is not JSON: {error}") from None
        if not isinstance(data, dict) or type(data.get("format")) is not int:
            raise BundleError(f"{FILE_NAME} has no format number; this is not an edgeq bundle")
        if data["format"] > FORMAT:
            raise BundleError(f"the bundle has format {data['format']}, this runtime reads up to {FORMAT}: "
                              "update edgeq-runtime")
        manifest: Manifest = decode(cls, data, FILE_NAME)
        if len(manifest.files) > MAX_FILES:
            raise BundleError(f"{FILE_NAME} lists {len(manifest.files)} files; at most {MAX_FILES} are allowed")
        for kind in ("inputs", "outputs", "files"):
            names = [item.path if kind == "files" else item.name for item in getattr(manifest, kind)]
            if (not names and kind != "inputs") or len(set(names)) != len(names):  # a model may compute constants
                raise BundleError(f"{FILE_NAME}: '{kind}' is empty or names one thing twice: {names}")
        language, reads, pair = manifest.language, manifest.text, manifest.encoder_decoder
        needed = [] if language is None else [language.tokenizer, language.template]
        needed += [] if reads is None else [reads.tokenizer]
        needed += [] if pair is None else [pair.tokenizer, f"{pair.encoder}/{FILE_NAME}"]
        for name in filter(None, needed):
            if name not in {file.path for file in manifest.files}:
                raise BundleError(f"{FILE_NAME}: '{name}' is not a file that the manifest lists")
        return manifest

    @classmethod
    def read(cls, folder: Union[str, Path], *, verify: bool = False) -> Manifest:
        """The checked manifest of a bundle: every file is there with its size, and with `verify` its sha256.

        Raises:
            BundleError: see from_json and integrity.check_files.
        """
        import os

        path = os.path.join(folder, FILE_NAME)
        if os.path.exists(path) and not os.path.isfile(path):
            raise BundleError(f"{path} is no file")
        if os.path.islink(path):
            inside(folder, FILE_NAME)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise BundleError(f"cannot read {path}: {reason}") from None
        if len(text) > MAX_BYTES:
            raise BundleError(f"{path} is longer than {MAX_BYTES} bytes")
        manifest = cls.from_json(text)
        check_files(folder, manifest.entry, manifest.files, verify=verify)
        return manifest


# The format that a key came with.
_SINCE = {"product": 3, "version": 3, "language": 4, "state": 5, "text": 6, "encoder_decoder": 6}


def _check_state(state: Mapping[str, Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    taken, given = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for name, output in state.items():
        before, after = taken.get(name), given.get(output) if isinstance(output, str) else None
        if before is None or after is None or before.shape != after.shape or _real(before) != _real(after):
            raise BundleError(f"{FILE_NAME}: state: '{name}' and {output!r} are no input and output of one type")
        if not all(isinstance(size, int) for size in before.shape):
            raise BundleError(f"{FILE_NAME}: state: '{name}' has no fixed shape")


def _real(spec: TensorSpec) -> str:
    return spec.dtype if spec.scale is None else "float32"


def decode_kind(kinds: Mapping[str, Any], value: Any, where: str, default: str = "") -> Any:
    """An object whose key "kind" names one of these dataclasses; its other keys are the fields."""
    kind = value.get("kind", default) if isinstance(value, dict) else default
    if kind not in kinds:
        raise BundleError(f"{where}: there is no kind {kind!r}; this runtime knows {', '.join(kinds)}")
    fields = {key: item for key, item in value.items() if key != "kind"} if isinstance(value, dict) else value
    return decode(kinds[kind], fields, where)


def decode(kind: Any, value: Any, where: str) -> Any:
    """JSON -> the Python type that an annotation names; BundleError where it does not fit."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _decode_fields(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind == Dimension:
        return from_json(value, where)
    if origin is Union:
        return None if value is None else decode(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{k}]") for k, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    expected = origin or kind
    if type(value) is not expected:  # `type`, because True is an int to isinstance
        raise BundleError(f"{where} should be {_JSON_NAMES[expected]}, got {_shortened(value)}")
    return value


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_JSON_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "an object",
               tuple: "a list"}


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{where} should be an object, got {_shortened(value)}")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in value]
    if unknown or missing:
        found = [f"unknown key '{name}'" for name in unknown] + [f"no key '{name}'" for name in missing]
        raise BundleError(f"{where}: {', '.join(found)}")
    return kind(**{name: decode(hints[name], item, f"{where}: {name}") for name, item in value.items()})
