/**
 * Writing VHD, what is the same for every image with a table. There is no journal; safety is the order of writes:
 *
 *   first write  the footer's time of writing, in both copies: each is one sector, so each is whole at any time.
 *                Copies that differ, or of which one is missing, are mended one after the other, the first stable
 *                before the second is touched.
 *   growth       the footer is written at the new end and made stable; then blocks are given out from the space
 *                before it, and the place of the old footer is zeros. The file grows by several blocks at once, so
 *                that this is rare.
 *   commit       1. flush: payload, and the bitmaps of new blocks, are stable
 *                2. the changed sectors of the table, and the bitmaps that changed
 *                3. flush
 *
 * What comes before the commit is told in dynamic-editor.ts and differencing-editor.ts. A crash before 2 leaves places
 * that no entry names: prepareEdit finds them again.
 *
 * At the end, unused space at the end of the file is cut off; free places inside stay for the next writer of ours.
 */

import { EAGAIN, EFBIG, EINVAL, EIO, ENOSPC, type Status } from '../../base/errno.ts';
import { type ByteCount, type HostOffset, MIB } from '../../base/units.ts';
import type { EditContext } from '../../image/driver.ts';
import { NONE } from '../../image/free-space.ts';
import { TableEditor } from '../../image/table-editor.ts';
import { EIGHTH_WORDS, type PagedTable } from '../../shared/paged-table.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { stampFooter } from './footer.ts';
import { PendingBitmaps } from './pending.ts';
import { type BlockEdit, CLEAN, NEXT, RELEASED } from './prepare.ts';
import { blockBytes, endOfUse, LAST_SECTOR, listBlocks, nextPlace } from './space.ts';
import { SECTOR } from './structs.ts';
import { type Layout, putWord } from './table.ts';
import type { DynamicState, DynamicTranslator } from './translator.ts';

/** The file grows by as much as it has, at most by this. */
const MAX_GROWTH = 64 * MIB;

export abstract class BlockEditor extends TableEditor {
  readonly blockSize: ByteCount;
  protected readonly tables: readonly PagedTable[];
  protected readonly layout: Layout;
  protected readonly table: PagedTable;
  protected readonly bounds: Float64Array<SharedArrayBuffer>;
  /** See DynamicState. */
  protected readonly full: Uint8Array<SharedArrayBuffer> | undefined;
  /** Bitmaps that the next commit writes. */
  protected readonly pending: PendingBitmaps;
  /** Pieces of `buffer` below this one are bitmaps, the others parts of the table. Of the commit that was gathered. */
  protected tableFrom = 0;
  readonly #edit: BlockEdit;
  readonly #footer = new Uint8Array(SECTOR);

  constructor(
    state: DynamicState,
    edit: BlockEdit,
    source: BlockSource,
    context: EditContext,
    translator: DynamicTranslator,
  ) {
    super(edit, source, context);
    this.blockSize = state.layout.blockSize;
    this.layout = state.layout;
    this.table = translator.table;
    this.tables =
      translator.bitmaps === undefined ? [translator.table] : [translator.table, translator.bitmaps];
    this.bounds = edit.bounds;
    this.full = state.full === undefined ? undefined : new Uint8Array(state.full);
    this.pending = new PendingBitmaps(edit.pending);
    this.#edit = edit;
  }

  /** Takes over the bitmaps that wait: into `buffer`, or to be read and written by `writeBitmaps`. Holds both locks. */
  protected abstract gatherBitmaps(): void;

  /** Writes them. Holds the commit lock. */
  protected abstract writeBitmaps(): Status;

  protected first(): Status {
    const { footer, tailAt, repair } = this.#edit;
    stampFooter(footer, Math.floor(Date.now() / 1000));
    // Where one copy is no good it must not be the only one for a moment, nor the only one on its way.
    let status = this.#writeFooter(0);
    if (status === 0 && repair) status = this.commit.stable(this.source);
    if (status === 0) status = this.#writeFooter(tailAt);
    if (status === 0 && repair) status = this.commit.stable(this.source);
    if (status === 0) this.layout.limit[0] = tailAt;
    return status;
  }

  /** Writes the footer at host offset `at`. Where that fails, the file is as long as before. */
  #writeFooter(at: number): Status {
    const { size } = this.source;
    this.#footer.set(this.#edit.footer);
    const status = this.source.writeAt(this.#footer, 0, SECTOR, at as HostOffset, 'footer.write');
    if (status < 0 && this.source.size > size) this.source.setSize(size);
    return status;
  }

  /**
   * A place for a block, bitmap and data reading as zeros: its sector, or -errno. It goes to `link`, or back to `free`.
   */
  protected takePlace(): number {
    const freed = this.free.take();
    if (freed === NONE) return this.#takeAtEnd();
    const status = this.makeZeros(freed * SECTOR, blockBytes(this.layout));
    if (status === 0) return freed;
    this.free.giveBack(freed);
    return status;
  }

