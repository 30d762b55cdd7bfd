/** From a model's outputs to labels or boxes, as edgeq_runtime/postprocess.py computes it, in float64. */
import {declared} from "./bundle.js";
import {BundleError, InputError} from "./errors.js";

const CLASSIFY = {output: "", softmax: false, top: 5, min_score: 0};
const DETECT = {boxes: "", scores: "", form: "xyxy", transposed: false, objectness: false, sigmoid: false,
  background: false, anchors: [], variances: [0.1, 0.1, 0.2, 0.2], size: null, min_score: 0.25, max_iou: 0.45,
  max_detections: 100, agnostic: false, classes: 0, keypoints: 0, end_to_end: false};
// form -> [columns in the order x y ..., what the second pair is]
const FORMS = {xyxy: [[0, 1, 2, 3], "corner"], yxyx: [[1, 0, 3, 2], "corner"], xywh: [[0, 1, 2, 3], "size"],
  cxcywh: [[0, 1, 2, 3], "center"], cycxhw: [[1, 0, 3, 2], "center"]};
const TINY = 2.2250738585072014e-308;

export class Classify {
  constructor(given) { Object.assign(this, declared(CLASSIFY, given, "postprocessing")); }

  /** {data, dims} by name -> the best first; of equal scores the lower index. */
  apply(outputs, labels) {
    let scores = Float64Array.from(named(outputs, this.output).data, Number);
    if (this.softmax) {
      const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const powers = scores.map((value) => Math.exp(value - most)), sum = powers.reduce((a, b) => a + b, 0);
      scores = powers.map((value) => value / sum);
    }
    return descending(scores).slice(0, this.top).filter((k) => scores[k] >= this.min_score)
      .map((k) => ({label: labels[k] ?? String(k), index: k, score: scores[k]}));
  }
}

export class Detect {
  constructor(given) {
    Object.assign(this, declared(DETECT, given, "postprocessing"));
    if (!(this.form in FORMS)) {
      throw new BundleError(`postprocessing: form is one of ${Object.keys(FORMS).join(", ")}; ` +
        `got ${this.form}`);
    }
  }

  /** {data, dims} by name, of one image -> the best first, with boxes in pixels of the model's input. */
  apply(outputs, labels) {
    const rows = this.#rows(outputs, this.boxes), boxes = this.#decoded(rows), scores = this.#scores(outputs, rows);
    const [high, wide] = this.size ?? [1, 1], shift = Number(this.background);
    return this.#selected(rows, boxes, scores)
      .sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]).slice(0, this.max_detections)
      .map(([score, kind, k]) => ({label: labels[kind + shift] ?? String(kind + shift), index: kind + shift, score,
        box: boxes[k], keypoints: Array.from({length: this.keypoints}, (_, point) => {
          const at = rows[k].length + 3 * (point - this.keypoints), [x, y, sure] = rows[k].subarray(at, at + 3);
          return [x * wide, y * high, sure];
        })}));
  }

  /** An output, [1,N,columns] or [N,columns] or the two exchanged, as N arrays of float64. */
  #rows(outputs, name) {
    const {data, dims} = named(outputs, name), [a, b, c] = dims.length === 3 && dims[0] === 1 ? dims.slice(1) : dims;
    if (b === undefined || c !== undefined) throw new InputError(`the output '${name}' is of one image and has two ` +
      `axes, got [${dims}]`);
    const [count, columns] = this.transposed ? [b, a] : [a, b];
    return Array.from({length: count}, (_, n) => Float64Array.from({length: columns},
      (_, k) => Number(data[this.transposed ? k * count + n : n * columns + k])));
  }

  /** N rows -> N times x0 y0 x1 y1 in pixels of the model's input. */
  #decoded(rows) {
    const {anchors, variances: v} = this, [order, kind] = FORMS[this.form], [high, wide] = this.size ?? [1, 1];
    if (anchors.length && anchors.length !== rows.length) throw new InputError(`the output '${this.boxes}' has ` +
      `${rows.length} candidates for ${anchors.length} anchors`);
    return rows.map((row, n) => {
      const at = anchors[n], box = !at ? row : [at[0] + row[0] * v[0] * at[2], at[1] + row[1] * v[1] * at[3],
        at[2] * Math.exp(row[2] * v[2]), at[3] * Math.exp(row[3] * v[3])];
      const [x, y, second, third] = order.map((column) => box[column]);
      const [x0, y0, x1, y1] = kind === "corner" ? [x, y, second, third] : kind === "size"
        ? [x, y, x + second, y + third] : [x - second / 2, y - third / 2, x + second / 2, y + third / 2];
      return [x0 * wide, y0 * high, x1 * wide, y1 * high];
    });
  }

  /** [N][classes without background] */
  #scores(outputs, rows) {
    if (this.end_to_end) return rows.map((row) => row.subarray(4, 5));
    const columns = this.scores ? this.#rows(outputs, this.scores) : rows.map((row) => row.subarray(4));
    const object = Number(this.objectness);
    const end = this.classes ? this.classes + object : this.keypoints ? -3 * this.keypoints : undefined;
    return columns.map((row) => {
      let found = row.subarray(0, end);
      if (this.sigmoid) found = found.map((value) => 1 / (1 + Math.exp(-Math.min(Math.max(value, -500), 500))));
      if (object) found = found.subarray(1).map((value) => found[0] * value);
      return this.background ? found.subarray(1) : found;
    });
  }

  /** [score, class, candidate] of everything that is kept. */
  #selected(rows, boxes, scores) {
    const likely = (values) => [...values.keys()].filter((k) => values[k] > this.min_score);
    const kept = (values, kind) => nms(boxes, values, likely(values), this.max_iou).map((k) => [values[k], kind(k), k]);
    if (this.end_to_end) {
      return likely(scores.map(([score]) => score)).map((k) => [scores[k][0], Math.trunc(rows[k][5]), k]);
    }
    if (this.agnostic) {
      const best = scores.map((row) => row.reduce((top, value, k) => value > row[top] ? k : top, 0));
      return kept(scores.map((row, k) => row[best[k]]), (k) => best[k]);
    }
    const classes = scores[0]?.length ?? 0;
    return Array.from({length: classes}, (_, kind) => kept(scores.map((row) => row[kind]), () => kind)).flat();
  }
}

/** Greedy non-maximum suppression -> those of `candidates` that are kept, the best first. */
function nms(boxes, scores, candidates, most) {
  const area = ([x0, y0, x1, y1]) => Math.max(x1 - x0, 0) * Math.max(y1 - y0, 0);
  const kept = [];
  let left = [...candidates].sort((a, b) => scores[b] - scores[a] || a - b);
  while (left.length) {
    const [best, ...others] = left, [x0, y0, x1, y1] = boxes[best];
    kept.push(best);
    left = others.filter((k) => {
      const [a, b, c, d] = boxes[k];
      const common = area([Math.max(x0, a), Math.max(y0, b), Math.min(x1, c), Math.min(y1, d)]);
      return common <= most * Math.max(area(boxes[best]) + area(boxes[k]) - common, TINY);
    });
  }
  return kept;
}

const descending = (scores) => [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);

function named(outputs, name) {
  if (name && !(name in outputs)) throw new InputError(`the postprocessing wants the output '${name}'; there are ` +
    Object.keys(outputs).join(", "));
  return name ? outputs[name] : Object.values(outputs)[0];
}
