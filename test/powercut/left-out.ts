/** The barriers of an operation, each left out in turn: one that nobody would miss is none. */

import { MemorySource } from '../support/memory-source.ts';
import { type Change, RecordingSource } from '../support/recording-source.ts';
import { cutChanges } from './harness.ts';
import { Medium } from './medium.ts';
import { contextOf, judge, type ReshapeCase } from './reshape.ts';

/** What else an instant must be, besides what `judge` asks for; says what is wrong. */
export type Also = (medium: Medium) => string | undefined;

/** A flush of an operation. */
export interface LeftOut {
  /** The last step before it and the first after it: "payload.write, table.write"; "at 0" where the file begins. */
  readonly between: string;
  /** Whether a power cut is seen to do harm without it. */
  readonly isMissed: boolean;
}

const stepOf = (change: Change | undefined): string => {
  if (change === undefined) return 'end';
  if (change.kind === 'flush') return 'flush';
  if (change.kind === 'size') return 'size.set';
  return change.at === 0 ? `${change.step} at 0` : change.step;
};

/**
 * Leaves each flush of `test` out: all that was written between the flushes before and behind it may then be there or not.
 * `runs`: reorderings for each. With `also` the file system is one that keeps no size without what was written there.
 */
export function leaveOut(test: ReshapeCase, runs: number, also?: Also): LeftOut[] {
  const recorder = new RecordingSource(new MemorySource(test.file, test.name, true));
  test.run(recorder, contextOf(test));
  const changes = recorder.changes.filter((change, n, all) => {
    const next = all[n + 1];
    const isExtending = change.kind === 'size' && next?.kind === 'write' && next.at === change.to;
    return also === undefined || !isExtending;
  });
  const flushes = changes.flatMap(({ kind }, index) => (kind === 'flush' ? [index] : []));
  return flushes.map((flush, n) => {
    const from = (flushes[n - 1] ?? -1) + 1;
    const until = flushes[n + 1] ?? changes.length;
    const file = fileAfter(test.file, changes.slice(0, from));
    const window = [...changes.slice(from, flush), ...changes.slice(flush + 1, until)];
    const { violation } = cutChanges(
      test.name,
      { file, changes: window },
      { seed: 3, runs, prefixes: false },
      { moveTo: () => {}, problem: (medium) => judge(test, medium.source) ?? also?.(medium) },
    );
    const before = flush === 0 ? 'start' : stepOf(changes[flush - 1]);
    return { between: `${before}, ${stepOf(changes[flush + 1])}`, isMissed: violation !== undefined };
  });
}

function fileAfter(file: Uint8Array, changes: readonly Change[]): Uint8Array {
  const ends = changes.map((change) => {
    if (change.kind === 'flush') return 0;
    return change.kind === 'size' ? change.to : change.at + change.length;
  });
  const medium = new Medium(file, Math.max(file.length, ...ends));
  for (const change of changes) medium.apply(change);
  return medium.bytes.slice(0, medium.size);
}
