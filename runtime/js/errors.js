export class EdgeqError extends Error {
  constructor(message) { super(message); this.name = new.target.name; }
}
/** The bundle cannot be trusted: damaged, incomplete, too new, or unsafe. */
export class BundleError extends EdgeqError {}
/** The engine is missing, too old, or refuses the bundle. */
export class EngineError extends EdgeqError {}
/** An input with a wrong name, shape or dtype, or a source that does not fit. */
export class InputError extends EdgeqError {}
