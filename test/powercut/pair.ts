/**
 * Power cuts while two files are changed by one operation: what was flushed of a file is there, and of what was changed
 * in it since, each change may be there or not, whatever became of the other file's.
 */

import type { MemorySource } from '../support/memory-source.ts';
import { between, type Random, random } from '../support/random.ts';
import { type Change, RecordingSource } from '../support/recording-source.ts';
import { Medium } from './medium.ts';

/** A change, or a flush, of one of the files. */
interface Event {
  readonly file: number;
  readonly change: Change;
}

/** Two files whose changes are kept in the order in which they came. */
export class RecordedPair {
  readonly events: Event[] = [];
  readonly sources: readonly [RecordingSource, RecordingSource];
  readonly #before: readonly Uint8Array[];

  constructor(files: readonly [MemorySource, MemorySource]) {
    this.#before = files.map((file) => file.bytes.slice());
    const recorded = (memory: MemorySource, file: number): RecordingSource => {
      const source = new RecordingSource(memory);
      source.changes.push = (...changes) => this.events.push(...changes.map((change) => ({ file, change })));
      return source;
    };
    this.sources = [recorded(files[0], 0), recorded(files[1], 1)];
  }

  /**
   * Looks at what is left after every prefix, and at `runs` reorderings. Returns how many that were, and what was wrong
   * with the first that was.
   */
  cut(
    seed: number,
    runs: number,
    problem: (files: readonly MemorySource[]) => string | undefined,
  ): { readonly images: number; readonly violation: string | undefined } {
    const next = random(seed);
    const { events } = this;
    const capacity = this.#before.map((file, n) =>
      events.reduce((most, event) => Math.max(most, endOf(event, n)), file.length),
    );
    const media = (): Medium[] => this.#before.map((file, n) => new Medium(file, capacity[n]!));
    const [stable, whole, crashed] = [media(), media(), media()];
    const pending: Change[][] = [[], []];
    let images = 0;
    const look = (state: readonly Medium[], cut: number, how: string): string | undefined => {
      images += 1;
      const found = problem(state.map(({ source }) => source));
      return found === undefined ? undefined : `after change ${cut} of ${events.length} (${how}): ${found}`;
    };
    const share = runs / Math.max(1, events.length);
    for (let cut = 0; cut <= events.length; cut += 1) {
      if (cut > 0) {
        const { file, change } = events[cut - 1]!;
        whole[file]!.apply(change);
        if (change.kind === 'flush') {
          for (const done of pending[file]!) {
            stable[file]!.apply(done);
            crashed[file]!.apply(done);
          }
          pending[file] = [];
          for (const state of [stable, whole, crashed]) state[file]!.settle();
        } else pending[file]!.push(change);
      }
      let violation = look(whole, cut, 'all there');
      if (violation !== undefined) return { images, violation };
      for (let run = between(next, 0, 2 * share); run > 0; run -= 1) {
        const chosen = pending.map((changes) => survivors(next, changes));
        for (const [file, list] of chosen.entries()) {
          for (const { change, sectors } of list) {
            crashed[file]!.apply(change, sectors === undefined ? undefined : (sector) => sectors(sector));
          }
        }
        violation = look(
          crashed,
          cut,
          `${chosen[0]!.length} and ${chosen[1]!.length} changes of ${pending[0]!.length} and ${pending[1]!.length} there`,
        );
        if (violation !== undefined) return { images, violation };
        for (const [file, medium] of crashed.entries()) medium.restore(stable[file]!);
      }
    }
    return { images, violation: undefined };
  }
}

function endOf({ file, change }: Event, of: number): number {
  if (file !== of || change.kind === 'flush') return 0;
  return change.kind === 'size' ? change.to : change.at + change.length;
}

interface Survivor {
  readonly change: Change;
  readonly sectors: ((sector: number) => boolean) | undefined;
}

function survivors(next: Random, changes: readonly Change[]): Survivor[] {
  const share = [0, 0.2, 0.5, 0.9, 1][between(next, 0, 4)]!;
  const chosen = changes
    .filter(() => next() < share)
    .map((change): Survivor => {
      const torn = change.kind !== 'size' && next() < 0.3;
      const salt = between(next, 0, 1 << 20);
      return { change, sectors: torn ? (sector) => random(salt + sector)() < 0.5 : undefined };
    });
  for (let n = chosen.length - 1; n > 0; n -= 1) {
    const other = between(next, 0, n);
    [chosen[n], chosen[other]] = [chosen[other]!, chosen[n]!];
  }
  return chosen;
}
