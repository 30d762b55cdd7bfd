"""Whole nets through every target, as benchmarks/architectures.py measures them; the table itself with `full`."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ("shufflenet_v2", "ghostnet", "yolo_v8", "conv_tasnet", "crnn", "gru_streaming")


@pytest.fixture(scope="module")
def architectures() -> Any:
    pytest.importorskip("torch")
    sys.path.insert(0, str(FOLDER))
    try:
        import architectures
        yield architectures
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


def cells(architectures: Any, name: str, folder: Path) -> list[Any]:
    from nets.catalogue import named

    net = named(name)
    path = folder / f"{name}.onnx"
    architectures.export(net, path)
    return [architectures.measure(net, path, target, bits)
            for target in architectures.TARGETS for bits in architectures.BITS]


def complaints(found: list[Any]) -> list[str]:
    return [f"{cell.net} {cell.target} {cell.bits}: {cell.status} {cell.value} {cell.reason}" for cell in found
            if cell.status != "good"]


@pytest.mark.parametrize("name", SMALL)
def test_a_net_is_right_on_every_target(architectures: Any, name: str, folder: Path) -> None:
    assert not complaints(cells(architectures, name, folder))


@pytest.mark.full
def test_every_net_is_right_on_every_target(architectures: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from nets.catalogue import NETS

    found = [cell for row in architectures.measure_all(NETS, tmp_path, architectures.TARGETS) for cell in row]
    assert len(found) == 6 * len(NETS)
    assert not complaints(found)


def test_a_wrong_output_is_seen(architectures: Any) -> None:
    """One number of 400 moved by twice the limit; one output of two with twice the noise; an output that is NaN."""
    exact = [[np.linspace(-1, 1, 400), np.linspace(0, 5, 7)]]
    moved = [[exact[0][0] + np.eye(1, 400, 200)[0] * 2e-4, exact[0][1]]]
    assert architectures.largest_error(exact, moved) == pytest.approx(2e-4)
    graph = [[output + 0.1 for output in exact[0]]]
    worse = [[exact[0][0] + 0.1, exact[0][1] - 0.2]]
    assert architectures.distance_ratio(exact, graph, worse)[0] == pytest.approx(2, rel=0.01)
    assert np.isnan(architectures.largest_error(exact, [[exact[0][0], exact[0][1] * np.nan]]))


def test_activations_are_alive(architectures: Any) -> None:
    """Statistics of data: behind every BatchNorm that still has them, variance is near that of its gain."""
    import torch
    from nets.catalogue import named

    net = named("shufflenet_v2")
    network, variances = net.module(), []
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda norm, _, y: variances.append(float(y.detach().var())))
    with torch.no_grad():
        network(*(torch.from_numpy(array) for array in net.samples(1, seed=5)[0].values()))
    assert len(variances) > 10
    assert min(variances) > 0.1
