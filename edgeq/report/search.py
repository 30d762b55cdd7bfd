"""What a metric and a search say, as sentences and as the parts of report.html. Takes the plain data of report.json."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from edgeq.report.console import share, size


def score_sentence(found: Mapping[str, Any]) -> str:
    """One bundle: "psnr 28.14 dB, float 28.21 dB (at least 28.06 dB was asked)"."""
    said = f"{found['metric']} {_score(found, found['score'])}, float {_score(found, found['float_score'])}"
    allowed = found["worst_score_allowed"]
    if allowed is not None:
        said += f" ({'at least' if found['higher_is_better'] else 'at most'} {_score(found, allowed)} was asked)"
    if found["max_bytes"] is not None:
        said += f" (at most {size(found['max_bytes'])} were asked)"
    return said if found["met"] else f"{said}: MISSED"


def search_sentence(found: Mapping[str, Any]) -> str:
    """What was chosen: "1 layer at 4 bits, 6 at 8, 1 at 16; 43.0 % of the work in float"."""
    bits = Counter(layer["weight_bits"] for layer in found["layers"])
    chosen = ", ".join(f"{count} at {width}" for width, count in sorted(bits.items()))
    return (f"searched {found['evaluations']} of at most {found['budget']} mixtures; weights of the layers in bits: "
            f"{chosen}; {share(found['float_share'])} of the work in float")


def repair_sentence(found: Mapping[str, Any]) -> str:
    """What single layers in float were worth, or why nothing was done about a poor output; "" where all is well."""
    if found["note"]:
        return f"everything is quantized: {found['note']}"
    if not found["float_share"]:
        return ""
    return (f"{share(found['float_share'])} of the work stays in float, which brings the output of 8-bit weights from "
            f"{found['plain_sqnr_db']:.1f} to {found['sqnr_db']:.1f} dB (a --method without auto quantizes everything)")


def wider_sentence(layers: Mapping[str, int], found: Mapping[str, Any] | None) -> str:
    """Which layers keep more bits than asked, and why these. layers: their bits. found: of the report, "wider"."""
    if not layers:
        return ""
    bits = " or ".join(map(str, sorted(set(layers.values()))))
    if found is None or not found["measured"]:
        note = f"; not measured: {found['note']}" if found is not None and found["note"] else ""
        return f"{len(layers)} small or delicate layers keep {bits} bits{note}"
    return (f"{len(layers)} layers that lose most at fewer bits keep {bits}: the weights' rounding alone leaves "
            f"{found['sqnr_db']:.1f} dB, by rule {found['rule_sqnr_db']:.1f} dB")


def _score(found: Mapping[str, Any], score: float) -> str:
    return f"{score:.4g} {found['unit']}".rstrip()


def search_html(found: Mapping[str, Any]) -> str:
    """The curve of what was tried, and the precision of each layer."""
    from edgeq.report.plots import curve

    def table(head: str, rows: list[str]) -> str:
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>"

    tried = [f"<tr><td class=number>{size(point['bytes'])}</td><td class=number>{point['score']:.5g}</td>"
             f"<td class=number>{share(point['float_share'])}</td><td>{'chosen' if point['chosen'] else ''}</td></tr>"
             for point in sorted(found["points"], key=lambda point: point["bytes"])]
    layers = [f"<tr><td><code>{escape(layer['node'])}</code></td><td class=number>{layer['weight_bits']}</td>"
              f"<td>{'float' if layer['float'] else 'integers'}</td></tr>" for layer in found["layers"]]
    unit = f" [{found['unit']}]" if found["unit"] else ""
    return (f"<section><h2>Search</h2>\n<p>{escape(search_sentence(found))}.</p>"
            + curve(found["points"], found["metric"] + unit, found["float_score"], found["worst_score_allowed"])
            + table(f"<th>bytes</th><th>{escape(found['metric'])}</th><th>in float</th><th></th>", tried)
            + f"<details><summary>{len(layers)} layers</summary>"
            + table("<th>layer</th><th>weight bits</th><th>computes in</th>", layers) + "</details></section>")
