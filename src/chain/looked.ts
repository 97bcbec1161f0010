/** What came of looking for a parent, and the error where it was not found. */

import { type ErrorDetails, ImageError, type WantedParent } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ParentLink, ParentMismatch } from '../image/parent.ts';
import { shownPlace } from './find.ts';

/** Places kept for the error. */
const MAX_LOOKED = 100;

const HINT = 'Name it with --parent=FILE, or the directory where it is with --parent-dir=DIR.';
const HINT_OTHER =
  'Name the right one with --parent=FILE; or take this one all the same, only for reading, with --force-parent.';

export class Looked {
  readonly #child: string;
  readonly #link: ParentLink;
  readonly #places: { path: string; reason: string }[] = [];
  /** What went wrong with files that are there, as sentences about the child. */
  readonly #failures: { kind: ImageError['kind']; text: string; details: ErrorDetails }[] = [];

  constructor(child: string, link: ParentLink) {
    this.#child = child;
    this.#link = link;
  }

  /** A place where nothing was opened. */
  at(path: string, reason: string): undefined {
    if (this.#places.length < MAX_LOOKED) this.#places.push({ path: shownPath(path), reason });
  }

  /** A file that cannot be opened. */
  failed(path: string, cause: ImageError): undefined {
    const reason = cause.message.replace(`${path}: `, '');
    const hint = cause.kind === 'denied' || cause.kind === 'in-use' ? cause.hint : HINT;
    this.#failures.push({
      kind: cause.kind,
      text: `its parent ${shownPath(path)} cannot be used: ${reason}`,
      details: { hint, cause },
    });
    this.at(path, reason);
  }

  /** An image that is not the one. */
  mismatched(path: string, { wanted, found, severity }: ParentMismatch): undefined {
    this.#failures.push({
      kind: 'mismatched',
      text: `its parent should be ${wanted}, but ${shownPath(path)} is ${found}`,
      details: { hint: severity === 'other' ? HINT_OTHER : HINT },
    });
    this.at(path, `wanted is ${wanted}, found ${found}`);
  }

  /** The error: that of the only file that was there, or that none is. */
  failure(): ImageError {
    const { identity, places } = this.#link;
    const wanted: WantedParent = {
      by: this.#child,
      ...(identity === undefined ? {} : { identity }),
      places: places.map(shownPlace),
      looked: this.#places,
    };
    const [only, ...more] = this.#failures;
    if (only !== undefined && more.length === 0) {
      return new ImageError(only.kind, `${this.#child}: ${only.text}`, { ...only.details, wanted });
    }
    const recorded = wanted.places.length === 0 ? '' : `; the image names ${wanted.places.join(', ')}`;
    const known = identity === undefined ? '' : ` with ${identity}`;
    const text = `${this.#child}: its parent${known} was not found${recorded}`;
    return new ImageError('missing', text, { hint: HINT, cause: only?.details.cause, wanted });
  }
}
