/**
 * What becomes of writes past the end of a disk that the kernel's page cache took. They fail when they are
 * written back (fsync(2) and close(2) then say so), but until then the writer has been told that all is well, and
 * the file is longer than the disk: with FUSE_WRITEBACK_CACHE the kernel keeps the size itself, and asks for it
 * only when it makes an inode (fs/fuse/inode.c, fuse_get_cache_mask). Only a truncation sets it right, or the end
 * of the inode. So:
 *
 * - The next write(2) fails: before one, the kernel asks for attributes that are older than a second, and passes
 *   on the error. Without that, a program that writes until the device is full would never stop.
 * - When the file is closed by everybody, the kernel is told to forget its name, and with it the inode.
 *
 * State in shared memory, for each node: written by all workers. A wrong count has no other consequence than that
 * the size stays as it is until somebody truncates the file to the disk's size.
 */

const OPENS = 0;
const OUTGROWN = 1;
const REFUSED_AT = 2;
const WORDS = 4;

/** For so many seconds after a write was refused, the next one is. */
const OWED_SECONDS = 3;

/** Never 0. */
const now = (): number => 1 + Math.floor(performance.timeOrigin / 1000 + performance.now() / 1000);

export class PastEnd {
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** For nodes up to `last`. */
  static seed(last: number): SharedArrayBuffer {
    return new SharedArrayBuffer((last + 1) * WORDS * 4);
  }

  /** Index of the node's first word, or -1 where there is no such node. */
  #at(node: number): number {
    const at = node * WORDS;
    return at < this.#words.length ? at : -1;
  }

  opened(node: number): void {
    const at = this.#at(node);
    if (at >= 0) Atomics.add(this.#words, at + OPENS, 1);
  }

  /** Says whether the kernel should forget the file: nobody has it open, and its size is wrong. */
  closed(node: number): boolean {
    const at = this.#at(node);
    if (at < 0) return false;
    const others = Atomics.sub(this.#words, at + OPENS, 1) - 1;
    return others <= 0 && Atomics.load(this.#words, at + OUTGROWN) !== 0;
  }

  /** A write from the page cache reached past the end. */
  refused(node: number): void {
    const at = this.#at(node);
    if (at < 0) return;
    Atomics.store(this.#words, at + OUTGROWN, 1);
    Atomics.store(this.#words, at + REFUSED_AT, now());
  }

  /** Whether somebody who is about to write is to be told that there is no space. Once for each refusal. */
  owes(node: number): boolean {
    const at = this.#at(node);
    if (at < 0 || Atomics.load(this.#words, at + REFUSED_AT) === 0) return false;
    const refused = Atomics.exchange(this.#words, at + REFUSED_AT, 0);
    return refused !== 0 && now() - refused <= OWED_SECONDS;
  }

  /** The kernel has the right size again, or no inode any more. */
  settled(node: number): void {
    const at = this.#at(node);
    if (at < 0) return;
    Atomics.store(this.#words, at + OUTGROWN, 0);
    Atomics.store(this.#words, at + REFUSED_AT, 0);
  }
}
