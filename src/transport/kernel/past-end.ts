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
 * State in shared memory, for each file by its slot (fuse/members.ts): written by all workers. Where it is wrong, the
 * size stays as it is until somebody truncates the file to the disk's size. A slot below 0 stands for no file.
 */

const OUTGROWN = 0;
const REFUSED_AT = 1;
const WORDS = 2;

/** For so many seconds after a write was refused, the next one is. */
const OWED_SECONDS = 3;

/** Never 0. */
const now = (): number => 1 + Math.floor(performance.timeOrigin / 1000 + performance.now() / 1000);

export class PastEnd {
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  static seed(slots: number): SharedArrayBuffer {
    return new SharedArrayBuffer(slots * WORDS * 4);
  }

  /** Index of the file's first word, or -1 where there is no such file. */
  #at(slot: number): number {
    const at = slot * WORDS;
    return at >= 0 && at < this.#words.length ? at : -1;
  }

  /** Whether its size is wrong: the kernel should forget the file when nobody has it open. */
  isOutgrown(slot: number): boolean {
    const at = this.#at(slot);
    return at >= 0 && Atomics.load(this.#words, at + OUTGROWN) !== 0;
  }

  /** A write from the page cache reached past the end. */
  refused(slot: number): void {
    const at = this.#at(slot);
    if (at < 0) return;
    Atomics.store(this.#words, at + OUTGROWN, 1);
    Atomics.store(this.#words, at + REFUSED_AT, now());
  }

  /** Whether somebody who is about to write is to be told that there is no space. Once for each refusal. */
  owes(slot: number): boolean {
    const at = this.#at(slot);
    if (at < 0 || Atomics.load(this.#words, at + REFUSED_AT) === 0) return false;
    const refused = Atomics.exchange(this.#words, at + REFUSED_AT, 0);
    return refused !== 0 && now() - refused <= OWED_SECONDS;
  }

  /** The kernel has the right size again, or no inode any more. */
  settled(slot: number): void {
    const at = this.#at(slot);
    if (at < 0) return;
    Atomics.store(this.#words, at + OUTGROWN, 0);
    Atomics.store(this.#words, at + REFUSED_AT, 0);
  }
}
