"""report.html: the numbers that it says, a planted fault that it names, and a browser that draws it."""
from __future__ import annotations

import html
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, residual

from edgeq import convert
from edgeq.report.plots import GOOD

SHAPE = (1, 3, 9, 7)
DIGITS = Path(__file__).resolve().parents[2] / "samples/digits"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DIGITS / "digits.onnx", target="onnxruntime", calibration=DIGITS / "calibration.npz",
                   output=tmp_path_factory.mktemp("page") / "b").path


def text(bundle: Path) -> str:
    """What a reader sees, without plots."""
    found = (bundle / "report.html").read_text()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(svg|style).*?</\1>", "", found, flags=re.DOTALL)))


def test_a_page_needs_no_network(digits: Path) -> None:
    found = (digits / "report.html").read_text()
    assert found.count("<svg") == 2
    assert "<script" not in found
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', found) == []
    assert re.findall(r'url\((?!#)[^)]*\)|@import', found) == []


def test_a_good_conversion_is_called_good(digits: Path) -> None:
    found = text(digits)
    assert "Good : output 'logits' is" in html.unescape(found)
    assert f"{(digits / 'model.onnx').stat().st_size / 1000:.1f} kB" in found
    assert "Nothing was kept in float" in found


def outlier() -> ir.Model:
    """One weight of the second convolution is so large that 4 bits leave nothing for the others of its channel."""
    model = residual()
    value = model.graph.initializers["w2"]
    data = value.const_value.numpy().copy()
    data[:, 0, 0, 0] = 40
    value.const_value = ir.tensor(data, name="w2")
    return model


def test_the_culprit_of_a_broken_conversion_is_named(tmp_path: Path) -> None:
    quiet = [{"x": feed["x"] * np.array([0, 1, 1], np.float32).reshape(1, 3, 1, 1)} for feed in feeds(SHAPE)]
    model = outlier()
    w1 = model.graph.initializers["w1"]
    data = w1.const_value.numpy().copy()
    data[0] = 0  # the channel that the large weights read is silent
    w1.const_value = ir.tensor(data, name="w1")
    bias = model.graph.initializers["b1"]
    bias.const_value = ir.tensor(np.array([0, 1, 1, 1], np.float32), name="b1")
    bundle = convert(model, target="onnxruntime", bits=4, method="nearest", calibration=quiet, output=tmp_path / "b")
    found = text(bundle.path)
    assert re.search(r"The first layer that breaks is c \(Conv, weights w2 \)", found)
    assert "Look at the samples first : 4 samples are few" in found
    assert re.search("What helps: --method auto ?, or --bits 8 ?, or --keep-float", found)


def test_without_verification_the_page_says_so(tmp_path: Path) -> None:
    bundle = convert(residual(), target="onnxruntime", output=tmp_path / "b", verify=False)
    assert "Not verified" in text(bundle.path)


def test_samples_that_are_constant_are_noticed(tmp_path: Path) -> None:
    bundle = convert(residual(), target="onnxruntime", output=tmp_path / "b",
                     calibration=[{"x": np.ones(SHAPE, np.float32)}] * 2)
    assert "every number of input 'x' is 1" in html.unescape( text(bundle.path))


def test_names_are_no_markup(tmp_path: Path) -> None:
    model = residual()
    next(node for node in model.graph if node.op_type == "Add").outputs[0].name = "<b>&name"
    bundle = convert(model, target="onnxruntime", output=tmp_path / "b", calibration=feeds(SHAPE))
    assert "<b>&name" not in (bundle.path / "report.html").read_text()


def test_the_same_conversion_writes_the_same_page(tmp_path: Path) -> None:
    pages = [(convert(residual(), target="onnxruntime", output=tmp_path / name, calibration=feeds(SHAPE)).path
              / "report.html").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def browse(page: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    return subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                           "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}",
                           "--window-size=1100,2400", *words, page.as_uri()],
                          capture_output=True, text=True, timeout=120, check=True)


@needs_browser
def test_a_browser_draws_the_plots_and_complains_of_nothing(digits: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(digits / "report.html", tmp_path / "report.html"))
    result = browse(page, "--dump-dom")
    assert len(re.findall(r"<svg", result.stdout)) == 2
    layers = re.search(r"(\d+) layers</summary>", result.stdout)
    assert layers is not None
    assert len(re.findall(r"<rect", result.stdout)) == int(layers[1])
    assert "CONSOLE" not in result.stderr
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    browse(page, f"--screenshot={tmp_path / 'page.png'}")
    with image.open(tmp_path / "page.png") as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    bars = np.abs(pixels - [int(GOOD[k:k + 2], 16) for k in (1, 3, 5)]).max(axis=2) < 8
    assert bars.sum() > 50_000


@needs_browser
def test_a_page_with_a_script_error_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>throw new Error('planted')</script>")
    assert "CONSOLE" in browse(tmp_path / "bad.html", "--dump-dom").stderr


def test_a_page_costs_less_than_the_conversion_notices(digits: Path, tmp_path: Path) -> None:
    """Processor time, which other work on this machine does not change."""
    def seconds(verify: bool) -> float:
        started = time.process_time()
        convert(DIGITS / "digits.onnx", target="onnxruntime", calibration=DIGITS / "calibration.npz", verify=verify,
                output=tmp_path / f"{verify}")
        return time.process_time() - started

    assert seconds(True) - seconds(False) < 2
