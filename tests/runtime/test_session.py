"""Loading and running: what goes in is checked, what comes out is named."""
from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import MakeBundle

import edgeq_runtime
from edgeq_runtime import BundleError, EngineError, InputError, TensorSpec
from edgeq_runtime.dimensions import Choice, Free, Range

OFFSET = np.array([.5, 0, -1], np.float32)
ONE = np.ones((1, 3), np.float32)


def test_runs_in_the_models_output_order(bundle: Path) -> None:
    with edgeq_runtime.load(bundle, threads=1, verify=True) as model:
        outputs = model.run({"offset": OFFSET, "image": np.array([[1, 2, 3]], np.float32)})
        assert list(outputs) == ["sum", "count"] == [spec.name for spec in model.outputs]
        np.testing.assert_array_equal(outputs["sum"], [[2.5, 4, 5]])
        assert outputs["count"] == 3
        assert model.engine.startswith("onnxruntime 1.")
        assert model.accelerator == "CPUExecutionProvider"


def test_a_free_dimension_takes_any_size(bundle: Path) -> None:
    with edgeq_runtime.load(bundle) as model:
        assert model.run({"image": np.zeros((5, 3), np.float32), "offset": OFFSET})["sum"].shape == (5, 3)


@pytest.mark.parametrize(("limits", "taken", "refused"), [
    (Range("n", 2, 3), (2, 3), (1, 4)), (Range("n", 2), (2, 50), (1,)), (Choice("n", (2, 5)), (2, 5), (1, 3, 6))])
def test_a_free_dimension_has_limits(limits: Free, taken: Any, refused: Any, make_bundle: MakeBundle) -> None:
    folder = make_bundle(inputs=(TensorSpec("image", "float32", (limits, 3)), TensorSpec("offset", "float32", (3,))))
    with edgeq_runtime.load(folder) as model:
        for size in taken:
            assert model.run({"image": np.zeros((size, 3), np.float32), "offset": OFFSET})["sum"].shape == (size, 3)
        for size in refused:
            with pytest.raises(InputError, match=rf"'image' has the shape \[{size}, 3\], expected image: float32 "
                                                 rf"\[{limits}, 3\]"):
                model.run({"image": np.zeros((size, 3), np.float32), "offset": OFFSET})


def test_dimensions_of_one_name_are_equal(make_bundle: MakeBundle) -> None:
    folder = make_bundle(inputs=(TensorSpec("image", "float32", ("k", 3)), TensorSpec("offset", "float32", ("k",))))
    with edgeq_runtime.load(folder) as model, pytest.raises(InputError, match=r"'offset' has the shape \[3\].*'k': 1"):
        model.run({"image": ONE, "offset": OFFSET})


@pytest.mark.parametrize(("inputs", "message"), [
    ({"image": ONE}, r"no input 'offset' was given; the model takes image: float32 \[n, 3\], offset: float32 \[3\]"),
    ({"image": ONE, "offset": OFFSET, "mask": ONE}, "unknown input 'mask'"),
    ({"Image": ONE, "offset": OFFSET}, "no input 'image' was given; unknown input 'Image'"),
    ({"image": ONE[0], "offset": OFFSET}, r"'image' has the shape \[3\], expected image: float32 \[n, 3\]"),
    ({"image": ONE[:, :2], "offset": OFFSET}, r"'image' has the shape \[1, 2\]"),
    ({"image": ONE.astype(np.float64), "offset": OFFSET}, r"is float64.*pass image.astype\(np.float32\)"),
    ({"image": [[1.0, 2.0, 3.0]], "offset": OFFSET}, "is float64"),
    ({"image": np.array([["a", "b", "c"]]), "offset": OFFSET}, "pass numbers"),
    ({"image": np.ones((1, 3), np.int32), "offset": OFFSET}, "is int32"),
    ({}, "no input 'image' was given; no input 'offset' was given"),
])
def test_refuses_an_input(bundle: Path, inputs: dict[str, Any], message: str) -> None:
    with edgeq_runtime.load(bundle) as model, pytest.raises(InputError, match=message):
        model.run(inputs)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int8, np.bool_, ">f4"])
def test_takes_a_dtype_that_loses_nothing(bundle: Path, dtype: Any) -> None:
    with edgeq_runtime.load(bundle) as model:
        outputs = model.run({"image": np.ones((1, 3), dtype), "offset": OFFSET})
    np.testing.assert_array_equal(outputs["sum"], 2 + OFFSET[None])


