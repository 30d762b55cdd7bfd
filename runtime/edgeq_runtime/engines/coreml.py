"""Core ML: Apple's own through coremltools (macOS) or rubicon-objc (iOS); elsewhere the host package's interpreter.

The interpreter reads the written .mlpackage and computes it in numpy: exact enough to verify a bundle, slow, and
labelled so. The two branches for Apple's systems follow the documented interfaces but were never run: UNTESTED. Which
version of the system a package needs is written in the package, and Core ML checks it; `engine_version` is not
compared here.
"""
from __future__ import annotations

import ctypes
import sys
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgeq_runtime.engines import missing, written_to
from edgeq_runtime.errors import BundleError, EdgeqError, EngineError
from edgeq_runtime.manifest import Manifest

INTERPRETER = "edgeq.verification.mlpackage"  # found by name, because the slim runtime does not carry it
OPTIONS = {
    "compute_units", "min_os",
    "images",  # input that the package declares as an image -> the order of the channels in our array
    "states",  # inputs that the package keeps from run to run, together with the outputs that they are
}
ORDERS = ("RGB", "BGR", "GRAY")
MAX_RANK = 5  # https://github.com/apple/coremltools/issues/2536

# option -> (coremltools.ComputeUnit, MLComputeUnits, words). The numbers are the enum's, CoreML/MLModelConfiguration.h.
COMPUTE_UNITS = {
    "cpu": ("CPU_ONLY", 0, "CPU"),
    "gpu": ("CPU_AND_GPU", 1, "CPU and GPU"),
    "all": ("ALL", 2, "CPU, GPU and Neural Engine"),
    "ane": ("CPU_AND_NE", 3, "CPU and Neural Engine"),
}

Predict = Callable[[Dict[str, Any], Dict[str, Any]], Dict[str, Any]]  # inputs, states -> outputs and states


def interface_shape(shape: Sequence[int]) -> Tuple[int, ...]:
    """What an input or output has in the package: Core ML has no rank 0 there, and none above 5. Elements keep their
    order: [2,3,4,5,6,7] becomes [6,4,5,6,7]."""
    extra = max(len(shape) - MAX_RANK, 0)
    return (prod(shape[:extra + 1]), *shape[extra + 1:]) if shape else (1,)


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> CoreML:
    """`threads` is Core ML's own affair and ignored. Raises EngineError: nothing here can run it, or it is refused."""
    unknown = sorted(set(manifest.options) - OPTIONS)
    units = manifest.options.get("compute_units", "all")
    images = manifest.options.get("images", {})
    states = manifest.options.get("states", [])
    known = isinstance(images, dict) and all(order in ORDERS for order in images.values()) and (
        isinstance(states, list) and all(name in manifest.state for name in states))
    if unknown or not known or not isinstance(units, str) or units not in COMPUTE_UNITS:
        strange = ", ".join(unknown) or (units if known else images)
        raise BundleError(f"options that this runtime does not know: {strange}; update edgeq-runtime")
    opener = {"darwin": _open_macos, "ios": _open_ios}.get(sys.platform, _open_interpreter)
    try:
        return opener(Path(folder, manifest.entry), units, manifest)
    except EdgeqError:
        raise
    except Exception as error:  # coremltools and Objective-C raise anything
        raise EngineError(f"Core ML cannot load {manifest.entry}: {error}") from error


class CoreML:
    """A loaded package, whoever runs it, that takes and gives arrays in the manifest's order and dtypes."""

    def __init__(self, predict: Predict, description: str, accelerator: str, manifest: Manifest) -> None:
        self.description, self.accelerator = description, accelerator
        self._predict: Optional[Predict] = predict
        self._lock = Lock()
        self._inputs = [spec.engine_name or spec.name for spec in manifest.inputs]
        states = {spec.name: spec.engine_name or spec.name for spec in manifest.inputs
                  if spec.name in manifest.options.get("states", ())}
        self._states = set(states.values())
        after = {manifest.state[name]: state for name, state in states.items()}
        self._outputs = [(after.get(spec.name, spec.engine_name or spec.name), np.dtype(spec.dtype), spec.shape)
                         for spec in manifest.outputs]

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]:
        with self._lock:
            if self._predict is None:
                raise EngineError("the model is closed")
            given = {name: array.reshape(interface_shape(array.shape))
                     for name, array in zip(self._inputs, arrays, strict=True)}
            found = self._predict(given, {name: given.pop(name).astype(np.float16) for name in self._states})
        outputs = [np.asarray(found[name], dtype) for name, dtype, _ in self._outputs]
        outputs = [array if 1 <= len(shape) <= MAX_RANK else array.reshape([d for d in shape if isinstance(d, int)])
                   for array, (_, _, shape) in zip(outputs, self._outputs, strict=True)]
        return written_to(outputs, out)

    def close(self) -> None:
        with self._lock:
            self._predict = None


