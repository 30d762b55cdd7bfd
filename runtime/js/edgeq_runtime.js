/** Runs bundles of edgeq in a web page or in node. The engine, onnxruntime-web or LiteRT.js, is the caller's. */
import {ARRAYS, open} from "./bundle.js";
import {openEngine} from "./engines.js";
import {BundleError, EdgeqError, EngineError, InputError} from "./errors.js";
import {array, unzip} from "./formats.js";
import {to_integers, to_reals} from "./integers.js";
import {Classify, Detect} from "./postprocess.js";
import {Preprocess, pixels} from "./preprocess.js";
import {LogMel} from "./sound.js";

export {BundleError, EdgeqError, EngineError, InputError, pixels, to_integers, to_reals};

const STEPS = {preprocessing: {image: Preprocess, "log-mel": LogMel}, postprocessing: {classify: Classify,
  detect: Detect}};

/** Open a bundle: its address (http, https, a URL) or, in node, its folder. ort: the module onnxruntime-web, for
 * bundles of --target onnxruntime; litert: @litertjs/core after its loadLiteRt, for --target tflite. verify: compare
 * the sha256 of every file that is read, not its size alone. options: for the engine itself. */
export async function load(source, {ort, litert, verify = true, options = {}} = {}) {
  const {manifest, file} = await open(source, verify);
  const steps = [step(manifest, "preprocessing", "image"), step(manifest, "postprocessing")];
  return new Model(manifest, await openEngine(manifest, file, {ort, litert}, options), steps, file);
}

function step(manifest, where, kind) {
  const given = manifest[where];
  if (given == null) return null;
  const made = STEPS[where][given.kind ?? kind];
  if (!made) throw new BundleError(`${where}: there is no kind '${given.kind}'; this runtime knows ` +
    Object.keys(STEPS[where]).join(", "));
  return new made(given);
}

