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
  /** The parent that was found is not the one that is recorded. */
  | 'mismatched'
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
  /** A file changed that was to stay as it was. */
  | 'changed'
  /** A signal came before it was done. */
  | 'interrupted'
  /** An invariant of this program failed. */
  | 'bug';

/** The parent that an image wants, and what came of looking for it. */
export interface WantedParent {
  /** Path of the image that wants it. */
  readonly by: string;
  /** As the image records it; undefined where it records none. */
  readonly identity?: string;
  /** Where the image says that it is: `"..\\base.vhdx" (relative_path)`. */
  readonly places: readonly string[];
  /** Where it was looked for, in this order, and why each was not taken. */
  readonly looked: readonly { readonly path: string; readonly reason: string }[];
}

/** An error as plain data: classes and fields do not survive a message between threads or processes. */
export interface WireError {
  readonly kind: ErrorKind;
  readonly message: string;
  readonly hint?: string;
  readonly wanted?: WantedParent;
}

/** What an error may say besides its message. */
export interface ErrorDetails {
  readonly hint?: string | undefined;
  readonly cause?: unknown;
  readonly wanted?: WantedParent | undefined;
}

/** Places shown on a terminal. */
const MAX_SHOWN = 20;

export class ImageError extends Error {
  override readonly name = 'ImageError';
  readonly kind: ErrorKind;
  /** What the user can do about it, one sentence. */
  readonly hint: string | undefined;
  /** Where a parent is the matter. */
  readonly wanted: WantedParent | undefined;

  constructor(kind: ErrorKind, message: string, { hint, cause, wanted }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.hint = hint;
    this.wanted = wanted;
  }

  toWire(): WireError {
    return {
      kind: this.kind,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.wanted === undefined ? {} : { wanted: this.wanted }),
    };
  }

  static fromWire({ kind, message, hint, wanted }: WireError): ImageError {
    return new ImageError(kind, message, { hint, wanted });
  }

  /** What stands below the message on a terminal, a line each: where it was looked, and what to do. */
  get explanation(): string[] {
    const looked = this.wanted?.looked ?? [];
    const more = looked.length - MAX_SHOWN;
    return [
      ...looked.slice(0, MAX_SHOWN).map(({ path, reason }) => `looked at ${path}: ${reason}`),
      ...(more > 0 ? [`and at ${more} more`] : []),
      ...(this.hint === undefined ? [] : [this.hint]),
    ];
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
