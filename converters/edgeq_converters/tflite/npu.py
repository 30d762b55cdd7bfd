"""What compilers for neural processors make of a .tflite file."""
from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgeq.backend import Trial
from edgeq.errors import Problem, UnsupportedModel, first_line
from edgeq_converters.tflite.micro import Call, calls
from edgeq_runtime.manifest import Manifest

ETHOS_U: Final = "ethos-u55-128"
# What vela calls its own operator: https://pypi.org/project/ethos-u-vela/
_COMPILED: Final = "ethos-u"
_VELA: Final = "from ethosu.vela.vela import main; main()"
_SECONDS: Final = 600


def ethos_u(folder: Path, manifest: Manifest) -> Trial:
    """Compile with Arm's vela, for the commonest of its processors: what stays on the microcontroller's CPU. The file
    in the bundle is left as it is, since every engine runs that.

    Raises:
        UnsupportedModel: vela does not take the file.
    """
    if find_spec("ethosu") is None:
        return Trial("Ethos-U: not compiled, because Arm's compiler is missing: pip install 'edgeq[mcu]'")
    entry = folder / manifest.entry
    with tempfile.TemporaryDirectory(prefix="edgeq-") as made:
        ran = subprocess.run([sys.executable, "-c", _VELA, str(entry), "--accelerator-config", ETHOS_U,
                              "--output-dir", made], capture_output=True, text=True, timeout=_SECONDS)
        found = list(Path(made).glob("*_vela.tflite"))
        if ran.returncode or not found:
            said = first_line(RuntimeError((ran.stderr.strip() or ran.stdout.strip()).rpartition("\n")[2]))
            raise UnsupportedModel("Ethos-U", [Problem(manifest.entry, "file", f"vela does not take it: {said}")])
        left = list(calls(found[0].read_bytes()))
        size = found[0].stat().st_size
    on_cpu = [call for call in left if call.kernel != _COMPILED]
    total = len(list(calls(entry.read_bytes())))
    said = f"Ethos-U ({ETHOS_U}, vela {version('ethos-u-vela')}): " + (
        f"{len(on_cpu)} of {total} operators stay on the CPU: {', '.join(sorted({call.kernel for call in on_cpu}))}"
        if on_cpu else f"all {total} operators are compiled")
    return Trial(said, {"compiled_bytes": size, "cpu_operators": [call.kernel for call in on_cpu]},
                 tuple(_problems(on_cpu)))


def _problems(on_cpu: list[Call]) -> Iterator[Problem]:
    for call in on_cpu:
        yield Problem(call.name, call.kernel, "Ethos-U does not run it", "leave --full-integer out")


def edge_tpu(folder: Path, manifest: Manifest) -> Trial:
    """Its compiler is no package: https://coral.ai/docs/edgetpu/compiler/"""
    return Trial(f"Edge TPU: not compiled, because its compiler cannot be had here: edgetpu_compiler {manifest.entry}")