def test_takes_arrays_that_are_not_contiguous(bundle: Path) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    with edgeq_runtime.load(bundle) as model:
        np.testing.assert_array_equal(model.run({"image": image, "offset": OFFSET})["sum"], image * 2 + OFFSET)


def test_many_threads_share_a_model(bundle: Path) -> None:
    with edgeq_runtime.load(bundle, threads=1) as model, ThreadPoolExecutor(4) as pool:
        def run(number: int) -> bool:
            image = np.full((1 + number % 3, 3), number, np.float32)
            return bool((model.run({"image": image, "offset": OFFSET})["sum"] == 2 * number + OFFSET).all())

        assert all(pool.map(run, range(200)))


def test_writes_into_the_callers_buffers(bundle: Path) -> None:
    total, count = np.zeros((1, 3), np.float32), np.array(0)
    with edgeq_runtime.load(bundle) as model:
        for number in (1, 2):
            found = model.run({"image": ONE * number, "offset": OFFSET}, out={"sum": total, "count": count})
            assert found["sum"] is total
            assert found["count"] is count
            np.testing.assert_array_equal(total, [2 * number + OFFSET])
            assert count == 3
        some = model.run({"image": ONE * 5, "offset": OFFSET}, out={"sum": total})
        assert some["sum"] is total
        np.testing.assert_array_equal(total, [10 + OFFSET])
        assert some["count"] == 3


def test_buffers_leave_inputs_of_any_layout(bundle: Path) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4).T[:, ::-1]
    total = np.empty((4, 3), np.float32)
    with edgeq_runtime.load(bundle) as model:
        model.run({"image": image, "offset": OFFSET}, out={"sum": total})
    np.testing.assert_array_equal(total, image * 2 + OFFSET)


@pytest.mark.parametrize(("out", "message"), [
    ({"total": ONE}, "out: unknown output 'total'; the model gives sum, count"),
    ({"sum": ONE.astype(np.float64)}, r"out: 'sum' must be a writeable, contiguous array of sum: float32 \[n, 3\]"),
    ({"sum": np.zeros((1, 4), np.float32)}, "out: 'sum' must be"),
    ({"sum": np.zeros((3, 1), np.float32).T[:, ::-1]}, "out: 'sum' must be"),
    ({"sum": np.broadcast_to(np.float32(0), (1, 3))}, "out: 'sum' must be"),
    ({"sum": [[0.0, 0.0, 0.0]]}, "out: 'sum' must be"),
])
def test_refuses_a_buffer(bundle: Path, out: dict[str, Any], message: str) -> None:
    with edgeq_runtime.load(bundle) as model, pytest.raises(InputError, match=message):
        model.run({"image": ONE, "offset": OFFSET}, out=out)


def test_one_sample_needs_no_batch_axis(bundle: Path) -> None:
    with edgeq_runtime.load(bundle) as model:
        found = model.run_one({"image": ONE[0], "offset": OFFSET})
        np.testing.assert_array_equal(found["sum"], 2 + OFFSET)
        assert found["count"] == 3
        with pytest.raises(InputError, match=r"'offset' has the shape \[1\]"):
            model.run_one({"image": ONE[0], "offset": OFFSET[:1]})


def test_an_event_loop_goes_on_while_models_run(bundle: Path) -> None:
    async def both() -> list[Any]:
        with edgeq_runtime.load(bundle, threads=1) as model:
            feeds = [{"image": ONE * k, "offset": OFFSET} for k in range(20)]
            waiting = asyncio.gather(*(model.run_async(feed) for feed in feeds))
            assert not waiting.done()  # the loop's thread has it back before anything has run
            return [found["sum"] for found in await waiting]

    for number, total in enumerate(asyncio.run(both())):
        np.testing.assert_array_equal(total, [2 * number + OFFSET])


