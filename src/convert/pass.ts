/** One thread's part of a conversion: chunk by chunk it copies a disk, or compares the copy with it. */

import { EDQUOT, EFBIG, ENOSPC, type Status } from '../base/errno.ts';
import { ImageError, type WireError } from '../base/errors.ts';
import { type GuestOffset, hex, KIB, MIB } from '../base/units.ts';
import type { Disk } from '../disk/disk.ts';
import { beginWriteback } from '../source/syscalls.ts';
import { attachForReading, attachForWriting, type SourceSeed, type TargetSeed } from './attach.ts';
import { JoinedDisks } from './joined.ts';
import { type Chunk, Work, type WorkSeed } from './work.ts';
import { ZERO_UNIT, ZeroFinder } from './zeros.ts';

/** Read at once: it stays in the cache of a core until it is written. */
const PIECE_BYTES = 512 * KIB;
/** So much a thread writes before the host is told to begin writing it out. */
const WRITEBACK_BYTES = 32 * MIB;

export type ConvertInput = {
  readonly sources: readonly SourceSeed[];
  readonly work: WorkSeed;
  readonly thread: number;
} & (
  | {
      readonly kind: 'copy';
      readonly target: TargetSeed;
      /** Whether the host is to write out what was written, since it will be waited for. */
      readonly writeback: boolean;
      /** After so many seconds the copy is made stable, and it is said how far it is; 0: never. */
      readonly stableSeconds: number;
    }
  | { readonly kind: 'verify'; readonly copy: SourceSeed }
);

export type ConvertMessage =
  /** What was copied below `upTo` is stable. */
  | { readonly kind: 'stable'; readonly upTo: number }
  | { readonly kind: 'failed'; readonly error: WireError }
  /** It does nothing more: the thread itself takes a while to end. */
  | { readonly kind: 'ended' };

export abstract class Pass {
  protected readonly work: Work;
  protected readonly thread: number;
  protected readonly joined: JoinedDisks;
  protected readonly bytes = new Uint8Array(new SharedArrayBuffer(PIECE_BYTES));
  #damage = '';

  constructor({ work, thread, sources }: ConvertInput) {
    this.work = new Work(work);
    this.thread = thread;
    this.joined = new JoinedDisks(sources.map((seed) => attachForReading(seed, this.report)));
  }

  protected readonly report = (text: string): void => {
    this.#damage = text;
  };

  protected must(status: Status, at: number, what: string): void {
    if (status >= 0) return;
    const why = causes.get(-status) ?? `errno ${-status}`;
    const damage = this.#damage === '' ? '' : `: ${this.#damage}`;
    throw new ImageError('io', `at ${hex(at)} of the disk: ${what}: ${why}${damage}`);
  }

  /** Does the next chunk. Returns false where there is none, or all is to stop. Throws ImageError. */
  step(): boolean {
    const chunk = this.work.claim(this.thread);
    if (chunk === undefined || !this.chunk(chunk)) return false;
    this.work.rest(this.thread);
    this.between();
    return true;
  }

  /** Does all of a chunk. False where it was stopped before. */
  protected abstract chunk(chunk: Chunk): boolean;

  /** Without a chunk. */
  protected between(): void {}

  /** Looks where the source's bytes from `at` on are: up to where they are of one kind. */
  protected look(at: number): number {
    this.must(this.joined.look(at), at, 'where its bytes are cannot be told');
    return this.joined.end;
  }
}

class Copy extends Pass {
  readonly #target: Disk;
  readonly #finder = new ZeroFinder(this.bytes);
  readonly #fd: number;
  readonly #writeback: boolean;
  readonly #stableSeconds: number;
  readonly #say: (message: ConvertMessage) => void;
  #unwritten = 0;

  constructor(input: ConvertInput & { readonly kind: 'copy' }, say: (message: ConvertMessage) => void) {
    super(input);
    this.#target = attachForWriting(input.target, this.thread, this.report);
    this.#fd = input.target.layer.source.fd;
    this.#writeback = input.writeback;
    this.#stableSeconds = input.stableSeconds;
    this.#say = say;
  }

