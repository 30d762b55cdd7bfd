/** From a sound to a model input, as edgeq_runtime/sound.py computes it. */
import {declared} from "./bundle.js";
import {BundleError, InputError} from "./errors.js";

const DEFAULTS = {sample_rate: 0, samples: null, window: 400, hop: 160, fft: 512, center: true, power: 2, mels: 40,
  low_hz: 0, high_hz: null, scale: "htk", norm: "none", log: "natural", floor: 1e-10, offset: 0, mean: 0, std: 1,
  layout: "NMT"};
const WORDS = {scale: ["htk", "slaney"], norm: ["none", "slaney"], log: ["natural", "log10", "db"],
  layout: ["NMT", "NTM", "NCMT", "NCTM", "NMTC", "NTMC"]};
// Slaney's Auditory Toolbox, as in librosa: linear up to 1000 Hz, then 27 steps for a factor of 6.4.
const LINEAR = 200 / 3, BREAK = 1000, STEP = Math.log(6.4) / 27;
const TO_MEL = {htk: (hertz) => 2595 * Math.log10(1 + hertz / 700),
  slaney: (hertz) => hertz < BREAK ? hertz / LINEAR : BREAK / LINEAR + Math.log(hertz / BREAK) / STEP};
const TO_HERTZ = {htk: (mel) => 700 * (10 ** (mel / 2595) - 1),
  slaney: (mel) => mel < BREAK / LINEAR ? mel * LINEAR : BREAK * Math.exp(STEP * (mel - BREAK / LINEAR))};

export class LogMel {
  constructor(given) {
    Object.assign(this, declared(DEFAULTS, given, "preprocessing"));
    for (const [key, known] of Object.entries(WORDS)) {
      if (!known.includes(this[key])) {
        throw new BundleError(`preprocessing: ${key} is one of ${known.join(", ")}; got ` +
          this[key]);
      }
    }
    if (Math.min(this.sample_rate, this.window, this.hop, this.mels, this.samples ?? 1) < 1 || this.fft < this.window ||
        this.std === 0) {
      throw new BundleError("preprocessing: sizes are positive, fft is at least window, std is not 0");
    }
  }

  /** sound: Float32Array, -1 to 1, or an AudioBuffer, whose channels become their mean -> {data, dims}. */
  apply(sound) {
    const given = sound?.getChannelData ? this.#mean(sound) : sound;
    if (!(given instanceof Float32Array || given instanceof Float64Array)) throw new InputError("a sound is a " +
      "Float32Array, or an AudioBuffer");
    const length = this.samples ?? given.length, cut = new Float64Array(length);
    cut.set(given.subarray(0, length));
    const frames = this.#spectrum(cut), filters = this.#filters(), values = new Float32Array(this.mels * frames.length);
    const [log, factor] = this.log === "natural" ? [Math.log, 1] : [Math.log10, this.log === "db" ? 10 : 1];
    const mel_first = this.layout.indexOf("M") < this.layout.indexOf("T");
    filters.forEach((weights, m) => frames.forEach((bins, t) => {
      let sum = 0;
      for (let k = 0; k < bins.length; k++) sum += weights[k] * bins[k];
      values[mel_first ? m * frames.length + t : t * this.mels + m] =
        (factor * log(Math.max(sum, this.floor) + this.offset) - this.mean) / this.std;
    }));
    return {data: values, dims: [...this.layout].map((axis) => ({M: this.mels, T: frames.length})[axis] ?? 1)};
  }

  #mean(sound) {
    if (sound.sampleRate !== this.sample_rate) throw new InputError(`the sound has ${sound.sampleRate} samples a ` +
      `second, the model takes ${this.sample_rate}: decode it with new OfflineAudioContext(1, 1, ${this.sample_rate})`);
    const channels = Array.from({length: sound.numberOfChannels}, (_, k) => sound.getChannelData(k));
    return channels[0].map((_, k) => channels.reduce((sum, each) => sum + each[k], 0) / channels.length);
  }

  /** The magnitudes to the power, [frames][fft / 2 + 1]. */
  #spectrum(sound) {
    const half = this.fft >> 1, shortest = this.center ? half + 1 : this.window;
    if (sound.length < shortest) {
      throw new InputError(`the sound has ${sound.length} samples; a frame needs ${shortest}`);
    }
    // A frame of torch is fft long with the window in its middle: the same magnitudes as the window's part alone.
    const first = this.center ? (this.fft - this.window >> 1) - half : 0, last = sound.length - 1;
    const end = this.center ? sound.length + 2 * half - this.fft : sound.length - this.window;
    const hann = Float64Array.from({length: this.window},
      (_, k) => 0.5 - 0.5 * Math.cos(2 * Math.PI * k / this.window));
    return Array.from({length: Math.floor(end / this.hop) + 1}, (_, frame) => {
      const values = new Float64Array(this.fft);
      for (let k = 0; k < this.window; k++) {
        const place = Math.abs(first + frame * this.hop + k); // reflected at both ends
        values[k] = sound[place > last ? 2 * last - place : place] * hann[k];
      }
      const [real, imaginary] = fourier(values, new Float64Array(this.fft));
      return Float64Array.from({length: half + 1}, (_, k) => Math.hypot(real[k], imaginary[k]) ** this.power);
    });
  }

  /** Triangles on the mel scale, [mels][fft / 2 + 1]. */
  #filters() {
    const [low, top] = [this.low_hz, this.high_hz ?? this.sample_rate / 2].map(TO_MEL[this.scale]);
    const edges = Array.from({length: this.mels + 2},
      (_, k) => TO_HERTZ[this.scale](low + k * (top - low) / (this.mels + 1)));
    return Array.from({length: this.mels}, (_, m) => {
      const [from, peak, to] = edges.slice(m, m + 3), factor = this.norm === "slaney" ? 2 / (to - from) : 1;
      return Float64Array.from({length: (this.fft >> 1) + 1}, (_, k) => {
        const hertz = k * this.sample_rate / this.fft;
        return factor * Math.max(0, Math.min((hertz - from) / (peak - from), (to - hertz) / (to - peak)));
      });
    });
  }
}

/** The discrete Fourier transform, halved while the length is even. */
function fourier(real, imaginary) {
  const n = real.length, half = n >> 1, found = [new Float64Array(n), new Float64Array(n)];
  const turns = Array.from({length: n}, (_, k) => [Math.cos(2 * Math.PI * k / n), -Math.sin(2 * Math.PI * k / n)]);
  if (n % 2) {
    for (let k = 0; k < n; k++) for (let j = 0; j < n; j++) {
      const [cos, sin] = turns[k * j % n];
      found[0][k] += real[j] * cos - imaginary[j] * sin;
      found[1][k] += real[j] * sin + imaginary[j] * cos;
    }
    return found;
  }
  const [evens, odds] = [0, 1].map((start) => fourier(
    ...[real, imaginary].map((part) => Float64Array.from({length: half}, (_, k) => part[2 * k + start]))));
  for (let k = 0; k < half; k++) {
    const [cos, sin] = turns[k], a = odds[0][k] * cos - odds[1][k] * sin, b = odds[0][k] * sin + odds[1][k] * cos;
    found[0][k] = evens[0][k] + a, found[0][k + half] = evens[0][k] - a;
    found[1][k] = evens[1][k] + b, found[1][k + half] = evens[1][k] - b;
  }
  return found;
}
