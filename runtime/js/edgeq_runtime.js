/** Runs bundles of edgeq for ONNX Runtime in a web page or in node. The engine, onnxruntime-web, is the caller's. */
import {sha256, unzip, array} from "./formats.js";

export class EdgeqError extends Error {
  constructor(message) { super(message); this.name = new.target.name; }
}
/** The bundle cannot be trusted: damaged, incomplete, too new, or unsafe. */
export class BundleError extends EdgeqError {}
/** The engine is missing, too old, or refuses the bundle. */
export class EngineError extends EdgeqError {}
/** An input with a wrong name, shape or dtype. */
export class InputError extends EdgeqError {}

const FORMAT = 3; // the newest of manifest.json that this runtime reads; 4 is a language model
const ARRAYS = {bool: Uint8Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, float32: Float32Array,
  float64: Float64Array};
// A function of one instruction, i8x16.splat: https://webassembly.github.io/spec/core/binary/instructions.html
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253,
  15, 11);
// As edgeq_runtime/engines/onnxruntime.py: options that choose kernels, none that names a file.
const OPTIONS = /^(session\.(qdqisint8allowed|qdq_matmulnbits_accuracy_level|disable_prepacking|disable_quant_qdq|enable_quant_qdq_cleanup|set_denormal_as_zero|dynamic_block_base)|mlas\.\w+|optimization\.enable_gelu_approximation)$/;

/** Open a bundle: its address (http, https, a URL) or, in node, its folder. ort: the module onnxruntime-web. verify:
 * compare the sha256 of every file that is read, not its size alone. */
export async function load(source, {ort, verify = true} = {}) {
  if (!ort?.InferenceSession) throw new EngineError('no engine: load(source, {ort}) wants the module onnxruntime-web');
  if (!WebAssembly.validate(SIMD)) throw new EngineError("no WebAssembly SIMD, which onnxruntime-web needs: update " +
    "the browser");
  const read = reader(source);
  const manifest = checked(new TextDecoder().decode(await read("manifest.json")));
  checkEngine(manifest, ort);
  const file = async (path) => {
    const entry = manifest.files.find((each) => each.path === path);
    if (!entry) throw new BundleError(`'${path}' is not a file that the manifest lists`);
    const bytes = await read(path);
    if (bytes.length !== entry.bytes) throw new BundleError(`'${path}' has ${bytes.length} bytes instead of ` +
      `${entry.bytes}; copy the bundle again`);
    if (verify && await sha256(bytes) !== entry.sha256) throw new BundleError(`'${path}' was changed (its sha256 ` +
      "differs); copy the bundle again");
    return bytes;
  };
  const model = await file(manifest.entry);
  const externalData = await Promise.all(external(model).map(async (path) => ({path, data: await file(path)})));
  const entries = extra(manifest);
  let session;
  try {
    session = await ort.InferenceSession.create(model, {externalData, logSeverityLevel: 3, extra: entries});
  } catch (error) {
    throw new EngineError(`onnxruntime-web cannot load ${manifest.entry}: ${error.message ?? error}`);
  }
  return new Model(manifest, session, ort, file);
}

