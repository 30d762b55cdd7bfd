/** Reading a bundle: its files from a server or a folder, and what its manifest says. */
import {BundleError} from "./errors.js";
import {sha256} from "./formats.js";

const FORMAT = 6; // the newest of manifest.json that this runtime reads
export const ARRAYS = {bool: Uint8Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, float32: Float32Array,
  float64: Float64Array};

/** The manifest of a bundle, and a function that reads one of the files that it lists, compared with its entry. */
export async function open(source, verify) {
  const read = reader(source);
  const manifest = checked(new TextDecoder().decode(await read("manifest.json")));
  const file = async (path) => {
    const entry = manifest.files.find((each) => each.path === path);
    if (!entry) throw new BundleError(`the bundle needs '${path}', which its manifest does not list: convert it again`);
    const bytes = await read(path);
    if (bytes.length !== entry.bytes) throw new BundleError(`'${path}' has ${bytes.length} bytes instead of ` +
      `${entry.bytes}; copy the bundle again`);
    if (verify && await sha256(bytes) !== entry.sha256) throw new BundleError(`'${path}' was changed (its sha256 ` +
      "differs); copy the bundle again");
    return bytes;
  };
  return {manifest, file};
}

function reader(source) {
  const text = String(source).replace(/\/*$/, "/");
  if (typeof process !== "undefined" && process.versions?.node && !/^https?:/.test(text)) {
    return async (path) => {
      const {readFile} = await import("node:fs/promises");
      try {
        return new Uint8Array(await readFile(text.startsWith("file:") ? new URL(path, text) : text + path));
      } catch (problem) {
        throw new BundleError(`cannot read ${text}${path}: ${problem.code ?? problem.message}; copy the bundle again`);
      }
    };
  }
  return async (path) => {
    const page = globalThis.location?.href;
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), new URL(text, page));
    if (address.protocol === "file:") {
      throw new BundleError(`cannot read ${address}: browsers let no page read files; ` +
        "serve the folder (python -m http.server --bind 127.0.0.1) and open http://localhost:8000");
    }
    let answer;
    try {
      answer = await fetch(address);
      if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
    } catch (problem) {
      throw new BundleError(`cannot read ${address}: ${problem.message}. Is the server running, and does it allow ` +
        "this page to read from it (CORS: Access-Control-Allow-Origin)?");
    }
    throw new BundleError(`cannot read ${address}: the server answers ${answer.status}; is the whole bundle there?`);
  };
}

function checked(text) {
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch (problem) {
    throw new BundleError(`manifest.json is not JSON (${problem.message}): is this the address of a bundle's folder?`);
  }
  if (!Number.isInteger(manifest?.format)) throw new BundleError("manifest.json has no format number; this is not an " +
    "edgeq bundle");
  if (manifest.language) throw new BundleError("this is a language model, which the Python runtime and llama.cpp run");
  if (manifest.format > FORMAT) throw new BundleError(`the bundle has format ${manifest.format}, this runtime reads ` +
    `up to ${FORMAT}: update edgeq-runtime`);
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

/** What a manifest declares of a step, with the defaults for the rest; null in the defaults: numbers, or none. */
export function declared(defaults, {kind, ...given}, where) {
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(defaults, key)) throw new BundleError(`${where}: unknown key '${key}': update edgeq-runtime`);
    const wanted = defaults[key];
    if (wanted === null ? value !== null && !numeric(value) : Array.isArray(wanted) ? !numeric(value)
      : typeof value !== typeof wanted) throw new BundleError(`${where}: ${key} cannot be ${JSON.stringify(value)}`);
  }
  return {...defaults, ...given};
}

const numeric = (value) => Number.isFinite(value) || (Array.isArray(value) && value.every(numeric));
