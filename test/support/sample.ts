/** A small image made by the tests' own encoders, with what it must read as. */

import type { FormatId } from '../../src/image/driver.ts';

export interface SampleImage {
  /** Unique within its format: "dynamic, 512 KiB blocks". */
  readonly name: string;
  readonly format: FormatId;
  /** The container, at most a few MiB. */
  readonly file: Uint8Array;
  /** The disk's bytes. */
  readonly disk: Uint8Array;
  /** What its holes show: `disk` is what both make together. */
  readonly parent?: SampleImage;
  /** Format options (`-o name=value`) needed to read it so. */
  readonly options?: Readonly<Record<string, string>>;
}
