"""What a command found, as text for people. Every function takes the plain data that `--json` prints."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console

from edgeq.report.console import console, share, size, table
from edgeq.report.mixed_precision import precision_sentence, score_sentence
from edgeq.report.verdict import remedies, verdict
from edgeq_runtime.dimensions import from_json

STYLES: Final = {"Good": "green", "Doubtful": "yellow", "Broken": "red"}  # by the word of a verdict
SHOWN_NODES: Final = 3
NAME_WIDTH: Final = 60


def shape(spec: Mapping[str, Any]) -> str:
    sizes = (from_json(dimension, spec["name"]) for dimension in spec["shape"])
    return f"{spec['name']}: {spec['dtype']}[{','.join(map(str, sizes))}]"


# -- convert -----------------------------------------------------------------------------------------------------------

def conversion(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per output of every bundle, then what stays float, then where the bundles are."""
    out = console()
    found = table("target", ">size", ">of source", "output", ">dB to float", ">dB to graph", ">graph to float",
                  ">top-1")
    for row in rows:
        first = row["target"], size(row["bytes"]), _of_source(row)
        for line in _differences(row["verification"]) or [("-",) * 5]:
            found.add_row(*first, *line)
            first = "", "", ""
    out.print(found)
    for sentence in dict.fromkeys(_checked_by(row) for row in rows):
        out.print(sentence, soft_wrap=True)
    for row in rows:
        _verdict(out, row)
    for row in rows:
        if row.get("evaluation"):
            out.print(f"{row['target']}: {score_sentence(row['evaluation'])}", soft_wrap=True)
    sentences = (say(row) for say in (precision_sentence, recovery_sentence, _tried) for row in rows)
    for said in filter(None, dict.fromkeys(sentences)):
        out.print(said, soft_wrap=True)
    for told in filter(None, dict.fromkeys((
            *map(interface_sentence, rows), *map(sizes_sentence, rows), *map(state_sentence, rows)))):
        out.print(told, soft_wrap=True)
    if any("scheme" in row["quantization"] for row in rows):
        out.print("The model came quantized: its integers and grids are kept, so --bits, --weights, --method and "
                  "--calibrator changed nothing. Give the float original to quantize anew.", soft_wrap=True)
    for kept in dict.fromkeys(tuple(reasons(row["quantization"].get("kept_float", ()))) for row in rows):
        _list(out, "kept in float:", kept)
    fallbacks({row["target"]: row["float_on_this_engine"] for row in rows})
    for row in rows:
        _list(out, f"otherwise than planned on {row['target']}:", reasons(row["notes"]))
    for warning in calibration_warnings(rows):
        out.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for row in rows:
        out.print(f"wrote {row['path']}" if row["path"] else f"{row['target']}: nothing was written (--dry-run)",
                  soft_wrap=True)


def _tried(row: Mapping[str, Any]) -> str:
    """What the device's own engine made of it."""
    return str(row.get("device", {}).get("said", ""))


def recovery_sentence(row: Mapping[str, Any]) -> str:
    """What --recover did."""
    found = row.get("recovery")
    if not found:
        return ""
    moved = "scales, biases, norms and integers" if found["learned"] == "weights" else "scales, biases and norms"
    kept = "" if found["accepted"] else ", so that the bundle is as without --recover"
    return (f"Recovery: {found['steps']} steps on {found['samples']} samples moved {moved}; the loss against the float "
            f"model on {found['held_out']} others went from {found['before']:.4g} to {found['after']:.4g}{kept} "
            f"({found['ended']}).")


def interface_sentence(row: Mapping[str, Any]) -> str:
    """What is an integer at the interface, and the real number that it stands for."""
    found = [f"{spec['name']} is {spec['dtype']} for {spec['scale']:.6g} * ({spec['name']} - {spec['zero_point']})"
             for spec in row.get("integer_interface", ())]
    return f"integers at the interface: {', '.join(found)}" if found else ""


def sizes_sentence(row: Mapping[str, Any]) -> str:
    """Which sizes the samples told, where nothing else did."""
    found = row.get("sizes")
    return "" if found is None else (f"{found['what']} tell the sizes of "
                                     + ", ".join(f"{name}:{sizes}" for name, sizes in found["inputs"].items())
                                     + "; --input gives others")


