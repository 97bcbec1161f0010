/** Entry of the two threads of a hash: one reads, the other hashes. Which of them it is says the one message. */

import { createHash } from 'node:crypto';
import { fstatSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { ImageError, type WireError } from '../base/errors.ts';
import { type ByteCount, MIB } from '../base/units.ts';
import { attachLayers, type FileSeed } from '../fuse/tree.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool, type PagePoolSeed } from '../shared/page-pool.ts';
import type { SharedSource } from '../source/block-source.ts';
import { attachSource } from '../source/file.ts';
import type { Algorithm, Digests } from './algorithms.ts';
import { type Feed, feedOfDisk, feedOfSource, pump } from './feed.ts';
import { Pipe, type PipeSeed } from './pipe.ts';

/** What is hashed: a file, or the disk of `size` bytes that the layers show. */
export type HashTask =
  | { readonly kind: 'file'; readonly source: SharedSource }
  | {
      readonly kind: 'disk';
      readonly layers: FileSeed['layers'];
      readonly size: ByteCount;
      /** The one that all threads use with these images: their tables say where in it their pages are. */
      readonly pool: PagePoolSeed;
    };

export type HashInput =
  | { readonly role: 'read'; readonly pipe: PipeSeed; readonly task: HashTask }
  | { readonly role: 'hash'; readonly pipe: PipeSeed; readonly algorithms: readonly Algorithm[] };

/** The reader says something only where it fails. */
export type HashMessage =
  | { readonly kind: 'failed'; readonly error: WireError }
  | { readonly kind: 'hashed'; readonly digests: Digests; readonly bytes: ByteCount };

const ZEROS = new Uint8Array(MIB);

function hashAll(pipe: Pipe, algorithms: readonly Algorithm[]): HashMessage {
  const hashes = algorithms.map((name) => ({ name, hash: createHash(name) }));
  const update = (bytes: Uint8Array): void => {
    for (const { hash } of hashes) hash.update(bytes);
    pipe.advance(bytes.length);
  };
  for (;;) {
    const content = pipe.next();
    if (content === 0) break;
    if (content > 0) update(pipe.buffer(content));
    for (let left = -content; left > 0; left -= ZEROS.length) {
      update(left < ZEROS.length ? ZEROS.subarray(0, left) : ZEROS);
    }
    pipe.release();
  }
  const digests = Object.fromEntries(hashes.map(({ name, hash }) => [name, hash.digest('hex')]));
  return { kind: 'hashed', digests, bytes: pipe.hashed };
}

function hashed(pipe: Pipe, algorithms: readonly Algorithm[]): HashMessage {
  try {
    return hashAll(pipe, algorithms);
  } catch (problem) {
    return { kind: 'failed', error: ImageError.from(problem, 'bug').toWire() };
  }
}

/** What a task reads. `report` gets damage of the image. */
function feedOf(task: HashTask, report: (text: string) => void): Feed {
  if (task.kind === 'file') return feedOfSource(attachSource(task.source));
  const gate = new IoGate(IoGate.seed(1), 0);
  return feedOfDisk(attachLayers(task.layers, task.size, { pool: new PagePool(task.pool), gate, report }));
}

/** What was cut off is a hole to lseek(2), and would be hashed as zeros. */
function checkSize({ fd, size, device }: SharedSource): void {
  const before = new Float64Array(size)[0]!;
  const now = device ? before : fstatSync(fd).size;
  if (now !== before) throw new ImageError('io', `it has ${now} bytes, but had ${before} when hashing began`);
}

function read(pipe: Pipe, task: HashTask): HashMessage | undefined {
  let damage: string | undefined;
  try {
    pump(
      feedOf(task, (text) => {
        damage = text;
      }),
      pipe,
    );
    if (task.kind === 'file') checkSize(task.source);
    return undefined;
  } catch (problem) {
    const { kind, message } = ImageError.from(problem, 'bug');
    const text = damage === undefined ? message : `${message} (${damage})`;
    return { kind: 'failed', error: { kind, message: text } };
  }
}

const port = parentPort!;
port.once('message', (input: HashInput) => {
  const pipe = new Pipe(input.pipe);
  const message = input.role === 'read' ? read(pipe, input.task) : hashed(pipe, input.algorithms);
  if (message !== undefined) port.postMessage(message);
});
