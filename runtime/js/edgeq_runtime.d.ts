/** A number, the name of a size that each run chooses, or its limits. */
export type Dimension = number | string | {name: string; low: number; high: number | null} | {name: string; sizes: number[]};
export type TypedArray = Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | BigInt64Array
  | BigUint64Array | Float32Array | Float64Array;
export interface TensorSpec {
  name: string; dtype: string; shape: Dimension[]; engine_name: string; layout: string; source_layout: string;
  scale: number | null; zero_point: number | null;
}
export interface NDArray { data: TypedArray; dims: number[] }
export interface Scored { label: string; index: number; score: number }
export interface Difference { case: number; output: string; error: number; allowed: number; noise: number }
export interface SelfTestResult {
  status: "pass" | "within tolerance" | "fail"; ok: boolean; cases: number; largest_error: Record<string, number>;
  tolerance: {source: string; error?: Record<string, number>; noise?: Record<string, number>};
  difference: Difference | null;
}
export class EdgeqError extends Error {}
export class BundleError extends EdgeqError {}
export class EngineError extends EdgeqError {}
export class InputError extends EdgeqError {}
export class Model {
  private constructor();
  readonly manifest: Record<string, any>;
  readonly inputs: TensorSpec[];
  readonly outputs: TensorSpec[];
  run(inputs: Record<string, TypedArray | NDArray>): Promise<Record<string, NDArray>>;
  predict(source: TypedArray | NDArray): Promise<Scored[] | Record<string, NDArray>>;
  self_test(): Promise<SelfTestResult>;
  close(): Promise<void>;
}
/** source: the address of a bundle, or in node its folder. ort: the module onnxruntime-web. */
export function load(source: string | URL, options: {ort: any; verify?: boolean}): Promise<Model>;
export function to_integers(spec: TensorSpec, real: ArrayLike<number>): ArrayLike<number>;
export function to_reals(spec: TensorSpec, integers: ArrayLike<number> | ArrayLike<bigint>): ArrayLike<number> | ArrayLike<bigint>;
