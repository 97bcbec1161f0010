/** A format for tests of the disk layer: it answers from an array, and keeps what it is asked. */

import type { Status } from '../../../src/base/errno.ts';
import type { GuestOffset } from '../../../src/base/units.ts';
import type { Editor, Translator } from '../../../src/image/driver.ts';
import { DATA, type Extent, HOLE, ZERO } from '../../../src/image/extent.ts';
import type { Reservation } from '../../../src/image/reservation.ts';

export const BLOCK = 100;
export const BLOCKS = 10;
export const SIZE = BLOCK * BLOCKS - 30;

/** A format with a block map in an array: -1 hole, -2 zero, else the place of the block in the source. */
export class Script implements Translator, Editor {
  readonly map: number[] = Array<number>(BLOCKS).fill(-1);
  readonly calls: string[] = [];
  unit = BLOCK;
  next = 0;
  begins: Status[] = [];
  allocates: Status[] = [];
  /** Runs after an allocation. */
  after: () => void = () => {};
  gateOpen = 0;

  locate(at: GuestOffset, _length: number, out: Extent): Status {
    const block = Math.floor(at / BLOCK);
    const place = this.map[block]!;
    const left = Math.min(SIZE, (block + 1) * BLOCK) - at;
    if (place >= 0) return out.set(DATA, place * BLOCK + (at % BLOCK), left);
    return out.set(place === -1 ? HOLE : ZERO, 0, left);
  }

  begin(): Status {
    this.calls.push('begin');
    return this.begins.shift() ?? 0;
  }

  allocate(at: GuestOffset, length: number): Status {
    this.calls.push(`allocate ${at} +${length}`);
    const status = this.allocates.shift() ?? 0;
    if (status < 0) return status;
    this.map[Math.floor(at / BLOCK)] = this.next;
    this.next += 1;
    this.after();
    return 0;
  }

  discard(at: GuestOffset, length: number): Status {
    this.calls.push(`discard ${at} +${length}`);
    for (let block = at / BLOCK; block < (at + length) / BLOCK; block += 1) this.map[block] = -2;
    return 0;
  }

  readonly blockSize = BLOCK;
  lockBlock(at: GuestOffset): void {
    this.calls.push(`lock ${at}`);
  }
  unlockBlock(at: GuestOffset): void {
    this.calls.push(`unlock ${at}`);
  }
  reserves: Status[] = [];
  publishes: Status[] = [];
  /** Whether places read as zeros when they are reserved. */
  zeros = true;
  /** Runs before anything is named. */
  before: (place: Reservation) => void = () => {};

  reserve(at: GuestOffset, length: number, out: Reservation): Status {
    this.calls.push(`reserve ${at} +${length}`);
    const status = this.reserves.shift() ?? 0;
    if (status < 0) return status;
    const from = at - (at % BLOCK);
    const place = this.next;
    this.next += 1;
    return out.set(from, Math.min(BLOCK, SIZE - from), place * BLOCK, this.zeros, place);
  }

  publish(place: Reservation): Status {
    this.calls.push(`publish ${place.at}`);
    this.before(place);
    const status = this.publishes.shift() ?? 0;
    if (status === 0) this.map[place.at / BLOCK] = place.token;
    return status;
  }

  cancel({ at }: Reservation): void {
    this.calls.push(`cancel ${at}`);
  }

  changed(): void {
    this.calls.push('changed');
  }

  flush(): Status {
    this.calls.push('flush');
    return 0;
  }

  close(): Status {
    this.calls.push('close');
    return 0;
  }

  readonly isDirty = false;
  readonly isWritten = true;
  counters() {
    return { flushes: 0, shared: 0, commits: 0, dirtyBytes: 0 };
  }
}
