/** Looking a VHD through for damage. Reads only. */

import { type ByteCount, hex } from '../../base/units.ts';
import { CheckCollector, type CheckReport } from '../../image/check.ts';
import { scanTable } from '../../image/count.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { dataUnderClear } from './clear-bits.ts';
import { geometrySize, isLargestGeometry, properGeometrySize } from './geometry.ts';
import type { DynamicParts, VhdImage } from './image.ts';
import { openVhd } from './open.ts';
import { readLocators } from './parent.ts';
import {
  type BlockList,
  blockBytes,
  blockEnd,
  blockWithin,
  gaps,
  listBlocks,
  reservedRanges,
} from './space.ts';
import { type Footer, SECTOR, UNALLOCATED, VHD_EPOCH } from './structs.ts';
import { BitmapReader, FITS, IN_METADATA, type Layout, placement, tableLoader, usedBytes } from './table.ts';
import type { DynamicState } from './translator.ts';

/** Clocks differ: what is less ahead than this is not in the future. */
const SLACK_SECONDS = 24 * 3600;

/** Throws ImageError where the image cannot be opened. */
export function checkVhd(source: BlockSource, context: OpenContext): CheckReport {
  const findings = new CheckCollector();
  const image = openVhd(source, { ...context, report: (notice) => findings.warning(notice) });
  checkFooter(image, findings);
  if (image.state.kind === 'fixed') {
    findings.allocated(image.virtualSize);
    const behind = unusedOf(image);
    if (behind > 0) {
      findings.leak(`VHD: ${behind} bytes between the disk and its footer are not part of it`, behind);
    }
  } else {
    new DynamicCheck(source, image.state, image.parts!, findings).run();
  }
  return findings.report();
}

/** Bytes between a fixed disk and its footer that are no part of it to any reader, whichever size it goes by. */
export function unusedOf({ found, virtualSize }: VhdImage): ByteCount {
  const { at, footer } = found.copy;
  return Math.max(0, at - Math.max(virtualSize, Number(footer.currentSize)));
}

/** Whether its time is in the future. */
export function isAhead({ timestamp }: Footer): boolean {
  return VHD_EPOCH + timestamp - Date.now() / 1000 > SLACK_SECONDS;
}

/** Whether its geometry says more than its current size has. */
export function isGeometryAbove(footer: Footer): boolean {
  return !isLargestGeometry(footer) && geometrySize(footer) > properGeometrySize(Number(footer.currentSize));
}

function checkFooter({ found }: VhdImage, findings: CheckCollector): void {
  const { at, footer } = found.copy;
  const name = `VHD footer at ${hex(at)}`;
  const known = footer.features & ~3;
  if (known !== 0 || (footer.features & 2) === 0) {
    findings.warning(`${name}: features are ${hex(footer.features)}, expected 0x2 or 0x3`);
  }
  if (isAhead(footer)) {
    const when = new Date((VHD_EPOCH + footer.timestamp) * 1000).toISOString();
    findings.warning(`${name}: its time, ${when}, is in the future`);
  }
  const proper = properGeometrySize(Number(footer.currentSize));
  if (isGeometryAbove(footer)) {
    findings.warning(
      `${name}: the geometry says ${geometrySize(footer)} bytes, expected at most ${proper} for the current size`,
    );
  }
  if (footer.savedState > 1 || footer.hidden > 1) {
    findings.warning(
      `${name}: saved state is ${footer.savedState} and hidden ${footer.hidden}, expected 0 or 1`,
    );
  }
}

class DynamicCheck {
  readonly #source: BlockSource;
  readonly #state: DynamicState;
  readonly #layout: Layout;
  readonly #parts: DynamicParts;
  readonly #findings: CheckCollector;
  readonly #bitmap: BitmapReader;

  constructor(source: BlockSource, state: DynamicState, parts: DynamicParts, findings: CheckCollector) {
    this.#source = source;
    this.#state = state;
    this.#layout = state.layout;
    this.#parts = parts;
    this.#findings = findings;
    this.#bitmap = new BitmapReader(source, state.layout);
  }

