"""What report.html says of a bundle itself: version, inputs and outputs, how to run it, and where its bytes are."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from edgeq.report.console import size
from edgeq.report.page import section, table
from edgeq_runtime.manifest import Manifest, TensorSpec

_SHOWN = 12  # layers at most,
_SHARE = 0.01  # of at least such a part of all constants


@dataclass(frozen=True, slots=True)
class LayerSize:
    """The constants of one layer. layer: the value that it computes. largest, kind: name and type of the largest."""

    layer: str
    op: str
    largest: str
    kind: str
    bytes: int


def origin_html(manifest: Manifest, report: Mapping[str, Any]) -> str:
    """Version, date and source, in a line."""
    said = [f"{manifest.product or manifest.name} {manifest.version}".rstrip(),
            f"written by edgeq {manifest.edgeq_version}"]
    said += [f"on {report['date']}"] if "date" in report else []
    source = manifest.source_sha256
    said += [f"from a model file whose sha256 begins with {source[:12]}"] if source else []
    return f'<p class="note">{escape(", ".join(said))}.</p>'


def interface_html(manifest: Manifest) -> str:
    """Names, types and shapes of what goes in and comes out."""
    sides = [("in", manifest.inputs), ("out", manifest.outputs)]
    rows = [(side, f"<code>{escape(spec.name)}</code>", spec.dtype, escape(_shape(spec)), escape(_layout(spec)),
             _grid(spec)) for side, specs in sides for spec in specs]
    return section("Inputs and outputs", table(("", "name", "type", "shape", "layout", "meaning"), rows))


def _shape(spec: TensorSpec) -> str:
    return " x ".join(map(str, spec.shape)) or "one number"


def _layout(spec: TensorSpec) -> str:
    return f"{spec.layout} (source: {spec.source_layout})" if spec.source_layout else spec.layout


def _grid(spec: TensorSpec) -> str:
    return "" if spec.scale is None else f"{spec.scale:.6g} * (number - {spec.zero_point or 0})"


def usage_html(manifest: Manifest) -> str:
    """Commands and a program that run the bundle on a device."""
    folder = f"{manifest.name}.{manifest.target}.edgeq"
    before = manifest.preprocessing
    source, told = ("array", "as the table above says") if before is None else {
        "image": ("pixels", "uint8 [height, width, 3]"), "log-mel": ("sound", "float32 [samples]")}[
            before.get("kind", "image")]
    names = [spec.name for spec in manifest.inputs if spec.name not in manifest.state]
    if (before or manifest.postprocessing) and len(names) == 1:
        call = f"answer = model.predict({source})  # {told}"
    else:
        call = f"outputs = model.run({{{', '.join(f'{name!r}: array' for name in names)}}})"
    shell = (f"pip install 'edgeq-runtime[{manifest.engine}]'\npython -m edgeq_runtime {folder} self-test\n"
             f"python -m edgeq_runtime {folder} benchmark")
    program = f"import edgeq_runtime\n\nwith edgeq_runtime.load({folder!r}) as model:\n    {call}"
    return section("How to run it", f"<p>On a device:</p><pre>{escape(shell)}</pre><p>In a program:</p>"
                                    f"<pre>{escape(program)}</pre>")


def latency_sentence(found: Mapping[str, Any] | None) -> str:
    """One call on the machine that converted; "" where nobody asked for it."""
    if found is None:
        return ""
    if found["p50_ms"] is None:
        return str(found["said"])
    return (f"{found['p50_ms']:.3g} ms for one call, 90 % of them below {found['p90_ms']:.3g} ms, {found['engine']} on "
            f"{found['processor']}")


def sizes_html(sizes: Sequence[LayerSize], artifact_bytes: int) -> str:
    """Where the bytes are: a bar for each of the largest layers, and the rest."""
    ordered = sorted(sizes, key=lambda one: -one.bytes)
    total = sum(one.bytes for one in ordered)
    if not total:  # an initializer may have no elements
        return ""

    def row(one: LayerSize) -> tuple[str, ...]:
        part = f"{100 * one.bytes / ordered[0].bytes:.1f}%"
        return (f"<code>{escape(one.layer)}</code>", escape(one.op), f"<code>{escape(one.largest)}</code>", one.kind,
                size(one.bytes),
                f'<span class="bar" style="--part: {part}">{100 * one.bytes / total:.1f} %</span>')

    columns = ("layer", "op", "largest", "type", ">size", "of all constants")
    count = sum(one.bytes >= _SHARE * total for one in ordered[:_SHOWN])
    shown, hidden = ordered[:count], ordered[count:]
    rest = f"<details><summary>{len(hidden)} smaller layers</summary>{table(columns, map(row, hidden))}</details>"
    return section("Size by layer", f"<p>The constants of the quantized graph are {size(total)}; the engine's file is "
                   f"{size(artifact_bytes)}.</p>{table(columns, map(row, shown))}{rest if hidden else ''}")
