/** Reading and writing an image that is changed as a whole: what fails is thrown. Footers are written in one sector. */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, hostOffset, MIB, roundUp } from '../../base/units.ts';
import { must } from '../../image/must.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { SECTOR } from './structs.ts';

const PIECE = MIB;

/** Writes the footer `bytes` at `at` in one sector. Throws ImageError; then the file is as long as it was. */
export function writeFooter(source: BlockSource, bytes: Uint8Array, at: number): void {
  const { size } = source;
  const status = source.writeAt(bytes, 0, SECTOR, hostOffset(at), 'footer.write');
  if (status < 0 && source.size > size) source.setSize(size);
  must(status, source, `its footer at 0x${at.toString(16)} cannot be written`);
}

export function flush(source: BlockSource): void {
  must(source.flush(), source, 'what was written cannot be made stable');
}

/**
 * Makes both footers `bytes`, the one at the end being at `tailAt`. It is written when all that was written before is
 * stable, and the copy: whoever calls this need not flush. (The copy alone would not have to wait for it; but a sector
 * that is written as the power fails may be lost altogether on a real medium, and then the other one is there.)
 */
export function writeFooters(source: BlockSource, bytes: Uint8Array, tailAt: number): void {
  writeFooter(source, bytes, 0);
  flush(source);
  writeFooter(source, bytes, tailAt);
  flush(source);
}

/** Every member throws ImageError('io') where it fails. */
export class CheckedFile {
  readonly source: BlockSource;

  constructor(source: BlockSource) {
    this.source = source;
  }

  write(at: number, bytes: Uint8Array, step: 'header.write' | 'table.write' | 'bitmap.write'): void {
    for (let done = 0; done < bytes.length; done += PIECE) {
      const count = Math.min(PIECE, bytes.length - done);
      const status = this.source.writeAt(bytes, done, count, hostOffset(at + done), step);
      must(status, this.source, `0x${(at + done).toString(16)} cannot be written`);
    }
  }

  /** The same, with zeros up to the end of the last sector. */
  writeSectors(at: number, bytes: Uint8Array, step: 'header.write' | 'bitmap.write'): void {
    const whole = new Uint8Array(roundUp(Math.max(1, bytes.length), SECTOR));
    whole.set(bytes);
    this.write(at, whole, step);
  }

  zero(at: number, length: ByteCount): void {
    const status = this.source.zero(hostOffset(at), length, 'punch', 'payload.zero');
    must(status, this.source, `0x${at.toString(16)} cannot be made zeros`);
  }

  flush(): void {
    flush(this.source);
  }

  /** All of them are there. */
  read(at: number, length: ByteCount): Uint8Array {
    return readExactly(this.source, at, length, (outcome) => {
      return new ImageError('io', `${this.source.label}: 0x${at.toString(16)} cannot be read (${outcome})`);
    });
  }
}
