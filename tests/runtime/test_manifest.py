"""The manifest is read strictly, and nothing outside the bundle is touched."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgeq_runtime import BundleError, Manifest
from edgeq_runtime.dimensions import Choice, Range
from edgeq_runtime.manifest import FILE_NAME, FORMAT, Language


def edit(folder: Path, **changes: Any) -> Path:
    data = json.loads((folder / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps({**data, **changes}))
    return folder


def file_entry(folder: Path, path: str) -> list[dict[str, Any]]:
    return [*json.loads((folder / FILE_NAME).read_text())["files"], {"path": path, "bytes": 1, "sha256": ""}]


def test_reads_what_was_written(bundle: Path) -> None:
    manifest = Manifest.read(bundle, verify=True)
    assert manifest.to_json() == (bundle / FILE_NAME).read_text()
    assert manifest.inputs[0].shape == ("n", 3)
    assert Manifest.from_json(manifest.to_json()) == manifest


LIMITED = ({"name": "T", "low": 1, "high": 8}, {"name": "S", "sizes": [2, 4]}, {"name": "U", "low": 3, "high": None})


def test_limits_of_free_sizes_raise_the_format(bundle: Path) -> None:
    """An older runtime must say that it is too old, not that the manifest is damaged; it reads all the others."""
    before = Manifest.read(bundle)
    assert before.format == 1
    spec = {"name": "x", "dtype": "float32", "shape": [1, *LIMITED]}
    limited = Manifest.from_json(json.dumps({**json.loads(before.to_json()), "inputs": [spec]}))
    assert limited.inputs[0].shape == (1, Range("T", 1, 8), Choice("S", (2, 4)), Range("U", 3))
    written = json.loads(limited.to_json())
    assert written["format"] == 2
    assert written["inputs"][0]["shape"] == [1, *LIMITED]
    assert Manifest.from_json(limited.to_json()) == limited


LANGUAGE = {"context": 512, "vocabulary": 100, "layers": 2, "kv_heads": 1, "head_size": 16, "bos": None, "eos": [2, 3],
            "add_bos": True, "tokenizer": "model.onnx", "template": "", "defaults": {"temperature": 0.7}}


def test_a_language_model_raises_the_format(bundle: Path) -> None:
    before = json.loads((bundle / FILE_NAME).read_text())
    assert "language" not in before
    found = Manifest.from_json(json.dumps({**before, "language": LANGUAGE}))
    assert found.language == Language(512, 100, 2, 1, 16, None, (2, 3), True, "model.onnx", "", {"temperature": 0.7})
    written = json.loads(found.to_json())
    assert (written["format"], written["language"]) == (4, LANGUAGE)
    assert Manifest.from_json(found.to_json()) == found


@pytest.mark.parametrize(("changes", "message"), [
    ({"context": 0}, "sizes must be positive, not 0"), ({"eos": [100]}, "there is no token 100 among 100"),
    ({"bos": -1}, "there is no token -1"), ({"eos": 2}, "language: eos should be a list"),
    ({"tokenizer": "elsewhere.json"}, "'elsewhere.json' is not a file that the manifest lists"),
    ({"template": "../x"}, "'../x' is not a file"), ({"greeting": ""}, "unknown key 'greeting'"),
])
def test_refuses_a_language_model(bundle: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.read(edit(bundle, language={**LANGUAGE, **changes}))


def test_a_text_encoder_raises_the_format(bundle: Path) -> None:
    text = {"context": 16, "vocabulary": 20, "tokenizer": "model.onnx"}
    found = Manifest.read(edit(bundle, text=text))
    written = json.loads(found.to_json())
    assert (written["format"], written["text"]) == (6, text)
    for changes, message in (({"tokenizer": "t.json"}, "'t.json' is not a file"), ({"context": 0}, "must be positive")):
        with pytest.raises(BundleError, match=message):
            Manifest.read(edit(bundle, text={**text, **changes}))


@pytest.mark.parametrize(("limits", "message"), [
    ({"name": "T", "low": 0, "high": None}, "no size lies in the range"),
    ({"name": "T", "low": 3, "high": 2}, "no size lies in the range"),
    ({"name": "T", "sizes": []}, "must be positive and ascend"),
    ({"name": "T", "sizes": [2, 2]}, "must be positive and ascend"),
    ({"name": "T", "sizes": 3}, "neither a size nor a name"),
    ({"name": "T", "low": "a", "high": 3}, "neither a size nor a name"),
    ({"name": "T", "lowest": 2}, "neither a size nor a name"),
    ({"low": 1, "high": 2}, "neither a size nor a name"),
])
def test_refuses_limits(bundle: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.read(edit(bundle, inputs=[{"name": "x", "dtype": "float32", "shape": [limits]}]))


@pytest.mark.parametrize(("changes", "message"), [
    ({"format": FORMAT + 1}, "format 7, this runtime reads up to 6: update"),
    ({"format": "1"}, "no format number"),
    ({"format": True}, "no format number"),
    ({"colour": "red"}, "unknown key 'colour'"),
    ({"name": 3}, "name should be a string, got 3"),
    ({"labels": "cat"}, "labels should be a list"),
    ({"labels": ["cat", 1]}, r"labels\[1\] should be a string"),
    ({"options": []}, "options should be an object"),
    ({"outputs": []}, "'outputs' is empty"),
    ({"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}]}, "neither a size nor a name"),
    ({"inputs": [{"name": "x", "dtype": "float32", "shape": [True]}]}, "neither a size nor a name"),
    ({"inputs": [{"name": "x", "dtype": "object", "shape": [1]}]}, "'object' is not a dtype"),
    ({"inputs": [{"name": "x", "dtype": "int8", "shape": [1], "scale": 0}]}, "positive number"),
    ({"inputs": [{"name": "x", "shape": [1]}]}, r"inputs\[0\]: no key 'dtype'"),
    ({"inputs": [{"name": "x", "dtype": "int8", "shape": [1], "grid": 0}]}, r"inputs\[0\]: unknown key 'grid'"),
    ({"outputs": [{"name": "x", "dtype": "int8", "shape": [1]}] * 2}, "names one thing twice"),
    ({"entry": "elsewhere.onnx"}, "not a file that the manifest lists"),
    ({"entry": "../model.onnx"}, "does not stay inside"),
    ({"entry": ""}, "does not stay inside"),
])
def test_refuses(bundle: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.read(edit(bundle, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\0\1\2"])
def test_refuses_what_is_no_manifest(bundle: Path, text: str) -> None:
    (bundle / FILE_NAME).write_text(text)
    with pytest.raises(BundleError, match=r"not JSON|not an edgeq bundle"):
        Manifest.read(bundle)


def test_refuses_bytes_that_are_no_text(bundle: Path) -> None:
    (bundle / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not UTF-8"):
        Manifest.read(bundle)


def test_refuses_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read .*manifest.json: No such file"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "C:x", "a\\..\\x", "", "x\0"])
def test_refuses_paths_that_leave_the_folder(bundle: Path, path: str) -> None:
    with pytest.raises(BundleError, match="does not stay inside the bundle"):
        Manifest.read(edit(bundle, files=file_entry(bundle, path)))


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "loop"])
def test_refuses_links_that_leave_the_folder(bundle: Path, target: str) -> None:
    (bundle.parent / "outside").write_text("x")
    os.symlink(target, bundle / "loop")
    with pytest.raises(BundleError, match=r"leads out of the bundle|is missing"):
        Manifest.read(edit(bundle, files=file_entry(bundle, "loop")))


def test_a_link_to_the_bundle_itself_is_fine(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert Manifest.read(tmp_path / "current", verify=True).name == "affine"


def test_names_the_missing_file(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"'model.onnx' is missing"):
        Manifest.read(bundle)


def test_sees_a_truncated_file_at_load(bundle: Path) -> None:
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"'model.onnx' has \d+ bytes instead of \d+"):
        Manifest.read(bundle)


def test_sees_a_changed_byte_when_asked(bundle: Path) -> None:
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    Manifest.read(bundle)
    with pytest.raises(BundleError, match=r"'model.onnx' was changed \(its sha256 differs\)"):
        Manifest.read(bundle, verify=True)


def test_an_entry_folder_holds_what_is_listed(bundle: Path) -> None:
    package = bundle / "model.mlpackage"
    package.mkdir()
    (bundle / "model.onnx").rename(package / "model.onnx")
    files = json.loads((bundle / FILE_NAME).read_text())["files"]
    files[0]["path"] = "model.mlpackage/model.onnx"
    edit(bundle, entry="model.mlpackage", files=files)
    Manifest.read(bundle, verify=True)
    (package / "planted").write_text("x")
    with pytest.raises(BundleError, match=r"does not list: model.mlpackage/planted"):
        Manifest.read(bundle, verify=True)
