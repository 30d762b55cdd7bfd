"""``python -m edgeq_runtime BUNDLE self-test|run|benchmark|generate|chat|serve``: the device's command line.

Updates: ``python -m edgeq_runtime install ARCHIVE FOLDER`` and ``rollback FOLDER``; FOLDER is then a BUNDLE.

Exit codes: 0 good, 1 bad bundle, engine or input, 2 usage, 3 the self-test failed.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from .errors import EdgeqError, InputError, printable
from .session import Model, load
from .valid_json import json_text

TOP = 5


def main(arguments: Optional[List[str]] = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    updates = arguments[:1] in (["install"], ["rollback"])
    options = (_update_parser() if updates else _parser()).parse_args(arguments)
    try:
        if updates:
            options.command(options)
            return 0
        with load(options.bundle, threads=options.threads, verify=options.verify) as model:
            code: int = options.command(model, options)
            return code
    except EdgeqError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1


def _self_test(model: Model, options: argparse.Namespace) -> int:
    result = model.self_test()
    _show(options, {"engine": model.engine, "accelerator": model.accelerator, **result.to_dict()},
          f"{model.engine} on {model.accelerator}: {result}")
    return 0 if result.ok else 3


def _run(model: Model, options: argparse.Namespace) -> int:
    outputs = model.run(_read_inputs(model, options.input))
    for drift in model.drift():
        if drift.is_noteworthy:
            print(f"note: {printable(str(drift))}", file=sys.stderr)
    if options.output:
        np.savez(options.output, **outputs)
    if model.manifest.postprocessing is not None:
        from .predict import image_size, interpreted, named_file

        size = image_size(named_file(options.input[0])[1]) if len(options.input) == 1 else None
        found = interpreted(model.manifest, outputs, model.steps, size)
        _show(options, {"found": [asdict(one) for one in found]}, "\n".join(map(_line, found)) or "nothing")
        return 0
    summary = {name: _summary(model, array) for name, array in outputs.items()}
    _show(options, summary, "\n".join(f"{name}: {json.dumps(found)}" for name, found in summary.items()))
    return 0


def _benchmark(model: Model, options: argparse.Namespace) -> int:
    from .benchmark import benchmark

    result = benchmark(model, options.runs, options.warmup)
    found = result.to_dict()
    _show(options, found, "\n".join(f"{key:20} {f'{value:.3f}' if isinstance(value, float) else value}"
                                    for key, value in found.items() if value not in (None, ())))
    return 0


def _generation_words(options: argparse.Namespace) -> Dict[str, Any]:
    from .language.commands import FLAGS, schema_of

    words = {name.replace("-", "_") for name, _, _ in FLAGS} | {"stop", "system"}
    return {**{name: getattr(options, name) for name in words}, "json_schema": schema_of(options.json_schema)}


def _generate(model: Model, options: argparse.Namespace) -> int:
    from dataclasses import replace

    from .language.commands import generate, summary, terminal

    screen = terminal()
    silent = replace(screen, show=lambda text: None)
    result = generate(model.language, options.prompt, silent if options.json else screen, raw=options.raw,
                      **_generation_words(options))
    if options.json:
        print(json_text(asdict(result)))
    else:
        screen.show("\n")
        screen.note(summary(result))
    return 0


def _chat(model: Model, options: argparse.Namespace) -> int:
    from .language.commands import chat, terminal

    chat(model.language, terminal(), **_generation_words(options))
    return 0


def _serve(model: Model, options: argparse.Namespace) -> int:
    from .language.commands import run_until_interrupted, serving, terminal

    run_until_interrupted(serving(model.language, model.folder, terminal(), options.host, options.port))
    return 0


def _embed(model: Model, options: argparse.Namespace) -> int:
    from .language.commands import similarities

    found = model.embed(options.texts, truncate=options.truncate)
    if options.output:
        np.save(options.output, found)
    alike = similarities(found)
    _show(options, {"vectors": found.tolist(), "cosines": alike},
          "\n".join(" ".join(f"{cosine:7.4f}" for cosine in row) for row in alike))
    return 0


def _transcribe(model: Model, options: argparse.Namespace) -> int:
    from .language.speech import written_down
    from .sound import read_wav

    found = model.transcribe(*read_wav(options.sound), timestamps=options.timestamps, language=options.language,
                             task=options.task)
    _show(options, asdict(found), written_down(found, times=options.timestamps))
    return 0


def _translate(model: Model, options: argparse.Namespace) -> int:
    found = [model.translate(text, max_tokens=options.max_tokens) for text in options.texts]
    print(json.dumps(found, indent=2) if options.json else printable("\n".join(found)))
    return 0


def _install(options: argparse.Namespace) -> None:
    from .installation import install

    found = install(options.archive, options.folder, key=options.key, self_test=not options.no_self_test,
                    threads=options.threads, allow_downgrade=options.allow_downgrade)
    test = found.self_test and found.self_test.to_dict()
    words = f"self-test {found.self_test}" if found.changed and found.self_test else "not tested"
    words += "" if found.isolated else ", in this process: here no other can be started"
    _show(options, {"path": str(found.path), "previous": found.previous, "changed": found.changed, "self_test": test,
                    "isolated": found.isolated},
          f"{found.path} is in use: {words if found.changed else 'it was already'}")


def _rollback(options: argparse.Namespace) -> None:
    from .installation import rollback

    path = rollback(options.folder)
    _show(options, {"path": str(path)}, f"{path} is in use again")


def _read_inputs(model: Model, given: List[str]) -> Dict[str, Any]:
    """["name=x.npy"], ["x.npy"] or ["x.jpg"] where there is one input, or ["all.npz"] -> arrays by name."""
    from .predict import as_taken, named_file, read_source

    inputs: Dict[str, Any] = {}
    for name, file in map(named_file, given):
        if file.endswith((".npy", ".npz")):
            inputs.update(_read_arrays(name or model.inputs[0].name, file))
        else:
            spec = next((spec for spec in model.inputs if spec.name == name), model.inputs[0])
            inputs[name or spec.name] = as_taken(spec, read_source(file, model.steps[0]))
    return inputs


def _read_arrays(name: str, file: str) -> Dict[str, Any]:
    try:
        data = np.load(file, allow_pickle=False)
        return dict(data) if file.endswith(".npz") else {name: data}
    except Exception as error:  # numpy, zipfile and the system each raise their own
        raise InputError(f"cannot read the input {file}: {error}") from None


def _summary(model: Model, array: Any) -> Dict[str, Any]:
    """What fits on a screen: the best labels where there are labels, else the first values."""
    values = np.ravel(array)
    labels = model.manifest.labels
    if labels and values.size == len(labels):
        return {labels[k]: float(values[k]) for k in np.argsort(-values.astype(np.float64), kind="stable")[:TOP]}
    return {"dtype": str(array.dtype), "shape": list(array.shape), "values": values[:TOP].tolist()}


def _line(found: Any) -> str:
    box = "".join(f" {value:7.1f}" for value in getattr(found, "box", ()))
    return f"{found.score:.4f}{box}  {found.label}"


def _show(options: argparse.Namespace, data: Dict[str, Any], text: str) -> None:
    print(json_text(data) if options.json else printable(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m edgeq_runtime", description="Run an edgeq bundle on this device.")
    parser.add_argument("bundle", type=Path)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, words in (("self-test", _self_test, "does this device compute what the converter promised?"),
                                  ("run", _run, "run once"), ("benchmark", _benchmark, "time it"),
                                  ("generate", _generate, "answer a prompt with a language model"),
                                  ("chat", _chat, "talk to a language model"),
                                  ("serve", _serve, "serve a language model in OpenAI's protocol"),
                                  ("embed", _embed, "make vectors of texts, and show the cosine of every two"),
                                  ("transcribe", _transcribe, "write down what is spoken"),
                                  ("translate", _translate, "write a text for each text")):
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(command=function)
        command.add_argument("--json", action="store_true", help="for machines")
        command.add_argument("--threads", type=int, metavar="N", help="how many threads the engine may use")
        command.add_argument("--verify", action="store_true", help="compare every file's sha256 first")
        if name == "run":
            command.add_argument("--input", action="append", required=True, metavar="[NAME=]FILE",
                                 help=".npy, .npz, or an image or .wav where the bundle says how it is read")
            command.add_argument("-o", "--output", metavar="FILE.npz", help="where to keep the outputs")
        if name == "benchmark":
            command.add_argument("--runs", type=int, default=100)
            command.add_argument("--warmup", type=int, default=10)
        if name == "generate":
            command.add_argument("prompt")
            command.add_argument("--raw", action="store_true", help="continue it as it stands, without chat template")
        if name == "embed":
            command.add_argument("texts", nargs="+", metavar="text")
            command.add_argument("--truncate", action="store_true", help="leave out the end of a text that is too long")
            command.add_argument("-o", "--output", metavar="FILE.npy", help="where to keep the vectors")
        if name == "transcribe":
            command.add_argument("sound", metavar="SPEECH.wav")
            command.add_argument("--timestamps", action="store_true", help="say when each part was spoken")
            command.add_argument("--language", help="of the speech, where the model knows several")
            command.add_argument("--task", choices=("transcribe", "translate"), default="transcribe")
        if name == "translate":
            command.add_argument("texts", nargs="+", metavar="text")
            command.add_argument("--max-tokens", type=int, metavar="N", help="of a text")
        if name in ("generate", "chat"):
            _add_generation_options(command)
        if name == "serve":
            command.add_argument("--host", default="127.0.0.1", help="the address to listen on")
            command.add_argument("--port", type=int, default=8080, help="0 for any free one")
    return parser


def _add_generation_options(command: argparse.ArgumentParser) -> None:
    from .language.commands import FLAGS

    for name, kind, words in FLAGS:
        command.add_argument(f"--{name}", type=kind, metavar="N", help=words)
    command.add_argument("--stop", action="append", metavar="TEXT", help="end the answer in front of it; repeatable")
    command.add_argument("--json-schema", metavar="JSON|FILE", help="answer in JSON that fits it")
    command.add_argument("--system", metavar="TEXT", help="a system message in front")


def _update_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m edgeq_runtime", description="Keep a bundle on this device up to date.")
    commands = parser.add_subparsers(required=True)
    for name, function, words in (("install", _install, "unpack, test and switch to an archive of edgeq pack"),
                                  ("rollback", _rollback, "go back to the version before")):
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(command=function)
        if name == "install":
            command.add_argument("archive", type=Path)
            command.add_argument("--key", type=Path, metavar="PUBLIC.pem", help="refuse what this key has not signed")
            command.add_argument("--allow-downgrade", action="store_true", help="take an older version too")
            command.add_argument("--no-self-test", action="store_true", help="switch without running it")
            command.add_argument("--threads", type=int, metavar="N", help="for the self-test")
        command.add_argument("folder", type=Path)
        command.add_argument("--json", action="store_true", help="for machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
