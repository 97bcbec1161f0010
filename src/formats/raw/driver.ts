/**
 * raw: the file is the disk. It has no signature, so it never matches a probe: the opener falls back to it
 * where no format matches (image/open.ts says when that is allowed). A tail that does not fill a 512-byte
 * sector belongs to the disk all the same.
 */

import { type ByteCount, type GuestOffset, guestOffset } from '../../base/units.ts';
import type { FormatDriver, Image, SharedImage, Translator } from '../../image/driver.ts';
import { NO_MATCH } from '../../image/driver.ts';
import { DATA, type Extent } from '../../image/extent.ts';
import { FlatEditor } from '../../image/flat-editor.ts';
import { GroupCommit } from '../../image/group-commit.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { rawCreator } from './create.ts';
import { rawReshaper } from './reshape.ts';

interface RawEdit {
  readonly commit: SharedArrayBuffer;
}

class RawImage implements Image {
  readonly format = 'raw';
  readonly variant = 'flat';
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 512;
  readonly blockSize = 0;
  readonly facts = new Map<string, string>();
  /** Its bytes are all that there is. */
  readonly identity = [];
  readonly parent = undefined;
  readonly virtualSize: ByteCount;
  readonly #allocated: ByteCount;

  constructor(source: BlockSource) {
    this.virtualSize = source.size;
    this.#allocated = source.allocated;
  }

  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    if (from === guestOffset(0)) add(this.#allocated);
    return undefined;
  }

  prepareEdit(): RawEdit {
    return { commit: GroupCommit.seed() };
  }

  share(): SharedImage {
    return { format: 'raw', virtualSize: this.virtualSize, state: null };
  }
}

class RawTranslator implements Translator {
  readonly #size: ByteCount;

  constructor(size: ByteCount) {
    this.#size = size;
  }

  locate(at: GuestOffset, _length: ByteCount, out: Extent): 0 {
    return out.set(DATA, at, this.#size - at);
  }
}

export const rawDriver: FormatDriver = Object.freeze({
  id: 'raw',
  title: 'Raw disk (dd, a block device)',
  suffixes: ['.raw', '.img', '.dd', '.bin', '.001'],
  options: [],
  probe: () => NO_MATCH,
  open: (source) => new RawImage(source),
  attach: (shared) => new RawTranslator(shared.virtualSize),
  attachEditor: (shared, source) => new FlatEditor((shared.edit as RawEdit).commit, source),
  check: undefined,
  create: rawCreator,
  reshape: rawReshaper,
} satisfies FormatDriver);