  /** The same behind all that is given out. */
  #takeAtEnd(): number {
    const { bounds } = this;
    const start = nextPlace(this.layout, bounds[NEXT]!);
    const end = start + blockBytes(this.layout);
    let status: Status = 0;
    if (start / SECTOR > LAST_SECTOR) status = -ENOSPC;
    else if (end > this.layout.limit[0]!) {
      // A commit costs no more than growing does, and gives back what was freed.
      if (bounds[RELEASED]! > 0) return -EAGAIN;
      status = this.#grow(end);
    }
    if (status === -ENOSPC || status === -EFBIG) return this.free.count > 0 ? -EAGAIN : -ENOSPC;
    if (status < 0) return status;
    const clean = bounds[CLEAN]!;
    if (start < clean) status = this.makeZeros(start, Math.min(end, clean) - start);
    if (status < 0) return status;
    bounds[NEXT] = end;
    return start / SECTOR;
  }

  /** Names the place at `sector` as that of a block, or gives it back. */
  protected link(block: number, sector: number): Status {
    const status = this.table.set(block, sector);
    if (status < 0) this.free.giveBack(sector);
    return status;
  }

  protected makeZeros(at: number, length: ByteCount): Status {
    return this.source.zero(at as HostOffset, length, 'punch', 'payload.zero');
  }

  /** Moves the footer to `end` or beyond it, as far as pays. Returns 0 or -errno: then it is where it was. */
  #grow(end: number): Status {
    const step = nextPlace(this.layout, end) + blockBytes(this.layout) - end;
    const most = Math.floor((LAST_SECTOR * SECTOR - end) / step);
    const more = Math.min(most, Math.floor(Math.min(this.layout.limit[0]!, MAX_GROWTH) / step) - 1);
    if (more > 0) {
      const status = this.#moveFooter(end + more * step);
      if (status !== -ENOSPC && status !== -EFBIG) return status;
    }
    return this.#moveFooter(end);
  }

  #moveFooter(at: number): Status {
    const { size } = this.source;
    let status = this.#writeFooter(at);
    if (status === 0) status = this.commit.stable(this.source);
    if (status < 0) return status;
    this.bounds[CLEAN] = Math.max(this.bounds[CLEAN]!, size);
    this.layout.limit[0] = at;
    return 0;
  }

  gather(): boolean {
    const { table } = this;
    const { tableAt } = this.layout;
    if (table.dirtyPages === 0 && this.pending.count === 0) return false;
    this.buffer.clear();
    this.pending.gather();
    this.gatherBitmaps();
    this.tableFrom = this.buffer.pieces;
    table.gather((page, eighths, words, start) => {
      for (let eighth = 0; eighth < 8; eighth += 1) {
        if ((eighths & (1 << eighth)) === 0) continue;
        const first = (page * 8 + eighth) * EIGHTH_WORDS;
        const count = Math.min(EIGHTH_WORDS, table.words - first);
        const from = start + eighth * EIGHTH_WORDS;
        let to = this.buffer.add(tableAt + first * 4, count * 4);
        const { bytes } = this.buffer;
        for (let n = from; n < from + count; n += 1) to = putWord(bytes, to, words[n]!);
      }
    });
    this.free.gather();
    this.bounds[RELEASED] = 0;
    return true;
  }

  write(metadata: boolean): Status {
    let status = this.commit.stable(this.source);
    if (status < 0 || !metadata) return status;
    status = this.writeBitmaps();
    if (status === 0) status = this.buffer.writeTo(this.source, 'table.write', this.tableFrom);
    return status < 0 ? status : this.commit.stable(this.source);
  }

  settle(status: Status): void {
    const written = status === 0;
    this.table.settle(written);
    this.pending.settle(written);
    this.free.settle(written);
  }

  /** The file ends with the last block in use. What a device has behind it stays. */
  protected finish(): Status {
    const layout = this.layout;
    const { entries, reserved } = this.#edit;
    let end: number;
    try {
      end = endOfUse(
        layout,
        listBlocks(this.source, layout, entries, () => {}),
        reserved,
      );
    } catch {
      return -EIO;
    }
    if (end >= layout.limit[0]!) return 0;
    let status = this.#writeFooter(end);
    if (status === 0) status = this.commit.stable(this.source);
    if (status === 0) status = this.source.setSize(end + SECTOR);
    // A device keeps its size, and so its footer in the last sector.
    if (status === -EINVAL) return 0;
    if (status < 0) return status;
    layout.limit[0] = end;
    this.bounds[NEXT] = end;
    return this.commit.stable(this.source);
  }
}
