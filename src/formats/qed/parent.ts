/**
 * The backing file of a QED image: a name, and whether it is raw. Nothing else is recorded, no identity and no
 * format. Source: qed_spec, Header.
 */

import { corrupt, ImageError } from '../../base/errors.ts';
import { hex } from '../../base/units.ts';
import type { ParentLink } from '../../image/parent.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { BACKING_FILE, BACKING_NO_PROBE, MAX_BACKING_NAME, type QedHeader, qedHeader } from './structs.ts';

export interface Backing {
  /** As recorded, read as UTF-8. */
  readonly name: string;
  /** The file is raw, whatever its bytes look like. */
  readonly raw: boolean;
}

/**
 * Undefined where the image stands alone: the fields mean nothing without the feature bit. Throws
 * ImageError('corrupt') for a name that is not in the header, of `headerBytes`, or is none.
 */
export function readBacking(
  header: QedHeader,
  headerBytes: number,
  source: BlockSource,
): Backing | undefined {
  if ((header.features & BACKING_FILE) === 0n) return undefined;
  const { backingFilenameOffset: offset, backingFilenameSize: size } = header;
  const place = `QED backing file name of ${size} bytes at ${hex(offset)}`;
  if (size === 0 || size > MAX_BACKING_NAME) {
    throw corrupt(`${place}: expected a length from 1 to ${MAX_BACKING_NAME}`);
  }
  if (offset < qedHeader.size || offset + size > headerBytes) {
    throw corrupt(
      `${place}: expected between the header's fields (${hex(qedHeader.size)}) and its end (${hex(headerBytes)})`,
    );
  }
  const bytes = readExactly(source, offset, size, (outcome) =>
    outcome < 0
      ? new ImageError('io', `${place}: cannot be read (errno ${-outcome})`)
      : corrupt(`${place}: the file ends at ${hex(source.size)}`),
  );
  if (bytes.includes(0)) throw corrupt(`${place}: contains a NUL byte`);
  return { name: new TextDecoder().decode(bytes), raw: (header.features & BACKING_NO_PROBE) !== 0n };
}

/** What the chain is told. There is no identity: whatever file is at the place is the parent. */
export function parentOf({ name, raw }: Backing): ParentLink {
  return {
    places: [{ path: name, style: 'posix', origin: 'backing file' }],
    identity: undefined,
    format: raw ? 'raw' : undefined,
    compare: ({ format }) =>
      raw && format !== 'raw'
        ? { severity: 'unfit', wanted: 'a raw file (never probed)', found: `a ${format} image` }
        : undefined,
  };
}
