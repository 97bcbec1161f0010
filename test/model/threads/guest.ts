/**
 * One of several threads that write to one disk at once, each to sectors of its own, and check what they read
 * against a model of their own. Posts what was wrong, and the model.
 */

import { parentPort, workerData } from 'node:worker_threads';
import { guestOffset } from '../../../src/base/units.ts';
import { attachLayers, type FileSeed } from '../../../src/fuse/tree.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../../../src/shared/page-pool.ts';
import { between, random, randomBytes } from '../../support/random.ts';
import { runsOf, SECTOR } from './owners.ts';

export interface GuestData {
  readonly layers: FileSeed['layers'];
  readonly pool: PagePoolSeed;
  readonly gate: SharedArrayBuffer;
  /** Of the gate; also whose sectors are its own. */
  readonly thread: number;
  /** Owner of each sector, and of each block that one thread has to itself; 255 for blocks that are shared. */
  readonly sectors: Uint8Array;
  readonly blocks: Uint8Array;
  readonly blockSize: number;
  readonly content: Uint8Array;
  readonly seed: number;
  readonly steps: number;
}

export interface GuestResult {
  readonly problems: readonly string[];
  readonly model: Uint8Array;
  readonly flushes: number;
}

const data = workerData as GuestData;
const { thread, blockSize } = data;
const problems: string[] = [];
const report = (text: string) => problems.push(text);
const pool = new PagePool(data.pool);
const gate = new IoGate(data.gate, thread);
const disk = attachLayers(data.layers, data.content.length, { pool, gate, report });

const next = random(data.seed * 31 + thread);
const model = data.content.slice();
const runs = runsOf(data.sectors, thread);
const blocks = [...data.blocks.keys()].filter((block) => data.blocks[block] === thread);
let flushes = 0;

/** Bytes within one of the own runs of sectors. */
function somewhere(): { at: number; length: number } {
  const run = runs[between(next, 0, runs.length - 1)]!;
  const end = Math.min((run.first + run.count) * SECTOR, model.length);
  const start = run.first * SECTOR;
  const grain = next() < 0.5 ? 1 : SECTOR;
  const at = start + Math.floor((next() * (end - start)) / grain) * grain;
  return { at, length: Math.min(end - at, Math.max(1, between(next, 1, 8) * grain)) };
}

function step(): void {
  const chance = next();
  if (chance < 0.06) {
    const status = disk.flush();
    flushes += 1;
    if (status !== 0) problems.push(`flush: ${status}`);
    return;
  }
  if (chance < 0.22 && blocks.length > 0) {
    const at = blocks[between(next, 0, blocks.length - 1)]! * blockSize;
    const length = Math.min(blockSize, model.length - at);
    const status = disk.zero(guestOffset(at), length, 'punch');
    if (status !== 0) problems.push(`discard of ${length} at ${at}: ${status}`);
    model.fill(0, at, at + length);
    return;
  }
  const { at, length } = somewhere();
  if (chance < 0.3) {
    const status = disk.zero(guestOffset(at), length, next() < 0.5 ? 'punch' : 'keep');
    if (status !== 0) problems.push(`zero of ${length} at ${at}: ${status}`);
    model.fill(0, at, at + length);
  } else if (chance < 0.65) {
    const bytes = randomBytes(next, length);
    const moved = disk.write(bytes, 0, length, guestOffset(at));
    if (moved !== length) problems.push(`write of ${length} at ${at}: ${moved}`);
    model.set(bytes, at);
  } else {
    const bytes = new Uint8Array(length);
    const moved = disk.read(bytes, 0, length, guestOffset(at));
    if (moved !== length) problems.push(`read of ${length} at ${at}: ${moved}`);
    else if (Buffer.compare(bytes, model.subarray(at, at + length)) !== 0) {
      problems.push(`step ${count}: ${length} bytes at ${at} are not what was written`);
    }
  }
}

let count = 0;
if (runs.length > 0) {
  for (; count < data.steps && problems.length < 5; count += 1) step();
}
const result: GuestResult = { problems, model, flushes };
parentPort!.postMessage(result);