def state_sentence(row: Mapping[str, Any]) -> str:
    """What a streaming model carries from step to step."""
    found = ", ".join(f"{name}={output}" for name, output in row.get("state", {}).items())
    return f"state, fed back from one step to the next: {found} (--state tells others, or none)" if found else ""


def _verdict(out: Console, row: Mapping[str, Any]) -> None:
    """Good or not, as report.html says it, and what helps."""
    if row["verification"] is None:
        return
    said = verdict(row["verification"])
    helps = "" if said.is_good else f". What helps: {', or '.join(remedies(row))}"
    out.print(f"{row['target']}: {said.word}: {said.sentence}{helps}", style=STYLES[said.word], soft_wrap=True)


def fallbacks(found: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """By target, the ops that the plan does not keep float and that run in float."""
    for target, nodes in found.items():
        _list(console(), f"runs in float on {target} all the same:", reasons(nodes))


def calibration_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is suspicious about the samples, which all bundles of one conversion share."""
    found = rows[0].get("calibration") if rows else None
    return [f"calibration: {warning}" for warning in found["warnings"]] if found else []


def _of_source(row: Mapping[str, Any]) -> str:
    return f"{row['bytes'] / row['source_bytes']:.3f}" if row["source_bytes"] else "-"


def _differences(verification: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """(output, dB to float, dB to graph, graph to float, top-1) of each output."""
    if verification is None:
        return []
    triples = zip(verification["against_float"], verification["against_graph"], verification["graph_against_float"],
                  strict=True)
    return [(real["output"], _db(real), _db(graph), _db(quantized), share(real["top1"]))
            for real, graph, quantized in triples]


def _db(difference: Mapping[str, Any]) -> str:
    return f"{difference['sqnr_db']:.1f}" if abs(difference["sqnr_db"]) < 200 else (
        "equal" if difference["sqnr_db"] > 0 else "lost")


def _checked_by(row: Mapping[str, Any]) -> str:
    found = row["verification"]
    if found is None:
        return "not verified (--no-verify)"
    return f"{row['target']}: verified on {found['samples']} inputs, {found['inputs']}, run by {found['engine']}"


def reasons(nodes: Iterable[Mapping[str, str]]) -> list[str]:
    """Nodes with the same reason in one line, most frequent first: "3 Softmax, 1 Exp: why (node, node, node, ...)"."""
    groups: dict[str, list[Mapping[str, str]]] = {}
    for node in nodes:
        groups.setdefault(node["reason"], []).append(node)
    lines = []
    for reason, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        ops = ", ".join(f"{count} {op}" for op, count in Counter(node["op"] for node in members).most_common())
        names = [_short(node["node"]) for node in members[:SHOWN_NODES]] + ["..."] * (len(members) > SHOWN_NODES)
        lines.append(f"{ops}: {reason} ({', '.join(names)})")
    return lines


def _short(name: str) -> str:
    """TensorFlow's exporters join the names of everything that became one node."""
    return name if len(name) <= NAME_WIDTH else f"{name[:NAME_WIDTH - 3]}..."


def _list(out: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        out.print(title)
        for line in lines:
            out.print(f"  {line}", soft_wrap=True)


# -- inspect -----------------------------------------------------------------------------------------------------------

def description(found: Mapping[str, Any]) -> None:
    """A model or a bundle, as report.describe gives it."""
    (_bundle if found["kind"] == "bundle" else _model)(found)


def _model(found: Mapping[str, Any]) -> None:
    out = console()
    rows = table("", "")
    rows.add_row("model", found["path"] + (", quantized already" if found["quantized"] else ""))
    rows.add_row("inputs", "\n".join(map(shape, found["inputs"])))
    rows.add_row("outputs", "\n".join(map(shape, found["outputs"])))
    if found["state"]:
        rows.add_row("state", ", ".join(f"{name}={output}" for name, output in found["state"].items()))
    rows.add_row("parameters", f"{found['parameters']:,}")
    rows.add_row("weights", ", ".join(f"{size(count)} {name if name == 'as it is' else f'at {name}'}"
                                      for name, count in found["bytes"].items()))
    rows.add_row("activations", f"{size(found['peak_activation_bytes'])} at the peak, in float")
    rows.add_row("ops", ", ".join(f"{count} {op}" for op, count in found["ops"].items()))
    out.print(rows)
    for name, target in found["targets"].items():
        problems = [f"{p['op']} '{p['node']}': {p['reason']}" + (f" ({p['remedy']})" if p["remedy"] else "")
                    for p in target["cannot_run"]]
        _list(out, f"{name}: cannot run", problems)
        if target["missing"]:
            out.print(f"{name}: not installed; {target['missing']}", soft_wrap=True)
        if found["quantized"] and not problems and not target["missing"]:
            out.print(f"{name}: runs every op")
        if not found["quantized"] and not problems:
            _list(out, f"{name}: stays float at 8 bits", reasons(target["stays_float"]) or ["nothing"])
        if target["float_on_this_engine"]:
            _list(out, f"{name}: runs in float all the same (--strict refuses it)",
                  reasons(target["float_on_this_engine"]))


def _bundle(found: Mapping[str, Any]) -> None:
    out = console()
    quantization = {key: value for key, value in found["quantization"].items()
                    if key not in ("kept_float", "higher_precision_layers", "wider_layers")}  # the last: its old name
    rows = table("", "")
    rows.add_row("bundle", f"{found['name']} for {found['target']}, format {found['format']}")
    rows.add_row("engine", f"{found['engine']} {found['engine_version']}, opens {found['entry']}")
    rows.add_row("inputs", "\n".join(map(shape, found["inputs"])))
    rows.add_row("outputs", "\n".join(map(shape, found["outputs"])))
    rows.add_row("quantization", _pairs(quantization))
    rows.add_row("calibration", _pairs(found["calibration"] or {}) or "none")
    rows.add_row("preprocessing", _pairs(found["preprocessing"] or {}) or "none")
    rows.add_row("postprocessing", _pairs(found["postprocessing"] or {}) or "none")
    rows.add_row("labels", str(len(found["labels"])))
    for sentence in (found["accuracy"].get("on_text") or {}).get("said", ()):
        rows.add_row("accuracy", sentence)
    for line in found["accuracy"].get("against_float", ()):
        rows.add_row("accuracy", f"{line['output']}: {_db(line)} dB to float, top-1 agreement {share(line['top1'])}")
    if "metric" in found["accuracy"]:
        rows.add_row("metric", score_sentence(found["accuracy"]["metric"]))
    rows.add_row("made by", f"edgeq {found['edgeq_version']} from sha256 {found['source_sha256'] or '-'}")
    for file in found["files"]:
        rows.add_row("file", f"{file['path']}, {size(file['bytes'])}")
    out.print(rows)
    _list(out, "kept in float:", reasons(found["quantization"].get("kept_float", ())))
    if "neural_engine" in found:
        _list(out, "Neural Engine, advice only (a device decides):", [
            f"{f['rule']}: {f['op']}: {f['message']}. Try: {f['remedy']} [{f['source']}]"
            for f in found["neural_engine"]] or ["nothing known speaks against it"])


def _pairs(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in data.items() if value is not None)


# -- verify, run, benchmark, targets, doctor ---------------------------------------------------------------------------

def checked(found: Mapping[str, Any]) -> None:
    """edgeq.verification.verify_bundle.Checked, with `passed`."""
    out = console()
    out.print(f"files      {found['files']} match the manifest")
    test = found["self_test"]
    if test is None:
        out.print("self-test  the bundle has none")
    else:
        errors = ", ".join(f"{name} {error:.3g}" for name, error in test["largest_error"].items())
        out.print(f"self-test  {test['status']} on {test['cases']} samples by {found['engine']} "
                  f"({found['accelerator']}); largest error: {errors}", soft_wrap=True)
        if test["difference"]:
            out.print(f"           {_pairs(test['difference'])}", soft_wrap=True)
    if found["against_float"]:
        rows = table("output", ">dB to float", ">cosine", ">largest error", ">top-1",
                     title=f"against the float model, {found['samples']} samples")
        for line in found["against_float"]:
            rows.add_row(line["output"], _db(line), f"{line['cosine']:.6f}", f"{line['max_abs']:.3g}",
                         share(line["top1"]))
        out.print(rows)
    if not found["finite"]:
        out.print("outputs are NaN or infinite where the float model's are not", style="red")
    out.print("passed" if found["passed"] else "FAILED", style="green" if found["passed"] else "red")


def layer_table(found: Mapping[str, Any]) -> None:
    """edgeq.verification.layers.LayerComparison: every layer in order, and where it breaks."""
    out = console()
    rows = table("layer", "op", ">dB to float", ">lost here", ">range used", ">saturated")
    for line in found["layers"]:
        rows.add_row(_short(line["value"]), line["op"], _db(line), _lost(line), share(line["range_used"]),
                     share(line["saturated"]))
    out.print(rows)
    if found["unmatched"]:
        out.print(f"not comparable, for no tensor of the engine bears their name: {', '.join(found['unmatched'])}",
                  soft_wrap=True)
    broken = found["first_broken"]
    out.print(f"breaks first at: {broken}" if broken else "no output breaks", style="red" if broken else "green")


def _lost(line: Mapping[str, Any]) -> str:
    """Where the inputs are exact, nothing can be said."""
    return "-" if line["sqnr_db"] + line["drop_db"] > 150 else f"{line['drop_db']:+.1f}"


def score(found: Mapping[str, Any]) -> None:
    """edgeq.conversion.evaluate.Score."""
    console().print(score_sentence(found), style=None if found["met"] else "red", soft_wrap=True)


def language_score(found: Mapping[str, Any]) -> None:
    """edgeq.conversion.evaluate_language.LanguageScore: what was lost, and which limits were missed."""
    out = console()
    for sentence in found["said"]:
        out.print(sentence, soft_wrap=True)
    for line in found["scores"]:
        if line["worst_score_allowed"] is not None:
            out.print(score_sentence(line), style=None if line["met"] else "red", soft_wrap=True)


def damage(found: Mapping[str, Any], shown: int) -> None:
    """edgeq.conversion.analyze: the worst layers."""
    metric = [f">{found['metric']} (float: {found['float_score']:.4g})"] if "metric" in found else []
    rows = table("layer", "op", ">bits", ">weights", ">dB of the output", *metric,
                 title=f"each layer quantized alone, {found['samples']} samples; the worst first")
    for line in found["layers"][:shown]:
        scored = [f"{line['score']:.4g}" if "score" in line else "-"] if metric else []
        rows.add_row(line["node"], line["op"], str(line["bits"] or "-"),
                     size(line["weight_bytes"]) if line["weight_bytes"] else "-", f"{line['sqnr_db']:.1f}", *scored)
    out = console()
    out.print(rows)
    if len(found["layers"]) > shown:
        out.print(f"and {len(found['layers']) - shown} that hurt less (--top)")


def estimate_table(found: Mapping[str, Any]) -> None:
    """edgeq.conversion.estimate: a row for each number of bits."""
    out = console()
    rows = table(">bits", ">on disk", ">weights in memory", ">activations at the peak", ">in memory",
                 title=found["path"])
    for line in found["bits"]:
        rows.add_row(str(line["bits"]), size(line["disk_bytes"]), size(line["weight_bytes"]),
                     size(line["activation_bytes"]), size(line["memory_bytes"]))
    out.print(rows)
    if found["unknown"]:
        out.print(f"sizes that depend on the data count as nothing: {', '.join(found['unknown'])}", soft_wrap=True)


def language_estimate_tables(found: Mapping[str, Any]) -> None:
    """edgeq.conversion.estimate_language: a row for each type, the cache by context, and a row for each device."""
    out = console()
    out.print(f"{found['path']}: {found['parameters']:,} weights, {found['context']} tokens of context", soft_wrap=True)
    types = table("type", ">bits per weight", ">on disk", ">in memory")
    for line in found["types"]:
        types.add_row(line["type"], f"{8 * line['weight_bytes'] / found['parameters']:.2f}", size(line["disk_bytes"]),
                      size(line["memory_bytes"]))
    out.print(types)
    cache = ", ".join(f"{line['context']}: {size(line['bytes'])}" for line in found["cache"])
    out.print(f"keys and values by tokens of context: {cache}; activations: {size(found['activation_bytes'])}",
              soft_wrap=True)
    devices = table("device", ">for a model", "largest type that fits")
    for line in found["devices"]:
        devices.add_row(line["name"], size(line["usable_bytes"]), line["largest"] or "none")
    out.print(devices)


_BOXES_IN: Final = {"image": "box in pixels of the image: x0 y0 x1 y1",
                    "input": "box in pixels of the model's input: x0 y0 x1 y1"}


def outputs(found: Mapping[str, Any]) -> None:
    """report.run.run_bundle: the best labels of each output, or its first values."""
    out = console()
    out.print(f"{found['engine']} on {found['accelerator']}")
    for drift in found["drift"]:
        out.print(f"note: {drift}", soft_wrap=True)
    if found["found"] is not None:
        boxes = _BOXES_IN.get(found["boxes_in"])
        rows = table(">score", "label", *([boxes] if boxes else []))
        for one in found["found"]:
            box = [" ".join(f"{v:.1f}" for v in one["box"])] if boxes else []
            rows.add_row(f"{one['score']:.4f}", one["label"], *box)
        out.print(rows if found["found"] else "found nothing")
        return
    for name, output in found["outputs"].items():
        out.print(shape({"name": name, **output}))
        if "top" in output:
            rows = table(">score", "label")
            for line in output["top"]:
                rows.add_row(f"{line['score']:.4f}", line["label"])
            out.print(rows)
        else:
            more = " ..." if len(output["values"]) == 8 else ""
            out.print(f"  {', '.join(f'{v:.6g}' for v in output['values'])}{more}", soft_wrap=True)


def embeddings(texts: Sequence[str], width: int, cosines: Sequence[Sequence[float]]) -> None:
    """The cosine of every two texts."""
    out = console()
    if len(texts) > 1:
        found = table("cosine", *(f">{number}" for number in range(1, len(texts) + 1)))
        for number, (text, row) in enumerate(zip(texts, cosines, strict=True), 1):
            found.add_row(f"{number} {text[:NAME_WIDTH]}", *(f"{cosine:.3f}" for cosine in row))
        out.print(found)
    out.print(f"{len(texts)} vectors of {width} numbers: --json prints them, -o FILE.npy saves them", soft_wrap=True)


def fields(found: Mapping[str, Any]) -> None:
    """One line per field, with the unit that its name carries."""
    rows = table("", ">")
    for key, value in found.items():
        if value not in (None, ()):
            rows.add_row(key.removesuffix("_bytes").removesuffix("_ms").removesuffix("_c").replace("_", " "),
                         _with_unit(key, value))
    console().print(rows)


def _with_unit(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return size(value)
    if key.endswith("_c"):
        return f"{value:.1f} °C"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:.3f} ms" if key.endswith("_ms") else str(value)


def target_table(found: Sequence[Mapping[str, Any]]) -> None:
    """edgeq.targets, one row each, and the ops that each computes on integers."""
    out = console()
    rows = table("target", "runs on", "weights", "activations", "install")
    for target in found:
        extra = f"edgeq[{target['needs']}]" if target["needs"] else "edgeq"
        rows.add_row(target["name"], target["summary"], target["weights"], target["activations"], extra)
    out.print(rows)
    for target in found:
        out.print(f"\nINT8 on {target['name']}: {', '.join(sorted(target['int8']))}")


def diagnosis(found: Mapping[str, Any]) -> None:
    """report.doctor.examine."""
    out = console()
    flags = found["cpu"]["integer_instructions"]
    rows = table("", "")
    rows.add_row("python", found["python"])
    rows.add_row("platform", found["platform"])
    rows.add_row("cpu", f"{found['cpu']['name'] or found['machine']}, {found['cpus']} logical")
    rows.add_row("integer instructions", "unknown" if flags is None else ", ".join(flags) or "none of those that help")
    rows.add_row("memory", size(found["memory_bytes"]))
    for name, version in found["packages"].items():
        rows.add_row(name, version or "not installed")
    out.print(rows)
    for part in found["parts"]:
        state = f"{part['install']}   (missing: {', '.join(part['missing'])})" if part["missing"] else "ready"
        out.print(f"{part['purpose']}: {state}", soft_wrap=True)
