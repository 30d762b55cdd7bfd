/** sha256, zip and npy. */
import {BundleError, EngineError} from "./errors.js";

const KINDS = {"|b1": Uint8Array, "|i1": Int8Array, "|u1": Uint8Array, "<i2": Int16Array, "<u2": Uint16Array,
  "<i4": Int32Array, "<u4": Uint32Array, "<i8": BigInt64Array, "<u8": BigUint64Array, "<f4": Float32Array,
  "<f8": Float64Array};

/** In hexadecimal. A page on plain http has no WebCrypto, so there it is computed here. */
export async function sha256(bytes) {
  const subtle = globalThis.crypto?.subtle;
  const digest = subtle ? new Uint8Array(await subtle.digest("SHA-256", bytes)) : plainSha256(bytes);
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** FIPS 180-4, 6.2. */
export function plainSha256(bytes) {
  const primes = []; // the first 64
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => (x - Math.floor(x)) * 2 ** 32 | 0;
  const K = primes.map((p) => fraction(Math.cbrt(p))), H = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const padded = new Uint8Array((bytes.length + 72 >> 6) << 6), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[bytes.length] = 128;
  view.setUint32(padded.length - 8, bytes.length / 2 ** 29);
  view.setUint32(padded.length - 4, bytes.length << 3);
  const w = new Int32Array(64), turn = (x, n) => x >>> n | x << 32 - n;
  for (let at = 0; at < padded.length; at += 64) {
    for (let k = 0; k < 64; k++) {
      const [a, b] = [w[k - 15], w[k - 2]];
      w[k] = k < 16 ? view.getInt32(at + 4 * k) : w[k - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >>> 3) + w[k - 7] +
        (turn(b, 17) ^ turn(b, 19) ^ b >>> 10);
    }
    let [a, b, c, d, e, f, g, h] = H;
    for (let k = 0; k < 64; k++) {
      const one = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + K[k] + w[k] | 0;
      const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, d + one | 0, c, b, a, one + two | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((each, k) => { H[k] = H[k] + each | 0; });
  }
  const found = new DataView(new ArrayBuffer(32));
  H.forEach((each, k) => found.setInt32(4 * k, each));
  return new Uint8Array(found.buffer);
}

/** [name, bytes] of each file of an archive. Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT */
export async function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new BundleError("selftest.npz is no zip archive");
  const found = [];
  for (let at = view.getUint32(end + 16, true), left = view.getUint16(end + 10, true); left; left--) {
    const [method, size, start] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true),
      view.getUint32(at + 42, true)];
    const length = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + length));
    const data = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const packed = bytes.subarray(data, data + size);
    found.push([name, method ? await inflate(packed) : packed]);
    at += 46 + length + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return found;
}

async function inflate(bytes) {
  if (!globalThis.DecompressionStream) {
    throw new EngineError("no DecompressionStream, which the self-test needs: update the browser");
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The bytes of a .npy -> {data, dims}, or the text of one string. */
export function array(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const long = bytes[6] > 1, start = (long ? 12 : 10) + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const [, type] = /'descr': '([^']+)'/.exec(header), rest = bytes.slice(start).buffer;
  if (type.startsWith("<U")) return String.fromCodePoint(...new Uint32Array(rest)).replace(/\0+$/, "");
  if (!(type in KINDS) || header.includes("'fortran_order': True")) {
    throw new BundleError(`selftest.npz: no array of ${type}`);
  }
  const dims = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((each) => each.trim()).map(Number);
  return {data: new KINDS[type](rest), dims};
}
