/** A number, the name of a size that each run chooses, or its limits. */
export type Dimension = number | string | {name: string; low: number; high: number | null}
  | {name: string; sizes: number[]};
export type TypedArray = Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | BigInt64Array
  | BigUint64Array | Float32Array | Float64Array;
/** scale, zero_point: where the array holds integers of a grid. layout: "NCHW", "NHWC", ... or "". */
export interface TensorSpec {
  name: string; dtype: string; shape: Dimension[]; engine_name: string; layout: string; source_layout: string;
  scale: number | null; zero_point: number | null;
}
export interface NDArray { data: TypedArray; dims: number[] }
/** uint8 [H, W, channels] */
export interface Pixels { data: Uint8Array | Uint8ClampedArray; dims: number[] }
export type ImageSource = Pixels | ImageData | Blob | ImageBitmap | HTMLImageElement | HTMLCanvasElement
  | OffscreenCanvas | HTMLVideoElement;
export type SoundSource = Float32Array | Float64Array | AudioBuffer;
export interface Scored { label: string; index: number; score: number }
/** box: x0, y0, x1, y1; keypoints: x, y, score of each. In pixels of the image, where the bundle is about images. */
export interface Detection extends Scored {
  box: [number, number, number, number]; keypoints: [number, number, number][];
}
export interface Difference {
  case: number; output: string; index: number; expected: number; got: number; allowed: number; noise: number | null;
}
/** status: "pass" is bit for bit. largest_error: by output. */
export interface SelfTestResult {
  status: "pass" | "within tolerance" | "fail"; ok: boolean; cases: number; largest_error: Record<string, number>;
  tolerance: {source: string; error?: Record<string, number>; noise?: Record<string, number>};
  difference: Difference | null;
}
export class EdgeqError extends Error {}
/** The bundle cannot be trusted: damaged, incomplete, too new, or unsafe. */
export class BundleError extends EdgeqError {}
/** The engine is missing, too old, or refuses the bundle. */
export class EngineError extends EdgeqError {}
/** An input with a wrong name, shape or dtype, or a source that does not fit. */
export class InputError extends EdgeqError {}
export class Model {
  private constructor();
  readonly manifest: Record<string, any>;
  readonly inputs: TensorSpec[];
  readonly outputs: TensorSpec[];
  /** Name and version of the engine. */
  readonly engine: string;
  /** Arrays by name, one without dims where no dimension is free -> outputs by name. A streaming model keeps the inputs
   * that are outputs of the run before, for one stream at a time: they may be left out. */
  run(inputs: Record<string, TypedArray | NDArray>): Promise<Record<string, NDArray>>;
  /** Preprocessing, network and postprocessing, as the bundle declares them. Without postprocessing: as of `run`. */
  predict<Result = Scored[] | Detection[] | Record<string, NDArray>>(
    source: ImageSource | SoundSource | TypedArray | NDArray): Promise<Result>;
  /** Run the bundle's own samples: does this browser compute what the converter promised? */
  self_test(): Promise<SelfTestResult>;
  warm_up(): Promise<void>;
  /** Begin a new stream: the state of a streaming model is zeros again. */
  reset(): void;
  close(): Promise<void>;
}
/** source: the address of a bundle, or in node its folder. ort: the module onnxruntime-web, for bundles of --target
 * onnxruntime; litert: @litertjs/core after its loadLiteRt, for --target tflite. verify: compare every file's sha256,
 * not its size alone. options: for the engine itself. */
export function load(source: string | URL,
  given: {ort?: any; litert?: any; verify?: boolean; options?: Record<string, any>}): Promise<Model>;
/** What a page has of an image, as the preprocessing takes it. */
export function pixels(source: ImageSource): Promise<Pixels>;
export function to_integers(spec: TensorSpec, real: ArrayLike<number>): ArrayLike<number>;
export function to_reals(spec: TensorSpec, integers: ArrayLike<number> | ArrayLike<bigint>,
): ArrayLike<number> | ArrayLike<bigint>;
