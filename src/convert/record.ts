/**
 * What is needed to go on with a conversion that was interrupted: beside the partial output (DST.partial) a record
 * (DST.partial.json) of what it is made of, and up to where it is stable. A record that says anything else than what is
 * asked for now counts for nothing.
 */

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';

const VERSION = 1;
/** A record has some hundred bytes for each file of its source. */
const MAX_BYTES = 1 << 20;

export class ResumeRecord {
  /** What the image is made in. */
  readonly partial: string;
  readonly #path: string;
  readonly #made: string;

  /** `made`: of what, and how; of another one nothing can be used. */
  constructor(target: string, made: unknown) {
    this.partial = `${target}.partial`;
    this.#path = `${target}.partial.json`;
    this.#made = JSON.stringify(made);
  }

  /**
   * Up to where the open partial output is what was asked for: undefined where there is none from before, or why it is
   * of no use.
   */
  find(fd: number): { readonly upTo: number } | { readonly useless: string } | undefined {
    const text = this.#read();
    const { size, ino } = fstatSync(fd);
    if (text === undefined) return size === 0 ? undefined : { useless: 'it has no record' };
    const record = parse(text);
    if (record === undefined) return { useless: 'its record cannot be read' };
    if (size === 0 || record.inode !== ino) return { useless: 'its record is that of another file' };
    if (JSON.stringify(record.made) !== this.#made) {
      return { useless: 'the source has changed, or something else is asked for' };
    }
    return { upTo: record.done };
  }

  #read(): string | undefined {
    let fd: number;
    try {
      fd = openSync(this.#path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (problem) {
      if ((problem as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw ImageError.from(problem, 'io', `${shownPath(this.#path)}: cannot be read`);
    }
    try {
      const stat = fstatSync(fd);
      return stat.isFile() && stat.size <= MAX_BYTES ? readFileSync(fd, 'utf8') : '';
    } finally {
      closeSync(fd);
    }
  }

  /** `fd`: the partial output, which is stable up to `done` bytes of the disk. Throws what Node throws. */
  write(fd: number, done: number): void {
    const record = { version: VERSION, inode: fstatSync(fd).ino, made: JSON.parse(this.#made), done };
    const next = `${this.#path}.new`;
    rmSync(next, { force: true });
    const file = openSync(next, 'wx', 0o600);
    try {
      const bytes = Buffer.from(`${JSON.stringify(record, null, 2)}\n`);
      for (let put = 0; put < bytes.length; ) put += writeSync(file, bytes, put);
      fsyncSync(file);
      renameSync(next, this.#path);
    } catch (problem) {
      rmSync(next, { force: true });
      throw problem;
    } finally {
      closeSync(file);
    }
  }

  /** The record is of no more use. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  /** Nor is what was made. */
  removeAll(): void {
    this.remove();
    rmSync(this.partial, { force: true });
  }
}

function parse(
  text: string,
): { readonly inode: number; readonly made: unknown; readonly done: number } | undefined {
  try {
    const { version, inode, made, done } = JSON.parse(text) as Record<string, unknown>;
    if (version !== VERSION || typeof inode !== 'number') return undefined;
    return Number.isSafeInteger(done) && Number(done) >= 0 ? { inode, made, done: Number(done) } : undefined;
  } catch {
    return undefined;
  }
}
