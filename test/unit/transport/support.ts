/** File systems over raw temporary files, and FUSE messages as bytes. */

import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { rawDriver } from '../../../src/formats/raw/driver.ts';
import { Counters } from '../../../src/fuse/counters.ts';
import { FileSystem } from '../../../src/fuse/filesystem.ts';
import { Members } from '../../../src/fuse/members.ts';
import { FileTimes, timeOf } from '../../../src/fuse/times.ts';
import type { FileSeed, TreeSeed, WindowSeed } from '../../../src/fuse/tree.ts';
import { IoGate } from '../../../src/shared/io-gate.ts';
import { PagePool } from '../../../src/shared/page-pool.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { type FileSource, openFile } from '../../../src/source/file.ts';
import type { Responder } from '../../../src/transport/kernel/responder.ts';

/** One raw file of a tree. */
export interface RawFile {
  readonly name: string;
  readonly content: Uint8Array;
  /** Where the content stands in the file, which is sparse elsewhere; default 0. */
  readonly at?: number;
  /** Bytes of the file; default: up to the end of the content. */
  readonly size?: number;
  readonly times?: FileSeed['times'];
  readonly attributes?: FileSeed['attributes'];
  readonly writable?: boolean;
}

export interface TreeOptions {
  readonly partitions?: boolean;
  readonly windows?: readonly WindowSeed[];
  readonly shape?: TreeSeed['shape'];
  readonly sync?: boolean;
}

/** Times of an image file, from milliseconds. */
export function times(atime: number, mtime: number, ctime: number): FileSeed['times'] {
  const time = (ms: number) => timeOf(BigInt(Math.round(ms * 1000)) * 1000n);
  return { atime: time(atime), mtime: time(mtime), ctime: time(ctime) };
}

/** Those of the trees of the tests, in ms. */
export const TIMES_MS = { atime: 1_700_000_000_250, mtime: 1_600_000_000_500, ctime: 1_000 };
export const TIMES = times(TIMES_MS.atime, TIMES_MS.mtime, TIMES_MS.ctime);
/** When the trees of the tests were mounted, in ms. */
export const MOUNTED = 1_750_000_000_000;
/** Owner and group of the trees of the tests. */
export const UID = 1234;
export const GID = 5678;

/** Threads that serve the trees of the tests, at most. */
const THREADS = 2;

/** Trees in a private directory; `close` removes it. */
export class Trees {
  readonly #directory = mkdtempSync(join(tmpdir(), 'vdisk-unit-'));
  readonly #sources: FileSource[] = [];

  seed(
    files: readonly RawFile[],
    { shape = 'directory', sync = false, windows = [], partitions = windows.length > 0 }: TreeOptions = {},
  ): TreeSeed {
    const seeds = files.map((file) => this.#file(file));
    return {
      shape,
      files: seeds,
      windows,
      partitions,
      pool: PagePool.seed(1 << 16),
      allocated: new Float64Array(new SharedArrayBuffer(seeds.length * 8)).fill(1000)
        .buffer as SharedArrayBuffer,
      gate: IoGate.seed(THREADS + 2),
      counters: Counters.seed(THREADS + 2, files.length + windows.length),
      members: Members.seed(files.length + windows.length, files.length + windows.length),
      sync,
      times: FileTimes.seed(seeds.length),
      uid: UID,
      gid: GID,
      umask: 0o022,
      mounted: timeOf(BigInt(MOUNTED) * 1_000_000n),
    };
  }

  fileSystem(files: readonly RawFile[], options: TreeOptions = {}): FileSystem {
    return this.attach(this.seed(files, options));
  }

  /** The file system of a seed, in the first thread of the mount or in another one. */
  attach(seed: TreeSeed, thread = 0): FileSystem {
    const refuse = (text: string): never => {
      throw new Error(`not expected: ${text}`);
    };
    return new FileSystem(seed, refuse, thread);
  }

  /** How many image files there are. */
  get imageCount(): number {
    return this.#sources.length;
  }

  /** The image files, in the order in which they were made: what is in them now. */
  image(index: number): Buffer {
    return readFileSync(this.#path(index));
  }

  #path(index: number): string {
    return join(this.#directory, `${index}.raw`);
  }

  #file(file: RawFile): FileSeed {
    const { name, content, at = 0, size, times = TIMES, attributes = [], writable = false } = file;
    const path = this.#path(this.#sources.length);
    writeFileSync(path, '');
    const fd = openSync(path, 'r+');
    writeSync(fd, content, 0, content.length, at);
    ftruncateSync(fd, size ?? at + content.length);
    closeSync(fd);
    const source = openFile(path, writable ? 'write' : 'read');
    this.#sources.push(source);
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map<string, string>() };
    const opened = rawDriver.open(source, context);
    const image = writable ? { ...opened.share(), edit: opened.prepareEdit(context) } : opened.share();
    const layers = [{ image, source: source.share() }] as const;
    return { name, size: opened.virtualSize, layers, writable, times, blockSize: 4096, attributes };
  }

  close(): void {
    for (const source of this.#sources) source.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** The number of every request of the tests: both halves differ in every byte. */
export const UNIQUE = 0x1122334455667788n;

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};

export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
};

/** A name with its NUL. */
export const name = (text: string): Buffer => Buffer.from(`${text}\0`, 'latin1');

/** A request: fuse_in_header, then the body. `len` overrides what the header says of the length. */
export function request(opcode: number, node: number, body: Buffer = Buffer.alloc(0), len?: number): Buffer {
  const header = Buffer.concat([
    u32(len ?? 40 + body.length), // len
    u32(opcode), // opcode
    u64(UNIQUE), // unique
    u64(node), // nodeid
    u32(1000), // uid
    u32(1000), // gid
    u32(4242), // pid
    u32(0), // total_extlen, padding
  ]);
  return Buffer.concat([header, body]);
}

/** A read_in of READ and READDIR. */
export function readIn(fh: number, offset: number | bigint, size: number): Buffer {
  return Buffer.concat([
    u64(fh), // fh
    u64(offset), // offset
    u32(size), // size
    u32(0), // read_flags
    u64(0), // lock_owner
    u32(0), // flags
    u32(0), // padding
  ]);
}

export interface Reply {
  /** 0 or -errno. */
  readonly error: number;
  readonly payload: Buffer;
}

/** What the responder answers to `message`; undefined where it wants no reply. Checks the reply's header. */
export function ask(responder: Responder, message: Buffer): Reply | undefined {
  // What an earlier, longer request left in the buffer must not count.
  responder.request.bytes.fill(0xee);
  message.copy(responder.request.bytes);
  const size = responder.answer(message.length);
  if (size === 0) return undefined;
  return decodeReply(responder.reply.bytes.subarray(4096 - 16, 4096 - 16 + size));
}

/** Splits a reply of exactly these bytes. Checks that its header says so. */
export function decodeReply(bytes: Buffer): Reply {
  expect(bytes.readUInt32LE(0), 'len of the reply').toBe(bytes.length);
  expect(bytes.readBigUInt64LE(8), 'unique of the reply').toBe(UNIQUE);
  const error = bytes.readInt32LE(4);
  if (error !== 0) expect(bytes.length, 'an error has no payload').toBe(16);
  return { error, payload: Buffer.from(bytes.subarray(16)) };
}
