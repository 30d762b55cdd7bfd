"""A loaded bundle: checks what goes in, hands it to the engine, names what comes out."""
from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

import numpy as np

from .dimensions import Dimension, Range, fits
from .engines import Engine, open_engine
from .errors import BundleError, EdgeqError, EngineError, InputError
from .integrity import inside
from .manifest import FILE_NAME, Manifest, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from .drift import Drift, DriftWatch
    from .language.embedding import TextEncoder
    from .language.model import LanguageModel
    from .language.pair import Pair, Translator
    from .language.speech import Transcriber, Transcript
    from .selftest import SelfTestResult

MAX_THREADS = 256  # no device has more cores, and an engine makes a thread for each at once


def load(folder: Union[str, Path], *, threads: Optional[int] = None, verify: bool = False,
         watch: bool = True) -> Model:
    """Open a bundle on this device: its folder, or one that `install` keeps up to date.

    threads: how many the engine may use for one run; None leaves it to the bundle, or else to the engine. verify:
    compare every file's sha256, not only its size. watch: count input values outside the calibrated range, see
    Model.drift.

    Raises:
        BundleError: damaged, from a newer format, or unsafe. EngineError: the engine is missing, too old or refuses it.
    """
    import os

    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    folder = os.fspath(folder)
    if not os.path.exists(os.path.join(folder, FILE_NAME)) and os.path.isdir(folder):
        from .pointer import find_versions

        versions = find_versions(folder)
        folder = folder if versions is None else os.path.join(folder, versions.current)
    return open_model(folder, Manifest.read(folder, verify=verify), threads=threads, watch=watch)


def open_model(folder: str, manifest: Manifest, *, threads: Optional[int] = None, watch: bool = True) -> Model:
    """Open what a manifest describes, whether it lies in the folder already or not; arguments as of `load`."""
    drift = None
    if watch and manifest.calibration is not None and "ranges" in manifest.calibration:
        from .drift import DriftWatch

        drift = DriftWatch.of(manifest)
    wanted = threads if threads is not None else manifest.options.get("threads")
    if wanted is not None and not (type(wanted) is int and 1 <= wanted <= MAX_THREADS):
        raise BundleError(f"the bundle asks for {wanted!r} threads; 1 to {MAX_THREADS} are allowed")
    return Model(folder, manifest, _opened(folder, manifest, wanted), drift, wanted)


def _opened(folder: str, manifest: Manifest, threads: Optional[int]) -> Engine:
    if manifest.language is None:
        return open_engine(folder, manifest, threads)
    from .language.engine import LanguageEngine

    return LanguageEngine(folder, manifest, threads)