  protected chunk({ from, end }: Chunk): boolean {
    let at = from;
    while (at < end) {
      if (this.work.isStopped) return false;
      const same = this.look(at);
      if (this.joined.zeros) {
        at = Math.min(same, this.#target.size);
        continue;
      }
      // Where the data begins within a unit of the zero finder, the rest of that unit goes first.
      const most = at % ZERO_UNIT === 0 ? PIECE_BYTES : ZERO_UNIT - (at % ZERO_UNIT);
      const length = Math.min(most, same - at, end - at);
      this.must(this.joined.read(this.bytes, 0, length, at), at, 'it cannot be read');
      this.#write(at, length);
      at += length;
    }
    if (at > end) this.work.skipTo(at);
    return true;
  }

  /** Writes what is not zeros: the new disk is zeros where nobody wrote, or was the same. */
  #write(at: number, length: number): void {
    const finder = this.#finder;
    for (let from = finder.nextData(0, length); from < length; ) {
      const to = finder.nextZeros(from, length);
      const moved = this.#target.write(this.bytes, from, to - from, (at + from) as GuestOffset);
      this.must(moved, at + from, 'it cannot be written');
      this.#unwritten += moved;
      this.work.moved(this.thread, moved);
      from = finder.nextData(to, length);
    }
  }

  protected override between(): void {
    if (this.#writeback && this.#unwritten >= WRITEBACK_BYTES) {
      this.#unwritten = 0;
      beginWriteback(this.#fd, 0, 0);
    }
    if (this.#stableSeconds === 0 || !this.work.takesTurn(this.#stableSeconds)) return;
    // What is done later than this look may be in the flush, and need not.
    const upTo = this.work.doneUpTo;
    this.must(this.#target.flush(), upTo, 'it cannot be made stable');
    this.#say({ kind: 'stable', upTo });
  }
}

class Verify extends Pass {
  readonly #copy: JoinedDisks;
  readonly #other = Buffer.from(new SharedArrayBuffer(PIECE_BYTES));
  readonly #mine = Buffer.from(this.bytes.buffer);

  constructor(input: ConvertInput & { readonly kind: 'verify' }) {
    super(input);
    this.#copy = new JoinedDisks([attachForReading(input.copy, this.report)]);
  }

  protected chunk({ from, end }: Chunk): boolean {
    const copy = this.#copy;
    let at = from;
    while (at < end) {
      if (this.work.isStopped) return false;
      const same = this.look(at);
      this.must(copy.look(at), at, 'where the bytes of the copy are cannot be told');
      const both = Math.min(same, copy.end);
      if (this.joined.zeros && copy.zeros) {
        at = Math.min(both, copy.size);
        continue;
      }
      const length = Math.min(PIECE_BYTES, both - at, end - at);
      this.must(this.joined.read(this.bytes, 0, length, at), at, 'it cannot be read');
      this.must(copy.read(this.#other, 0, length, at), at, 'the copy cannot be read');
      if (this.#mine.compare(this.#other, 0, length, 0, length) !== 0) {
        throw new ImageError(
          'io',
          `the copy is not the same between ${hex(at)} and ${hex(at + length)} of the disk`,
        );
      }
      this.work.moved(this.thread, length);
      at += length;
    }
    if (at > end) this.work.skipTo(at);
    return true;
  }
}

/** In words, where users meet them. */
const causes: ReadonlyMap<number, string> = new Map([
  [ENOSPC, 'no space is left on the file system'],
  [EDQUOT, 'no space is left to its owner'],
  [EFBIG, 'the file system has no files that large'],
]);

/** Attaches what `input` tells of, in this thread. `say`: of copies, what became stable. Throws ImageError. */
export function passOf(input: ConvertInput, say: (message: ConvertMessage) => void): Pass {
  return input.kind === 'copy' ? new Copy(input, say) : new Verify(input);
}
