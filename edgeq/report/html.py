"""report.html: one page that needs no network and shows whether a conversion is good, and where it broke if not."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Final

from edgeq.bundle.folder import PAGE_NAME
from edgeq.report.console import share, size
from edgeq.report.facts import LayerSize, interface_html, latency_sentence, origin_html, sizes_html, usage_html
from edgeq.report.mixed_precision import precision_html, precision_sentence, score_sentence
from edgeq.report.page import document, section, table
from edgeq.report.plots import COLORS, Weights, color, errors_by_layer, histograms
from edgeq.report.samples import Sample, samples_html
from edgeq.report.text import reasons, recovery_sentence, sizes_sentence, state_sentence
from edgeq.report.verdict import decibels, remedies, verdict
from edgeq.verification.layers import Layer, LayerComparison
from edgeq_runtime.manifest import Manifest

WORST: Final = 3
PICTURES: Final = 6


@dataclass(frozen=True)
class Evidence:
    """What all pages of one conversion show. comparison: every layer of the quantized graph, or why there is none.
    weights: by the value that a layer computes; of those that are named. sizes: of all layers with constants.
    """

    comparison: LayerComparison | str
    weights: Mapping[str, Weights] = field(default_factory=dict)
    sizes: Sequence[LayerSize] = ()

    @cached_property
    def worst(self) -> list[Layer]:
        found = self.comparison
        return [] if isinstance(found, str) else [layer for layer in found.worst(WORST) if layer.sqnr_db < 100]

    def named(self, layer: Layer) -> str:
        """A layer in HTML: its value, which exporters number, and its weights, which people name."""
        weights = self.weights.get(layer.value)
        behind = f", weights <code>{escape(weights.name)}</code>" if weights is not None else ""
        return f"<code>{escape(layer.value)}</code> ({escape(layer.op)}{behind})"

    @cached_property
    def plots(self) -> tuple[str, str]:
        """(error by layer, histograms of the worst layers), or nothing where there are none."""
        found = self.comparison
        if isinstance(found, str) or not found.layers:
            return "", ""
        weights = [self.weights.get(layer.value) for layer in self.worst]
        return errors_by_layer(found.layers, self.worst), histograms(self.worst, weights) if self.worst else ""


NOT_VERIFIED: Final = "Not verified, as was asked (--no-verify)."


def write_page(folder: Path, manifest: Manifest, report: Mapping[str, Any], artifact_bytes: int, evidence: Evidence,
               samples: Sequence[Sample] = ()) -> None:
    """Write folder/report.html. report: as in report.json. samples: what was answered, what changed first."""
    text = page(manifest, report, artifact_bytes, evidence, samples)
    (folder / PAGE_NAME).write_text(text, encoding="utf-8")


def page(manifest: Manifest, report: Mapping[str, Any], artifact_bytes: int, evidence: Evidence,
         samples: Sequence[Sample]) -> str:
    """The whole page as text."""
    found, verification = evidence.comparison, report["verification"]
    parts = [origin_html(manifest, report), _verdict(report, found, evidence), _facts(report, artifact_bytes),
             _accuracy(verification, report.get("evaluation")),
             samples_html(samples, PICTURES, (verification or {"inputs": ""})["inputs"]),
             interface_html(manifest), usage_html(manifest)]
    if isinstance(found, str):
        parts.append(section("Error by layer", f"<p>{escape(found)}</p>"))
    else:
        parts += _plots(evidence, found)
    parts += [precision_html(report), sizes_html(evidence.sizes, artifact_bytes), _kept(report),
              _calibration(report["calibration"])]
    if not isinstance(found, str):
        parts.append(_layer_table(found))
    return document(escape(f"{report['name']} for {report['target']}"), [part for part in parts if part])


EXPLANATION: Final = (
    "<p>Left, the weights before and after rounding: 4 bits have 15 steps between the dashed ends of the grid, 8 bits "
    "255. Right, the layer's output: numbers outside the dashed lines are cut off, and a range much wider than the "
    "numbers wastes steps.</p>")


def _verdict(report: Mapping[str, Any], found: LayerComparison | str, evidence: Evidence) -> str:
    """Good or not in one sentence, and the culprit."""
    if report["verification"] is None:
        return '<div class="verdict"><p>Not verified: nobody ran this bundle.</p></div>'
    said = verdict(report["verification"])
    lines = _culprit(report, found, evidence) if not isinstance(found, str) and not said.is_good else []
    listed = f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""
    return (f'<div class="verdict" style="border-color: {COLORS[said.word]}"><p><b>{said.word}</b>: '
            f"{escape(said.sentence)}.</p>{listed}</div>")


def _culprit(report: Mapping[str, Any], found: LayerComparison, evidence: Evidence) -> list[str]:
    lines = []
    broken, worst = found.first_broken, found.worst(1)
    if broken is not None:
        lines.append(f"The first layer that breaks is {evidence.named(broken)}, at {decibels(broken.sqnr_db)}; what is "
                     "behind it inherits the error.")
    if worst and worst[0] is not broken:
        lines.append(f"Most error is added by {evidence.named(worst[0])}.")
    suspicious = (report["calibration"] or {"warnings": ()})["warnings"]
    if suspicious:
        lines.insert(0, f"<b>Look at the samples first</b>: {escape('; '.join(suspicious))}.")
    return [*lines, f"What helps: {escape(', or '.join(remedies(report)))}."]


def _facts(report: Mapping[str, Any], artifact_bytes: int) -> str:
    source = report["source_bytes"]
    quantization = report["quantization"]
    rows = [("Size", size(artifact_bytes) + (f", {artifact_bytes / source:.2f} of the source model's {size(source)}"
                                             if source else ""))]
    timed = latency_sentence(report.get("latency"))
    rows += [("Latency here", escape(timed))] if timed else []
    told = sizes_sentence(report)
    rows += [("Free dimensions", escape(told))] if told else []
    rows += [("State", escape(state_sentence(report)))] if "state" in report else []
    if "weight_bits" in quantization:
        activation = quantization["activation_bits"]
        rows += [("Weights", f"{quantization['weight_bits']} bits, {escape(quantization['weights'])}, method "
                             f"{escape(quantization['method'])}"),
                 ("Activations", "float" if activation == 32 else
                  f"{activation} bits, ranges by {escape(str(quantization['calibrator']))}")]
        mixed = precision_sentence(report)
        rows += [("Mixed precision", escape(mixed))] if mixed else []
        learned = recovery_sentence(report)
        rows += [("Recovery", escape(learned.removeprefix("Recovery: ")))] if learned else []
        if quantization["scaled_channels"]:
            methods = dict.fromkeys(line["method"] for line in quantization["scaled_channels"])
            rows.append(("Scaled channels", f"at {len(quantization['scaled_channels'])} places, by "
                                            f"{escape(', '.join(methods))}"))
    return section("Size and scheme", table(("", ""), rows))


def _accuracy(verification: Mapping[str, Any] | None, evaluation: Mapping[str, Any] | None) -> str:
    if verification is None:
        return ""
    scored = f"<p><b>{escape(score_sentence(evaluation))}</b></p>" if evaluation else ""
    rows = [(f"<code>{escape(line['output'])}</code>", f'<span style="color: {color(line["sqnr_db"])}">'
             f"{decibels(line['sqnr_db'])}</span>", f"{line['cosine']:.5f}", f"{line['max_abs']:.3g}",
             share(line["top1"]), decibels(graph["sqnr_db"]))
            for line, graph in zip(verification["against_float"], verification["against_graph"], strict=True)]
    shown = table(("output", ">to the float model", ">cosine", ">largest error", ">same best class",
                    ">to the quantized graph"), rows)
    note = (f"{verification['samples']} inputs, {escape(verification['inputs'])}, run by "
            f"{escape(verification['engine'])}. The last column is the engine's own part: how far it is from what "
            "quantization alone does.")
    return section("Accuracy beside the float model", f'{scored}{shown}<p class="note">{note}</p>')


def _plots(evidence: Evidence, found: LayerComparison) -> list[str]:
    first, second = evidence.plots
    if not first:
        return []
    named = "; ".join(f"<b>{number}</b> {evidence.named(layer)}" for number, layer in enumerate(evidence.worst, 1))
    text = ("<p>How far each layer of the quantized graph is from the float model's. A drop is where error enters; "
            f"behind it, layers only inherit. Most is added by {named or 'none'}.</p>")
    parts = [section("Error by layer", text + first)]
    if second:
        parts.append(section("The layers that add most error", EXPLANATION + second))
    return parts


def _kept(report: Mapping[str, Any]) -> str:
    kept = reasons(report["quantization"].get("kept_float", ()))
    fallbacks = reasons(report["float_on_this_engine"])

    def items(lines: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"

    body = items(kept) if kept else "<p>Nothing was kept in float.</p>"
    if fallbacks:
        body += f"<p>Runs in float on {escape(report['target'])} all the same:</p>{items(fallbacks)}"
    if report["notes"]:
        body += f"<p>Otherwise than planned on {escape(report['target'])}:</p>{items(reasons(report['notes']))}"
    return section("What stayed float, and why", body)


def _calibration(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return section("Calibration", "<p>No samples were given: activations are float. Real samples allow 8 bits "
                        "(<code>--calibration</code>).</p>")
    warnings = "".join(f"<li><b>{escape(warning)}</b></li>" for warning in found["warnings"])
    rows = [(f"<code>{escape(line['name'])}</code>", *(f"{line[key]:.4g}" for key in (
        "smallest", "largest", "mean", "deviation"))) for line in found["inputs"]]
    movement = f"; {escape(found['movement'])}" if found["movement"] else ""
    held = f", of which {found['held_out']} were held out for the figures above" if found.get("held_out") else ""
    body = (f"<p>{found['samples']} samples{held}{movement}.</p>"
            + (f"<ul>{warnings}</ul>" if warnings else "<p>Nothing about them looks suspicious.</p>")
            + table(("input", ">smallest", ">largest", ">mean", ">deviation"), rows)
            + f'<p class="note">The data\'s sha256 is <code>{escape(found["sha256"][:16])}...</code>, so that a later '
              "conversion can be told from this one.</p>")
    return section("Calibration", body)


def _layer_table(found: LayerComparison) -> str:
    rows = [(f"<code>{escape(layer.value)}</code>", escape(layer.op),
             f'<span style="color: {color(layer.sqnr_db)}">{decibels(layer.sqnr_db)}</span>',
             f"{layer.drop_db:.1f}" if abs(layer.drop_db) < 100 else "-", share(layer.range_used),
             share(layer.saturated)) for layer in found.layers]
    shown = table(("layer", "op", ">to the float model", ">lost here [dB]", ">range used", ">saturated"), rows)
    return section("All layers", f"<details><summary>{len(rows)} layers</summary>{shown}</details>")
