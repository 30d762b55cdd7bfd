"""Bundles made to do harm: programs in them, files outside of them, pipes, sizes without end, words for a terminal."""
from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from runtime_bundles import MakeBundle, entries

import edgeq_runtime
from edgeq.bundle.archive import pack
from edgeq_runtime import BundleError, archive, selftest
from edgeq_runtime.__main__ import main
from edgeq_runtime.archive import extract
from edgeq_runtime.errors import MAX_MESSAGE, printable


def list_files(folder: Path, but: str = "") -> None:
    """Let the manifest list what is there, but for one file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [entry.__dict__ for entry in entries(folder) if entry.path != but]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["plugin.so", "libx.so.1.2", "sub/setup.PY", "model.dylib"])
@pytest.mark.parametrize("listed", [True, False])
def test_programs_do_not_belong_into_a_bundle(make_bundle: MakeBundle, name: str, listed: bool) -> None:
    folder = make_bundle()
    (folder / "sub").mkdir()
    (folder / name).write_bytes(b"x")
    if listed:
        list_files(folder)
    with pytest.raises(BundleError, match=r"does not belong into a bundle"):
        edgeq_runtime.load(folder)


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/etc/hostname"])
def test_external_data_that_the_manifest_does_not_list(make_bundle: MakeBundle, location: str) -> None:
    folder = make_bundle()
    proto = onnx.load(folder / "model.onnx")
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    onnx.save(proto, folder / "model.onnx")
    (folder / "w.bin").write_bytes(np.float32(2).tobytes())
    list_files(folder, but="w.bin")
    with pytest.raises(BundleError, match=rf"the model's weights lie in '{location}', which the manifest does not"):
        edgeq_runtime.load(folder, verify=True)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "selftest.npz"])
def test_a_pipe_is_no_file(make_bundle: MakeBundle, name: str) -> None:
    folder = make_bundle()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=rf"{name}.* is (no file|missing)"):
        edgeq_runtime.load(folder)


def test_an_archive_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(BundleError, match="it is no file"):
        extract(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("limit", ["MAX_MEMBERS", "_DIRECTORY_BYTES"])
def test_an_archive_of_very_many_files(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       limit: str) -> None:
    monkeypatch.setattr(archive, limit, 3)
    with pytest.raises(BundleError, match="it holds more than"):
        extract(pack(bundle, tmp_path / "a.zip"), tmp_path)


def test_a_self_test_that_unpacks_to_more_than_a_device_holds(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "MAX_BYTES", 100)
    with edgeq_runtime.load(bundle) as model, pytest.raises(BundleError, match=r"selftest\.npz holds .* at most 100"):
        model.self_test()


def test_a_self_test_with_more_samples_than_it_says(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "selftest.npz", "a") as file, file.open("input/99999999/x.npy", "w") as array:
        np.save(array, np.zeros(1))
    with pytest.raises(BundleError, match="more than 1000 samples"):
        selftest.read_selftest(bundle / "selftest.npz")


def test_a_message_has_an_end(make_bundle: MakeBundle) -> None:
    folder = make_bundle(engine="x" * 10**6)
    with pytest.raises(edgeq_runtime.EngineError) as caught:
        edgeq_runtime.load(folder)
    assert len(str(caught.value)) < MAX_MESSAGE + 10


def test_escape_sequences_of_a_bundle_are_printed_as_numbers(make_bundle: MakeBundle,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(engine="\x1b]0;owned\x07\u202e")
    assert main([str(folder), "self-test"]) == 1
    assert "no engine '\\x1b]0;owned\\x07\\u202e'" in capsys.readouterr().err
    assert printable("déjà vu\n\tσ²\x9b") == "déjà vu\n\tσ²\\x9b"
