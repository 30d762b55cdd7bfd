"""Numbers of taste stand in one table, and nowhere else."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq import policy

ROOT = Path(__file__).parents[1]
ROOMS = ("edgeq/quant", "edgeq/mixed_precision", "edgeq/verification", "edgeq/report", "edgeq/conversion")

SHOWN = "how much is shown, not what is decided"
NOT_POLICY = {
    "edgeq/mixed_precision/candidates.py:BITS": "the types of weights that engines have",
    "edgeq/mixed_precision/trial_builder.py:LARGEST": "protobuf",
    "edgeq/quant/calibrate/advice.py:_NAMED": SHOWN,
    "edgeq/quant/calibrate/advice.py:_BINS": "policy.EVEN_SPREAD is of sixteenths",
    "edgeq/quant/calibrate/response.py:FORMS": "how others prepare pictures, with a link",
    "edgeq/quant/calibrate/run.py:_AT_ONCE": "threads: results do not depend on it",
    "edgeq/quant/calibrate/statistics.py:BINS": "format of a stored file",
    "edgeq/quant/calibrate/statistics.py:FORMAT": "format of a stored file",
    "edgeq/quant/calibrate/statistics.py:_SMALLEST_EXPONENT": "float32",
    "edgeq/quant/decoder.py:_PART": "memory: results do not depend on it",
    "edgeq/quant/params.py:SMALLEST_SCALE": "float32",
    "edgeq/quant/plan/__init__.py:_NEAR": SHOWN,
    "edgeq/quant/solve/table.py:ENTRIES": "Core ML's tables of 4 bits",
    "edgeq/quant/solve/table.py:_FINEST": "int8",
    "edgeq/quant/plan/types.py:bits": "of a bias in the standard form",
    "edgeq/quant/weights.py:_SLICE": "memory: results do not depend on it",
    "edgeq/quant/weights.py:_SMALLEST_PRODUCT": "float32",
    "edgeq/report/boards.py:OLD_DAYS": "releases of engines",
    "edgeq/report/console.py:PIPE_WIDTH": SHOWN,
    "edgeq/conversion/estimate_language.py:CONTEXTS": SHOWN,
    "edgeq/conversion/estimate_language.py:GIGABYTE": "a unit",
    "edgeq/conversion/estimate_language.py:MEMORIES": "sizes of devices, with their sources",
    "edgeq/conversion/estimate_language.py:_ALIGNMENT": "format of a file, with a link",
    "edgeq/conversion/meaning.py:_BOX": "a box has four numbers",
    "edgeq/conversion/meaning.py:_POINT": "a keypoint has three numbers",
    "edgeq/conversion/meaning.py:_SURE": "probabilities end at 1",
    "edgeq/conversion/analyze.py:SCORED": SHOWN,
    "edgeq/conversion/evidence.py:FEEDS": SHOWN,
    "edgeq/conversion/evidence.py:GENERATED_FEEDS": SHOWN,
    "edgeq/conversion/evidence.py:SHOWN_WEIGHTS": SHOWN,
    "edgeq/conversion/answers.py:SAME_BOX": SHOWN,
    "edgeq/conversion/answers.py:SIDE": SHOWN,
    "edgeq/conversion/latency.py:RUNS": "of a measurement",
    "edgeq/report/facts.py:_SHARE": SHOWN,
    "edgeq/report/facts.py:_SHOWN": SHOWN,
    "edgeq/report/html.py:PICTURES": SHOWN,
    "edgeq/report/html.py:WORST": SHOWN,
    "edgeq/report/plots.py:BINS": SHOWN,
    "edgeq/report/plots.py:SHOWN_DB": SHOWN,
    "edgeq/report/samples.py:_LINES": SHOWN,
    "edgeq/report/text.py:NAME_WIDTH": SHOWN,
    "edgeq/report/text.py:SHOWN_NODES": SHOWN,
    **{f"edgeq/conversion/selftest.py:{name}": "how far devices may be off: benchmarks/boards.py measures it"
       for name in ("HALF_ERROR", "FLOAT_ERROR", "SAMPLES", "BYTES")},
    "edgeq/conversion/decoder_verify.py:TOKENS": "as of selftest.py",
    "edgeq/conversion/pair.py:TESTED": "as of selftest.py",
    **{f"edgeq/conversion/{name}": "what words may say" for name in ("options.py:bits", "options.py:min_os",
                                                                       "decoder_request.py:BITS", "request.py:BITS")},
    **{f"edgeq/mixed_precision/{name}": "what operators are counted in: the measured costs fit it" for name in (
        "plan_time.py:_VECTOR", "plan_time.py:_NEAR", "price.py:_UNIT")},
    "edgeq/verification/layers.py:KEPT_NUMBERS": SHOWN,
    "edgeq/verification/references.py:BOUNDED_ERROR": "an engine's fact, with its link",
    "edgeq/verification/row_sets.py:MOST_PAIRS": "memory",
    "edgeq/verification/run_bundle.py:SHOWN_VALUES": SHOWN,
    "edgeq/verification/run_bundle.py:TOP": SHOWN,
}
PLAIN = (0, 1, -1)  # as a default, these say nothing, one and the last


def numbers(node: ast.AST | None) -> set[float]:
    """The numbers of an expression, operands of arithmetic included; none inside of calls' names or texts."""
    found = [child.value for child in ast.walk(node) if isinstance(child, ast.Constant)] if node is not None else []
    return {value for value in found if isinstance(value, int | float) and not isinstance(value, bool)}


