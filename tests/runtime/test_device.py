"""The command line on the device, the benchmark, and how light the package is."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import MakeBundle

import edgeq_runtime
from edgeq_runtime.__main__ import main
from edgeq_runtime.benchmark import benchmark
from edgeq_runtime.health import Health, health, throttling

RUNTIME = Path(edgeq_runtime.__file__).parents[1]


def test_self_test_prints_and_exits(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "self-test", "--json", "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "pass"


def test_a_failed_self_test_exits_with_3(bundle: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(edgeq_runtime.Model, "run", lambda model, inputs: {
        "sum": np.zeros((1, 3), np.float32), "count": np.array(3)})
    assert main([str(bundle), "self-test"]) == 3
    assert "fail (1 sample): sample 0, output 'sum' at [0, 0]: expected 2.5, got 0" in capsys.readouterr().out


def test_run_reads_and_writes(make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(labels=("cat", "dog", "bird"))
    np.save(tmp_path / "image.npy", np.array([[1, 3, 2]], np.float32))
    np.savez(tmp_path / "rest.npz", offset=np.zeros(3, np.float32))
    given = ["--input", f"image={tmp_path / 'image.npy'}", "--input", str(tmp_path / "rest.npz")]
    assert main([str(folder), "run", *given, "-o", str(tmp_path / "out.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["sum"].items()) == [("dog", 6.0), ("bird", 4.0), ("cat", 2.0)]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["sum"], [[2, 6, 4]])


@pytest.mark.parametrize("prefix", ["", "image="])
def test_a_files_name_may_hold_an_equals_sign(make_bundle: MakeBundle, tmp_path: Path, prefix: str) -> None:
    np.save(tmp_path / "a=1.npy", np.array([[1, 3, 2]], np.float32))
    np.savez(tmp_path / "rest.npz", offset=np.zeros(3, np.float32))
    given = ["--input", f"{prefix}{tmp_path / 'a=1.npy'}", "--input", str(tmp_path / "rest.npz")]
    assert main([str(make_bundle()), "run", *given]) == 0


@pytest.mark.parametrize("given", ["nowhere.npy", "image=nowhere.npy"])
def test_errors_are_one_line(bundle: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    assert main([str(bundle), "run", "--input", given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot read the input nowhere.npy")
    assert error.count("\n") == 1


def test_benchmark_counts_runs(bundle: Path) -> None:
    with edgeq_runtime.load(bundle) as model:
        found = benchmark(model, runs=5, warmup=1)
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
    assert found.bundle_bytes == sum(file.stat().st_size for file in bundle.iterdir() if file.suffix != ".json")
    assert found.peak_rss_bytes is None or found.peak_rss_bytes > 10_000_000


def fake_sys(folder: Path, files: dict[str, str]) -> Path:
    """What a board's /sys holds."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


def test_a_hot_raspberry_pi(tmp_path: Path) -> None:
    sys_pi = fake_sys(tmp_path, {
        "class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": "82300",
        "class/thermal/thermal_zone1/type": "battery", "class/thermal/thermal_zone1/temp": "99000",
        "devices/platform/soc/soc:firmware/get_throttled": "50005"})  # bits 0 and 2 now, 16 and 18 since the start
    assert health(sys_pi) == Health(82.3, ("under-voltage", "throttled"))


def test_a_jetson_that_lowers_its_clock(tmp_path: Path) -> None:
    files = {"class/thermal/cooling_device0/type": "cpufreq-cpu0", "class/thermal/cooling_device0/cur_state": "3",
             "class/thermal/cooling_device1/type": "pwm-fan", "class/thermal/cooling_device1/cur_state": "9",
             "class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": "61000",
             "class/thermal/thermal_zone1/type": "tj-thermal", "class/thermal/thermal_zone1/temp": "70500"}
    assert health(fake_sys(tmp_path, files)) == Health(70.5, ("clock lowered by cpufreq-cpu0",))


def test_throttling_counts_only_what_happened_meanwhile(tmp_path: Path) -> None:
    counter = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    before = health(fake_sys(tmp_path, {counter: "7"}))
    assert throttling(before, before) == ()
    assert throttling(before, health(fake_sys(tmp_path, {counter: "9"}))) == ("cores throttled 2 times",)


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    assert health(tmp_path) == Health(None, (), None)
    assert health(fake_sys(tmp_path, {"class/thermal/thermal_zone0/type": "cpu", "class/thermal/thermal_zone0/temp": "",
                                      "devices/platform/soc/soc:firmware/get_throttled": "?"})) == Health()


def in_new_process(code: str) -> str:
    environment = {"PYTHONPATH": str(RUNTIME)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def test_imports_numpy_and_the_standard_library_only() -> None:
    code = ("import sys, numpy, json; before = set(sys.modules); import edgeq_runtime.session, edgeq_runtime.selftest, "
            "edgeq_runtime.preprocess, edgeq_runtime.benchmark, edgeq_runtime.__main__, edgeq_runtime.integrity; "
            "import edgeq_runtime.installation, edgeq_runtime.signature, edgeq_runtime.drift; "
            "import edgeq_runtime.engines.onnxruntime, edgeq_runtime.engines.tflite, edgeq_runtime.engines.coreml; "
            "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))")
    added = set(json.loads(in_new_process(code))) - set(sys.stdlib_module_names) - {"numpy"}
    assert added == {"edgeq_runtime"}


def test_what_load_does_not_need_is_not_imported() -> None:
    code = "import sys, numpy, edgeq_runtime; print(*sys.modules)"
    ours = {name for name in in_new_process(code).split() if name.startswith("edgeq_runtime")}
    assert ours == {"edgeq_runtime", "edgeq_runtime.dimensions", "edgeq_runtime.errors", "edgeq_runtime.integrity",
                    "edgeq_runtime.manifest", "edgeq_runtime.session", "edgeq_runtime.engines"}
