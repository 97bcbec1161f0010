/** Guest ranges to extents, through the paged block map. */

import { EIO, type Status } from '../../base/errno.ts';
import { type ByteCount, type GuestOffset, type HostOffset, hex } from '../../base/units.ts';
import type { AttachContext, Report, Translator } from '../../image/driver.ts';
import { DATA, type Extent, HOLE, ZERO } from '../../image/extent.ts';
import { PAGE_BYTES, PAGE_WORDS } from '../../shared/page-pool.ts';
import { type LoadPage, PagedTable, type PagedTableSeed } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { ENTRY_FREE, ENTRY_ZERO } from './structs.ts';

/** Where the parts of an image are; checked at open, plain data for other threads. */
export interface VdiLayout {
  readonly virtualSize: ByteCount;
  readonly mapOffset: number;
  readonly dataOffset: number;
  readonly blockSize: ByteCount;
  readonly blockExtra: ByteCount;
  /** Entries of the map in the file; physical numbers are below it. May be more than the disk needs. */
  readonly blocks: number;
}

export interface VdiState extends VdiLayout {
  /** One word per block that the disk needs. */
  readonly map: PagedTableSeed;
}

/**
 * Reads pages of the block map, `words` entries in all. Entries are kept as they are on disk: u32, little-endian,
 * at any byte offset (the map of 0.2 is at 0x1a4).
 */
export function mapLoader(source: BlockSource, mapOffset: number, words: number, report: Report): LoadPage {
  const bytes = new Uint8Array(PAGE_BYTES);
  return (page, into, start) => {
    const count = Math.min(PAGE_WORDS, words - page * PAGE_WORDS);
    const at = mapOffset + page * PAGE_BYTES;
    const moved = source.readAt(bytes, 0, count * 4, at as HostOffset);
    if (moved !== count * 4) {
      report(
        `VDI block map at ${hex(at)}: ${count * 4} bytes cannot be read ` +
          (moved < 0 ? `(errno ${-moved})` : `(the file has ${moved} of them)`),
      );
      return moved < 0 ? moved : -EIO;
    }
    for (let n = 0; n < count; n += 1) {
      const b = n * 4;
      into[start + n] = bytes[b]! | (bytes[b + 1]! << 8) | (bytes[b + 2]! << 16) | (bytes[b + 3]! << 24);
    }
    return 0;
  };
}

/** Host offset of the data of a physical block: past its extra bytes. It may exceed what the file holds. */
export function blockHost(layout: VdiLayout, physical: number): number {
  return layout.dataOffset + physical * (layout.blockSize + layout.blockExtra) + layout.blockExtra;
}

/** An entry of the block map, for messages. */
export function entryName(layout: VdiLayout, block: number): string {
  return `VDI block map entry ${block} at ${hex(layout.mapOffset + block * 4)}`;
}

/** What is wrong with an entry that names no physical block. */
export function beyondImage(layout: VdiLayout, block: number, entry: number): string {
  return `${entryName(layout, block)}: physical block is ${entry}, the image has ${layout.blocks} blocks`;
}

/** What is wrong with an entry whose physical block a file of `size` bytes does not hold, or not all of. */
export function beyondFile(layout: VdiLayout, block: number, entry: number, size: ByteCount): string {
  const from = blockHost(layout, entry);
  return (
    `${entryName(layout, block)}: physical block ${entry} is at ${hex(from)} to ` +
    `${hex(from + layout.blockSize)}, the file ends at ${hex(size)}`
  );
}

export class VdiTranslator implements Translator {
  readonly #layout: VdiLayout;
  /** The block map, for the editor of this thread too. */
  readonly map: PagedTable;
  readonly #source: BlockSource;
  readonly #report: Report;

  constructor(state: VdiState, source: BlockSource, context: AttachContext) {
    const load = mapLoader(source, state.mapOffset, state.map.words, context.report);
    this.#layout = state;
    this.map = new PagedTable(context.pool, state.map, load);
    this.#source = source;
    this.#report = context.report;
  }

  locate(at: GuestOffset, length: ByteCount, out: Extent): Status {
    const layout = this.#layout;
    const { map } = this;
    const size = layout.blockSize;
    const block = Math.floor(at / size);
    const entry = map.get(block);
    if (entry < 0) return entry;

    const following = Math.ceil(Math.min(at + length, layout.virtualSize) / size) - (block + 1);
    if (entry >= ENTRY_ZERO) {
      const next = block + 1 + map.run(block + 1, entry, following, 0);
      const end = Math.min(next * size, layout.virtualSize);
      return out.set(entry === ENTRY_FREE ? HOLE : ZERO, 0, end - at);
    }

    if (entry >= layout.blocks) return this.#damaged(beyondImage(layout, block, entry));
    const host = blockHost(layout, entry) + (at - block * size);
    // What of a cut-off block is in the file can still be read.
    const { size: fileSize } = this.#source;
    const room = fileSize - host;
    if (room <= 0) return this.#damaged(beyondFile(layout, block, entry, fileSize));
    // With extra bytes between them, no two blocks touch.
    const limit = layout.blockExtra === 0 ? Math.min(following, layout.blocks - entry - 1) : 0;
    const next = block + 1 + map.run(block + 1, entry + 1, limit, 1);
    const end = Math.min(next * size, layout.virtualSize);
    return out.set(DATA, host, Math.min(end - at, room));
  }

  #damaged(text: string): Status {
    this.#report(text);
    return -EIO;
  }
}
