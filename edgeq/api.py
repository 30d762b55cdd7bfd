"""edgeq in Python: six verbs, each the command of the same name with the same words. `edgeq` itself exports them.

Nothing heavy is imported before a verb is called.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from edgeq.progress import Progress, silent

if TYPE_CHECKING:
    from typing import Unpack

    from edgeq.bundle.folder import Bundle
    from edgeq.conversion.evaluate import Score
    from edgeq.conversion.evaluate_language import LanguageScore
    from edgeq.conversion.options import After, Before, Inputs, Names, Words
    from edgeq.frontends import Source
    from edgeq.verification.verify_bundle import Checked

Folder: TypeAlias = "str | Path | Bundle"


@overload
def convert(model: Source, *, target: str | None = ..., output: str | Path | None = ..., **options: Unpack[Words],
            ) -> Bundle: ...
@overload
def convert(model: Source, *, target: list[str] | tuple[str, ...], output: str | Path | None = ...,
            **options: Unpack[Words]) -> list[Bundle]: ...
def convert(
    model: Source, *, target: str | Sequence[str] | None = None, output: str | Path | None = None,
    device: str | None = None, bits: int = 8, calibration: Any = None, samples: int | None = None,
    activations: str | int = "auto", weights: str = "per-channel", calibrator: str = "auto",
    calibration_cache: str | Path | None = None, method: str = "auto", keep_float: Names = (),
    inputs: Inputs | None = None, example_inputs: Any = None, state: Mapping[str, str] | Names | None = None,
    preprocess: Before | None = None, postprocess: After | None = None,
    labels: str | Path | Sequence[str] = (), layout: str = "keep", io: str = "float",
    full_integer: bool = False, prefer: str | None = None, measure: bool = False, board: str | None = None,
    eval: Any = None, metric: Any = None, max_drop: float | str | None = None, min_metric: float | None = None,
    max_bytes: int | str | None = None, min_db: float | None = None,
    keep_qdq: str | Path | None = None, min_os: int = 18, compute: str = "ane",
    about: str | Path | Mapping[str, str] | None = None,
    product: str = "", version: str = "", gguf_type: str = "", gguf_file: str | Path | None = None,
    bits_per_weight: float | None = None, adapter: str | Path | None = None, requantize: bool = False,
    recover: Any = None, recover_weights: bool = False, resume: bool = False, strict: bool = False,
    trust: bool = False, verify: bool = True, latency: bool = False, report: bool = True, force: bool = False,
    dry_run: bool = False, progress: Progress | None = None,
) -> Bundle | list[Bundle]:
    """Convert a model into a verified bundle; `edgeq convert`.

        bundle = edgeq.convert("model.onnx", target="tflite", calibration="samples.npz")
        phone, board = edgeq.convert(net, example_inputs=x, target=["coreml", "onnxruntime"], calibration=loader)

    Args:
        model: a path (.onnx, .pt2; of a language model its checkpoint's folder or a .gguf), "module:function", an onnx
            or onnx_ir model, a torch ExportedProgram, or a torch module with `example_inputs`.
        target: "onnxruntime", "tflite", "coreml", "coreai", "tensorrt" or "gguf" (language models); a list gives a list
            of bundles, which share one plan.
        output: the bundle's folder; of several targets, their parent. `<model>.<target>.edgeq` without.
        device: "pi4", "pi5", "pi-32bit", "jetson-orin", "iphone" or "android": chooses the target where none is
            named, and fits the bundle to the engines that run there.
        bits: of the weights: 4, 8, 16 (half precision) or 32 (float as it came); of language models also 2, 3, 5, 6.
        calibration: real samples: a path (.npz, .npy, a folder), "module:function"; an array whose first axis counts
            the samples, {input name: array} of the same, or an iterable of samples, such as a torch DataLoader:
            arrays, tuples in the order of the inputs, or dicts by name. Of a language model: a .txt or .jsonl file;
            without, it writes the text itself.
        samples: use at most so many.
        activations: "auto" (8 bits where there are samples), 8, 16 or "float".
        weights: "per-channel", "per-tensor", "block:SIZE", or for Core ML at 4 bits "table:CHANNELS".
        calibrator: how a range is chosen from what calibration saw: "minmax", "percentile", "mse", "entropy", or
            "auto", which tries all, tensor by tensor.
        calibration_cache: a file that keeps what calibration saw, and goes on from there next time.
        method: how weights become integers: "auto", or steps joined by +, such as "equalize+gptq+descent".
        keep_float: a regular expression, or several: nodes whose name matches stay float.
        inputs: input name -> shape, where dimensions are free: (1, 3, 224, 224), "1x3x224x224", "1x1..128" (a range
            that stays free), "1xT".
        example_inputs: of a torch module: a tensor, a tuple (positional) or a dict (by name).
        state: of a streaming model, input name -> the output that it is in the next step, or "in=out", or several;
            "none": there is no such thing. Found by names without: see docs/streaming.md.
        preprocess: how an image or sound becomes the input: "imagenet", a JSON file, a dict, or an object of
            edgeq_runtime.preprocess or .sound.
        postprocess: what the outputs mean: "classify", a JSON file, a dict, or an object of
            edgeq_runtime.postprocess.
        labels: class names in the order of the scores, or the file that holds one a line.
        layout: "nhwc" makes images that go in and come out channels last; samples stay as the model takes them.
        io: what goes in and comes out in place of floats: "uint8" or "int8", of a grid that the manifest and the model
            say; "uint8,float" of the inputs alone. With `preprocess` of an image, "uint8" takes its pixels as they are.
        full_integer: nothing computes in float, softmax and interface included; refused where an operator cannot.
        prefer: how much slower than plain 8 bits layers in float may make the model, by prediction: "balanced" 2 %,
            "accuracy" 10 %, "speed" not at all; without, a share of the work decides.
        measure: decide by times taken now, with every target's own engine, instead of predicted ones, and keep them in
            the report; `prefer` is "balanced" then, if nothing is said.
        board: take them there: a name given by `edgeq board add`, or an address.
        eval: labelled data for the metric, as of `evaluate`.
        metric: "top1", "top5", "map50", "miou", "psnr", "perplexity", "wer", "sqnr", "module:function" or a function.
        max_drop: search the smallest bundle that scores at most so much (1.0), or such a share ("1%"), below float.
        min_metric: the same, with the worst score that is allowed.
        max_bytes: search the best bundle of at most so many bytes (600000, "600kB").
        min_db: refuse a bundle of which an output is fewer decibels (SQNR) from the float model's.
        keep_qdq: save the quantized ONNX graph to this file.
        min_os: the oldest iOS: 16, 17, 18 or 26 for Core ML, 27 for Core AI.
        compute: Core ML: where the model should run: "ane", "gpu", "cpu" or "all".
        about: what the model file says of itself: a JSON file or a dict of "author", "licence" and "description".
        product, version: of the bundle, for updates: a device refuses another product and an older version ("1.4.2");
            a bundle without a product is one of the model's name.
        gguf_type: how a GGUF file stores weights, such as "Q4_0" or "Q5_K_S", where `bits` should not say it.
        gguf_file: save the GGUF file here, too, without the rest of the bundle.
        bits_per_weight: of a language model: choose the type of every weight for so many bits on average.
        adapter: of a language model: the folder of a LoRA or DoRA (peft), which is merged into the weights.
        requantize: of a language model that came quantized: its weights count as floats, and get codes of our own.
        recover: real samples without labels, in any form of `calibration`: the quantized model learns on them to say
            what the float one says. Scales, biases and norms move; kept where samples that it never saw gain.
        recover_weights: with `recover`: the integers of weights move, too.
        resume: go on from what a conversion had done that was ended: with `recover` what it had learned, of a language
            model the layers that it had fitted.
        trust: read the pickles in a .pt2 file, which can run any code.
        strict: refuse a model of which a target runs more in float than is planned, and a bundle that is broken.
        verify: run the result, and compare it with the float model.
        latency: time one call on this machine, for the report; the report of the same model then differs.
        report: write report.html, and for several targets one page over all of them beside the bundles.
        force: replace an existing bundle.
        dry_run: do everything and leave nothing: the bundle that is returned has no folder any more.
        progress: called as progress(what, done, total).

    Returns:
        The bundle, or for a list of targets one each, in that order.

    Raises:
        UsageError: a value that no such word takes, or words that contradict each other.
        ModelError, UnsupportedModel: the model cannot be read, or has nodes that a target cannot run, which are all
            named. CalibrationError, EvaluationError: the samples do not fit, or give no score.
        FloatFallback: with `strict`. TooFarFromFloat: with `min_db` or `strict`. VerificationError: the artifact does
            not compute what the graph says. TargetsFailed: of several targets, one of these holds for some; the
            bundles of the others are written.
        BundleError: the output is in the way. MissingExtra: a part of edgeq that is not installed.
        Whatever is raised is an EdgeqError, and but for TargetsFailed nothing is left on the disk then.
    """
    words = {**locals(), "progress": progress or silent}
    from edgeq.conversion.options import Options
    from edgeq.conversion.pipeline import convert_all

    options = Options(**{field.name: words[field.name] for field in fields(Options)})
    bundles = convert_all(model, target, options, output)
    return bundles[0] if target is None or isinstance(target, str) else list(bundles)


def inspect(source: Source | Bundle, *, inputs: Inputs | None = None, compute: Literal["ane"] | None = None,
            example_inputs: Any = None, trust: bool = False) -> dict[str, Any]:
    """What a model or a bundle holds; `edgeq inspect`.

        found = edgeq.inspect("model.onnx")
        found["targets"]["tflite"]["float_on_this_engine"]

    Args:
        source: a model as of `convert`, or a bundle.
        inputs: input name -> shape, where dimensions are free.
        compute: "ane": of a Core ML bundle, what may keep it from the Neural Engine.
        example_inputs: of a torch module. trust: as of `convert`.

    Returns:
        What `edgeq inspect --json` prints. Of a model: ops, sizes, memory, and for each target what it cannot run and
        what stays float, with reasons. Of a bundle: its manifest.

    Raises:
        UsageError: a value that no such word takes. ModelError, BundleError: the source cannot be read.
    """
    from edgeq.bundle.folder import Bundle
    from edgeq.conversion import words
    from edgeq.conversion.inspect import describe

    if compute is not None:
        words.one_of("--compute", compute, ["ane"])
    source = source.path if isinstance(source, Bundle) else source
    return describe(source, words.shapes(inputs), neural_engine=compute is not None, example_inputs=example_inputs,
                    trust=words.switch("--trust", trust))


def analyze(model: Source, *, calibration: Any, samples: int = 64, bits: int = 8, weights: str = "per-channel",
            target: str | Sequence[str] | None = None, inputs: Inputs | None = None, preprocess: Before | None = None,
            eval: Any = None, metric: Any = None, top: int = 20, example_inputs: Any = None,
            trust: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Which layers hurt most when they alone are quantized, the worst first; `edgeq analyze`.

        worst = edgeq.analyze("model.onnx", calibration="samples.npz")["layers"][0]
        edgeq.convert("model.onnx", target="tflite", calibration="samples.npz", keep_float=worst["node"])

    Args:
        calibration: real samples, as of `convert`; at most `samples` of them are used.
        bits, weights: of the weights, as of `convert`; 4 or 8 bits.
        target: whose rules; one, several that share a plan, or all that do.
        eval, metric: score the `top` worst layers by this too.
        model, inputs, preprocess, example_inputs, trust, progress: as of `convert`.

    Returns:
        What `edgeq analyze --json` prints.

    Raises:
        UsageError: nothing to quantize, or a value that no such word takes. ModelError, CalibrationError,
        EvaluationError: the model or the data cannot be used.
    """
    from edgeq.backend import graph_backends
    from edgeq.conversion import words
    from edgeq.conversion.analyze import analyze_layers
    from edgeq.conversion.options import Options

    options = Options(calibration=calibration, samples=samples, bits=words.one_of("--bits", bits, (4, 8)),
                      weights=weights, inputs=inputs, preprocess=preprocess, eval=eval, metric=metric,
                      example_inputs=example_inputs, trust=words.switch("--trust", trust), progress=progress or silent)
    together = [known.target.name for known in graph_backends() if not known.target.symmetric]
    return analyze_layers(model, target or together, options, words.count("--top", top) or 0)


def estimate(model: Source, *, inputs: Inputs | None = None, example_inputs: Any = None, trust: bool = False,
             context: int | None = None) -> dict[str, Any]:
    """How large a model would be at 32, 16, 8 and 4 bits, before any work; `edgeq estimate`.

    A language model's checkpoint: as every type of GGUF too, with its cache, and which devices hold it.

        {row["bits"]: row["disk_bytes"] for row in edgeq.estimate("model.onnx")["bits"]}

    Args:
        model, inputs, example_inputs, trust: as of `convert`.
        context: of a language model, the tokens that its memory is told for; 4096 if not said.

    Returns:
        What `edgeq estimate --json` prints: bytes on disk and in memory.

    Raises:
        UsageError: the model is quantized already, or a word does not go with it. ModelError: it cannot be read.
    """
    from edgeq.conversion import words
    from edgeq.conversion.estimate import estimate_sizes
    from edgeq.conversion.estimate_language import estimate_language_sizes
    from edgeq.errors import UsageError
    from edgeq.frontends import is_language_model

    length = words.count("--context", context)
    if is_language_model(model):
        if inputs:
            raise UsageError("--input: a language model's sizes are in its configuration; --context tells its tokens")
        return estimate_language_sizes(Path(model), length)
    if length is not None:
        raise UsageError("--context is for language models: a checkpoint folder with config.json, or a .gguf file")

    return estimate_sizes(model, words.shapes(inputs), example_inputs=example_inputs,
                          trust=words.switch("--trust", trust))


def verify(bundle: Folder, *, reference: Source | None = None, data: Any = None, samples: int | None = None,
           layers: bool = False, example_inputs: Any = None, trust: bool = False) -> Checked:
    """Check a bundle: its files, its self-test, and its distance from the float model; `edgeq verify`.

        edgeq.verify("model.tflite.edgeq", reference="model.onnx", data="samples.npz").passed

    Args:
        bundle: its folder, or what `convert` returned.
        reference: the float model to compare with.
        data: real samples for the comparison, as `calibration` of `convert`; by default those of the self-test.
        samples: use at most so many.
        layers: compare layer by layer, and name the first that breaks.
        example_inputs: of a reference that is a torch module. trust: as of `convert`.

    Returns:
        What was found; `passed` is the verdict.

    Raises:
        UsageError: data or layers without a reference. BundleError: a file is damaged. EngineError: its engine is not
        installed. ModelError, CalibrationError: the reference or the data cannot be used.
    """
    from edgeq.conversion import words
    from edgeq.verification.verify_bundle import verify_bundle

    return verify_bundle(_folder(bundle), data, reference, words.count("--samples", samples),
                         layers=words.switch("--layers", layers), example_inputs=example_inputs,
                         trust=words.switch("--trust", trust))


@overload
def evaluate(bundle: Folder, *, data: Any, metric: Any = ..., reference: Source | None = ...,
             samples: int | None = ..., max_drop: float | str | None = ..., min_metric: float | None = ...,
             example_inputs: Any = ..., trust: bool = ..., progress: Progress | None = ...) -> Score: ...
@overload
def evaluate(bundle: Folder, *, perplexity: str | Path | None = ..., kl_against: str | Path | None = ...,
             tasks: str | Path | None = ..., reference: str | Path | None = ..., samples: int | None = ...,
             max_drop: float | str | None = ..., min_metric: float | None = ..., progress: Progress | None = ...,
             ) -> LanguageScore: ...
def evaluate(bundle: Folder, *, data: Any = None, metric: Any = None, reference: Source | None = None,
             perplexity: str | Path | None = None, kl_against: str | Path | None = None,
             tasks: str | Path | None = None, samples: int | None = None, max_drop: float | str | None = None,
             min_metric: float | None = None, example_inputs: Any = None, trust: bool = False,
             progress: Progress | None = None) -> Score | LanguageScore:
    """Score a bundle on labelled data, or a language model on a text and on tasks, run by its own engine; `edgeq eval`.

        found = edgeq.evaluate("net.tflite.edgeq", data="test.npz", metric="top1", reference="net.onnx", max_drop=1.0)
        found.score, found.float_score, found.met
        edgeq.evaluate("lm.gguf.edgeq", perplexity="text.txt", kl_against="SmolLM2", max_drop="1%").said

    Args:
        bundle: its folder, or what `convert` returned.
        data: an .npz with the inputs and `labels` (or `targets`), a folder of such files, a dict of the same arrays; a
            folder of class subfolders, a CSV of file,label or a COCO .json, through the bundle's steps; an iterable of
            (inputs, target) such as a torch DataLoader, "module:function" that gives one, or a function that takes a
            predictor and gives the score.
        metric: as of `convert`; "sqnr" compares with the reference and needs no labels.
        reference: the float model, which is scored too; of a language model its checkpoint.
        perplexity: of a language model, a text file that it reads.
        kl_against: the float checkpoint that its probabilities are compared with on that text.
        tasks: a file with a JSON object on each line: see edgeq.verification.language_tasks.
        samples: use at most so many; of a language model, windows of the text, and tasks.
        max_drop: how much worse than the reference it may be: 1.0 in the metric's unit, or "1%".
        min_metric: the worst score that is allowed.
        example_inputs: of a reference that is a torch module. trust: as of `convert`.
        progress: told what is going on.

    Returns:
        The score; `met` tells whether it keeps the limit. Of a language model several, and `said`: what was lost.

    Raises:
        UsageError: no such metric, a metric without labels, a drop without a reference, or words that do not go
        together. EvaluationError: the metric gives no score, or a text or tasks cannot be used. BundleError,
        EngineError, ModelError, CalibrationError: as of `verify`.
    """
    from edgeq.conversion import words
    from edgeq.conversion.evaluate import evaluate_bundle
    from edgeq.conversion.evaluate_language import asked_of, evaluate_language_bundle
    from edgeq.mixed_precision import limits_of

    limits = limits_of(max_drop, words.number("--min-metric", min_metric), None)
    count = words.count("--samples", samples)
    if (perplexity, kl_against, tasks) != (None, None, None):
        asked = asked_of(perplexity, tasks, kl_against, reference, data, metric, limits, count)
        return evaluate_language_bundle(_folder(bundle), asked, progress or silent)
    return evaluate_bundle(_folder(bundle), data, metric, reference, limits, count, example_inputs,
                           words.switch("--trust", trust))


def sweep(file: str | Path, *, scheduler: str | None = None, workers: int = 2, output: str | Path | None = None,
          progress: Progress | None = None) -> list[dict[str, Any]]:
    """Convert every combination of models and words that a TOML file names; `edgeq sweep`.

        rows = edgeq.sweep("sweep.toml", workers=4)      # edgeq.sweeps.grid says what the file holds

    Args:
        file: the sweep's.
        scheduler: the address of a Dask scheduler, "tcp://host:8786", whose workers have the same edgeq and see the
            same files; without, processes of this machine.
        workers: so many of these, with one core each.
        output: a folder for sweep.json and sweep.html.
        progress: called as progress(what, done, total).

    Returns:
        A row for each combination, in the order of the file: its words, bytes, worst SQNR, score, digest of the
        artifact, and whether none of its model is both smaller and better; or why it is refused. Rows depend neither on
        the number of workers nor on what became of these.

    Raises:
        UsageError: a key that means nothing, a scheduler that is not there, a worker with another edgeq. MissingExtra:
            Dask is not installed. BundleError: the output cannot be written.
    """
    from edgeq.sweeps.run import run_sweep

    return run_sweep(file, scheduler, workers, None if output is None else Path(output), progress or silent)


def _folder(bundle: Any) -> Path:
    from edgeq.bundle.folder import Bundle
    from edgeq.errors import UsageError

    if not isinstance(bundle, str | Path | Bundle):
        raise UsageError(f"a bundle is a folder, or what edgeq.convert returned, not a {type(bundle).__name__}")
    return bundle.path if isinstance(bundle, Bundle) else Path(bundle)
