"""What the conversion of a language model did, in words, for the terminal and report.html. Takes report.json's data."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgeq.bundle.folder import PAGE_NAME
from edgeq.report.console import console, size, table
from edgeq.report.facts import origin_html
from edgeq.report.page import document
from edgeq.report.text import SHOWN_NODES
from edgeq_runtime.manifest import Manifest


def is_language(row: Mapping[str, Any]) -> bool:
    return row.get("kind") == "language model"


def language_conversion(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per bundle, then what it means."""
    out = console()
    found = table("target", ">size", ">bits per weight", ">KL to float", ">99 %", ">flips", ">perplexity", ">of float")
    for row in rows:
        figures = row["on_text"]
        found.add_row(row["target"], size(row["bytes"]), f"{row['quantization']['bits_per_weight']:.2f}",
                      *(("-",) * 5 if figures is None else _numbers(figures)))
    out.print(found)
    for sentence in dict.fromkeys(sentence for row in rows for sentence in sentences(row)):
        out.print(sentence, soft_wrap=True)
    for warning in dict.fromkeys(warning for row in rows for warning in warnings(row)):
        out.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for row in rows:
        out.print(f"wrote {row['path']}" if row["path"] else f"{row['target']}: nothing was written (--dry-run)",
                  soft_wrap=True)


def sentences(row: Mapping[str, Any]) -> Iterator[str]:
    """What was done and measured."""
    text, figures, run = row["calibration"], row["on_text"], row["engine"]
    method = row["quantization"]["method"]
    which = "what had no codes" if row["quantization"].get("kept") else "weights"
    if text is None:
        yield f"{which}: the nearest levels; no figures, because there is no text: --calibration TEXT gives some"
    elif method == "nearest":
        yield f"{which}: the nearest levels; judged on {text['held_out_tokens']} tokens of {text['source']}"
    else:
        yield (f"{which}: fitted to {text['tokens']} tokens of {text['source']}; judged on "
               f"{text['held_out_tokens']} others")
    if row.get("adapter") is not None:
        yield f"the adapter {row['adapter']['name']} is merged into {row['adapter']['weights']} weights"
    yield from _kept(row)
    if figures is not None:
        yield from (f"{row['target']}: {sentence}" for sentence in figures["said"])
    if run is None:
        yield "not verified (--no-verify)"
    elif run["kl"] is None:
        yield f"{row['target']}: every weight is read from the file as it was meant; {run['engine']}"
    else:
        yield (f"{row['target']}: every weight is read from the file as it was meant; run by {run['engine']}, "
               f"{run['kl']:.2g} nats a token from its weights in float")
    if not row["chat"]:
        yield "the tokenizer has no chat template: the model continues plain prompts"


def _kept(row: Mapping[str, Any]) -> Iterator[str]:
    """What became of another tool's codes."""
    kept = row["quantization"].get("kept")
    if kept is None:
        return
    yield f"{row['target']}: {kept['weights']} weights keep the codes of {kept['by']}"
    figures = row["on_text"]
    lost = "" if figures is None else f"; with all of them KL {figures['kl']['mean']:.2g} nats a token"
    for reason, names in kept["anew"].items():
        shown = ", ".join([*names[:SHOWN_NODES], *(["..."] if len(names) > SHOWN_NODES else [])])
        yield f"{row['target']}: {len(names)} weights are quantized anew: {reason} ({shown}){lost}"


def warnings(row: Mapping[str, Any]) -> Iterator[str]:
    """Of the device and of the text."""
    if row["device_warning"]:
        yield row["device_warning"]
    if row["quantization"]["method"] != "nearest":
        yield from (row["calibration"] or {}).get("warnings", ())
    yield from (row["on_text"] or {}).get("warnings", ())


def write_language_page(folder: Path, manifest: Manifest, report: Mapping[str, Any], artifact_bytes: int) -> None:
    """Write folder/report.html."""
    title = escape(f"{report['name']} for {report['target']}")
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{row['tensors']}</td><td>{row['weights']}</td>"
                   f"<td>{size(row['bytes'])}</td></tr>" for name, row in report["quantization"]["types"].items())
    figures = report["on_text"]
    measured = "" if figures is None else (
        "<h2>Beside the float network</h2><table><tr><th>KL, nats a token</th><th>99 %</th><th>other first choices</th>"
        f"<th>perplexity</th><th>of float</th></tr><tr>{''.join(f'<td>{cell}</td>' for cell in _numbers(figures))}"
        "</tr></table>")
    said = [f"<p>{escape(sentence)}.</p>" for sentence in (*sentences(report), *warnings(report))]
    (folder / PAGE_NAME).write_text(document(title, [
        origin_html(manifest, report), *said,
        f"<p>{size(artifact_bytes)}, {report['quantization']['bits_per_weight']:.2f} bits per weight.</p>",
        measured, "<h2>Types</h2><table><tr><th>type</th><th>tensors</th><th>weights</th><th>size</th></tr>"
        f"{rows}</table>"]), encoding="utf-8")


def _numbers(figures: Mapping[str, Any]) -> tuple[str, ...]:
    found = figures["kl"]
    return (f"{found['mean']:.5f}", f"{found['percentile_99']:.4f}", f"{found['flips']:.1f} %",
            f"{figures['perplexity']:.3f}", f"{figures['float_perplexity']:.3f}")
