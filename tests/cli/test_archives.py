"""edgeq pack, unpack and keygen."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeq.cli import main


def edgeq(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that nobody runs here: its manifest, one file and a report."""
    from runtime_bundles import entries

    from edgeq_runtime import Manifest, TensorSpec

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "digits.tflite.edgeq"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    spec = TensorSpec("x", "float32", (1,))
    manifest = Manifest(name="digits", target="tflite", engine="tflite", engine_version="", entry="model.tflite",
                        inputs=(spec,), outputs=(spec,), files=entries(folder))
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def test_a_signed_journey(bundle: Path) -> None:
    pytest.importorskip("cryptography", reason="signatures need it")
    assert edgeq("keygen", "-o", "release").stdout == "release.pem\nrelease.pub.pem\n"
    packed = json.loads(edgeq("pack", bundle, "--sign", "release.pem", "--json").stdout)
    assert packed == {"path": "digits.tflite.edgeq.zip", "bytes": Path("digits.tflite.edgeq.zip").stat().st_size,
                      "signed": True}
    edgeq("unpack", packed["path"], "--key", "release.pub.pem", "-o", "back.edgeq")
    assert Path("back.edgeq/model.tflite").read_bytes() == (bundle / "model.tflite").read_bytes()
    assert "digits.tflite.edgeq exists; replace it with --force" in edgeq("unpack", packed["path"], code=1).stderr
    edgeq("unpack", packed["path"], "--force")
    assert "a key is never replaced" in edgeq("keygen", "-o", "release", code=2).stderr


def test_a_refused_archive_leaves_nothing(bundle: Path) -> None:
    edgeq("pack", bundle, "-o", "a.tar")
    data = Path("a.tar").read_bytes()
    Path("a.tar").write_bytes(data.replace(b"weights", b"weighty", 1))
    assert edgeq("unpack", "a.tar", "-o", "new.edgeq", code=1).stderr == (
        "error: a.tar: 'model.tflite' was changed (its sha256 or length differs)\n")
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["a.tar", bundle.name]


def test_a_file_that_exists_is_a_question_of_usage(bundle: Path) -> None:
    edgeq("pack", bundle)
    assert "exists; replace it with --force" in edgeq("pack", bundle, code=2).stderr
    edgeq("pack", bundle, "--force")
