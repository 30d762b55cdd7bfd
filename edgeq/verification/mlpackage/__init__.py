"""Runs a written .mlpackage on any system, without Apple software: slow, exact, and independent of our own converter.

    from edgeq.verification.mlpackage import open_package
    program = open_package(Path("model.mlpackage"))
    outputs = program.run({"image": image})

It reads the files as they are on disk (manifest, protobuf, weight.bin) and computes in numpy. It models what the
program says, with float16 rounded after every op; it does not model the accumulation order of a device, nor failures
to compile there.
"""
from edgeq.verification.mlpackage.load import open_package
from edgeq.verification.mlpackage.program import Program, TensorSpec

__all__ = ["Program", "TensorSpec", "open_package"]
