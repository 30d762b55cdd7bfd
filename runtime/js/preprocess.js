/** From an image to a model input, as edgeq_runtime/preprocess.py computes it: Pillow's filters in its integers. */
import {declared} from "./bundle.js";
import {BundleError, InputError} from "./errors.js";
import {even} from "./integers.js";

const DEFAULTS = {resize_shorter: null, resize: null, letterbox: null, pad: 114, align: "center", crop: null,
  interpolation: "bilinear", order: "RGB", scale: 1, mean: [], std: [], layout: "NCHW", pixels: false};
const WORDS = {order: ["RGB", "BGR"], layout: ["NCHW", "NHWC"], align: ["center", "corner"]};
const BITS = 22; // Pillow, src/libImaging/Resample.c: 32 - 8 - 2
// interpolation -> [pixels to each side, weight at a distance in pixels]
const FILTERS = {bilinear: [1, (x) => x < 1 ? 1 - x : 0], bicubic: [2, cubic]};

export class Preprocess {
  constructor(given) {
    Object.assign(this, declared(DEFAULTS, given, "preprocessing"));
    for (const [key, known] of Object.entries({...WORDS, interpolation: Object.keys(FILTERS)})) {
      if (!known.includes(this[key])) throw new BundleError(`preprocessing: ${key} is ${known.join(" or ")}; got ` +
        this[key]);
    }
    const sizes = [this.resize, this.letterbox, this.crop].filter((size) => size !== null);
    if (sizes.some((size) => size.length !== 2 || !size.every((side) => Number.isInteger(side) && side > 0)) ||
        (this.resize_shorter !== null && !(this.resize_shorter > 0))) {
      throw new BundleError("preprocessing: 'resize', " +
        "'letterbox' and 'crop' are (height, width), and positive");
    }
  }

  /** {data: Uint8Array, dims: [H, W, channels]} -> {data, dims} for the model. */
  apply({data, dims = []}) {
    const [height, width, channels = 1] = dims;
    if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray) || ![2, 3].includes(dims.length) ||
        !data.length || data.length !== height * width * channels) {
      throw new InputError("an image is {data: Uint8Array, " +
        "dims: [H, W, channels]}, or what `pixels` takes");
    }
    for (const {length} of [this.mean, this.std]) {
      if (![0, 1, channels].includes(length)) throw new InputError(`the image has ${channels} channels, the ` +
        `preprocessing is for ${length}`);
    }
    const [high, wide] = this.#resized(height, width), [top, left, rows, columns] = this.#window(high, wide);
    const image = resize(data, height, width, channels, high, wide, this.interpolation);
    const values = new (this.pixels ? Uint8Array : Float32Array)(rows * columns * channels);
    const first = this.layout === "NCHW";
    for (let c = 0; c < channels; c++) {
      const table = this.#values(c), from = this.order === "BGR" ? channels - 1 - c : c;
      for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
        const [down, across] = [y + top, x + left];
        const pixel = down < 0 || down >= high || across < 0 || across >= wide ? this.pad
          : image[(down * wide + across) * channels + from];
        values[first ? (c * rows + y) * columns + x : (y * columns + x) * channels + c] = table[pixel];
      }
    }
    return {data: values, dims: first ? [1, channels, rows, columns] : [1, rows, columns, channels]};
  }

  /** x, y in pixels of the model's input -> in those of the image, inside it. */
  to_image([x, y], height, width) {
    const [high, wide] = this.#resized(height, width), [top, left] = this.#window(high, wide);
    const inside = (value, most) => Math.min(Math.max(value, 0), most);
    return [inside((x + left) * (width / wide), width), inside((y + top) * (height / high), height)];
  }

  #resized(height, width) {
    const size = this.resize_shorter;
    if (size !== null) { // rounded down, as torchvision's Resize does
      return height <= width ? [size, Math.floor(size * width / height)] : [Math.floor(size * height / width), size];
    }
    if (this.letterbox === null) return this.resize ?? [height, width];
    const factor = Math.min(this.letterbox[0] / height, this.letterbox[1] / width);
    const whole = this.align === "corner" ? Math.floor : even;
    return [Math.max(whole(height * factor), 1), Math.max(whole(width * factor), 1)];
  }

  /** Of the resized image: where the model's part begins (negative in a letterbox), and its height and width. */
  #window(high, wide) {
    if (this.letterbox !== null) {
      const [rows, columns] = this.letterbox;
      return this.align === "corner" ? [0, 0, rows, columns]
        : [-Math.floor((rows - high) / 2), -Math.floor((columns - wide) / 2), rows, columns];
    }
    if (this.crop === null) return [0, 0, high, wide];
    const [rows, columns] = this.crop;
    if (high < rows || wide < columns) {
      throw new InputError(`an image of ${high} x ${wide} pixels is smaller than the ` +
        `crop of ${rows} x ${columns}`);
    }
    return [even((high - rows) / 2), even((wide - columns) / 2), rows, columns];
  }

  /** What each of the 256 pixels of a channel becomes, in float32 step by step. */
  #values(channel) {
    const pixels = Float32Array.from({length: 256}, (_, k) => k);
    if (this.pixels) return pixels;
    const of = (values, absent) => Math.fround(values[values.length === 1 ? 0 : channel] ?? absent);
    const [scale, mean, std] = [Math.fround(this.scale), of(this.mean, 0), of(this.std, 1)];
    return pixels.map((pixel) => Math.fround(Math.fround(pixel * scale) - mean) / std);
  }
}

