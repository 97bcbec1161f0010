/** What the tests of writing VHDX share. */

import { guestOffset, MIB } from '../../../../src/base/units.ts';
import type { Disk } from '../../../../src/disk/disk.ts';
import { vhdxDriver } from '../../../../src/formats/vhdx/driver.ts';
import { type EditableDisk, openDisk, openEditable } from '../../../support/disk.ts';
import { buildVhdx, fileBytes, type VhdxPlan } from '../../../support/encoders/vhdx-image.ts';
import { intoLog, markDirty, putEntries } from '../../../support/encoders/vhdx-log.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { RecordingSource } from '../../../support/recording-source.ts';
import type { SparseSource } from '../../../support/sparse-source.ts';

export const LOG_AT = MIB;
export const BAT_AT = 3 * MIB;
/** What headers name where they name nothing, as `headerOf` shows it. */
export const NO_GUID = '00'.repeat(16);

export const sector = randomBytes(random(1), 4096);
export const block = randomBytes(random(2), MIB);

/** Block 0 is there. */
export const plan: VhdxPlan = { size: 8 * MIB, blocks: new Map([[0, { state: 6, data: block }]]) };

/** Block 2 is there, by the log alone. */
export function dirtyFile(): SparseSource {
  const dirty: VhdxPlan = { size: 8 * MIB, blocks: new Map([[2, { state: 6, data: block }]]) };
  const file = buildVhdx(dirty);
  const update = intoLog(file, BAT_AT);
  markDirty(file, dirty);
  putEntries(file, dirty, [{ sequence: 41, updates: [update], last: 7 * MIB }]);
  return file;
}

export interface Edited extends EditableDisk {
  readonly memory: MemorySource;
  readonly recording: RecordingSource;
  /** Changes of the file since the last call: "log.write 0x100000 +8192", without repeated payload. */
  steps(): string[];
}

export function edit(file: SparseSource | Uint8Array, parent?: Disk): Edited {
  const bytes = file instanceof Uint8Array ? file : fileBytes(file);
  const memory = new MemorySource(bytes, 'image', true);
  const recording = new RecordingSource(memory);
  let seen = 0;
  const steps = (): string[] => {
    const fresh = recording.changes.slice(seen);
    seen = recording.changes.length;
    return fresh.map((change) => {
      if (change.kind === 'flush') return 'flush';
      if (change.kind === 'size') return `size ${change.to / MIB}`;
      return `${change.step} 0x${change.at.toString(16)} +${change.length}`;
    });
  };
  return { ...openEditable(vhdxDriver, recording, {}, 1 << 20, parent), memory, recording, steps };
}

export const editPlan = (plan: VhdxPlan, parent?: Disk): Edited => edit(buildVhdx(plan), parent);

export function write(disk: Disk, at: number, bytes: Uint8Array): void {
  const moved = disk.write(bytes, 0, bytes.length, guestOffset(at));
  if (moved !== bytes.length) throw new Error(`write at ${at}: ${moved}`);
}

export function punch(disk: Disk, at: number, length: number): void {
  const status = disk.zero(guestOffset(at), length, 'punch');
  if (status !== 0) throw new Error(`zero at ${at}: ${status}`);
}

/** The file as it is now, opened by somebody else. */
export const reopened = (file: Uint8Array, parent?: Disk) =>
  openDisk(vhdxDriver, new MemorySource(file.slice()), {}, 1 << 20, parent);

export function entryAt(file: Uint8Array, entry: number): { state: number; mib: number; raw: bigint } {
  const raw = new DataView(file.buffer, file.byteOffset).getBigUint64(BAT_AT + entry * 8, true);
  return { state: Number(raw & 7n), mib: Number(raw >> 20n), raw };
}

export interface SeenHeader {
  readonly sequence: number;
  readonly fileWriteGuid: string;
  readonly dataWriteGuid: string;
  readonly logGuid: string;
}

export function headerOf(file: Uint8Array, slot: 1 | 2): SeenHeader {
  const at = slot * 0x10000;
  const hex = (from: number) => Buffer.from(file.subarray(at + from, at + from + 16)).toString('hex');
  return {
    sequence: Number(new DataView(file.buffer, file.byteOffset).getBigUint64(at + 8, true)),
    fileWriteGuid: hex(16),
    dataWriteGuid: hex(32),
    logGuid: hex(48),
  };
}

export interface SeenEntry {
  readonly at: number;
  readonly length: number;
  readonly tail: number;
  readonly sequence: number;
  readonly targets: number[];
  readonly flushed: number;
  readonly last: number;
}

/** The log entries in the file with the GUID that header 1 names, in the order of the ring. */
export function logEntries(file: Uint8Array, logLength = MIB): SeenEntry[] {
  const { logGuid } = headerOf(file, 1);
  const view = new DataView(file.buffer, file.byteOffset);
  const entries: SeenEntry[] = [];
  for (let at = 0; at < logLength; at += 4096) {
    const place = LOG_AT + at;
    if (Buffer.from(file.subarray(place, place + 4)).toString('latin1') !== 'loge') continue;
    if (Buffer.from(file.subarray(place + 32, place + 48)).toString('hex') !== logGuid) continue;
    const wide = (from: number) => Number(view.getBigUint64(place + from, true));
    const targets: number[] = [];
    for (let n = 0; n < view.getUint32(place + 24, true); n += 1) targets.push(wide(64 + n * 32 + 16));
    entries.push({
      at,
      length: view.getUint32(place + 8, true),
      tail: view.getUint32(place + 12, true),
      sequence: wide(16),
      targets,
      flushed: wide(48),
      last: wide(56),
    });
  }
  return entries;
}