  run(): void {
    const layout = this.#layout;
    const { entries } = this.#parts;
    const { parent, placed } = this.#parts;
    // Those of a differencing image were reported when it was opened; others have no use for them.
    if (parent === undefined) {
      readLocators(this.#source, placed.header, (notice) => this.#findings.warning(notice));
    }
    const list = listBlocks(this.#source, layout, entries, (block, entry, how) => {
      const where =
        how === IN_METADATA
          ? `where the image's metadata is`
          : `expected it to end before ${hex(layout.limit[0]!)}`;
      this.#findings.error(`${this.#entryName(block)} says sector ${hex(entry)}, ${where}`);
    });
    this.#checkOverlaps(list);
    this.#checkBlocks();
    for (const { code, at, end } of parent?.locators ?? []) {
      const start = blockWithin(layout, list, at, end);
      if (start === undefined) continue;
      this.#findings.error(
        `VHD parent locator ${code}: its data at ${hex(at)} is in the block at sector ${hex(start)}`,
      );
    }
    this.#checkGaps(list, reservedRanges(this.#parts));
  }

  #entryName(block: number): string {
    return `VHD block ${block}: its table entry at ${hex(this.#layout.tableAt + block * 4)}`;
  }

  #checkOverlaps(list: BlockList): void {
    const { starts } = list;
    for (let n = 1; n < starts.length; n += 1) {
      const [before, here] = [starts[n - 1]!, starts[n]!];
      if (here === before) {
        this.#findings.error(`VHD: two table entries say sector ${hex(here)}`);
      } else if (here * SECTOR < blockEnd(this.#layout, list, before)) {
        this.#findings.error(`VHD: the blocks at sectors ${hex(before)} and ${hex(here)} overlap`);
      }
    }
  }

  /** Every block of the disk: its bitmap, what lies under clear bits, and the batmap. */
  #checkBlocks(): void {
    const layout = this.#layout;
    const map = this.#parts.batmap?.map;
    const load = tableLoader(this.#source, layout);
    let from: number | undefined = 0;
    while (from !== undefined) {
      from = scanTable(load, layout.blockCount, from, this.#source.label, (block, entry) => {
        const called = map !== undefined && (map[block >>> 3]! & (0x80 >> (block & 7))) !== 0;
        if (entry === UNALLOCATED) {
          if (called)
            this.#findings.error(`VHD block ${block}: the batmap calls it full, it is not allocated`);
          return;
        }
        if (placement(layout, block, entry) !== FITS) return;
        this.#findings.allocated(usedBytes(layout, block));
        this.#checkBlock(block, entry, called);
      });
    }
  }

  #checkBlock(block: number, entry: number, called: boolean): void {
    const layout = this.#layout;
    const dataAt = entry * SECTOR + layout.bitmapBytes;
    const missing = dataAt + usedBytes(layout, block) - layout.limit[0]!;
    if (missing > 0) {
      this.#findings.error(
        `VHD block ${block}: its data at ${hex(dataAt)} is cut off, ${missing} bytes are behind the end of the file`,
      );
    }
    if (this.#state.bitmaps === undefined) return;
    const status = this.#bitmap.read(entry);
    if (status < 0) {
      this.#findings.error(
        `VHD block ${block}: its sector bitmap at ${hex(entry * SECTOR)} cannot be read (errno ${-status})`,
      );
      return;
    }
    if (this.#bitmap.isFull(block)) return;
    if (called) {
      this.#findings.error(
        `VHD block ${block}: the batmap calls it full, its bitmap at ${hex(entry * SECTOR)} does not`,
      );
      return;
    }
    // There the parent shows, whatever lies under it.
    if (this.#parts.parent !== undefined) return;
    const at = dataUnderClear(this.#source, layout, this.#bitmap, block, dataAt);
    if (at !== undefined) {
      this.#findings.warning(
        `VHD block ${block}: the sector at ${hex(at)} is not set in the bitmap, expected zeros there, found data`,
      );
    }
  }

  /** Room for a block and more that nothing uses; less than that is lost between aligned blocks. */
  #checkGaps(list: BlockList, reserved: readonly number[]): void {
    const layout = this.#layout;
    const bytes: ByteCount = blockBytes(layout);
    for (const [start, end] of gaps(layout, list, reserved, layout.limit[0]!)) {
      if (end - start < bytes) continue;
      this.#findings.leak(`VHD: ${end - start} bytes at ${hex(start)} are not used`, end - start);
    }
  }
}
