/** A guest's seeded work for the power-cut tests, recorded: small enough that every instant of it can be tried. */

import { EIO } from '../../src/base/errno.ts';
import { guestOffset, roundDown } from '../../src/base/units.ts';
import type { FormatDriver } from '../../src/image/driver.ts';
import { Extent } from '../../src/image/extent.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { openEditable, parentDisk } from '../support/disk.ts';
import { FaultSource } from '../support/fault-source.ts';
import { MemorySource } from '../support/memory-source.ts';
import { between, type Random, randomBytes } from '../support/random.ts';
import { type Change, RecordingSource, SECTOR } from '../support/recording-source.ts';
import type { SampleImage } from '../support/sample.ts';
import { Guest, type GuestEvent } from './guest.ts';
import type { CrashImage } from './harness.ts';

/** A workload and everything that the host file went through. */
export interface Recording {
  /** The sample's name. */
  readonly name: string;
  readonly driver: FormatDriver;
  readonly options: Readonly<Record<string, string>>;
  /** What its holes show. */
  readonly parent: SampleImage | undefined;
  /** The image before, stable. */
  readonly file: Uint8Array;
  /** Its disk. */
  readonly content: Uint8Array;
  readonly changes: readonly Change[];
  readonly events: readonly GuestEvent[];
  /** How many changes there were when each mount began. */
  readonly mounts: readonly number[];
  /** Whether sectors of the disk are sectors of the file. */
  readonly aligned: boolean;
  /** The host file at the end, nothing lost. */
  readonly final: Uint8Array;
}

/** Payload of one write, at most: all of it is kept. */
const MAX_WRITE = 96 * 1024;
/** Blocks of one large discard, at most: each may be a change of its own. */
const TRIMMED_BLOCKS = 40;
/** Blocks that the work returns to, so that they are freed and taken again. */
const HOT_BLOCKS = 6;

/** What a guest can do; each says whether it went well. */
export interface Worker {
  readonly now: Uint8Array;
  write(at: number, bytes: Uint8Array): boolean;
  zero(at: number, length: number, how: 'punch' | 'keep'): boolean;
  flush(): boolean;
}

/** One operation of the guest, a flush with the chance `flushes`: whether it went well. */
export function work(guest: Worker, next: Random, blockSize: number, flushes = 0.2): boolean {
  const size = guest.now.length;
  const unit = blockSize || 4096;
  const blocks = Math.ceil(size / unit);
  const block =
    next() < 0.8 ? between(next, 0, Math.min(blocks, HOT_BLOCKS) - 1) : between(next, 0, blocks - 1);
  const start = block * unit;
  if (next() < flushes) return guest.flush();
  const chance = 0.2 + 0.8 * next();
  if (chance < 0.55) {
    // From a few bytes to some sectors, aligned to sectors or not; now and then over the edge of a block.
    const grain = next() < 0.7 ? SECTOR : 1;
    const about = next() < 0.3 ? start - between(next, 1, 4) * grain : start + Math.floor(next() * unit);
    const at = Math.min(Math.max(0, roundDown(about, grain)), size - 1);
    const length = Math.min(between(next, 1, 8) * (grain === 1 ? 300 : SECTOR), size - at);
    return guest.write(at, randomBytes(next, length));
  }
  if (chance < 0.68) {
    const length = Math.min(between(next, 1, 3) * unit, size - start, MAX_WRITE);
    return guest.write(start, randomBytes(next, length));
  }
  if (chance < 0.9) {
    return guest.zero(start, Math.min(between(next, 1, 3) * unit, size - start), 'punch');
  }
  const at = Math.min(start + between(next, 0, 20) * SECTOR, size - 1);
  const length = Math.min(between(next, 1, 40) * SECTOR, size - at);
  return guest.zero(at, length, next() < 0.5 ? 'punch' : 'keep');
}

export interface Session {
  /** Operations of the guest. */
  readonly steps: number;
  /** The share of flushes among them, 0.2 unless said. */
  readonly flushes?: number;
  /**
   * - close: in order.
   * - trim: in order, after a discard of everything behind some place.
   * - flush: the daemon is killed after a flush.
   * - kill: without one.
   * - die: it is killed between two changes of the file, at any instant of the session: nothing is flushed, but the
   *   host has all that was written.
   * - die in flush: the same while it waits for the medium.
   */
  readonly end: 'close' | 'trim' | 'flush' | 'kill' | 'die' | 'die in flush';
}

/** Sessions on one image, each opening what the one before left. */
export function record(
  driver: FormatDriver,
  sample: Pick<CrashImage, 'name' | 'file' | 'disk' | 'parent'> & Pick<SampleImage, 'options'>,
  next: Random,
  sessions: readonly Session[],
): Recording {
  const { name, file, disk: content, options = {}, parent } = sample;
  const below = parentDisk({ parent });
  const memory = new MemorySource(file, name, true);
  const recording = new RecordingSource(memory);
  const source = new FaultSource(recording);
  const guest = new Guest(recording, content, () => source.hits > 0);
  const mounts: number[] = [];
  for (const { steps, end, flushes = 0.2 } of sessions) {
    source.set({ step: undefined, nth: Number.POSITIVE_INFINITY, times: 0, errno: EIO, part: 0 });
    const pool = next() < 0.5 ? 1 : 1 << 18;
    const { disk, image } = openEditable(driver, source, options, pool, below);
    guest.attach(disk);
    mounts.push(recording.changes.length);
    const dies = end === 'die' || end === 'die in flush';
    if (dies) {
      const step = end === 'die' ? undefined : 'flush';
      const nth = between(next, 1, end === 'die' ? 3 * steps : steps);
      source.set({ step, nth, times: Number.POSITIVE_INFINITY, errno: EIO, part: 0 });
    }
    for (let n = 0; n < steps; n += 1) {
      if (!work(guest, next, image.blockSize, flushes)) break;
    }
    if (end === 'trim') {
      const unit = image.blockSize || SECTOR;
      const least = Math.max(0, disk.size - TRIMMED_BLOCKS * unit);
      const at = roundDown(between(next, least, disk.size - 1), unit);
      guest.zero(at, disk.size - at, 'punch');
    }
    if (end === 'flush') guest.flush();
    else if (end === 'close' || end === 'trim' || (dies && source.hits === 0)) guest.close();
  }
  const { changes } = recording;
  const { events } = guest;
  const aligned = isAligned(driver, memory, options);
  return {
    name,
    driver,
    options,
    parent,
    file,
    content,
    changes,
    events,
    mounts,
    aligned,
    final: memory.bytes.slice(),
  };
}

/** Whether every sector of the disk that is in the file is one sector there. */
function isAligned(
  driver: FormatDriver,
  source: BlockSource,
  options: Readonly<Record<string, string>>,
): boolean {
  const report = (): void => {};
  const image = driver.open(source, {
    tables: new TableAllocator(),
    report,
    options: new Map(Object.entries(options)),
  });
  const pool = new PagePool(PagePool.seed(1));
  const translator = driver.attach(image.share(), source, { pool, report });
  const extent = new Extent();
  for (let at = 0; at < image.virtualSize; at += extent.length) {
    if (translator.locate(guestOffset(at), image.virtualSize - at, extent) < 0) return false;
    if (extent.isData && (extent.host - at) % SECTOR !== 0) return false;
  }
  return true;
}