def _open_interpreter(path: Path, units: str, manifest: Manifest) -> CoreML:
    try:
        module = import_module(INTERPRETER)
    except ImportError:
        raise EngineError("Core ML runs on macOS and iOS only; here a bundle can be verified by the interpreter of the "
                          "host package: pip install 'edgeq[coreml]' (in place of edgeq-runtime)") from None
    program = module.open_package(path)
    images = _images(manifest)

    def predict(feed: Dict[str, Any], states: Dict[str, Any]) -> Dict[str, Any]:
        kept = {name: array.astype(np.float32) for name, array in states.items()}
        found = program.run({name: array.astype(np.float32) if name in images else array
                             for name, array in feed.items()}, kept)
        return {**found, **kept}

    return CoreML(predict, "edgeq's .mlpackage interpreter", "interpreter, slow", manifest)


def _open_macos(path: Path, units: str, manifest: Manifest) -> CoreML:
    """UNTESTED: coremltools' MLModel."""
    try:
        import coremltools
    except ImportError:
        raise missing("coremltools", "pip install coremltools") from None
    name, _, words = COMPUTE_UNITS[units]
    model = coremltools.models.MLModel(str(path), compute_units=getattr(coremltools.ComputeUnit, name))
    images = _images(manifest)

    state: Any = model.make_state() if manifest.options.get("states") else None

    def predict(feed: Dict[str, Any], states: Dict[str, Any]) -> Dict[str, Any]:
        for held, array in states.items():
            state.write_state(held, array)
        found: Dict[str, Any] = model.predict({name: _to_pillow(array, images[name]) if name in images else array
                                               for name, array in feed.items()}, state)
        return {**found, **{held: state.read_state(held) for held in states}}

    return CoreML(predict, f"Core ML through coremltools {coremltools.__version__}", f"up to {words}", manifest)


def _images(manifest: Manifest) -> Dict[str, str]:
    """Orders of channels by the engine's names."""
    orders = manifest.options.get("images", {})
    return {spec.engine_name or spec.name: orders[spec.name] for spec in manifest.inputs if spec.name in orders}


def _to_pillow(array: Any, order: str) -> Any:
    """uint8 [1,C,H,W] -> the image, from which Core ML takes its own order of the channels."""
    from PIL import Image

    pixels = array[0].transpose(1, 2, 0)[..., ::-1 if order == "BGR" else 1]
    return Image.fromarray(pixels[..., 0] if order == "GRAY" else np.ascontiguousarray(pixels))


def _to_pixel_buffer(array: Any, order: str) -> Any:
    """uint8 [1,C,H,W] -> a CVPixelBuffer of its own memory. CoreVideo/CVPixelBuffer.h"""
    from rubicon.objc.runtime import load_library

    video, (height, width) = load_library("CoreVideo"), array.shape[2:]
    depth, code = (1, b"L008") if order == "GRAY" else (4, b"BGRA")
    reference = ctypes.c_void_p()
    size, kind = ctypes.c_size_t, ctypes.c_uint32(int.from_bytes(code, "big"))
    if video.CVPixelBufferCreate(None, size(width), size(height), kind, None, ctypes.byref(reference)):
        raise EngineError(f"CoreVideo cannot make an image of {width} x {height} pixels")
    video.CVPixelBufferLockBaseAddress(reference, ctypes.c_uint64(0))
    video.CVPixelBufferGetBaseAddress.restype = ctypes.c_void_p
    video.CVPixelBufferGetBytesPerRow.restype = ctypes.c_size_t
    stride, start = video.CVPixelBufferGetBytesPerRow(reference), video.CVPixelBufferGetBaseAddress(reference)
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * (stride * height)).from_address(start)).reshape(height, stride)
    pixels = memory[:, :width * depth].reshape(height, width, depth)
    pixels[..., :array.shape[1]] = array[0].transpose(1, 2, 0)[..., ::-1 if order == "RGB" else 1]
    pixels[..., array.shape[1]:] = 255
    video.CVPixelBufferUnlockBaseAddress(reference, ctypes.c_uint64(0))
    return reference


