"""What a metric says and what single layers got instead of the scheme, as sentences and as a part of report.html. Takes
the plain data of report.json.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from edgeq.report.console import share, size


def score_sentence(found: Mapping[str, Any]) -> str:
    """One bundle: "psnr 28.14 dB, float 28.21 dB, on 40 samples (--eval) (at least 28.06 dB was asked)"."""
    said = f"{found['metric']} {_score(found, found['score'])}"
    if found["float_score"] is not None:
        said += f", float {_score(found, found['float_score'])}"
    if found.get("samples"):
        said += f", on {found['samples']} samples ({found['data']})"
    allowed = found["worst_score_allowed"]
    if allowed is not None:
        said += f" ({'at least' if found['higher_is_better'] else 'at most'} {_score(found, allowed)} was asked)"
    if found["max_bytes"] is not None:
        said += f" (at most {size(found['max_bytes'])} were asked)"
    led = found.get("search")
    if led is not None:
        said += (f"; on the {led['samples']} that led the search {_score(found, led['score'])}, float "
                 f"{_score(found, led['float_score'])}")
    if not found["met"]:
        return f"{said}: MISSED"
    return said if found.get("met_unseen", True) else f"{said}: missed on what the search did not see"


def precision_sentence(report: Mapping[str, Any]) -> str:
    """What single layers get instead of the scheme, and what was measured for it: "3 layers keep 8 bits, 5.0 % of the
    work stays in float; rounded weights alone: sqnr 24.9 dB, 19.2 dB without"; "" where all get the same.
    """
    quantization, found = report["quantization"], report["mixed_precision"]
    higher = Counter(quantization.get("higher_precision_layers", {}).values())
    rule = "" if found["layers"] else " by rule"
    said = [f"{count} {'layer keeps' if count == 1 else 'layers keep'} {bits} bits{rule}"
            for bits, count in sorted(higher.items())]
    if found["float_share"]:
        said.append(f"{share(found['float_share'])} of the work stays in float")
    measured = [_measured(part) for part in found["measured"] if part["note"] or part["trials"]]
    return "; ".join([", ".join(said), *measured] if said else measured)


def _measured(part: Mapping[str, Any]) -> str:
    said = f"{part['what']}: "
    if part["score"] is not None:
        said += f"{part['metric']} {_score(part, part['score'])}"
    if part["plain"] is not None and part["score"] != part["plain"]:
        said += f", {_score(part, part['plain'])} without"
    if part["trials"]:
        said += f" ({len(part['trials'])} of at most {part['budget']} precision assignments tried)"
    said += "".join(f"; {engine} {_times(part, engine)}" for engine in part["milliseconds"].get("plain", {}))
    said += "".join(f". {sentence}" for sentence in part["slower"])
    if part["note"]:
        said += f"{', ' if part['score'] is not None else ''}layers not compared: {part['note']}"
    return said


def _times(part: Mapping[str, Any], engine: str) -> str:
    """Of what was chosen: "0.41 ms (plain 0.40, float 0.71; predicted from measured operators)"."""
    chosen = next((trial for trial in part["trials"] if trial["chosen"]), None)
    beside = _beside(chosen, part)
    time = (chosen["milliseconds"] if chosen else beside["plain"])[engine]
    return (f"{time:.3g} ms (plain {beside['plain'][engine]:.3g}, float {beside['float'][engine]:.3g}; "
            f"{_taken(part, engine)})")


def _taken(part: Mapping[str, Any], engine: str) -> str:
    how = part["clocked"].get(engine)
    if how is None:
        return "predicted from measured operators"
    return (f"measured: {how['engine']} on {how['machine']}, {how['threads']} "
            f"{'thread' if how['threads'] == 1 else 'threads'}, at least {how['runs']} runs")


def _score(found: Mapping[str, Any], score: float) -> str:
    return f"{score:.4g} {found['unit']}".rstrip()


def precision_html(report: Mapping[str, Any]) -> str:
    """What was tried, with its curve where a metric was searched, and the precision of each layer."""
    found, scored = report["mixed_precision"], report.get("evaluation")
    if not any(part["trials"] for part in found["measured"]):
        return ""
    parts = [f"<section><h2>Mixed precision</h2>\n<p>{escape(precision_sentence(report))}.</p>"]
    for part in found["measured"]:
        parts += [_curve(part, scored)] if scored and part["trials"] else []
        parts += [*_priced(part), _tried(part)] if part["trials"] else []
    layers = [f"<tr><td><code>{escape(layer['node'])}</code></td><td class=number>{layer['weight_bits'] or ''}</td>"
              f"<td>{'float' if layer['float'] else 'integers'}</td></tr>" for layer in found["layers"]]
    return "".join(parts) + (f"<details><summary>{len(layers)} layers</summary>"
                             + _table("<th>layer</th><th>weight bits</th><th>computes in</th>", layers)
                             + "</details></section>")


def _curve(part: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    from edgeq.report.plots import curve

    points = [trial for trial in part["trials"] if trial["bytes"] is not None]
    unit = f" [{part['unit']}]" if part["unit"] else ""
    return curve(points, part["metric"] + unit, scored["float_score"], scored["worst_score_allowed"]) if points else ""


def _priced(part: Mapping[str, Any]) -> Iterator[str]:
    """For each engine whose times are known, what every trial takes and gains, and where it stopped."""
    from edgeq.report.plots import price_curve

    plain = {"time": 1.0, "score": part["plain"], "chosen": False, "said": "plain 8 bits"}
    for engine in part["milliseconds"].get("plain", {}):
        trials = [{**trial, "time": trial["milliseconds"][engine] / _beside(trial, part)["plain"][engine],
                   "said": size(trial["bytes"])} for trial in part["trials"] if trial["score"] is not None
                  and math.isfinite(trial["score"])]
        yield price_curve([plain, *trials], f"{part['metric']} [{part['unit']}]", engine, part["most_time"])


def _beside(trial: Mapping[str, Any] | None, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Times of plain INT8 and float: of the same rounds, or predicted."""
    found: Mapping[str, Any] = (trial or {}).get("beside", part["milliseconds"])
    return found


def _tried(part: Mapping[str, Any]) -> str:
    engines = list(part["milliseconds"].get("plain", {}))
    tried = sorted(part["trials"], key=lambda trial: trial["bytes"] or 0)
    if engines:
        plain, float_ = ({"bytes": None, "score": score, "float_share": part_, "chosen": False, "milliseconds": times}
                         for score, part_, times in ((part["plain"], 0.0, part["milliseconds"]["plain"]),
                                                     (None, 1.0, part["milliseconds"]["float"])))
        tried = [plain, *tried, float_]
    rows = [f"<tr><td class=number>{'' if trial['bytes'] is None else size(trial['bytes'])}</td>"
            f"<td class=number>{'' if trial['score'] is None else format(trial['score'], '.5g')}</td>"
            f"<td class=number>{share(trial['float_share'])}</td>"
            + "".join(f"<td class=number>{trial['milliseconds'][engine]:.3g}</td>" for engine in engines)
            + f"<td>{'chosen' if trial['chosen'] else ''}</td></tr>" for trial in tried]
    times = "".join(f"<th>{escape(engine)} [ms]</th>" for engine in engines)
    stopped = f"<p>{escape(part['stopped'])}</p>" if part["stopped"] else ""
    return f"<p>{escape(part['what'])}:</p>" + _table(
        f"<th>bytes</th><th>{escape(part['metric'])}</th><th>in float</th>{times}<th></th>", rows) + stopped


def _table(head: str, rows: Sequence[str]) -> str:
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
