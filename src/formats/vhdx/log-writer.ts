/**
 * Writing the log ([MS-VHDX] 2.3.1): entries one after another round the ring, each naming itself as its tail.
 *
 * That is enough, because the writer keeps one rule: what an entry changes was written in place, and a flush has
 * made that stable, before the next entry is written (the flush of the payload, with which every commit begins,
 * is that flush: a checkpoint for nothing). So only the newest entry is ever needed, and no entry may touch the
 * one before it. As none is longer than 127 sectors, and no log shorter than 256, that holds without looking:
 * there are always two free sectors.
 *
 * MAX_UPDATES keeps the descriptors of an entry in one sector. More would be legal, but QEMU 7.2 reads a longer
 * descriptor area wrongly.
 *
 * One thread at a time: the holder of the image's commit lock.
 */

import { crc32c } from '../../base/crc32c.ts';
import type { Status } from '../../base/errno.ts';
import { randomGuid } from '../../base/guid.ts';
import { type ByteCount, type HostOffset, MIB, roundDown, roundUp } from '../../base/units.ts';
import type { BlockSource } from '../../source/block-source.ts';
import {
  DATA_SECTOR_SIGNATURE,
  DATA_SIGNATURE,
  dataDescriptor,
  dataSector,
  LOG_ENTRY_SIGNATURE,
  LOG_SECTOR,
  logEntryHeader,
} from './structs.ts';

/** 4 KiB sectors that one entry can change. */
export const MAX_UPDATES = Math.floor((LOG_SECTOR - logEntryHeader.size) / dataDescriptor.size);

/** Of an update, what stands in its descriptor: so many bytes of its start and of its end. */
const LEADING_BYTES = dataDescriptor.at.fileOffset - dataDescriptor.at.leadingBytes;
const TRAILING_BYTES = dataDescriptor.at.leadingBytes - dataDescriptor.at.trailingBytes;

/** Where the next entry goes, from the start of the log. */
const NEXT_AT = 0;
/** Its sequence number; a double holds more than will ever be written. */
const SEQUENCE = 1;
/** 1: the header names the log, so that its newest entry counts. */
const NAMED = 2;
const WORDS = 3;

/** Plain data: shared by all threads. */
export interface LogSeed {
  readonly at: HostOffset;
  /** At least 1 MiB. */
  readonly length: ByteCount;
  readonly guid: SharedArrayBuffer;
  readonly words: SharedArrayBuffer;
}

export function logSeed(at: HostOffset, length: ByteCount): LogSeed {
  return { at, length, guid: new SharedArrayBuffer(16), words: new SharedArrayBuffer(WORDS * 8) };
}

/** The entry that is being made: memory of the thread, used by one image at a time, touched as it is used. */
let memory: Uint8Array<ArrayBuffer> | undefined;

export class LogWriter {
  readonly guid: Uint8Array<SharedArrayBuffer>;
  readonly #seed: LogSeed;
  readonly #words: Float64Array<SharedArrayBuffer>;
  readonly #source: BlockSource;
  readonly #stable: () => Status;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #updates = 0;

  /** `stable` flushes the source. */
  constructor(seed: LogSeed, source: BlockSource, stable: () => Status) {
    memory ??= new Uint8Array((1 + MAX_UPDATES) * LOG_SECTOR);
    this.guid = new Uint8Array(seed.guid);
    this.#seed = seed;
    this.#words = new Float64Array(seed.words);
    this.#source = source;
    this.#stable = stable;
    this.#bytes = memory;
    this.#view = new DataView(memory.buffer);
  }

  /** Starts a log with a new identity. No header may name a log now: the area is free to be written over. */
  restart(): void {
    this.guid.set(randomGuid());
    this.#words.fill(0);
    this.#words[SEQUENCE] = 1;
  }

  get named(): boolean {
    return this.#words[NAMED] === 1;
  }

  /** A header that names the log is stable. */
  setNamed(): void {
    this.#words[NAMED] = 1;
  }

  /** Begins an entry. */
  begin(): void {
    this.#updates = 0;
    this.#bytes.fill(0, 0, LOG_SECTOR);
  }

  /** Adds the 4 KiB at bytes[start] that are to be at `target`: at most MAX_UPDATES of them. */
  add(target: HostOffset, bytes: Uint8Array, start: number): void {
    const view = this.#view;
    const descriptor = logEntryHeader.size + this.#updates * dataDescriptor.size;
    this.#updates += 1;
    const end = start + LOG_SECTOR;
    const { at } = dataDescriptor;
    view.setUint32(descriptor, DATA_SIGNATURE, true);
    this.#bytes.set(bytes.subarray(end - TRAILING_BYTES, end), descriptor + at.trailingBytes);
    this.#bytes.set(bytes.subarray(start, start + LEADING_BYTES), descriptor + at.leadingBytes);
    this.#putWide(descriptor + at.fileOffset, target);
    this.#putWide(descriptor + at.sequenceNumber, this.#words[SEQUENCE]!);
    const sector = this.#updates * LOG_SECTOR;
    view.setUint32(sector, DATA_SECTOR_SIGNATURE, true);
    view.setUint32(sector + dataSector.at.sequenceHigh, Math.floor(this.#words[SEQUENCE]! / 2 ** 32), true);
    this.#bytes.set(bytes.subarray(start + LEADING_BYTES, end - TRAILING_BYTES), sector + dataSector.at.data);
    view.setUint32(sector + dataSector.at.sequenceLow, this.#words[SEQUENCE]! >>> 0, true);
  }

  /**
   * Writes the entry and makes it stable. `fileSize` is stable, and everything that the updates name lies within.
   * Returns 0 or -errno: then the entry may count or not, and the next one goes to the same place.
   */
  end(fileSize: ByteCount): Status {
    const view = this.#view;
    const { at } = logEntryHeader;
    const length = (1 + this.#updates) * LOG_SECTOR;
    const place = this.#words[NEXT_AT]!;
    view.setUint32(0, LOG_ENTRY_SIGNATURE, true);
    view.setUint32(at.entryLength, length, true);
    view.setUint32(at.tail, place, true);
    this.#putWide(at.sequenceNumber, this.#words[SEQUENCE]!);
    view.setUint32(at.descriptorCount, this.#updates, true);
    this.#bytes.set(this.guid, at.logGuid);
    // A reader refuses a file that is shorter than the first of the two, and extends one to the second.
    this.#putWide(at.flushedFileOffset, roundDown(fileSize, MIB));
    this.#putWide(at.lastFileOffset, roundUp(fileSize, MIB));
    view.setUint32(at.checksum, crc32c(this.#bytes.subarray(0, length)), true);
    let status = this.#write(place, length);
    if (status === 0) status = this.#stable();
    if (status < 0) return status;
    this.#words[NEXT_AT] = (place + length) % this.#seed.length;
    this.#words[SEQUENCE]! += 1;
    return 0;
  }

  /** In two pieces where the ring ends inside. */
  #write(place: number, length: number): Status {
    const first = Math.min(length, this.#seed.length - place);
    const { at } = this.#seed;
    const status = this.#source.writeAt(this.#bytes, 0, first, (at + place) as HostOffset, 'log.write');
    if (status < 0 || first === length) return status;
    return this.#source.writeAt(this.#bytes, first, length - first, at, 'log.write');
  }

  #putWide(at: number, value: number): void {
    this.#view.setUint32(at, value >>> 0, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }
}
