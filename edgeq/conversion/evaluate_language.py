"""A language model's bundle, judged beside its float model: on a text, and on tasks."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from edgeq.conversion.evaluate import Score
from edgeq.errors import EvaluationError, UsageError
from edgeq.frontends.decoder.checkpoint import open_checkpoint
from edgeq.inference.decoder import Decoder, GraphDecoder
from edgeq.inference.session import open_session
from edgeq.metrics import METRICS, Metric
from edgeq.mixed_precision import Limits
from edgeq.mixed_precision.goal import Drop
from edgeq.progress import Progress, silent
from edgeq.verification.language import Divergence, TextScores, score_text, windows
from edgeq.verification.language_tasks import Kind, Task, Tokenizer, is_right, read_tasks
from edgeq_runtime.manifest import Manifest


def _share(right: Sequence[Any], _: Sequence[Any]) -> float:
    return float(100 * sum(right) / len(right))


TASKS: Final[Mapping[Kind, Metric]] = MappingProxyType({
    "exact": Metric("exact answers", "%", _share), "choice": Metric("multiple choice", "%", _share),
    "json": Metric("JSON that fits its schema", "%", _share)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a language model is judged by. text, tasks: files. checkpoint: the float model's. divergence: whether the
    distance from it is asked for. limit: at most so many windows of the text, and so many tasks.
    """

    text: Path | None = None
    tasks: Path | None = None
    checkpoint: Path | None = None
    divergence: bool = False
    limits: Limits = field(default_factory=Limits)
    limit: int | None = None

    def __post_init__(self) -> None:
        quality = self.limits.quality
        if self.divergence and self.text is None:
            raise UsageError("--kl-against measures on a text: add --perplexity TEXT")
        if self.text is None and self.tasks is None:
            raise UsageError("a language model is judged by --perplexity TEXT, --tasks FILE or both")
        if isinstance(quality, Drop) and self.checkpoint is None:
            raise UsageError("--max-drop compares with the float model: add --reference CHECKPOINT, or --kl-against")
        is_share = isinstance(quality, Drop) and quality.relative
        if quality is not None and not is_share and self.text is not None and self.tasks is not None:
            raise UsageError("perplexity and tasks have different units: give --max-drop as a share, such as 1%, or "
                             "judge by one of them")


def asked_of(text: Any, tasks: Any, against: Any, reference: Any, data: Any, metric: Any, limits: Limits,
             limit: int | None) -> Asked:
    """From the words of the command line.

    Raises:
        UsageError: words that do not go together, or a value that no such word takes.
    """
    if data is not None or metric is not None:
        raise UsageError("--data and --metric judge networks; a language model is judged by --perplexity and --tasks")
    if against is not None and reference is not None:
        raise UsageError("--kl-against and --reference both name the float model; give one")
    named = {"--perplexity": text, "--tasks": tasks, "--kl-against": against, "--reference": reference}
    for word, value in named.items():
        if value is not None and not isinstance(value, str | Path):
            raise UsageError(f"{word} of a language model is a path, not a {type(value).__name__}")
    files = {word: None if value is None else Path(value) for word, value in named.items()}
    return Asked(text=files["--perplexity"], tasks=files["--tasks"], limits=limits, limit=limit,
                 checkpoint=files["--kl-against"] or files["--reference"], divergence=against is not None)


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """Tasks of one kind. lost: those that the float model solves and this one does not; gained: the other way round."""

    kind: Kind
    count: int
    right: int
    lost: int | None = None
    gained: int | None = None


@dataclass(frozen=True, slots=True)
class LanguageScore:
    """scores: perplexity and a score for each kind of task. said: what was lost, a sentence each."""

    scores: tuple[Score, ...]
    divergence: Divergence | None
    tasks: tuple[TaskCounts, ...]
    said: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether every limit is kept."""
        return all(score.met for score in self.scores)

    def to_json(self) -> dict[str, Any]:
        return {"scores": [score.to_json() for score in self.scores],
                "kl": None if self.divergence is None else asdict(self.divergence),
                "tasks": [asdict(counts) for counts in self.tasks], "said": list(self.said), "met": self.met}


def evaluate_language_bundle(bundle: Path, asked: Asked, progress: Progress = silent) -> LanguageScore:
    """Judge a bundle, run by its own engine.

    Raises:
        UsageError: the checkpoint is of another model. EvaluationError: text or tasks that cannot be used. ModelError:
        the checkpoint cannot be read. BundleError, EngineError: see edgeq_runtime.load.
    """
    from edgeq_runtime.language import open_decoder
    from edgeq_runtime.language.text import Tokenizer as BundleTokenizer

    manifest = Manifest.read(bundle)
    language = manifest.language
    if language is None:
        raise UsageError(f"{bundle} holds no language model: --perplexity, --kl-against and --tasks judge those")
    tokenizer = BundleTokenizer(str(bundle), language)
    with ExitStack() as opened:
        decoder = opened.enter_context(closing(open_decoder(str(bundle), manifest, None)))
        reference = None if asked.checkpoint is None else opened.enter_context(closing(
            float_decoder(asked.checkpoint, language.vocabulary)))
        first = language.bos if language.add_bos else None
        return evaluate_language(decoder, reference, tokenizer, first, language.eos, asked, progress)


def float_decoder(path: Path, vocabulary: int) -> GraphDecoder:
    """A checkpoint's network in float32.

    Raises:
        UsageError: it has another vocabulary. ModelError: it cannot be read.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.spec.vocabulary != vocabulary:
        raise UsageError(f"{path} has {checkpoint.spec.vocabulary} tokens and the bundle {vocabulary}: they are not "
                         "the same language model")
    return GraphDecoder(open_session(checkpoint.float_graph(), fused=True), checkpoint.spec.context)


