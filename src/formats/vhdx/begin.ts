/** What every change of an image as a whole begins with: it is opened, and looked through for what forbids it. */

import { corrupt, ImageError } from '../../base/errors.ts';
import { randomGuid } from '../../base/guid.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { wordOf } from './bat-change.ts';
import { openVhdx } from './open.ts';
import { readObject } from './read.ts';
import { Room } from './room.ts';
import { Session } from './session.ts';
import { BAT_ENTRY_BYTES } from './structs.ts';
import { type Survey, surveyBat } from './survey.ts';

export interface Begun {
  readonly session: Session;
  readonly survey: Survey;
  readonly room: Room;
}

const REFUSE = {
  error: (text: string): never => {
    const { kind, message } = corrupt(text);
    throw new ImageError(kind, message, { hint: 'The image must be repaired first.' });
  },
  warning: () => {},
};

/** Changes nothing. Throws ImageError, also where something of the BAT is wrong: nothing may be built on that. */
export function beginSession(source: BlockSource, { report }: OpenContext): Begun {
  const opened = openVhdx(source, report);
  const session = new Session(source, opened);
  const survey = surveyBat(opened.replayed, opened.bat, REFUSE);
  return { session, survey, room: new Room(survey, opened.bat) };
}

/** The DataWriteGuid of a change that a guest may see. */
export const nextIdentity = (context: OpenContext): Uint8Array => context.nextIdentity ?? randomGuid();

/** What entry `entry` says, as place in MiB * 8 + state. */
export function entryWord({ opened }: Session, entry: number): number {
  const at = opened.bat.at + entry * BAT_ENTRY_BYTES;
  const bytes = readObject(opened.replayed, 'VHDX BAT', at, BAT_ENTRY_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return wordOf(view.getUint32(0, true), view.getUint32(4, true));
}
