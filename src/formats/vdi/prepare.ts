/** Before an image is written: whether it can be, and where there is room in it. Reads only. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import { MAX_SCANNED_WORDS } from '../../image/count.ts';
import type { OpenContext } from '../../image/driver.ts';
import { FreshSpace } from '../../image/fresh-space.ts';
import { type TableEditSeed, tableEditSeed } from '../../image/table-editor.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { VdiHeader } from './header.ts';
import { scanMap, unusedRuns } from './map-scan.ts';
import { parentOf } from './parent.ts';
import { counterPlace, FLAG_ZERO_EXPAND, modifyUuidPlace, TYPE_FIXED } from './structs.ts';

/** Plain data: shared by the editors of all threads. */
export interface VdiEdit extends TableEditSeed {
  /**
   * Words, NEXT and WRITTEN: the next physical block never given out, and the counter in the header on disk. The second belongs to
   * the holder of the commit lock, the first to that of the allocation lock.
   */
  readonly bounds: SharedArrayBuffer;
  readonly fresh: SharedArrayBuffer;
  /** Whether a discard unmaps blocks; else it punches them in place, and they stay. */
  readonly unmaps: boolean;
  /** Whether free entries show a parent: then they are no zeros. */
  readonly hasParent: boolean;
  /** Bytes of the file: what lies behind was added by this mount. */
  readonly sizeAtOpen: ByteCount;
  /** Host offsets of two fields of the header. */
  readonly counterAt: number;
  readonly modifyUuidAt: number;
  /** The modify UUID of the first write, where children were told of it; else a random one. */
  readonly modifyUuid: Uint8Array | undefined;
}

/** In `VdiEdit.bounds`. */
export const NEXT = 0;
export const WRITTEN = 1;

/**
 * Looks through the map for what must not be written to: entries that name no block of the file, or the same
 * one twice. Finds the blocks below the counter that nobody uses. Maps of more than MAX_SCANNED_WORDS entries
 * are refused: an entry that was not looked at may name a place that the file has yet to grow to. Throws ImageError.
 */
export function prepareEdit(
  header: VdiHeader,
  source: BlockSource,
  { nextIdentity }: Pick<OpenContext, 'nextIdentity'>,
): VdiEdit {
  if ((header.flags & ~FLAG_ZERO_EXPAND) !== 0) {
    throw unwritable(unsupported(`VDI header: flags are ${hex(header.flags)}, only bit 0 is known`));
  }
  // A sector is written as a whole or not at all; half an entry would name any block.
  if (header.mapOffset % 4 !== 0) {
    const at = `VDI block map at ${hex(header.mapOffset)}`;
    throw unwritable(unsupported(`${at}: its entries lie across sectors, so that a crash could tear one`));
  }
  const { blocks, blocksAllocated } = header;
  if (blocks > MAX_SCANNED_WORDS) {
    const text = `VDI block map: it has ${blocks} entries, which is too many to look through before writing`;
    throw unwritable(unsupported(text));
  }
  const scan = scanMap(header, source, (text) => {
    throw unwritable(corrupt(text));
  });
  // A counter above what the file holds has nothing to say: those blocks are not there.
  const next = Math.max(scan.end, Math.min(blocksAllocated, scan.held, blocks));
  const bounds = new SharedArrayBuffer(8);
  new Uint32Array(bounds).set([next, blocksAllocated]);
  return {
    ...tableEditSeed(numbersOf(unusedRuns(scan, next))),
    bounds,
    fresh: FreshSpace.seed(),
    sizeAtOpen: source.size,
    unmaps: header.type !== TYPE_FIXED,
    hasParent: parentOf(header) !== undefined,
    counterAt: counterPlace(header.version),
    modifyUuidAt: modifyUuidPlace(header.version),
    modifyUuid: nextIdentity,
  };
}

function* numbersOf(runs: Iterable<readonly [number, number]>): Generator<number> {
  for (const [first, count] of runs) {
    for (let number = first; number < first + count; number += 1) yield number;
  }
}

function unwritable({ kind, message }: ImageError): ImageError {
  return new ImageError(kind, message, { hint: 'It can be read: mount it with -o ro.' });
}
