/**
 * The one error that leaves the control plane. Its kind is closed, so that callers can decide on it; what
 * happened is said in the message: a sentence that names the object, the place, what was expected and what
 * was found ("VHDX header 2 at 0x20000: checksum is 0x1f2e3d4c, computed 0x00c0ffee").
 */

export type ErrorKind =
  /** No format matches, or more than one does. */
  | 'unrecognized'
  /** A known format with a feature or version that is not supported. */
  | 'unsupported'
  /** A structure breaks its own rules. */
  | 'corrupt'
  /** Another file (a parent) is needed and was not found. */
  | 'missing'
  /** Another process uses it. */
  | 'in-use'
  /** The operating system or a policy says no. */
  | 'denied'
  /** The operating system failed for another reason. */
  | 'io'
  /** The command line or a configuration is wrong. */
  | 'usage'
  /** A mount could not be made. */
  | 'mount'
  /** A signal came before it was done. */
  | 'interrupted'
  /** An invariant of this program failed. */
  | 'bug';

/** An error as plain data: classes and fields do not survive a message between threads or processes. */
export interface WireError {
  readonly kind: ErrorKind;
  readonly message: string;
  readonly hint?: string;
}

export class ImageError extends Error {
  override readonly name = 'ImageError';
  readonly kind: ErrorKind;
  /** What the user can do about it, one sentence. */
  readonly hint: string | undefined;

  constructor(kind: ErrorKind, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.hint = options.hint;
  }

  toWire(): WireError {
    return this.hint === undefined
      ? { kind: this.kind, message: this.message }
      : { kind: this.kind, message: this.message, hint: this.hint };
  }

  static fromWire(wire: WireError): ImageError {
    return new ImageError(wire.kind, wire.message, wire.hint === undefined ? {} : { hint: wire.hint });
  }

  /** `problem` itself if it is an ImageError; anything else becomes one of the given kind. */
  static from(problem: unknown, kind: ErrorKind, prefix?: string): ImageError {
    if (problem instanceof ImageError) return problem;
    const text = problem instanceof Error ? problem.message : String(problem);
    return new ImageError(kind, prefix === undefined ? text : `${prefix}: ${text}`, { cause: problem });
  }
}

export const corrupt = (message: string): ImageError => new ImageError('corrupt', message);
export const unsupported = (message: string, hint?: string): ImageError =>
  new ImageError('unsupported', message, hint === undefined ? {} : { hint });
