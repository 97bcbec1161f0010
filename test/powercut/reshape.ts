/**
 * Power cuts while an image is changed as a whole: at every instant it opens, checks without errors, and its disk is
 * one of those that it may be.
 */

import { guestOffset } from '../../src/base/units.ts';
import { Disk } from '../../src/disk/disk.ts';
import type { FormatDriver, OpenContext } from '../../src/image/driver.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { MemorySource } from '../support/memory-source.ts';
import { RecordingSource } from '../support/recording-source.ts';
import { type CutPlan, type CutResult, cutChanges } from './harness.ts';

/** Reorderings of each operation on each image; the soak asks for more (POWERCUT_RUNS as in powercut.test.ts). */
export const RESHAPE_RUNS = Math.ceil(Number(process.env['POWERCUT_RUNS'] ?? 2000) / 40);

export interface ReshapeCase {
  readonly name: string;
  readonly driver: FormatDriver;
  readonly options?: Readonly<Record<string, string>>;
  /** The image before, stable. */
  readonly file: Uint8Array;
  /** What holes show. */
  readonly parent?: Disk | undefined;
  /** Runs the operation to its end. */
  readonly run: (source: BlockSource, context: OpenContext) => void;
  /** The disks that the image may show at any instant: mostly the one before, and the one after. */
  readonly disks: readonly Uint8Array[];
  /** Of a repair: errors that a check may still find at any instant; at the end there are none. */
  readonly mayHaveErrors?: boolean;
  /** Another parent, which the image may stand on instead, once it says so (rebase). */
  readonly parentOf?: (image: ReturnType<FormatDriver['open']>) => Disk | undefined;
}

const pool = new PagePool(PagePool.seed(1 << 18));
const report = (): void => {};

export const contextOf = ({ options = {} }: ReshapeCase): OpenContext => ({
  tables: new TableAllocator(),
  report,
  options: new Map(Object.entries(options)),
});

/** What is wrong with the image in `source`, or undefined. */
export function judge(test: ReshapeCase, source: BlockSource, isEnd = false): string | undefined {
  const context = contextOf(test);
  const { driver } = test;
  try {
    const image = driver.open(source, context);
    const translator = driver.attach(image.share(), source, { pool, report });
    const parent = test.parentOf?.(image) ?? test.parent;
    const disk = new Disk(image.virtualSize, translator, source, { parent });
    const found = driver.check?.(source, context);
    if (found !== undefined && found.errors > 0 && (isEnd || test.mayHaveErrors !== true)) {
      const first = found.findings.find(({ severity }) => severity === 'error');
      return `check finds ${found.errors} errors, the first: ${first?.text}`;
    }
    const buffer = Buffer.alloc(disk.size);
    const moved = disk.read(buffer, 0, buffer.length, guestOffset(0));
    if (moved !== buffer.length) return `the disk cannot be read: errno ${-moved}`;
    if (test.disks.some((allowed) => buffer.equals(allowed))) return undefined;
    const wrong = test.disks.map((allowed) => {
      if (allowed.length !== buffer.length) return `${buffer.length} bytes instead of ${allowed.length}`;
      const at = buffer.findIndex((byte, n) => byte !== allowed[n]);
      return `0x${at.toString(16)} is ${buffer[at]} instead of ${allowed[at]}`;
    });
    return `the disk is none of those it may be: ${wrong.join('; ')}`;
  } catch (problem) {
    return `it does not open: ${problem instanceof Error ? problem.message : problem}`;
  }
}

/** Records the operation, then cuts the power everywhere. `final` is the file at its end. */
export function cutReshape(test: ReshapeCase, plan: CutPlan): CutResult & { readonly final: Uint8Array } {
  const memory = new MemorySource(test.file, test.name, true);
  const recorder = new RecordingSource(memory);
  test.run(recorder, contextOf(test));
  const final = memory.bytes.slice();
  const title = `${test.driver.id} (${test.name})`;
  const problem = judge(test, new MemorySource(final, test.name), true);
  if (problem !== undefined) return { images: 0, violation: `${title}: at the end: ${problem}`, final };
  const { changes } = recorder;
  const result = cutChanges(title, { file: test.file, changes }, plan, {
    moveTo: () => {},
    problem: (medium) => judge(test, medium.source),
  });
  return { ...result, final };
}

/** Runs a generator of steps to its end. */
export function finish<Result>(steps: Generator<unknown, Result, undefined>): Result {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value as Result;
  }
}
