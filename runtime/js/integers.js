/** Inputs and outputs that are integers of a grid: real = scale * (integer - zero_point). */
import {ARRAYS} from "./bundle.js";

/** Real numbers -> the integers that the model takes: ONNX QuantizeLinear, ties to even. */
export function to_integers(spec, real) {
  if (spec.scale == null) return real;
  const kind = ARRAYS[spec.dtype], scale = Math.fround(spec.scale);
  const high = 2 ** (8 * kind.BYTES_PER_ELEMENT - (spec.dtype[0] === "u" ? 0 : 1)) - 1;
  const low = spec.dtype[0] === "u" ? 0 : -high - 1;
  return kind.from(real, (value) => Math.min(high, Math.max(low,
    even(Math.fround(Math.fround(value) / scale)) + (spec.zero_point ?? 0))));
}

/** The inverse: ONNX DequantizeLinear, float32. */
export function to_reals(spec, integers) {
  if (spec.scale == null) return integers;
  const scale = Math.fround(spec.scale);
  return Float32Array.from(integers, (value) => (Number(value) - (spec.zero_point ?? 0)) * scale);
}

/** Rounded, ties to even. */
export function even(value) {
  const low = Math.floor(value), part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}
