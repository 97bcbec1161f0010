/**
 * The file of a record. It is never half there: what is written is written beside it, made stable, and renamed. It
 * never takes the place of a file that is not its own.
 */

import {
  closeSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { ImageError } from '../base/errors.ts';

/** Nobody's record is longer; what a file that is called one holds is not to be trusted. */
const MAX_BYTES = 64 * 1024 * 1024;

export class RecordFile {
  readonly path: string;
  readonly #draft: string;
  /** Of the record that was published. */
  #inode: bigint | undefined;

  /**
   * Nothing is at `path` yet, and something can be written there. Throws ImageError: 'usage' where a file is there,
   * else 'io'.
   */
  constructor(path: string) {
    this.path = path;
    this.#draft = join(dirname(path), `.vdisk-record-${process.pid}-${Date.now().toString(36)}.part`);
    this.#refuseExisting();
  }

  #refuseExisting(): void {
    try {
      if (lstatSync(this.path, { throwIfNoEntry: false }) === undefined) return;
    } catch (problem) {
      throw ImageError.from(problem, 'io', `${this.path}: the record cannot be written`);
    }
    throw new ImageError('usage', `${this.path}: exists, and a record overwrites nothing`, {
      hint: 'Name another file, or move that one away.',
    });
  }

  /** Writes `text` beside the record, for `publish`. Throws ImageError('io'). */
  draft(text: string): void {
    try {
      const fd = openSync(this.#draft, 'w', 0o644);
      try {
        writeFileSync(fd, text);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    } catch (problem) {
      rmSync(this.#draft, { force: true });
      throw ImageError.from(problem, 'io', `${this.path}: the record cannot be written`);
    }
  }

  /** The draft becomes the record. Throws ImageError as the constructor. */
  publish(): void {
    try {
      if (this.#inode === undefined) {
        // Reserves the name: rename(2) alone would overwrite, link(2) is not known to every file system.
        this.#refuseExisting();
        closeSync(openSync(this.path, 'wx'));
      } else if (lstatSync(this.path, { bigint: true }).ino !== this.#inode) {
        throw new ImageError('io', `${this.path}: somebody put another file in the place of the record`);
      }
      renameSync(this.#draft, this.path);
      this.#inode = lstatSync(this.path, { bigint: true }).ino;
      settle(dirname(this.path));
    } catch (problem) {
      throw ImageError.from(problem, 'io', `${this.path}: the record cannot be written`);
    }
  }

  /** Removes the draft, and with 'all' the record that was published. */
  remove(what: 'draft' | 'all'): void {
    rmSync(this.#draft, { force: true });
    if (what === 'draft' || this.#inode === undefined) return;
    if (lstatSync(this.path, { bigint: true, throwIfNoEntry: false })?.ino === this.#inode) {
      rmSync(this.path, { force: true });
    }
  }
}

/** Makes the names in a directory stable, where its file system can. */
function settle(directory: string): void {
  const fd = openSync(directory, 'r');
  try {
    fsyncSync(fd);
  } catch {
    // The record itself is stable, its name nearly always.
  } finally {
    closeSync(fd);
  }
}

/** The text of a record's file. Throws ImageError('usage' or 'io'). */
export function readRecordText(path: string): string {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined) throw new ImageError('usage', `${path}: no such file`);
    if (stat.isDirectory()) throw new ImageError('usage', `${path}: is a directory, not a record`);
    if (stat.size > MAX_BYTES) {
      throw new ImageError('usage', `${path}: is no record: it has ${stat.size} bytes`);
    }
    return readFileSync(path, 'utf8');
  } catch (problem) {
    if (problem instanceof Error && 'code' in problem && problem.code === 'ENOTDIR')
      throw new ImageError('usage', `${path}: a part of the path is not a directory`, { cause: problem });
    throw ImageError.from(problem, 'io', path);
  }
}