def test_warm_up_runs_the_bundles_sample(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edgeq_runtime.load(bundle) as model:
        seen: list[Any] = []
        monkeypatch.setattr(model, "run", seen.append)
        model.warm_up(2)
    assert [list(feed["image"][0]) for feed in seen] == [[1, 2, 3]] * 2


def test_a_closed_model_says_so(bundle: Path) -> None:
    model = edgeq_runtime.load(bundle)
    model.close()
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        model.run({"image": ONE, "offset": OFFSET})


@pytest.mark.parametrize("threads", [0, 257])
def test_threads_are_1_to_256(bundle: Path, threads: int) -> None:
    with pytest.raises(InputError, match="1 to 256"):
        edgeq_runtime.load(bundle, threads=threads)


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"engine": "npu"}, EngineError, "no engine 'npu': update edgeq-runtime"),
    ({"engine_version": ">=99"}, EngineError, r"needs onnxruntime >=99, installed is 1\..*: pip install"),
    ({"engine_version": "new"}, BundleError, "'new' cannot be read"),
    ({"options": {"turbo": 1}}, BundleError, "does not know: turbo"),
    ({"options": {"providers": ["TensorrtExecutionProvider"]}}, EngineError, "wants one of .*Tensorrt"),
    ({"options": {"providers": ["QNNExecutionProvider"]}}, BundleError, "'QNNExecutionProvider' is not one that"),
    ({"options": {"providers": [["CUDAExecutionProvider", {"gpu_external_alloc": "1"}]]}}, BundleError,
     "CUDAExecutionProvider: the option gpu_external_alloc='1' is not one"),
    ({"options": {"providers": [["TensorrtExecutionProvider", {"trt_extra_plugin_lib_paths": "./a.so"}]]}}, BundleError,
     "trt_extra_plugin_lib_paths='./a.so' is not one"),
    ({"options": {"providers": [["TensorrtExecutionProvider", {"trt_int8_enable": "maybe"}]]}}, BundleError,
     "trt_int8_enable='maybe' is not one"),
    ({"options": {"providers": "CPUExecutionProvider"}}, BundleError, "'providers' must be a list"),
    ({"options": {"session_options": {"session.custom_ops_library": "1"}}}, BundleError, "custom_ops_library='1'"),
    ({"options": {"session_options": {"session.intra_op.allow_spinning": "/"}}}, BundleError, "allow_spinning='/'"),
    ({"options": {"enable_cpu_mem_arena": "no"}}, BundleError, "'enable_cpu_mem_arena' must be a bool"),
    ({"options": {"threads": 257}}, BundleError, "asks for 257 threads; 1 to 256"),
    ({"options": {"threads": "all"}}, BundleError, "asks for 'all' threads"),
    ({"inputs": (TensorSpec("picture", "float32", (1, 3)),)}, BundleError, "are not those of the model"),
    ({"outputs": (TensorSpec("total", "float32", (1, 3)),)}, BundleError, "are not those of the model"),
    ({"entry": "selftest.npz"}, EngineError, "onnxruntime 1.* cannot load selftest.npz"),
])
def test_refuses_to_load(make_bundle: MakeBundle, changes: dict[str, Any], error: type[Exception],
                         message: str) -> None:
    with pytest.raises(error, match=message):
        edgeq_runtime.load(make_bundle(**changes))


@pytest.mark.parametrize(("engine", "modules", "message"), [
    ("onnxruntime", ["onnxruntime"], r"onnxruntime is not installed: pip install 'edgeq-runtime\[onnxruntime\]'"),
    ("tflite", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"], r"edgeq-runtime\[tflite\]"),
    ("coreai", ["coreai"], r"coreai-core is not installed: pip install coreai-core==1.0.0b3 .*Linux with x86-64"),
    ("coreml", ["edgeq.verification.mlpackage"], r"Core ML runs on macOS and iOS only.*edgeq\[coreml\]"),
])
def test_a_missing_engine_names_the_command(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, engine: str,
                                            modules: list[str], message: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(EngineError, match=message):
        edgeq_runtime.load(make_bundle(engine=engine))


def test_session_options_reach_the_engine(make_bundle: MakeBundle) -> None:
    folder = make_bundle(options={"session_options": {"session.intra_op.allow_spinning": "0"},
                                  "enable_cpu_mem_arena": False, "providers": [["CPUExecutionProvider", {}]]})
    with edgeq_runtime.load(folder, threads=2) as model:
        options = model._engine._session.get_session_options()  # type: ignore[union-attr]
        assert options.intra_op_num_threads == 2
        assert not options.enable_cpu_mem_arena
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_an_engine_that_fails_is_one_of_our_errors(make_bundle: MakeBundle) -> None:
    folder = make_bundle(inputs=(TensorSpec("image", "float32", (1, 4)), TensorSpec("offset", "float32", (3,))))
    with edgeq_runtime.load(folder) as model, pytest.raises(EngineError, match=r"onnxruntime .* failed"):
        model.run({"image": np.ones((1, 4), np.float32), "offset": OFFSET})
