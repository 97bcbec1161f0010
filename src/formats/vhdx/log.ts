/**
 * The log: which of its entries count, and what replaying them leaves behind ([MS-VHDX] 2.3). Nothing is
 * written: the result is laid over the file in memory.
 *
 * The work is bounded by the size of the log, whatever it holds: an entry is walked sector by sector and left
 * at the first one that does not fit, no sector inside a well-formed entry can begin another, and holes of the
 * file are skipped.
 */

import { crc32c } from '../../base/crc32c.ts';
import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { equalBytes, formatGuid } from '../../base/guid.ts';
import { type ByteCount, formatSize, type HostOffset, hex, MIB, roundUp } from '../../base/units.ts';
import { safeNumber } from '../../layout/struct.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { CurrentHeader } from './headers.ts';
import { OverlayBuilder, type OverlayState } from './overlay.ts';
import {
  DATA_SECTOR_SIGNATURE,
  DATA_SIGNATURE,
  dataDescriptor,
  dataSector,
  HEADER_OFFSETS,
  LOG_ENTRY_SIGNATURE,
  LOG_SECTOR,
  logEntryHeader,
  REGION_TABLE_OFFSETS,
  ZERO_SIGNATURE,
  zeroDescriptor,
} from './structs.ts';

/** No writer makes logs near this size (Windows and QEMU: 1 MiB); it bounds time and memory of the replay. */
const MAX_LOG_BYTES = 256 * MIB;
const MAX_ZERO_UPDATES = 65536;
const DESCRIPTOR_BYTES = 32;

export interface Replay {
  readonly overlay: OverlayState;
  /** Entries that were replayed. */
  readonly entries: number;
  /** Sequence number of the newest one. */
  readonly sequenceNumber: bigint;
}

interface Entry {
  /** From the start of the log. */
  readonly at: number;
  readonly length: ByteCount;
  readonly tail: number;
  readonly sequenceNumber: bigint;
  readonly descriptors: number;
  readonly flushedFileOffset: bigint;
  readonly lastFileOffset: bigint;
}

/**
 * Finds the active sequence of a dirty log and replays it in memory. Throws ImageError where no sequence is
 * valid, the file was cut short, or an entry aims where no log may write.
 */
export function replayLog(source: BlockSource, current: CurrentHeader): Replay {
  const { logLength, logOffset } = current;
  const place = `VHDX log at ${hex(logOffset)}`;
  if (logLength > MAX_LOG_BYTES) {
    throw unsupported(
      `${place}: is dirty and ${formatSize(logLength)} long; only up to ${formatSize(MAX_LOG_BYTES)} are replayed`,
    );
  }
  const log = new LogReader(source, current);
  const sequence = log.activeSequence();
  const head = sequence?.at(-1);
  if (sequence === undefined || head === undefined) {
    throw corrupt(
      `${place}: the header names log ${formatGuid(current.logGuid)}, expected a valid sequence of its entries, ` +
        'found none',
    );
  }
  if (BigInt(source.size) < head.flushedFileOffset) {
    throw corrupt(
      `${place}: the file was cut short, entry ${head.sequenceNumber} expects at least ` +
        `${head.flushedFileOffset} bytes, found ${source.size}`,
    );
  }
  const lastFileOffset = safeNumber(head.lastFileOffset);
  if (lastFileOffset === undefined) {
    throw corrupt(
      `${place}: entry ${head.sequenceNumber} extends the file to ${hex(head.lastFileOffset)} bytes`,
    );
  }
  const limit = roundUp(Math.max(source.size, lastFileOffset), MIB);
  const updates = new OverlayBuilder();
  const first = sequence.findIndex((entry) => entry.at === head.tail);
  for (const entry of sequence.slice(first)) log.gather(entry, limit, updates);
  return {
    overlay: updates.finish(source.size, lastFileOffset),
    entries: sequence.length - first,
    sequenceNumber: head.sequenceNumber,
  };
}

class LogReader {
  readonly #source: BlockSource;
  readonly #start: HostOffset;
  readonly #length: ByteCount;
  readonly #guid: Uint8Array;
  readonly #sector = new Uint8Array(LOG_SECTOR);
  readonly #view = new DataView(this.#sector.buffer);

  constructor(source: BlockSource, current: CurrentHeader) {
    this.#source = source;
    this.#start = current.logOffset;
    this.#length = current.logLength;
    this.#guid = current.logGuid;
  }

