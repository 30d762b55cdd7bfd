/** The engines: each opens what a manifest describes -> {description, run, close}; run takes and gives arrays, {data,
 * dims}, in the manifest's order. */
import {ARRAYS} from "./bundle.js";
import {BundleError, EngineError, InputError} from "./errors.js";

// A function of one instruction, i8x16.splat: https://webassembly.github.io/spec/core/binary/instructions.html
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253,
  15, 11);
// As edgeq_runtime/engines/onnxruntime.py: options that choose kernels, none that names a file.
const OPTIONS = /^(session\.(qdqisint8allowed|qdq_matmulnbits_accuracy_level|disable_prepacking|disable_quant_qdq|enable_quant_qdq_cleanup|set_denormal_as_zero|dynamic_block_base)|mlas\.\w+|optimization\.enable_gelu_approximation)$/;
// manifest.engine -> [the word of load's options, the package, how it is opened]
const ENGINES = {onnxruntime: ["ort", "onnxruntime-web", onnxRuntime], tflite: ["litert", "@litertjs/core", liteRt]};

/** modules: what the caller has handed over. options: for the engine itself. */
export async function openEngine(manifest, file, modules, options) {
  const [word, name, opened] = ENGINES[manifest.engine] ?? [];
  if (!opened) {
    throw new EngineError(`the bundle is for '${manifest.engine}', which runs in no web page: convert with ` +
      "--target onnxruntime or --target tflite");
  }
  if (!modules[word]) throw new EngineError(`no engine: load(source, {${word}}) wants the module ${name}`);
  if (!WebAssembly.validate(SIMD)) throw new EngineError(`no WebAssembly SIMD, which ${name} needs: update the ` +
    "browser");
  try {
    return await opened(manifest, file, modules[word], options);
  } catch (error) {
    if (error instanceof BundleError || error instanceof EngineError) throw error;
    const said = `${name} cannot load ${manifest.entry}: ${error.message ?? error}`;
    throw new EngineError(/no available backend/.test(said) ? `${said} Does the server give out its .wasm files, ` +
      "beside its script or where ort.env.wasm.wasmPaths says?" : said);
  }
}

// Sessions are created one after the other: behind each, the engine lets go of the external data of all.
// https://github.com/microsoft/onnxruntime/blob/main/js/web/lib/wasm/wasm-core-impl.ts, unmountExternalData
let created = Promise.resolve();

async function onnxRuntime(manifest, file, ort, options) {
  const version = ort.env?.versions?.web ?? ort.env?.versions?.common ?? "";
  const [, ...least] = /^>=(\d+)\.(\d+)/.exec(manifest.engine_version) ?? [];
  const [major, minor] = version.split(".").map(Number);
  if (least.length && (major < least[0] || (major === +least[0] && minor < least[1]))) throw new EngineError(
    `onnxruntime-web is ${version}, the bundle needs ${manifest.engine_version}: update it`);
  const model = await file(manifest.entry);
  const externalData = await Promise.all(external(model).map(async (path) => ({path, data: await file(path)})));
  const create = () => ort.InferenceSession.create(model, {externalData, logSeverityLevel: 3,
    extra: sessionOptions(manifest), ...options});
  const session = await (created = created.then(create, create));
  const [inputs, outputs] = [names(manifest.inputs), names(manifest.outputs)];
  return {
    description: `onnxruntime-web ${version}`,
    async run(arrays) {
      const feeds = {};
      arrays.forEach(({data, dims}, k) => {
        feeds[inputs[k]] = new ort.Tensor(manifest.inputs[k].dtype, data, dims);
      });
      const found = await session.run(feeds);
      return outputs.map((name) => ({data: found[name].data, dims: [...found[name].dims]}));
    },
    close: () => session.release(),
  };
}

const names = (specs) => specs.map((spec) => spec.engine_name || spec.name);

function sessionOptions({options}) {
  const found = options?.session_options ?? {};
  for (const [key, value] of Object.entries(found)) {
    if (!OPTIONS.test(key) || !/^\d{1,12}$/.test(value)) {
      throw new BundleError(`the session option ${key}=${value} is ` +
        "not one that this runtime passes on");
    }
  }
  return Object.fromEntries(Object.entries(found).map(([key, value]) => [key, String(value)]));
}

/** The files of weights that an ONNX model names: StringStringEntryProto, "location", as edgeq_runtime/integrity.py. */
function external(model) {
  const text = new TextDecoder("latin1").decode(model);
  return [...new Set([...text.matchAll(/\x0a\x08location\x12([\x01-\x7f])([^]{0,127})/g)]
    .map(([, length, name]) => name.slice(0, length.charCodeAt(0))))];
}

/** LiteRT.js moves three dtypes, resizes no input and resets no variable:
 * https://github.com/google-ai-edge/LiteRT/blob/main/litert/js/packages/core/src/datatypes.ts */
async function liteRt(manifest, file, litert, options) {
  const specs = [...manifest.inputs, ...manifest.outputs];
  const odd = specs.find(({dtype}) => !["float32", "int32", "uint8", "int64"].includes(dtype));
  if (odd) throw new EngineError(`LiteRT.js knows no ${odd.dtype}, the dtype of '${odd.name}': convert with ` +
    `${odd.dtype === "int8" ? "--io uint8 or --io float" : "--target onnxruntime"}`);
  const free = manifest.inputs.find(({shape}) => !shape.every(Number.isInteger));
  if (free) throw new EngineError(`LiteRT.js runs fixed sizes, those of '${free.name}' are free: give them at ` +
    "conversion, or convert with --target onnxruntime");
  if (manifest.options?.variables) throw new EngineError("LiteRT.js cannot reset the state of a recurrent layer: " +
    "convert with --target onnxruntime");
  const model = await litert.loadAndCompile(await file(manifest.entry), {accelerator: "wasm", ...options});
  const dtypes = Object.fromEntries(model.getInputDetails().map(({name, dtype}) => [name, dtype]));
  const [inputs, outputs] = [names(manifest.inputs), names(manifest.outputs)];
  return {
    description: "LiteRT.js",
    async run(arrays) {
      const feeds = {};
      let found = {};
      try {
        arrays.forEach(({data, dims}, k) => {
          feeds[inputs[k]] = new litert.Tensor(narrow(data, dtypes[inputs[k]]), dims);
        });
        found = await model.run(feeds);
        return await Promise.all(outputs.map(async (name, k) => ({data: wide(await found[name].data(),
          manifest.outputs[k].dtype), dims: [...found[name].type.layout.dimensions]})));
      } finally {
        for (const tensor of [...Object.values(feeds), ...Object.values(found)]) tensor.delete();
      }
    },
    close: () => model.delete(),
  };
}

/** LiteRT's kernels compute some indices as int32 where the source model has int64. */
function narrow(data, dtype) {
  if (!(data instanceof BigInt64Array) || dtype !== "int32") return data;
  const outside = data.find((value) => BigInt.asIntN(32, value) !== value);
  if (outside !== undefined) throw new InputError(`the value ${outside} does not fit the engine's int32`);
  return Int32Array.from(data, Number);
}

const wide = (data, dtype) => dtype === "int64" ? BigInt64Array.from(data, BigInt) : data;