def evaluate_language(decoder: Decoder, reference: Decoder | None, tokenizer: Tokenizer, first: int | None,
                      end: Sequence[int], asked: Asked, progress: Progress = silent) -> LanguageScore:
    """first: the token that every text begins with, or None. end: those that end what the model says."""
    scores: list[Score] = []
    said: list[str] = []
    divergence = None
    counts: list[TaskCounts] = []
    if asked.text is not None:
        tokens = tokenizer.encode(_read(asked.text), False)
        text = score_text(decoder, reference, windows(tokens, decoder.context, first, asked.limit), progress)
        scores.append(_score(METRICS["perplexity"], text.perplexity, text.float_perplexity, asked.limits))
        divergence = text.divergence if asked.divergence else None
        said += text_sentences(text, asked.divergence)
    if asked.tasks is not None:
        counts = _solved(decoder, reference, tokenizer, end, read_tasks(asked.tasks, asked.limit), progress)
        for found in counts:
            scores.append(_task_score(found, asked.limits))
            said.append(task_sentence(found))
    return LanguageScore(tuple(scores), divergence, tuple(counts), tuple(said))


def text_sentences(text: TextScores, divergence: bool = True) -> Iterator[str]:
    """What was lost on a text, for people."""
    reference, error = text.float_perplexity, text.standard_error
    if reference is None or error is None:
        yield (f"perplexity {text.perplexity:.5g} on {len(text.surprise)} tokens; --reference CHECKPOINT tells what "
               "was lost")
        return
    growth = text.perplexity / reference - 1
    said = f"perplexity {text.perplexity:.5g}, float {reference:.5g}, on {len(text.surprise)} tokens"
    yield (f"{said}: {growth:+.2%} (standard error {error:.2%})" if abs(growth) > 2 * error
           else f"{said}: no difference that so short a text could tell from chance ({growth:+.2%}, standard error "
                f"{error:.2%})")
    if divergence and text.divergence is not None:
        found = text.divergence
        yield (f"of 100 first choices {100 - found.flips:.1f} are the float model's too; the probabilities are off by "
               f"{found.mean:.3g} nats of KL divergence on average, and by {found.percentile_99:.3g} or more for one "
               "token in a hundred")


def task_sentence(found: TaskCounts) -> str:
    """What was lost on tasks, for people."""
    said = f"{TASKS[found.kind].name}: {found.right} of {found.count}"
    if found.lost is None or found.gained is None:
        return said
    said += f", float {found.right + found.lost - found.gained}"
    if not found.lost and not found.gained:
        return f"{said}: nothing was lost"
    said += f"; {found.lost} lost, {found.gained} gained"
    # Wald's interval of a paired difference of counts: https://doi.org/10.1002/sim.1783
    if (found.lost - found.gained) ** 2 <= 4 * (found.lost + found.gained):
        return f"{said}: so few that chance alone could have done it"
    if found.kind == "json" and found.lost > found.gained:
        return f"{said}: structured output broke; a grammar (json_schema=) keeps it valid"
    return said


def _solved(decoder: Decoder, reference: Decoder | None, tokenizer: Tokenizer, end: Sequence[int],
            tasks: Sequence[Task], progress: Progress) -> list[TaskCounts]:
    outcomes: Counter[tuple[Kind, bool, bool | None]] = Counter()
    for number, task in enumerate(tasks):
        progress("solving tasks", number, len(tasks))
        true = None if reference is None else is_right(reference, tokenizer, end, task)
        outcomes[task.asked.kind, is_right(decoder, tokenizer, end, task), true] += 1
    found = []
    for kind in dict.fromkeys(task.asked.kind for task in tasks):
        count = sum(number for (other, _, _), number in outcomes.items() if other == kind)
        right = sum(number for (other, is_ok, _), number in outcomes.items() if other == kind and is_ok)
        compared = () if reference is None else (outcomes[kind, False, True], outcomes[kind, True, False])
        found.append(TaskCounts(kind, count, right, *compared))
    return found


def _task_score(found: TaskCounts, limits: Limits) -> Score:
    reference = None if found.lost is None or found.gained is None else found.right + found.lost - found.gained
    share = None if reference is None else 100 * reference / found.count
    return _score(TASKS[found.kind], 100 * found.right / found.count, share, limits)


def _score(metric: Metric, score: float, reference: float | None, limits: Limits) -> Score:
    floor = None if limits.quality is None else limits.quality.floor(metric, reference or 0.0)
    return Score(metric, score, reference, floor)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"--perplexity {path} cannot be read as text: {error}") from None
