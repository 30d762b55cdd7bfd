"""Core AI's runtime in a process of its own: `python -m edgeq_runtime.engines.coreai_child`.

It ends the process where others raise: at an integer division by zero, at a program without named outputs. Messages are
a line of JSON and the bytes of the arrays that it describes, in both directions.
"""
from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, BinaryIO, Dict, Mapping, Tuple

import numpy as np

FUNCTION = "main"


def send(stream: BinaryIO, words: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    stream.write(json.dumps({**words, "arrays": described}).encode() + b"\n")
    for array in arrays.values():
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """-> (words, arrays by name). Raises EOFError: the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    words = json.loads(line)
    arrays = {}
    for name, dtype, shape in words.pop("arrays"):
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        arrays[name] = np.frombuffer(data, kind).reshape(shape)
    return words, arrays


class _Served:
    """One model at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._opened: Any = None
        self._function: Any = None

    def open(self, path: str) -> Dict[str, Any]:
        from coreai.authoring import AIModelAsset

        if self._opened is not None:
            self._loop.run_until_complete(self._opened.__aexit__(None, None, None))
        self._opened = AIModelAsset.load(path).executable()
        model = self._loop.run_until_complete(self._opened.__aenter__())
        self._function = model.load_function(FUNCTION)
        return {}

    def run(self, arrays: Mapping[str, Any]) -> Dict[str, Any]:
        from coreai.runtime import NDArray

        found = self._loop.run_until_complete(self._function({name: NDArray(np.array(array))
                                                              for name, array in arrays.items()}))
        return {name: value.numpy() for name, value in found.items()}


def main() -> None:
    """Serve until standard input ends. What the libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    served = _Served()
    while True:
        try:
            words, arrays = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found = served.run(arrays) if words["do"] == "run" else served.open(words["path"])
            send(answers, {}, found)
        except Exception as error:  # whatever it is, the other side says it
            send(answers, {"error": f"{type(error).__name__}: {error}"}, {})


if __name__ == "__main__":
    main()