/** A model that is ready to run. Arrays are {data: TypedArray, dims: number[]}; see edgeq_runtime.d.ts. */
export class Model {
  #engine; #file; #steps; #state;
  constructor(manifest, engine, steps, file) {
    Object.assign(this, {manifest, inputs: manifest.inputs, outputs: manifest.outputs, engine: engine.description});
    [this.#engine, this.#steps, this.#file] = [engine, steps, file];
    this.reset();
  }

  /** Begin a new stream: the state of a streaming model is zeros again. */
  reset() {
    const of = (spec) => spec.scale == null ? ARRAYS[spec.dtype] : Float32Array;
    this.#state = Object.fromEntries(this.inputs.filter(({name}) => name in (this.manifest.state ?? {})).map((spec) => [
      spec.name, to_integers(spec, new (of(spec))(spec.shape.reduce((a, b) => a * b, 1)))]));
  }

  /** inputs: name -> a typed array, or {data, dims} where a dimension is free -> outputs by name. Of a streaming model,
   * inputs that are outputs of the run before may be left out: one stream at a time is kept. */
  async run(given) {
    if (!this.#engine) throw new EngineError("the model is closed");
    const inputs = {...this.#state, ...given};
    const unknown = Object.keys(inputs).find((name) => !this.inputs.some((spec) => spec.name === name));
    if (unknown !== undefined) throw new InputError(`unknown input '${unknown}'; the model takes ${this.#taken()}`);
    const sizes = {}, arrays = this.inputs.map((spec) => this.#fit(spec, inputs[spec.name], sizes));
    let found;
    try {
      found = await this.#engine.run(arrays);
    } catch (error) {
      if (error instanceof EdgeqError) throw error;
      throw new EngineError(`${this.engine} failed: ${error.message ?? error}`);
    }
    for (const [name, output] of Object.entries(this.manifest.state ?? {})) {
      const [taken, k] = [this.inputs.find((spec) => spec.name === name),
        this.outputs.findIndex((spec) => spec.name === output)];
      this.#state[name] = to_integers(taken, to_reals(this.outputs[k], found[k].data));
    }
    return Object.fromEntries(this.outputs.map((spec, k) => [spec.name, found[k]]));
  }

  #taken() { return this.inputs.map(describe).join(", "); }

  #fit(spec, given, sizes) {
    if (given === undefined) {
      throw new InputError(`no input '${spec.name}' was given; the model takes ${this.#taken()}`);
    }
    const {data, dims = []} = ArrayBuffer.isView(given) ? {data: given, dims: spec.shape} : given ?? {};
    if (!(data instanceof ARRAYS[spec.dtype])) throw new InputError(`input '${spec.name}' is ` +
      `${data?.constructor?.name}, expected ${describe(spec)}: pass a ${ARRAYS[spec.dtype].name}` +
      (spec.scale == null ? "" : ", as to_integers(spec, real numbers) makes it"));
    if (!fits(dims, spec.shape, sizes) || dims.reduce((a, b) => a * b, 1) !== data.length) throw new InputError(
      `input '${spec.name}' has ${data.length} numbers of the shape [${dims.map(word)}], expected ${describe(spec)}`);
    return {data, dims};
  }

  /** Through all three steps that the bundle declares -> the best classes, or detections whose boxes are in pixels of
   * the image. source: what the preprocessing takes (see `pixels`, or a sound), without one an array for the only
   * input. Without postprocessing the outputs come back as of `run`. */
  async predict(source) {
    const [before, after] = this.#steps, [spec, ...others] = this.inputs.filter(({name}) => !(name in this.#state));
    if (!spec || others.length) throw new InputError("predict is for models with one input; this one takes " +
      `${this.#taken()}: use run`);
    const isImage = before instanceof Preprocess, image = isImage ? await pixels(source) : source;
    let input = image;
    if (before) {
      input = before.apply(image);
      if (!(input.data instanceof ARRAYS[spec.dtype])) input.data = to_integers(spec, input.data);
    }
    const outputs = await this.run({[spec.name]: input});
    if (!after) return outputs;
    const found = after.apply(Object.fromEntries(this.outputs.map((each) => [each.name,
      {...outputs[each.name], data: to_reals(each, outputs[each.name].data)}])), this.manifest.labels ?? []);
    if (!isImage || !(after instanceof Detect)) return found;
    const [height, width] = image.dims, moved = (point) => before.to_image(point, height, width);
    return found.map(({box: [x0, y0, x1, y1], keypoints, ...rest}) => ({...rest,
      box: [...moved([x0, y0]), ...moved([x1, y1])],
      keypoints: keypoints.map(([x, y, sure]) => [...moved([x, y]), sure])}));
  }

  /** Run the bundle's own samples: does this browser compute what the converter promised? */
  async self_test() {
    const {cases, tolerance} = await this.#samples();
    const largest = Object.fromEntries(this.outputs.map((spec) => [spec.name, 0]));
    let difference = null;
    for (const [number, {input, output}] of cases.entries()) {
      for (const [name, got] of Object.entries(await this.run(input))) {
        const expected = output[name];
        if (String(got.dims) !== String(expected?.dims)) throw new BundleError(`selftest.npz: '${name}' is ` +
          `[${expected?.dims}], the model gives [${got.dims}]`);
        const errors = Float64Array.from(expected.data, (value, k) => error(Number(value), Number(got.data[k])));
        const place = errors.reduce((worst, each, k) => each > errors[worst] ? k : worst, 0);
        const worst = errors[place] ?? 0;
        const noise = Math.sqrt(errors.reduce((sum, each) => sum + each * each, 0) / (errors.length || 1));
        largest[name] = Math.max(largest[name], worst);
        const allowed = tolerance.error?.[name] ?? 0, average = tolerance.noise?.[name] ?? Infinity;
        const far = worst === Infinity || !(worst <= allowed);
        if (!difference && (far || noise > average)) {
          difference = {case: number, output: name, index: place, expected: Number(expected.data[place]),
            got: Number(got.data[place]), allowed: far ? allowed : average, noise: far ? null : noise};
        }
      }
    }
    this.reset();
    const exact = Object.values(largest).every((each) => each === 0);
    return {status: exact ? "pass" : difference ? "fail" : "within tolerance", ok: !difference, cases: cases.length,
      largest_error: largest, tolerance, difference};
  }

  /** The bundle's samples: {cases: [{input, output}], arrays by name; tolerance}. */
  async #samples() {
    if (!this.manifest.files.some(({path}) => path === "selftest.npz")) throw new BundleError("the bundle has no " +
      "selftest.npz: it was converted without verification");
    const cases = [];
    let tolerance;
    for (const [path, bytes] of await unzip(await this.#file("selftest.npz"))) {
      const [side, number, ...rest] = path.replace(/\.npy$/, "").split("/");
      if (side === "tolerance") tolerance = JSON.parse(array(bytes));
      else (cases[number] ??= {input: {}, output: {}})[side][rest.join("/")] = array(bytes);
    }
    if (!cases.length || !tolerance) throw new BundleError("selftest.npz holds no samples of this model");
    return {cases, tolerance};
  }

  /** Run the bundle's first sample, so that the next run is as fast as all others: engines prepare in the first. */
  async warm_up() {
    await this.run((await this.#samples()).cases[0].input);
    this.reset();
  }

  /** Give the engine's memory back. */
  async close() {
    const engine = this.#engine;
    this.#engine = null;
    await engine?.close();
  }
}

function error(expected, got) {
  if (expected === got || (expected !== expected && got !== got)) return 0;
  const found = Math.abs(got - expected);
  return found === found ? found : Infinity;
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
