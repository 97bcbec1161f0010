/** The editor of images whose disk lies in one piece in the file (raw, fixed VHD): no tables, one fdatasync. */

import type { Status } from '../base/errno.ts';
import { EIO } from '../base/errno.ts';
import type { BlockSource } from '../source/block-source.ts';
import type { EditCounters, Editor } from './driver.ts';
import { type CommitSteps, GroupCommit } from './group-commit.ts';

export class FlatEditor implements Editor, CommitSteps {
  readonly unit = 0;
  readonly #commit: GroupCommit;
  readonly #source: BlockSource;
  readonly #first: () => Status;

  /** `first` marks the image as written before the first change: 0 or -errno. */
  constructor(commit: SharedArrayBuffer, source: BlockSource, first: () => Status = () => 0) {
    this.#commit = new GroupCommit(commit);
    this.#source = source;
    this.#first = first;
  }

  begin(): Status {
    return this.#commit.begin(this.#first);
  }

  /** All of the disk is there. */
  allocate(): Status {
    return -EIO;
  }

  discard(): Status {
    return -EIO;
  }

  readonly blockSize = 0;
  lockBlock(): void {}
  unlockBlock(): void {}

  /** No disk of one piece has a parent. */
  reserve(): Status {
    return -EIO;
  }

  publish(): Status {
    return -EIO;
  }

  cancel(): void {}

  changed(): void {
    this.#commit.changed();
  }

  readonly isDirty = false;

  get isWritten(): boolean {
    return this.#commit.begun;
  }

  counters(): EditCounters {
    return { ...this.#commit.counters(), dirtyBytes: 0 };
  }

  flush(): Status {
    return this.#commit.flush(this);
  }

  gather(): boolean {
    return false;
  }

  write(): Status {
    return this.#commit.stable(this.#source);
  }

  settle(): void {}

  close(): Status {
    return this.flush();
  }
}
