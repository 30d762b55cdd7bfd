"""Greedy decoding on one core: edgeq's two engines of language models beside ONNX Runtime GenAI and llama.cpp.

    python benchmarks/decoder_speed.py --onnxruntime BUNDLE [--gguf BUNDLE] [--genai PYTHON]

BUNDLE: as `edgeq convert CHECKPOINT --target onnxruntime --target gguf` writes them. GenAI runs the very folder of the
first; PYTHON is of an environment that holds onnxruntime-genai, which by default is made in the temporary folder.
llama.cpp runs the file of the second with its own settings, flash attention and its greedy sampler, where
llama-cpp-python is installed.
Every engine is a process of its own. They take turns, one sequence of steps each, so that all see the same machine;
a time is the least of all rounds, in seconds of the processor, which a neighbour on the same core does not lengthen.
Where in memory a process lays its weights moves its times by 6 %, so that each engine is started several times.
"""
from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

GENAI = "ONNX Runtime GenAI"
PACKAGES = ("onnxruntime-genai==0.18.0", "numpy")
PASTS = (128, 768)
STEPS, ROUNDS, STARTS = 16, 3, 4
# past -> seconds for a prompt of that length, with its first token, and of the fastest step behind it; of a process
# its largest memory in MB, too
Run: TypeAlias = Callable[[int], tuple[float, ...]]


@dataclass(frozen=True)
class Row:
    """ratio: tokens per second, of those of GenAI."""

    engine: str
    past: int
    tokens_per_second: float
    ratio_to_genai: float
    first_token_ms: float
    peak_mb: float


def prompt(past: int) -> list[int]:
    """Numbers of tokens, the same in every engine: what they say does not change how long they take."""
    return [3 + 7919 * k % 400 for k in range(past)]


def timed(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def edgeq_engine(bundle: str) -> Run:
    from edgeq_runtime.language import open_decoder
    from edgeq_runtime.manifest import Manifest

    decoder = open_decoder(bundle, Manifest.from_json((Path(bundle) / "manifest.json").read_text()), 1)
    token = 5

    def fed(tokens: list[int]) -> None:
        nonlocal token
        token = int(decoder.logits(tokens)[-1].argmax())

    def run(past: int) -> tuple[float, float]:
        decoder.keep(0)
        return timed(lambda: fed(prompt(past))), min(timed(lambda: fed([token])) for _ in range(STEPS))

    return run


def genai_engine(bundle: str) -> Run:
    import numpy as np
    import onnxruntime_genai as genai  # type: ignore[import-not-found]

    config = genai.Config(bundle)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = genai.Model(config)

    def run(past: int) -> tuple[float, float]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=past + STEPS + 2, do_sample=False)
        generator = genai.Generator(model, parameters)

        def first() -> None:
            generator.append_tokens(np.asarray(prompt(past), np.int32))
            generator.generate_next_token()

        return timed(first), min(timed(generator.generate_next_token) for _ in range(STEPS))

    return run


def llamacpp_engine(file: str) -> Run:
    import llama_cpp as c

    from edgeq_runtime.language.llamacpp import _has_amx

    quiet = c.llama_log_callback(lambda *_: None)
    c.llama_log_set(quiet, None)
    model_params, params = c.llama_model_default_params(), c.llama_context_default_params()
    model_params.use_extra_bufts = not _has_amx()  # as in our engine: it can crash there
    params.n_ctx, params.n_threads, params.n_threads_batch = max(PASTS) + STEPS + 2, 1, 1
    model = c.llama_model_load_from_file(file.encode(), model_params)
    context, greedy = c.llama_init_from_model(model, params), c.llama_sampler_init_greedy()
    token = 5

    def fed(tokens: list[int]) -> None:
        nonlocal token
        held = (c.llama_token * len(tokens))(*tokens)  # the batch points into it
        assert c.llama_decode(context, c.llama_batch_get_one(held, len(tokens))) == 0
        token = c.llama_sampler_sample(greedy, context, -1)

    def prompted(past: int) -> None:
        tokens = prompt(past)
        for start in range(0, past, params.n_ubatch):
            fed(tokens[start:start + params.n_ubatch])

    def run(past: int) -> tuple[float, float]:
        c.llama_memory_clear(c.llama_get_memory(context), True)
        return timed(lambda: prompted(past)), min(timed(lambda: fed([token])) for _ in range(STEPS))

    return run


ENGINES: dict[str, Callable[[str], Run]] = {
    "edgeq": edgeq_engine, "genai": genai_engine, "llama.cpp": llamacpp_engine}


def peak() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1e3


def work(kind: str, bundle: str) -> None:
    """A line with a number of tokens in, a line with two times and the memory out."""
    run = ENGINES[kind](bundle)
    for line in sys.stdin:
        print(json.dumps([*run(int(line)), peak()]), flush=True)


@contextmanager
def worker(python: str | Path, kind: str, bundle: Path) -> Iterator[Run]:
    with subprocess.Popen([python, __file__, "--work", kind, bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given, answers = process.stdin, process.stdout

        def run(past: int) -> tuple[float, ...]:
            given.write(f"{past}\n")
            given.flush()
            return tuple(json.loads(answers.readline()))

        yield run


def measure(engines: Mapping[str, tuple[str | Path, str, Path]]) -> list[Row]:
    times: dict[tuple[str, int], list[tuple[float, ...]]] = {(name, past): [] for past in PASTS for name in engines}
    for _ in range(STARTS):
        with ExitStack() as running:
            runs = {name: running.enter_context(worker(*what)) for name, what in engines.items()}
            for _ in range(ROUNDS):
                for name, past in times:
                    times[name, past].append(runs[name](past))
    least = {key: tuple(map(min, zip(*found, strict=True))) for key, found in times.items()}
    return [Row(name, past, 1 / step, least[GENAI, past][1] / step, first * 1e3, memory)
            for (name, past), (first, step, memory) in least.items()]


def main() -> None:
    from common import environment_of, parser, report

    options = parser(__doc__)
    options.add_argument("--onnxruntime", type=Path, required=True)
    options.add_argument("--gguf", type=Path)
    options.add_argument("--genai", type=Path, help="a Python that has onnxruntime-genai")
    given = options.parse_args()
    python = given.genai or environment_of(sys.executable, PACKAGES, Path(tempfile.gettempdir()) / "edgeq-genai")
    wanted = {"edgeq, onnxruntime": (sys.executable, "edgeq", given.onnxruntime),
              GENAI: (python, "genai", given.onnxruntime),
              **({"edgeq, llama.cpp": (sys.executable, "edgeq", given.gguf)} if given.gguf else {})}
    if given.gguf and importlib.util.find_spec("llama_cpp"):
        wanted["llama.cpp"] = (sys.executable, "llama.cpp", given.gguf / "model.gguf")
    report(measure(wanted), f"{given.onnxruntime.name}: greedy decoding, one thread", given.json)


if __name__ == "__main__":
    if "--work" in sys.argv:
        work(*sys.argv[2:])
    else:
        main()
