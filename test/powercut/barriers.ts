/** The flushes of a recording, by what they keep apart. */

import type { WriteStep } from '../../src/source/block-source.ts';
import type { Barrier, Moment } from '../model/formats.ts';
import type { Change } from '../support/recording-source.ts';
import type { Recording } from './workload.ts';

const stepOf = (change: Change): WriteStep =>
  change.kind === 'flush' ? 'flush' : change.kind === 'size' ? 'size.set' : change.step;

/** Indices, among the changes of a recording, of the flushes that are the barrier. */
export function flushesOf(recording: Recording, barrier: Barrier): Set<number> {
  const { changes, events } = recording;
  const ends = new Set(events.flatMap((event) => (event.kind === 'flush' ? [event.to] : [])));
  const found = new Set<number>();
  let before = new Set<WriteStep>();
  let first = true;
  for (const [index, change] of changes.entries()) {
    if (recording.mounts.includes(index)) first = true;
    if (change.kind !== 'flush') {
      before.add(stepOf(change));
      continue;
    }
    const after = changes[index + 1];
    const next: Moment | undefined = ends.has(index + 1) ? 'end' : after && stepOf(after);
    if (next !== undefined && barrier.is({ before, next, first })) found.add(index);
    before = new Set();
    first = false;
  }
  return found;
}