def chosen(source: str) -> Iterator[str]:
    """Names of module constants with a number in them, of fields with a default that is one, and of such parameters."""
    tree = ast.parse(source)
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(name), value=value) | ast.Assign(targets=[ast.Name(name)], value=value):
                if isinstance(value, ast.Constant | ast.Tuple | ast.BinOp | ast.UnaryOp) and numbers(value):
                    yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (field.target.id for field in node.body if isinstance(field, ast.AnnAssign)
                        and isinstance(field.target, ast.Name) and numbers(field.value) - {*PLAIN})
        if isinstance(node, ast.FunctionDef):
            named = [*zip(node.args.args[::-1], node.args.defaults[::-1], strict=False),
                     *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
            yield from (argument.arg for argument, default in named
                        if numbers(default) - {*PLAIN} and argument.arg != "bits")


def test_numbers_of_taste_stand_in_the_policy_alone() -> None:
    found = {f"{path.relative_to(ROOT).as_posix()}:{name}" for room in ROOMS for path in (ROOT / room).rglob("*.py")
             if "mlpackage" not in path.parts for name in chosen(path.read_text(encoding="utf-8"))}
    assert found == set(NOT_POLICY)


@pytest.mark.parametrize("planted", [
    "MARGIN: Final = 0.95", "SAMPLES = 4", "_BETA: Final = (20.0, 2.0)", "LARGEST: Final = 1 << 30",
    "def fit(*, passes: int = 10): ...", "def fit(data, damping=0.01): ...", "class Settings:\n    refits: int = 2"])
def test_a_number_beside_the_policy_would_be_seen(planted: str) -> None:
    assert len(list(chosen(planted))) == 1


def test_the_page_is_the_table() -> None:
    """`python -m edgeq.policy > docs/policy.md` writes it."""
    assert (ROOT / "docs/policy.md").read_text(encoding="utf-8") == policy.table()


def test_every_number_is_read_and_says_how_it_was_chosen() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "edgeq").rglob("*.py"))
    rows = policy.parameters()
    assert [name for name in rows if f"policy.{name}.value" not in code] == []
    good = [rows[name].value for name in ("BROKEN_DB", "GOOD_DB", "SCORES_DB", "VALUES_DB")]
    assert list(rows)[:6] == ["BROKEN_DB", "BROKEN_TOP1", "GOOD_TOP1", "GOOD_DB", "SCORES_DB", "VALUES_DB"]
    assert good == sorted(good)
    for row in rows.values():
        if isinstance(row.evidence, policy.Measured):
            script = next(word for word in row.evidence.command.split() if word.endswith(".py"))
            assert (ROOT / script).is_file()