# MLMultiArrayDataType, CoreML/MLMultiArray.h
_CODES = {"float64": 0x10040, "float32": 0x10020, "float16": 0x10010, "int32": 0x20020, "int8": 0x20008}
_DTYPES = {code: name for name, code in _CODES.items()}


def _open_ios(path: Path, units: str, manifest: Manifest) -> CoreML:
    """UNTESTED: the package is compiled on each start; an app that starts often keeps the .mlmodelc in its cache."""
    try:
        from rubicon.objc import ObjCClass
        from rubicon.objc.runtime import load_library
    except ImportError:
        raise EngineError("rubicon-objc is not installed: add it to the app's requirements") from None
    load_library("CoreML")
    model_class = ObjCClass("MLModel")
    configuration = ObjCClass("MLModelConfiguration").alloc().init()
    configuration.computeUnits = COMPUTE_UNITS[units][1]
    url = ObjCClass("NSURL").fileURLWithPath_(str(path))
    compiled = _checked(model_class.compileModelAtURL_error_, url)
    model = _checked(model_class.modelWithContentsOfURL_configuration_error_, compiled, configuration)
    held = manifest.options.get("states", ())
    after, images = {manifest.state[name] for name in held}, _images(manifest)
    outputs = [spec.engine_name or spec.name for spec in manifest.outputs if spec.name not in after]
    state = model.newState() if held else None

    def predict(feed: Dict[str, Any], states: Dict[str, Any]) -> Dict[str, Any]:
        values = {name: ObjCClass("MLFeatureValue").featureValueWithPixelBuffer_(_to_pixel_buffer(array, images[name]))
                  if name in images else ObjCClass("MLFeatureValue").featureValueWithMultiArray_(_to_multi_array(array))
                  for name, array in feed.items()}
        provider = _checked(ObjCClass("MLDictionaryFeatureProvider").alloc().initWithDictionary_error_, values)
        for name, array in states.items():
            _with_state(state, name, partial(_fill, array=array))
        result = _checked(model.predictionFromFeatures_error_, provider) if state is None else _checked(
            model.predictionFromFeatures_usingState_error_, provider, state)
        found = {name: _from_multi_array(result.featureValueForName_(name).multiArrayValue) for name in outputs}
        for name in states:
            _with_state(state, name, partial(_take, found=found, name=name))
        return found

    return CoreML(predict, "Core ML through rubicon-objc", f"up to {COMPUTE_UNITS[units][2]}", manifest)


def _checked(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method whose last argument is NSError**."""
    from rubicon.objc import ObjCInstance
    from rubicon.objc.runtime import objc_id

    error = objc_id()
    result = method(*arguments, ctypes.byref(error))
    if result is None:
        raise EngineError(f"Core ML: {ObjCInstance(error).localizedDescription}")
    return result


def _to_multi_array(array: Any) -> Any:
    from rubicon.objc import ObjCClass

    array = np.ascontiguousarray(array)
    target = _checked(ObjCClass("MLMultiArray").alloc().initWithShape_dataType_error_, list(array.shape),
                      _CODES[array.dtype.name])
    ctypes.memmove(target.dataPointer, array.ctypes.data, array.nbytes)
    return target


def _with_state(state: Any, name: str, use: Callable[[Any], Any]) -> None:
    """Call with the MLMultiArray of a state, which lives as long as the call. CoreML/MLState.h"""
    from rubicon.objc import Block, ObjCInstance
    from rubicon.objc.runtime import objc_id

    state.getMultiArrayForStateNamed_handler_(name, Block(lambda buffer: use(ObjCInstance(buffer)), None, objc_id))


def _fill(target: Any, array: Any) -> None:
    _view(target)[...] = array


def _take(source: Any, found: Dict[str, Any], name: str) -> None:
    found[name] = _from_multi_array(source)


def _from_multi_array(source: Any) -> Any:
    """The data is copied because Core ML reuses the buffer."""
    return _view(source).copy()


def _view(source: Any) -> Any:
    """Rows may be padded to 64 bytes, so the strides count."""
    shape, dtype = [int(n) for n in source.shape], np.dtype(_DTYPES[int(source.dataType)])
    strides = [int(n) * dtype.itemsize for n in source.strides]
    size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    buffer = (ctypes.c_char * size).from_address(int(source.dataPointer))
    return np.ndarray(shape, dtype, memoryview(buffer), strides=strides)
