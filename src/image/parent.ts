/**
 * What an image says of its parent, and by what its children know it. A driver reads it from the image and judges a
 * candidate; finding and opening the file is the chain layer's (chain/).
 */

import type { FormatId, Image } from './driver.ts';

/** One of the marks by which an image is known to its children. */
export interface IdentityMark {
  /** In kebab-case: "unique-id", "data-write-guid". */
  readonly name: string;
  /** As users see it, and as it is compared. */
  readonly text: string;
}

/** A place where an image says that its parent is. */
export interface ParentPlace {
  /** As recorded: "..\\base.vhdx", "C:\\VMs\\base.vhd", "file:///vm/base.vhd". Nothing of it is to be trusted. */
  readonly path: string;
  /** Whose way of writing paths it is. A URL is 'url'. */
  readonly style: 'windows' | 'posix' | 'url';
  /** Where it is recorded, for messages: "relative_path", "locator W2ku". */
  readonly origin: string;
}

export interface ParentMismatch {
  /**
   * - other: it is another image. May be read all the same if the user insists.
   * - changed: it is the one, but was written to since: may be read with a warning, not be built upon.
   * - unfit: it cannot be the parent, whatever the user says.
   */
  readonly severity: 'other' | 'changed' | 'unfit';
  /** "unique id 5a…", what the child wants. */
  readonly wanted: string;
  /** "unique id 77…", what the candidate has. */
  readonly found: string;
}

export interface ParentLink {
  /** In the order in which they are to be tried; may be empty (VDI records no path). */
  readonly places: readonly ParentPlace[];
  /** The parent's identity as recorded, in words: "unique id 5a…"; undefined where nothing is (QED). */
  readonly identity: string | undefined;
  /** The format that the parent has to have; undefined: whatever its content says. 'raw' is never probed. */
  readonly format: FormatId | undefined;
  /** What keeps `parent` from being the one; undefined where nothing does. No I/O. */
  compare(parent: Image): ParentMismatch | undefined;
}
