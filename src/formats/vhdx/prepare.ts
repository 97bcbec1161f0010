/** Whether an image can be written, and what its editors must know of it. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { type HostOffset, hex, MIB } from '../../base/units.ts';
import { type TableEditSeed, tableEditSeed } from '../../image/table-editor.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { type HeaderSeed, headerSeed } from './header-writer.ts';
import { type LogSeed, logSeed } from './log-writer.ts';
import type { OpenedVhdx } from './open.ts';
import { eachFreeRun, type Survey, surveyBat } from './survey.ts';

/** Plain data: shared by the editors of all threads. */
export interface VhdxEdit extends TableEditSeed {
  /** One word: the first MiB behind everything that was ever given out. */
  readonly bounds: SharedArrayBuffer;
  /** From here on, in MiB, the file had nothing when it was opened: what it grows by reads as zeros. */
  readonly fresh: number;
  readonly fixed: boolean;
  readonly headers: HeaderSeed;
  /** Undefined where there is no log area, and no need for one: all blocks are there to stay. */
  readonly log: LogSeed | undefined;
  /** The DataWriteGuid of the first write, sixteen bytes; undefined: a random one. */
  readonly nextIdentity: Uint8Array | undefined;
  /** One word: 1 when the log that was dirty at open is in the file and no longer named. */
  readonly clean: SharedArrayBuffer;
}

const CAN_BE_READ = 'It can be read: mount it with -o ro.';

/** Sequence numbers from here on leave no room for those that a mount uses. */
export const SEQUENCE_LIMIT = 2n ** 63n;

/**
 * Looks through the BAT for what must not be written to, and finds the free space of the file. No BAT has more
 * than the 2^26 entries of 64 TiB in blocks of 1 MiB, and those between them. Throws ImageError.
 */
export function prepareEdit(
  opened: OpenedVhdx,
  source: BlockSource,
  nextIdentity: Uint8Array | undefined,
): VhdxEdit {
  const { bat, current, metadata, replayed } = opened;
  if (current.sequenceNumber >= SEQUENCE_LIMIT) {
    throw unwritable(
      `VHDX header ${current.slot}: sequence number ${current.sequenceNumber} has no successors`,
    );
  }
  const survey = surveyBat(replayed, bat, REFUSE);
  const hasLog = current.logLength > 0 && current.logOffset + current.logLength <= source.size;
  const needsLog = !metadata.fixed || !survey.complete;
  if (needsLog && !hasLog) {
    throw unsupported(
      `VHDX header ${current.slot}: the log is ${hex(current.logLength)} bytes at ${hex(current.logOffset)}, ` +
        'expected one inside the file; without it the image cannot be changed safely',
      CAN_BE_READ,
    );
  }
  if (needsLog && current.logVersion !== 0) {
    throw unsupported(
      `VHDX header ${current.slot}: the log has version ${current.logVersion}, only version 0 can be written`,
      CAN_BE_READ,
    );
  }
  const bounds = new SharedArrayBuffer(4);
  new Uint32Array(bounds)[0] = survey.end;
  return {
    ...tableEditSeed(freeExtents(survey, bat.blockSize / MIB)),
    bounds,
    fresh: Math.ceil(source.size / MIB),
    fixed: metadata.fixed,
    headers: headerSeed(current),
    log: needsLog ? logSeed(current.logOffset as HostOffset, current.logLength) : undefined,
    nextIdentity,
    clean: new SharedArrayBuffer(4),
  };
}

const REFUSE = {
  error: (text: string): never => {
    throw unwritable(text);
  },
  warning: () => {},
};

function unwritable(text: string): ImageError {
  const { kind, message } = corrupt(text);
  return new ImageError(kind, message, { hint: CAN_BE_READ });
}

/** The first MiB of every free extent, a block long, before the last MiB in use. */
function freeExtents({ used, end, fileMib }: Survey, blockMib: number): number[] {
  const extents: number[] = [];
  eachFreeRun(used, Math.min(end, fileMib), (first, length) => {
    for (let mib = first; mib + blockMib <= first + length; mib += blockMib) extents.push(mib);
  });
  return extents;
}
