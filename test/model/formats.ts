/** Every format that can be written, with what the tests of writing need to know of it. One entry per format. */

import type { FormatId } from '../../src/image/driver.ts';
import type { WriteStep } from '../../src/source/block-source.ts';
import { samples as qed } from '../support/encoders/qed.ts';
import { samples as vdi } from '../support/encoders/vdi.ts';
import { samples as vhd } from '../support/encoders/vhd.ts';
import { samples as vhdx } from '../support/encoders/vhdx.ts';
import { between, random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';

/** What a change of the file was for, or the end of a guest's flush. */
export type Moment = WriteStep | 'end';

/** Where a flush of the file stands. */
export interface FlushPlace {
  /** The steps since the flush before. */
  readonly before: ReadonlySet<WriteStep>;
  /** What comes next. */
  readonly next: Moment;
  /** Whether it is the first flush of a mount. */
  readonly first: boolean;
}

/** A flush that a driver makes because the order of writes matters there. */
export interface Barrier {
  /** "payload before the map" */
  readonly name: string;
  /** Which flushes these are. */
  readonly is: (place: FlushPlace) => boolean;
}

/** How qemu-img sees an image after a power cut. */
export interface QemuOracle {
  /** Its name of the format. */
  readonly name: string;
  /** Images that it can read. */
  readonly takes: (sample: string) => boolean;
  readonly checkOptions: readonly string[];
  /** Whether `qemu-img check`, of a copy that it may repair, ended well. */
  readonly accepts: (exitCode: number, output: string) => boolean;
}

export interface WritableFormat {
  readonly format: FormatId;
  /** The same for the same seed. */
  readonly samples: (seed: number) => SampleImage[];
  /** Each is left out once, which the power-cut harness must see. */
  readonly barriers: readonly Barrier[];
  /** Where it is a good oracle. */
  readonly qemu?: QemuOracle;
}

/** When a guest's flush is acknowledged, all is stable. */
const END: Barrier = { name: 'all before the end of a flush', is: ({ next }) => next === 'end' };

/** What an earlier mount left in the host's cache is stable before anything is built on it. */
const FIRST: Barrier = {
  name: 'all that an earlier mount left before the first write',
  is: ({ first, next }) => first && next !== 'end',
};

/** Before anything with one of these steps is written, all before it is stable. */
const then = (name: string, ...steps: readonly Moment[]): Barrier => ({
  name,
  is: ({ first, next }) => !first && steps.includes(next),
});

/** The same where a step is among what came before. */
const among = (name: string, step: WriteStep, ...steps: readonly Moment[]): Barrier => ({
  name,
  is: ({ first, before, next }) => !first && before.has(step) && steps.includes(next),
});

function rawSamples(seed: number): SampleImage[] {
  const next = random(seed);
  return [12345, 65536, 300 * 512].map((size) => {
    const disk = Uint8Array.from({ length: size }, () => between(next, 0, 255));
    return { name: `${size} bytes`, format: 'raw', file: disk, disk };
  });
}

export const FORMATS: readonly WritableFormat[] = [
  { format: 'raw', samples: rawSamples, barriers: [END] },
  {
    format: 'vdi',
    samples: vdi,
    barriers: [
      END,
      FIRST,
      then('payload and counter before the map', 'table.write'),
      then('the map before the counter and the end of the file', 'header.write', 'size.set'),
    ],
    qemu: {
      name: 'vdi',
      takes: (sample) =>
        /1 MiB blocks|as qemu writes|all discarded/.test(sample) && !/old version/.test(sample),
      checkOptions: [],
      // A counter above the number of blocks in use is damage to it; VirtualBox and our check bear it.
      accepts: (_exitCode, output) => !/^ERROR: (?!allocated blocks mismatch)/m.test(output),
    },
  },
  {
    format: 'vhd',
    samples: vhd,
    barriers: [
      END,
      FIRST,
      then('payload and bitmaps before the BAT', 'table.write', 'bitmap.write'),
      then('the BAT and the footer before the end of the file', 'footer.write', 'size.set'),
    ],
  },
  {
    format: 'vhdx',
    samples: vhdx,
    barriers: [
      END,
      // What an earlier mount left is made stable by the headers, before anything is built on it.
      then('payload before the log', 'log.write'),
      among(
        'the log before the headers, the BAT and the bitmaps',
        'log.write',
        'header.write',
        'table.write',
        'bitmap.write',
      ),
      among('one header before the other', 'header.write', 'header.write'),
    ],
    qemu: {
      name: 'vhdx',
      // Nor does it bear that the log has yet to put the region table right: it reads that first. It refuses parents.
      takes: (sample) =>
        !/4096-byte logical|two identical|damaged|sequence 0|unknown|region tables|chain|child/.test(sample),
      checkOptions: ['-r', 'all'],
      accepts: (exitCode) => exitCode === 0,
    },
  },
  {
    format: 'qed',
    samples: qed,
    barriers: [
      END,
      FIRST,
      then('payload before the tables', 'table.write'),
      then('the tables before the end of the file', 'size.set'),
    ],
    qemu: {
      name: 'qed',
      // It opens no tables of one cluster, reads no last cluster that is cut short, and checks what no disk needs.
      // A child it opens with its parents, which are no files here: test/oracle/qed-chain.test.ts has some.
      takes: (sample) =>
        !/table of 1$|one disk|a run of data|256 KiB|cut short|past the end|chain|child/.test(sample),
      checkOptions: [],
      // 3: leaked clusters.
      accepts: (exitCode) => exitCode === 0 || exitCode === 3,
    },
  },
];