/** uint8 [H,W,C] -> [high,wide,C]: the rows first, rounded to uint8 in between. */
function resize(image, height, width, channels, high, wide, interpolation) {
  const [radius, kernel] = FILTERS[interpolation];
  const found = width === wide ? image : resampled(image, height, channels, filter(width, wide, radius, kernel), width);
  return height === high ? found // down the columns, a row is one pixel of many numbers
    : resampled(found, 1, wide * channels, filter(height, high, radius, kernel), height);
}

/** lines of `length` pixels, of `step` numbers each -> lines of as many pixels as there are weights. */
function resampled(image, lines, step, filters, length) {
  const found = new Uint8ClampedArray(lines * filters.length * step);
  let at = 0;
  for (let line = 0; line < lines; line++) for (const {first, weights} of filters) {
    const start = (line * length + first) * step;
    for (let c = 0; c < step; c++) {
      let total = 1 << BITS - 1;
      for (let tap = 0; tap < weights.length; tap++) total += image[start + tap * step + c] * weights[tap];
      found[at++] = total >> BITS;
    }
  }
  return found;
}

/** From `length` to `size` pixels -> the first source pixel and the weights of each: precompute_coeffs and
 * normalize_coeffs_8bpc of Resample.c. */
function filter(length, size, radius, kernel) {
  const scale = length / size, stretch = Math.max(scale, 1), support = radius * stretch;
  return Array.from({length: size}, (_, k) => {
    const center = (k + 0.5) * scale, first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), length);
    const found = Array.from({length: last - first},
      (_, tap) => kernel(Math.abs(first + tap - center + 0.5) * (1 / stretch)));
    const sum = found.reduce((a, b) => a + b, 0);
    return {first, weights: found.map((each) => Math.trunc(each / sum * (1 << BITS) + (each < 0 ? -0.5 : 0.5)))};
  });
}

/** Keys' filter with a = -0.5, as bicubic_filter of Resample.c. */
function cubic(x) {
  const a = -0.5;
  return x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** What a page has of an image -> {data: Uint8Array of RGB, dims: [H, W, 3]}. source: ImageData, a Blob or File, an
 * image, canvas or video element, an ImageBitmap, or such a result itself. */
export async function pixels(source) {
  if (source?.dims) return source;
  let found = source;
  if (typeof Blob !== "undefined" && source instanceof Blob) {
    try {
      found = await createImageBitmap(source, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
    } catch (problem) {
      throw new InputError(`cannot read the image: ${problem.message}`);
    }
  }
  if (!(found?.data instanceof Uint8ClampedArray)) {
    const [width, height] = [found?.naturalWidth ?? found?.videoWidth ?? found?.width,
      found?.naturalHeight ?? found?.videoHeight ?? found?.height];
    if (!(width > 0 && height > 0)) {
      throw new InputError("the preprocessing takes {data: Uint8Array, dims: [H, W, 3]}, " +
        "ImageData, a Blob, or an image, canvas or video that is loaded");
    }
    const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    context.drawImage(found, 0, 0);
    try {
      found = context.getImageData(0, 0, width, height);
    } catch (problem) {
      throw new InputError(`the page may not read this image: ${problem.message}. Load it with ` +
        `crossorigin="anonymous" from a server that allows it (CORS: Access-Control-Allow-Origin)`);
    }
  }
  const {data, width, height} = found, rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from], rgb[to + 1] = data[from + 1], rgb[to + 2] = data[from + 2];
  }
  return {data: rgb, dims: [height, width, 3]};
}