/** A model that is ready to run. Arrays are {data: TypedArray, dims: number[]}; see edgeq_runtime.d.ts. */
export class Model {
  #session; #ort; #file;
  constructor(manifest, session, ort, file) {
    Object.assign(this, {manifest, inputs: manifest.inputs, outputs: manifest.outputs});
    [this.#session, this.#ort, this.#file] = [session, ort, file];
  }

  /** inputs: name -> a typed array, or {data, dims} where a dimension is free -> outputs by name. */
  async run(inputs) {
    if (!this.#session) throw new EngineError("the model is closed");
    const unknown = Object.keys(inputs).filter((name) => !this.inputs.some((spec) => spec.name === name));
    if (unknown.length) throw new InputError(`unknown input '${unknown[0]}'; the model takes ` +
      this.inputs.map(describe).join(", "));
    const feeds = {}, sizes = {};
    for (const spec of this.inputs) feeds[spec.engine_name || spec.name] = this.#fit(spec, inputs[spec.name], sizes);
    let found;
    try {
      found = await this.#session.run(feeds);
    } catch (error) {
      throw new EngineError(`onnxruntime-web failed: ${error.message ?? error}`);
    }
    return Object.fromEntries(this.outputs.map((spec) => {
      const {data, dims} = found[spec.engine_name || spec.name];
      return [spec.name, {data, dims: [...dims]}];
    }));
  }

  #fit(spec, given, sizes) {
    if (given === undefined) throw new InputError(`no input '${spec.name}' was given; the model takes ` +
      this.inputs.map(describe).join(", "));
    const {data, dims} = ArrayBuffer.isView(given) ? {data: given, dims: spec.shape} : given;
    if (!(data instanceof ARRAYS[spec.dtype])) throw new InputError(`input '${spec.name}' is ` +
      `${data?.constructor?.name}, expected ${describe(spec)}: pass a ${ARRAYS[spec.dtype].name}`);
    if (!fits(dims, spec.shape, sizes) || dims.reduce((a, b) => a * b, 1) !== data.length) throw new InputError(
      `input '${spec.name}' has ${data.length} numbers of the shape [${dims.map(word)}], expected ${describe(spec)}`);
    return new this.#ort.Tensor(spec.dtype, data, dims);
  }

  /** An array for the only input -> the best classes where the bundle declares them, else the outputs of `run`. */
  async predict(source) {
    const {preprocessing, postprocessing, labels} = this.manifest;
    if (preprocessing) throw new InputError("this runtime does no preprocessing: prepare the input as the manifest's " +
      "'preprocessing' says, and call run");
    if (postprocessing && postprocessing.kind !== "classify") throw new InputError("this runtime knows the " +
      `postprocessing 'classify', not '${postprocessing.kind}': call run`);
    if (this.inputs.length !== 1) throw new InputError("the model has several inputs: call run");
    const outputs = await this.run({[this.inputs[0].name]: source});
    return postprocessing ? classify(postprocessing, this.outputs, outputs, labels) : outputs;
  }

  /** Run the bundle's own samples: does this browser compute what the converter promised? */
  async self_test() {
    const arrays = {};
    for (const [name, bytes] of await unzip(await this.#file("selftest.npz"))) {
      arrays[name.replace(/\.npy$/, "")] = array(bytes);
    }
    const tolerance = JSON.parse(arrays.tolerance);
    const largest = Object.fromEntries(this.outputs.map((spec) => [spec.name, 0]));
    let cases = 0, difference = null;
    for (; this.outputs.some((spec) => arrays[`output/${cases}/${spec.name}`]); cases++) {
      const inputs = this.inputs.map((spec) => [spec.name, arrays[`input/${cases}/${spec.name}`]]);
      const outputs = await this.run(Object.fromEntries(inputs));
      for (const [name, got] of Object.entries(outputs)) {
        const expected = arrays[`output/${cases}/${name}`];
        if (String(got.dims) !== String(expected?.dims)) throw new BundleError(`selftest.npz: '${name}' is ` +
          `[${expected?.dims}], the model gives [${got.dims}]`);
        const errors = Float64Array.from(expected.data, (value, k) => error(Number(value), Number(got.data[k])));
        const worst = errors.reduce((a, b) => Math.max(a, b), 0);
        const noise = Math.sqrt(errors.reduce((sum, each) => sum + each * each, 0) / (errors.length || 1));
        largest[name] = Math.max(largest[name], worst);
        const allowed = tolerance.error?.[name] ?? 0;
        if (!difference && (worst === Infinity || !(worst <= allowed) ||
            noise > (tolerance.noise?.[name] ?? Infinity))) {
          difference = {case: cases, output: name, error: worst, allowed, noise};
        }
      }
    }
    if (!cases) throw new BundleError("selftest.npz holds no samples of this model");
    const exact = Object.values(largest).every((each) => each === 0);
    return {status: exact ? "pass" : difference ? "fail" : "within tolerance", ok: !difference, cases,
      largest_error: largest, tolerance, difference};
  }

  /** Give the engine's memory back. */
  async close() {
    const session = this.#session;
    this.#session = null;
    await session?.release();
  }
}

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

function even(value) {
  const low = Math.floor(value), part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}

function error(expected, got) {
  if (expected === got || (expected !== expected && got !== got)) return 0;
  const found = Math.abs(got - expected);
  return found === found ? found : Infinity;
}

function classify({output, softmax, top = 5, min_score = 0}, specs, outputs, labels) {
  let scores = Float64Array.from(outputs[output || specs[0].name].data, Number);
  const spec = specs.find((each) => each.name === (output || specs[0].name));
  if (spec.scale != null) scores = Float64Array.from(to_reals(spec, scores));
  if (softmax) {
    const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = scores.map((value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    scores = powers.map((value) => value / sum);
  }
  return [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, top)
    .filter((k) => scores[k] >= min_score).map((k) => ({label: labels[k] ?? String(k), index: k, score: scores[k]}));
}

function reader(source) {
  const text = String(source).replace(/\/*$/, "/");
  if (typeof process !== "undefined" && process.versions?.node && !/^https?:/.test(text)) {
    return async (path) => {
      const {readFile} = await import("node:fs/promises");
      try {
        return new Uint8Array(await readFile(text.startsWith("file:") ? new URL(path, text) : text + path));
      } catch (problem) {
        throw new BundleError(`cannot read ${text}${path}: ${problem.code ?? problem.message}`);
      }
    };
  }
  return async (path) => {
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), new URL(text, globalThis.location?.href));
    let answer;
    try {
      answer = await fetch(address);
    } catch (problem) {
      throw new BundleError(`cannot read ${address}: ${problem.message}. Is the server running, and does it allow ` +
        "this page to read from it (CORS: Access-Control-Allow-Origin)?");
    }
    if (!answer.ok) throw new BundleError(`cannot read ${address}: the server answers ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  };
}

function checked(text) {
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch (problem) {
    throw new BundleError(`manifest.json is not JSON: ${problem.message}`);
  }
  if (!Number.isInteger(manifest?.format)) throw new BundleError("manifest.json has no format number; this is not an " +
    "edgeq bundle");
  if (manifest.format > FORMAT) throw new BundleError(`the bundle has format ${manifest.format}, this runtime reads ` +
    `up to ${FORMAT}`);
  for (const key of ["inputs", "outputs", "files"]) {
    if (!Array.isArray(manifest[key])) throw new BundleError(`manifest.json: '${key}' should be a list`);
  }
  for (const {path} of manifest.files) {
    if (typeof path !== "string" || !path || /^\/|[\\:\0]|(^|\/)\.\.(\/|$)/.test(path)) throw new BundleError(
      `the path '${path}' does not stay inside the bundle`);
  }
  for (const spec of [...manifest.inputs, ...manifest.outputs]) {
    if (!(spec.dtype in ARRAYS)) throw new BundleError(`tensor '${spec.name}': '${spec.dtype}' is not a dtype of ` +
      "this runtime");
  }
  return manifest;
}

function checkEngine({engine, engine_version: wanted}, ort) {
  if (engine !== "onnxruntime") throw new EngineError(`the bundle is for '${engine}'; this runtime runs those of ` +
    "--target onnxruntime");
  const version = ort.env?.versions?.web ?? ort.env?.versions?.common ?? "";
  const [, ...least] = /^>=(\d+)\.(\d+)/.exec(wanted) ?? [];
  const [major, minor] = version.split(".").map(Number);
  if (least.length && (major < least[0] || (major === +least[0] && minor < least[1]))) throw new EngineError(
    `onnxruntime-web is ${version}, the bundle needs ${wanted}: update it`);
}

function extra({options}) {
  const found = options?.session_options ?? {};
  for (const [key, value] of Object.entries(found)) {
    if (!OPTIONS.test(key) || !/^\d{1,12}$/.test(value)) throw new BundleError(`the session option ${key}=${value} is ` +
      "not one that this runtime passes on");
  }
  return Object.fromEntries(Object.entries(found).map(([key, value]) => [key, String(value)]));
}

/** The files of weights that an ONNX model names: StringStringEntryProto, "location", as edgeq_runtime/integrity.py. */
function external(model) {
  const text = new TextDecoder("latin1").decode(model);
  return [...new Set([...text.matchAll(/\x0a\x08location\x12([\x01-\x7f])([^]{0,127})/g)]
    .map(([, length, name]) => name.slice(0, length.charCodeAt(0))))];
}

function fits(dims, shape, sizes) {
  return dims.length === shape.length && shape.every((wanted, k) => {
    if (typeof wanted === "number") return wanted === dims[k];
    if (typeof dims[k] !== "number") return false;
    const {name = wanted, low = 1, high, sizes: choice} = wanted;
    return (sizes[name] ??= dims[k]) === dims[k] && (choice ? choice.includes(dims[k])
      : typeof wanted === "string" || (dims[k] >= low && dims[k] <= (high ?? Infinity)));
  });
}

const word = (dim) => typeof dim === "object" ? dim.name : String(dim);
const describe = (spec) => `${spec.name}: ${spec.dtype} [${spec.shape.map(word).join(", ")}]`;
