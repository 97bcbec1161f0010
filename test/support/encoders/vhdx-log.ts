/** Makes the logs of VHDX files, for the tests: sound, wrapped, torn, of several sequences. */

import { MIB } from '../../../src/base/units.ts';
import type { SparseSource } from '../sparse-source.ts';
import {
  type AreaPlan,
  encodeHeader,
  fileBytes,
  LOG,
  LOG_GUID,
  little,
  sealed,
  standardHeader,
  type VhdxPlan,
} from './vhdx-image.ts';

export type LogUpdate =
  | { readonly write: number; readonly bytes: Uint8Array }
  | { readonly zero: number | bigint; readonly length: number | bigint };

export interface LogEntryPlan {
  sequence: number | bigint;
  updates?: readonly LogUpdate[];
  /** Offset of the tail entry from the start of the log. */
  tail?: number;
  logGuid?: Uint8Array;
  flushed?: number | bigint;
  last?: number | bigint;
  /** Overrides of what the header says. */
  entryLength?: number;
  descriptorCount?: number;
}

/** Bytes of an entry: descriptor sectors, then one sector for each write. */
export function encodeLogEntry(plan: LogEntryPlan): Uint8Array {
  const updates = plan.updates ?? [];
  const writes = updates.filter((update) => 'write' in update);
  const area = Math.ceil((64 + 32 * updates.length) / 4096);
  const bytes = new Uint8Array((area + writes.length) * 4096);
  const sequence = little(8, plan.sequence);
  bytes.set(new TextEncoder().encode('loge'), 0);
  bytes.set(little(4, plan.entryLength ?? bytes.length), 8);
  bytes.set(little(4, plan.tail ?? 0), 12);
  bytes.set(sequence, 16);
  bytes.set(little(4, plan.descriptorCount ?? updates.length), 24);
  bytes.set(plan.logGuid ?? LOG_GUID, 32);
  bytes.set(little(8, plan.flushed ?? 0), 48);
  bytes.set(little(8, plan.last ?? 0), 56);
  updates.forEach((update, index) => {
    const at = 64 + index * 32;
    bytes.set(new TextEncoder().encode('write' in update ? 'desc' : 'zero'), at);
    if ('write' in update) {
      bytes.set(update.bytes.subarray(4092, 4096), at + 4);
      bytes.set(update.bytes.subarray(0, 8), at + 8);
      bytes.set(little(8, update.write), at + 16);
    } else {
      bytes.set(little(8, update.length), at + 8);
      bytes.set(little(8, update.zero), at + 16);
    }
    bytes.set(sequence, at + 24);
  });
  writes.forEach((update, index) => {
    const at = (area + index) * 4096;
    bytes.set(new TextEncoder().encode('data'), at);
    bytes.set(sequence.subarray(4, 8), at + 4);
    bytes.set(update.bytes.subarray(8, 4092), at + 8);
    bytes.set(sequence.subarray(0, 4), at + 4092);
  });
  return sealed(bytes);
}

/** Writes at `at` of the log, going on at its start where it ends. */
export function putRing(file: SparseSource, log: AreaPlan, at: number, bytes: Uint8Array): void {
  const size = file.size;
  const ring = log.length * MIB;
  for (let done = 0; done < bytes.length; done += 4096) {
    file.put(log.at * MIB + ((at + done) % ring), bytes.subarray(done, done + 4096));
  }
  file.size = Math.max(size, file.size);
}

/** Names a log in both headers, as an unclean file has it. */
export function markDirty(file: SparseSource, plan: VhdxPlan, logGuid = LOG_GUID): void {
  for (const [index, sequence] of [6, 7].entries()) {
    file.put(0x10000 * (index + 1), encodeHeader({ ...standardHeader(plan), sequence, logGuid }));
  }
}

/** Writes one entry after another from `at` of the log on, each naming the first as its tail. */
export function putEntries(
  file: SparseSource,
  plan: VhdxPlan,
  entries: readonly LogEntryPlan[],
  at = 0,
): number[] {
  const log = plan.log ?? LOG;
  const places: number[] = [];
  let place = at;
  for (const entry of entries) {
    const bytes = encodeLogEntry({ flushed: file.size, last: file.size, tail: at, ...entry });
    putRing(file, log, place, bytes);
    places.push(place);
    place = (place + bytes.length) % (log.length * MIB);
  }
  return places;
}

/** Takes the 4 KiB at `at` out of the file: the update that would bring them back; garbage is left behind. */
export function intoLog(file: SparseSource, at: number): LogUpdate {
  const bytes = fileBytes(file, at, 4096);
  file.put(at, new Uint8Array(4096).fill(0xee));
  return { write: at, bytes };
}