class Model:
    """A model that is ready to run. Safe to use from several threads; closing it is idempotent."""

    def __init__(self, folder: str, manifest: Manifest, engine: Engine, watch: Optional[DriftWatch] = None,
                 threads: Optional[int] = None) -> None:
        self._threads = threads
        self.folder, self.manifest = folder, manifest
        self.inputs: Tuple[TensorSpec, ...] = manifest.inputs
        self.outputs: Tuple[TensorSpec, ...] = manifest.outputs
        self._engine: Optional[Engine] = engine
        self._watch = watch
        self.engine: str = engine.description
        self.accelerator: str = engine.accelerator
        self._output_names = [spec.name for spec in manifest.outputs]
        self._state: Dict[str, Any] = {}
        self.reset()
        # What the hot path compares; one with free dimensions never equals a shape and takes the slow path.
        self._expected = [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in manifest.inputs]

    def run(self, inputs: Mapping[str, Any], *, out: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """inputs: name -> array, one sample or batch as the specs say -> outputs by name, in the model's order.

        Arrays of another dtype are converted where no value can change (uint8 to float32), otherwise refused.
        out: arrays to write outputs into, by name, as a loop without allocations wants; they are returned too.

        Of a streaming model, inputs that are outputs of the run before (`manifest.state`) may be left out: the model
        keeps them, for one stream at a time, and begins with zeros. One that is given counts instead.

        Raises:
            InputError: a wrong name, shape or dtype. EngineError: the model is closed, or the engine failed.
        """
        engine = self._engine
        if engine is None:
            raise EngineError("the model is closed")
        if self._state:
            inputs = {**self._state, **inputs}
        arrays = []
        for name, dtype, shape in self._expected:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                arrays = self._fit_all(inputs)
                break
            arrays.append(array)
        if len(inputs) != len(arrays):
            arrays = self._fit_all(inputs)  # raises: a name too many
        if self._watch is not None:
            self._watch.add(arrays)
        try:
            outputs = engine.run(arrays, None if out is None else self._buffers(out))
        except EdgeqError:
            raise
        except Exception as error:  # engines raise classes of their own without a common base
            raise EngineError(f"{self.engine} failed: {error}") from error
        found = dict(zip(self._output_names, outputs, strict=True))
        if self._state:
            self._keep(found)
        return found

    def reset(self) -> None:
        """Begin a new stream: the state of a streaming model is zeros again."""
        if not self.manifest.state:
            return
        from .integers import to_integers

        self._state = {spec.name: to_integers(spec, np.zeros(spec.shape, "float32" if spec.scale else spec.dtype))
                       for spec in self.inputs if spec.name in self.manifest.state}

    def _keep(self, found: Mapping[str, Any]) -> None:
        """What goes into the next run. An array that the caller gave for an output is the caller's: copied."""
        from .integers import to_integers, to_reals

        taken, given = ({spec.name: spec for spec in specs} for specs in (self.inputs, self.outputs))
        self._state = {name: to_integers(taken[name], to_reals(given[output], found[output])).copy()
                       for name, output in self.manifest.state.items()}

    async def run_async(self, inputs: Mapping[str, Any], *, out: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """`run` in a thread of the event loop, which serves others meanwhile: engines compute without Python's lock.

        A cancelled task ends at once; its run ends by itself, and `out` is not to be touched before.
        """
        from asyncio import to_thread

        return await to_thread(self.run, inputs, out=out)

    def run_one(self, inputs: Mapping[str, Any]) -> Dict[str, Any]:
        """`run` for one sample without its batch axis, where that is 1 or free; the outputs come without it too.

        An input or output that has no such axis stays as it is.
        """
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for spec in self.inputs:
            array = arrays.get(spec.name)
            if array is not None and array.ndim == len(spec.shape) - 1:
                arrays[spec.name] = array[None]
        found = self.run(arrays)
        return {spec.name: found[spec.name] if not spec.shape or (type(spec.shape[0]) is int and spec.shape[0] != 1)
                else found[spec.name][0] for spec in self.outputs}

    @cached_property
    def steps(self) -> Tuple[Any, Any]:
        """The declared preprocessing and postprocessing, each None where there is none."""
        from .predict import steps

        return steps(self.manifest)

    def predict(self, source: Any) -> Any:
        """An image or sound through all three steps that the bundle declares -> `Scored` or `Detection` objects.

        source: what the preprocessing takes: uint8 [H,W,3], or float [samples]. The boxes of detections are in pixels
        of the image. Without preprocessing it is an array for the only input, without postprocessing the outputs come
        back as of `run`.

        Raises:
            InputError: the source does not fit, or the model has several inputs.
        """
        from .predict import predict

        return predict(self, source)

    @cached_property
    def language(self) -> LanguageModel:
        """Text generation, where the bundle is a language model.

        Raises:
            BundleError: it is none, or its tokenizer is missing or damaged. EngineError: the model is closed, or
            `tokenizers` is not installed.
        """
        cache = getattr(self._engine, "cache", None)
        if self._engine is None:
            raise EngineError("the model is closed")
        if self.manifest.language is None or cache is None:
            raise BundleError(f"'{self.manifest.name}' is no language model: use `run` or `predict`")
        from .language.model import LanguageModel

        return LanguageModel(self.folder, self.manifest.language, cache)

    def generate(self, prompt: Any, **words: Any) -> Any:
        """Continue a text or answer messages: pieces of text as they come, or with stream=False all at once.

        words: max_tokens, temperature, top_p, min_p, top_k, repetition_penalty, seed, stop, stream, json_schema; see
        `language.model.LanguageModel.generate`, also for what is raised.
        """
        return self.language.generate(prompt, **words)

    @cached_property
    def text(self) -> TextEncoder:
        """Texts to vectors, where the bundle is a text encoder.

        Raises:
            BundleError: it is none, or its tokenizer is missing or damaged. EngineError: `tokenizers` is not installed.
        """
        if self.manifest.text is None:
            raise BundleError(f"'{self.manifest.name}' is no text encoder: use `run` or `predict`")
        from .language.embedding import TextEncoder

        return TextEncoder(self.folder, self.manifest.text, self.run)

    def embed(self, texts: Union[str, Sequence[str]], *, truncate: bool = False) -> Any:
        """One text -> float32 [width], several -> [texts, width]; see `language.embedding.TextEncoder.embed`."""
        return self.text.embed(texts, truncate=truncate)

    @cached_property
    def encoder(self) -> Model:
        """The network in front of this one, where the bundle is an encoder with a decoder.

        Raises:
            BundleError: it is none, or its encoder is damaged. EngineError: see `load`.
        """
        about = self.manifest.encoder_decoder
        if about is None:
            raise BundleError(f"'{self.manifest.name}' is no encoder with a decoder: use `run` or `predict`")
        folder = inside(self.folder, about.encoder)
        return open_model(folder, Manifest.read(folder), threads=self._threads, watch=False)

    @cached_property
    def pair(self) -> Pair:
        """Encoder and decoder together; raises as `encoder`."""
        from .language.pair import Pair

        return Pair(self.manifest, self.encoder.run, self.run)

    @cached_property
    def _transcriber(self) -> Transcriber:
        from .language.speech import Transcriber
        from .sound import LogMel

        before = self.encoder.steps[0]
        if not isinstance(before, LogMel):
            raise BundleError(f"'{self.manifest.name}' reads no sound: use `translate`")
        return Transcriber(self.folder, self.pair, before, self.encoder.inputs[0].name)

    def transcribe(self, sound: Any, rate: Optional[int] = None, *, timestamps: bool = False,
                   language: Optional[str] = None, task: str = "transcribe") -> Transcript:
        """Speech to text, of any length; see `language.speech.Transcriber.transcribe`."""
        return self._transcriber.transcribe(sound, rate, timestamps=timestamps, language=language, task=task)

    @cached_property
    def _translator(self) -> Translator:
        from .language.pair import Translator

        size = self.encoder.inputs[0].shape[-1]
        if self.encoder.steps[0] is not None or not isinstance(size, Range) or size.high is None:
            raise BundleError(f"'{self.manifest.name}' reads no text: use `transcribe`")
        return Translator(self.folder, self.pair, size.high)

    def translate(self, text: str, *, max_tokens: Optional[int] = None) -> str:
        """A text to a text, as the model was trained to; see `language.pair.Translator.translate`."""
        return self._translator.translate(text, max_tokens=max_tokens)

    def warm_up(self, runs: int = 1) -> None:
        """Run the bundle's first sample, so that the next run is as fast as all others: engines prepare in the first.

        Raises:
            BundleError: a free shape, and no sample.
        """
        from .selftest import example

        inputs = example(self)
        for _ in range(runs):
            self.run(inputs)
        self.reset()

    def drift(self) -> List[Drift]:
        """For each float input: how many of its values lay outside the range of the calibration samples so far.

        Empty where the bundle was converted without calibration, or loaded with watch=False.
        """
        return [] if self._watch is None else self._watch.report()

    def _buffers(self, out: Mapping[str, Any]) -> List[Any]:
        """The arrays of `out` in the order of the outputs, None for one that is not given."""
        unknown = sorted(set(out) - set(self._output_names))
        if unknown:
            raise InputError(f"out: unknown output '{unknown[0]}'; the model gives {', '.join(self._output_names)}")
        for spec in self.outputs:
            array = out.get(spec.name)
            if array is not None and not (
                    isinstance(array, np.ndarray) and array.dtype == spec.dtype and array.flags.c_contiguous
                    and array.flags.writeable and fits(array.shape, spec.shape, {})):
                raise InputError(f"out: '{spec.name}' must be a writeable, contiguous array of {_describe(spec)}")
        return [out.get(name) for name in self._output_names]

    def _fit_all(self, inputs: Mapping[str, Any]) -> List[Any]:
        """Every input as the engine wants it, or one message about the first that cannot be."""
        names = [spec.name for spec in self.inputs]
        unknown, absent = sorted(set(inputs) - set(names)), [name for name in names if name not in inputs]
        if unknown or absent:
            found = [f"no input '{name}' was given" for name in absent]
            found += [f"unknown input '{name}'" for name in unknown]
            raise InputError(f"{'; '.join(found)}; the model takes {', '.join(map(_describe, self.inputs))}")
        sizes: Dict[str, int] = {}
        return [_fit(spec, np.asarray(inputs[spec.name]), sizes) for spec in self.inputs]

    def self_test(self) -> SelfTestResult:
        """Run the bundle's own samples: does this device compute what the converter promised? See selftest. A stream
        begins anew behind it.
        """
        from .selftest import self_test

        if self.manifest.encoder_decoder is not None:
            from .language.pair import PairTest

            return self_test(PairTest(self.folder, self.pair, self.outputs[0]))
        found = self_test(self)
        self.reset()
        return found

    def close(self) -> None:
        """Give the engine's memory back. A run in another thread ends first or raises EngineError."""
        encoder = vars(self).pop("encoder", None)
        if encoder is not None:
            encoder.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model '{self.manifest.name}' on {self.engine} ({self.accelerator})>"


def _fit(spec: TensorSpec, array: Any, sizes: Dict[str, int]) -> Any:
    """One input in its dtype. `sizes` remembers the free dimensions, which are equal where their names are."""
    dtype = np.dtype(spec.dtype)
    if array.dtype != dtype:
        if not np.can_cast(array.dtype, dtype, "safe"):
            remedy = f"pass {spec.name}.astype(np.{dtype})" if array.dtype.kind in "biuf" else "pass numbers"
            if spec.scale is not None:
                remedy = "pass edgeq_runtime.to_integers(spec, real numbers), with the spec of model.inputs"
            raise InputError(f"input '{spec.name}' is {array.dtype}, expected {_describe(spec)}: {remedy}")
        array = array.astype(dtype)
    before = dict(sizes)
    if not fits(array.shape, spec.shape, sizes):
        names = {d if isinstance(d, str) else d.name for d in spec.shape if not isinstance(d, int)}
        free = {name: size for name, size in before.items() if name in names}
        raise InputError(f"input '{spec.name}' has the shape {_shape(array.shape)}, expected {_describe(spec)}"
                         + (f" where {free}" if free else ""))
    return array


def _describe(spec: TensorSpec) -> str:
    layout = f" ({spec.layout})" if spec.layout else ""
    return f"{spec.name}: {spec.dtype} {_shape(spec.shape)}{layout}"


def _shape(shape: Sequence[Dimension]) -> str:
    return f"[{', '.join(map(str, shape))}]"