  /**
   * The valid sequence with the newest head ([MS-VHDX] 2.3.2): entries that follow each other, numbers rising
   * by one, the newest of which names one of them as its tail.
   */
  activeSequence(): readonly Entry[] | undefined {
    let best: readonly Entry[] | undefined;
    for (let tail = this.#nextCandidate(0); tail < this.#length; ) {
      const run = this.#runFrom(tail);
      const head = run.at(-1);
      if (head === undefined) {
        tail = this.#nextCandidate(tail + LOG_SECTOR);
        continue;
      }
      const newest = best?.at(-1)?.sequenceNumber ?? 0n;
      if (head.sequenceNumber > newest && run.some((entry) => entry.at === head.tail)) best = run;
      // Shorter runs inside this one have the same head, so they cannot be better.
      const end = head.at + head.length;
      if (end >= this.#length || end <= tail) break;
      tail = this.#nextCandidate(end);
    }
    return best;
  }

  /** Adds the updates of a valid entry, in the order of its descriptors. */
  gather(entry: Entry, limit: number, updates: OverlayBuilder): void {
    const areaSectors = descriptorSectors(entry.descriptors);
    let dataSectors = 0;
    this.#eachDescriptor(entry.at, entry.descriptors, (view, at) => {
      const what = `VHDX log entry ${entry.sequenceNumber} at ${hex(this.#start + entry.at)}`;
      if (view.getUint32(at, true) === ZERO_SIGNATURE) {
        const target = u64At(view, at + zeroDescriptor.at.fileOffset);
        const length = u64At(view, at + zeroDescriptor.at.zeroLength);
        this.#checkTarget(what, 'zeroes', target, length, limit);
        if (updates.zeroCount >= MAX_ZERO_UPDATES) {
          throw unsupported(`${what}: the log has more than ${MAX_ZERO_UPDATES} zero descriptors`);
        }
        if (length > 0) updates.zero({ first: target / LOG_SECTOR, end: (target + length) / LOG_SECTOR });
        return true;
      }
      const target = u64At(view, at + dataDescriptor.at.fileOffset);
      this.#checkTarget(what, 'writes', target, LOG_SECTOR, limit);
      const { leadingBytes, trailingBytes } = dataDescriptor.decode(this.#sector, at);
      const from = entry.at + (areaSectors + dataSectors) * LOG_SECTOR;
      dataSectors += 1;
      updates.data({
        sector: target / LOG_SECTOR,
        fill: (into) => {
          this.#readSector(from);
          into.set(this.#sector);
          into.set(leadingBytes, 0);
          into.set(trailingBytes, LOG_SECTOR - trailingBytes.length);
        },
      });
      return true;
    });
  }

  /** A hostile log must not reach the headers or itself, nor make the file grow without bound. */
  #checkTarget(what: string, verb: string, target: number, length: number, limit: number): void {
    const end = target + length;
    const refuse = (expected: string): never => {
      throw corrupt(`${what}: ${verb} ${hex(length)} bytes at ${hex(target)}, ${expected}`);
    };
    if (!(end <= limit)) refuse(`expected nothing beyond ${hex(limit)}`);
    if (target < REGION_TABLE_OFFSETS[0]) {
      refuse(`expected nothing in the identifier or the headers (at ${HEADER_OFFSETS.map(hex).join(', ')})`);
    }
    if (target < this.#start + this.#length && end > this.#start) {
      refuse(
        `expected nothing in the log itself (${hex(this.#start)} to ${hex(this.#start + this.#length)})`,
      );
    }
  }

  /** The entries from `tail` on that follow each other. */
  #runFrom(tail: number): Entry[] {
    const run: Entry[] = [];
    let at = tail;
    for (;;) {
      const entry = this.#entryAt(at);
      const before = run.at(-1);
      if (entry === undefined) return run;
      if (before !== undefined && entry.sequenceNumber !== before.sequenceNumber + 1n) return run;
      run.push(entry);
      at = (at + entry.length) % this.#length;
    }
  }

  /** The entry that begins at `at`, if it is valid in all its parts ([MS-VHDX] 2.3.1). */
  #entryAt(at: number): Entry | undefined {
    this.#readSector(at);
    if (this.#view.getUint32(0, true) !== LOG_ENTRY_SIGNATURE) return undefined;
    const fields = logEntryHeader.decode(this.#sector);
    const length = fields.entryLength;
    const sectors = length / LOG_SECTOR;
    const areaSectors = descriptorSectors(fields.descriptorCount);
    if (
      length === 0 ||
      length % LOG_SECTOR !== 0 ||
      length > this.#length ||
      areaSectors > sectors ||
      fields.tail % LOG_SECTOR !== 0 ||
      fields.tail >= this.#length ||
      fields.sequenceNumber === 0n ||
      !equalBytes(fields.logGuid, this.#guid)
    ) {
      return undefined;
    }
    const low = this.#view.getUint32(logEntryHeader.at.sequenceNumber, true);
    const high = this.#view.getUint32(logEntryHeader.at.sequenceNumber + 4, true);
    let updates = 0;
    let crc = 0;
    const sound = this.#eachDescriptor(
      at,
      fields.descriptorCount,
      (view, place) => {
        const signature = view.getUint32(place, true);
        if (signature === DATA_SIGNATURE) updates += 1;
        else if (signature !== ZERO_SIGNATURE) return false;
        else if (view.getUint32(place + zeroDescriptor.at.zeroLength, true) % LOG_SECTOR !== 0) return false;
        const sequence = place + zeroDescriptor.at.sequenceNumber;
        return (
          view.getUint32(place + zeroDescriptor.at.fileOffset, true) % LOG_SECTOR === 0 &&
          view.getUint32(sequence, true) === low &&
          view.getUint32(sequence + 4, true) === high
        );
      },
      (sector) => {
        crc = crc32c(sector, crc);
      },
    );
    if (!sound || areaSectors + updates !== sectors) return undefined;
    for (let index = areaSectors; index < sectors; index += 1) {
      this.#readSector(at + index * LOG_SECTOR);
      if (
        this.#view.getUint32(0, true) !== DATA_SECTOR_SIGNATURE ||
        this.#view.getUint32(dataSector.at.sequenceHigh, true) !== high ||
        this.#view.getUint32(dataSector.at.sequenceLow, true) !== low
      ) {
        return undefined;
      }
      crc = crc32c(this.#sector, crc);
    }
    if (crc !== fields.checksum) return undefined;
    return {
      at,
      length,
      tail: fields.tail,
      sequenceNumber: fields.sequenceNumber,
      descriptors: fields.descriptorCount,
      flushedFileOffset: fields.flushedFileOffset,
      lastFileOffset: fields.lastFileOffset,
    };
  }

  /**
   * Walks the descriptors of the entry at `at`: 126 in its first sector, 128 in each further one. `visit` gets
   * each and ends the walk with false, which is then the result. `sector` gets each sector when its
   * descriptors were visited, the checksum in the first one as zero.
   */
  #eachDescriptor(
    at: number,
    count: number,
    visit: (view: DataView, place: number) => boolean,
    sector: (bytes: Uint8Array) => void = () => {},
  ): boolean {
    let left = count;
    for (let index = 0; index < descriptorSectors(count); index += 1) {
      this.#readSector(at + index * LOG_SECTOR);
      if (index === 0) this.#view.setUint32(logEntryHeader.at.checksum, 0, true);
      let place = index === 0 ? logEntryHeader.size : 0;
      for (; left > 0 && place < LOG_SECTOR; place += DESCRIPTOR_BYTES) {
        if (!visit(this.#view, place)) return false;
        left -= 1;
      }
      sector(this.#sector);
    }
    return true;
  }

  /** The first sector of the log from `at` on that the file does not know to be empty. */
  #nextCandidate(at: number): number {
    if (at >= this.#length) return this.#length;
    const data = this.#source.nextData((this.#start + at) as HostOffset) - this.#start;
    return Math.max(at, data - (data % LOG_SECTOR));
  }

  /** Reads the log's sector at `at`, which may lie past the end of the ring, into the one buffer. */
  #readSector(at: number): void {
    const host = this.#start + (at % this.#length);
    const moved = this.#source.readAt(this.#sector, 0, LOG_SECTOR, host as HostOffset);
    if (moved === LOG_SECTOR) return;
    throw new ImageError(
      'io',
      `VHDX log at ${hex(host)}: expected ${LOG_SECTOR} bytes, the read gave ${moved}`,
    );
  }
}

/** 4 KiB sectors taken by an entry's header and descriptors. */
function descriptorSectors(descriptors: number): number {
  return Math.ceil((logEntryHeader.size + descriptors * DESCRIPTOR_BYTES) / LOG_SECTOR);
}

/** A u64 rounded to a double: exact below 2^53, and what is above is refused by the limit. */
function u64At(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}
