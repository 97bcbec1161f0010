/**
 * Cuts the power at every instant of a recorded workload, in many ways, and looks whether the image bears it: it
 * opens, it checks without errors, and every sector of the disk holds what was flushed or something written since.
 */

import { guestOffset } from '../../src/base/units.ts';
import { Disk } from '../../src/disk/disk.ts';
import type { Image } from '../../src/image/driver.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import type { BlockSource } from '../../src/source/block-source.ts';
import { parentDisk } from '../support/disk.ts';
import { between, type Random, random } from '../support/random.ts';
import { type Change, describeChange, SECTOR } from '../support/recording-source.ts';
import type { SampleImage } from '../support/sample.ts';
import { Expectation } from './guest.ts';
import { Medium } from './medium.ts';
import type { Recording } from './workload.ts';

export interface CutPlan {
  readonly seed: number;
  /** Reorderings; besides every prefix. */
  readonly runs: number;
  readonly prefixes: boolean;
  /** Whether the flush with this index among the changes counts; all by default. */
  readonly isBarrier?: (index: number) => boolean;
  /** One in so many of the crash images that passed goes to `kept`. */
  readonly keepEvery?: number;
  readonly kept?: CrashImage[];
}

/** What a power cut left, and what its disk holds. */
export interface CrashImage {
  /** The sample's name. */
  readonly name: string;
  readonly options: Readonly<Record<string, string>>;
  readonly file: Uint8Array;
  readonly disk: Uint8Array;
  readonly parent?: SampleImage | undefined;
}

export interface CutResult {
  /** Crash images that were tried. */
  readonly images: number;
  /** The first that failed: everything that is needed to repeat it. */
  readonly violation: string | undefined;
}

/** Table pages for opening images: one pool for all, where the next image's pages push out the last one's. */
const pool = new PagePool(PagePool.seed(1 << 18));
const tables = new TableAllocator();
const report = (): void => {};

/** The disks of parents, which nothing changes: opened once. */
const opened = new Map<SampleImage, Disk | undefined>();

function beneath(parent: SampleImage | undefined): Disk | undefined {
  if (parent === undefined) return undefined;
  if (!opened.has(parent)) opened.set(parent, parentDisk({ parent }));
  return opened.get(parent);
}

/** Opens a crash image, checks it, reads its disk into `buffer`. Returns what is wrong with it, or undefined. */
export function examine(
  {
    driver,
    options,
    parent,
  }: Pick<Recording, 'driver' | 'options'> & { readonly parent?: SampleImage | undefined },
  source: BlockSource,
  buffer: Uint8Array,
): string | undefined {
  const context = { tables, report, options: new Map(Object.entries(options)) };
  let image: Image;
  let disk: Disk;
  try {
    image = driver.open(source, context);
    const translator = driver.attach(image.share(), source, { pool, report });
    disk = new Disk(image.virtualSize, translator, source, { parent: beneath(parent) });
    if (driver.check !== undefined) {
      const { errors, findings } = driver.check(source, context);
      const first = findings.find(({ severity }) => severity === 'error');
      if (errors > 0) return `check finds ${errors} errors, the first: ${first?.text}`;
    }
  } catch (problem) {
    return `it does not open: ${problem instanceof Error ? problem.message : problem}`;
  }
  if (disk.size !== buffer.length) return `the disk has ${disk.size} bytes, not ${buffer.length}`;
  const moved = disk.read(buffer, 0, buffer.length, guestOffset(0));
  return moved === buffer.length ? undefined : `the disk cannot be read: errno ${-moved}`;
}

/** How many reorderings to try at each cut: more where there is more to reorder. */
function spread(
  next: Random,
  changes: readonly Change[],
  plan: CutPlan,
  barrier: (n: number) => boolean,
): Uint32Array {
  const weights = new Float64Array(changes.length + 1);
  let start = 0;
  let total = 0;
  for (let cut = 1; cut <= changes.length; cut += 1) {
    if (changes[cut - 1]!.kind === 'flush') {
      if (barrier(cut - 1)) start = cut;
      continue;
    }
    const last = cut === changes.length || changes[cut]!.kind === 'flush';
    const waiting = Math.min(16, cut - start);
    total += last ? 4 * waiting : waiting / 4;
    weights[cut] = total;
  }
  const counts = new Uint32Array(changes.length + 1);
  if (total === 0) return counts;
  const sums = weights.map((sum, cut) => (sum === 0 ? -1 : cut)).filter((cut) => cut >= 0);
  for (let run = 0; run < plan.runs; run += 1) {
    const wanted = next() * total;
    // The first cut whose sum reaches it.
    let low = 0;
    let high = sums.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (weights[sums[middle]!]! < wanted) low = middle + 1;
      else high = middle;
    }
    counts[sums[low]!]! += 1;
  }
  return counts;
}

interface Survivor {
  readonly index: number;
  /** Undefined: all of it. */
  readonly torn: ReadonlySet<number> | undefined;
}

/** Which changes of a window survive, in which order. */
function survivors(next: Random, changes: readonly Change[], start: number, cut: number): Survivor[] {
  const share = [0.15, 0.5, 0.5, 0.85][between(next, 0, 3)]!;
  const tearing = [0, 0.3, 0.7][between(next, 0, 2)]!;
  const chosen: Survivor[] = [];
  const only = next() < 0.15 ? between(next, start, cut - 1) : -1;
  const except = only < 0 && next() < 0.25 ? between(next, start, cut - 1) : -1;
  for (let index = start; index < cut; index += 1) {
    const change = changes[index]!;
    if (change.kind === 'flush') continue;
    if (only >= 0 ? index !== only : except >= 0 ? index === except : next() >= share) continue;
    let torn: Set<number> | undefined;
    if (change.kind !== 'size' && change.length > SECTOR && next() < tearing) {
      torn = new Set();
      const kept = next();
      for (let sector = 0; sector * SECTOR < change.length; sector += 1) if (next() < kept) torn.add(sector);
    }
    chosen.push({ index, torn });
  }
  if (next() < 0.7) {
    for (let n = chosen.length - 1; n > 0; n -= 1) {
      const other = between(next, 0, n);
      [chosen[n], chosen[other]] = [chosen[other]!, chosen[n]!];
    }
  }
  return chosen;
}

/** The changes of a window, one per line, with what became of each. */
function describe(
  changes: readonly Change[],
  start: number,
  cut: number,
  chosen: readonly Survivor[] | undefined,
): string {
  const lines: string[] = [];
  for (let index = start; index < cut; index += 1) {
    const change = changes[index]!;
    lines.push(
      `${String(index).padStart(7)}  ${fate(index, change, chosen).padEnd(26)}${describeChange(change)}`,
    );
  }
  return lines.slice(-60).join('\n');
}

function fate(index: number, change: Change, chosen: readonly Survivor[] | undefined): string {
  if (chosen === undefined || change.kind === 'flush') return '';
  const place = chosen.findIndex((survivor) => survivor.index === index);
  if (place < 0) return 'lost';
  const { torn } = chosen[place]!;
  if (torn === undefined || change.kind === 'size') return `${place + 1}.`;
  return `${place + 1}. torn: ${torn.size} of ${Math.ceil(change.length / SECTOR)} sectors`;
}

/** What a file went through. */
export interface Changes {
  /** Stable at the beginning. */
  readonly file: Uint8Array;
  readonly changes: readonly Change[];
}

/** Looks at a crash image after `cut` changes; says what is wrong with it, or undefined. */
export interface Judge {
  /** Called before the images of each cut, ascending. */
  moveTo(cut: number): void;
  problem(medium: Medium, isReordered: boolean): string | undefined;
}

/** All prefixes and `runs` reorderings of `recorded`, until the first that fails. `title` begins what is said of it. */
export function cutChanges(title: string, recorded: Changes, plan: CutPlan, judge: Judge): CutResult {
  const { changes, file } = recorded;
  const next = random(plan.seed);
  const barrier = plan.isBarrier ?? (() => true);
  const capacity = changes.reduce(
    (most, change) =>
      Math.max(
        most,
        change.kind === 'size' ? change.to : change.kind === 'flush' ? 0 : change.at + change.length,
      ),
    file.length,
  );
  /** What is stable; the same with a part of the window; the same with the window up to the cut. */
  const base = new Medium(file, capacity);
  const crashed = new Medium(file, capacity);
  const prefix = new Medium(file, capacity);
  const counts = spread(next, changes, plan, barrier);
  let images = 0;
  let start = 0;

  const look = (medium: Medium, cut: number, chosen: readonly Survivor[] | undefined): string | undefined => {
    images += 1;
    const problem = judge.problem(medium, chosen !== undefined);
    if (problem === undefined) return undefined;
    return (
      `${title}, cut after change ${cut} of ${changes.length}: ${problem}\n` +
      `changes since the last flush (${chosen === undefined ? 'all there, in order' : 'reordered'}):\n` +
      describe(changes, start, cut, chosen)
    );
  };

  for (let cut = 0; cut <= changes.length; cut += 1) {
    if (cut > 0) {
      const change = changes[cut - 1]!;
      prefix.apply(change);
      if (change.kind === 'flush' && barrier(cut - 1)) {
        for (let index = start; index < cut; index += 1) {
          base.apply(changes[index]!);
          crashed.apply(changes[index]!);
        }
        base.settle();
        crashed.settle();
        prefix.settle();
        start = cut;
      }
    }
    judge.moveTo(cut);
    if (plan.prefixes) {
      const violation = look(prefix, cut, undefined);
      if (violation !== undefined) return { images, violation };
    }
    for (let run = 0; run < counts[cut]!; run += 1) {
      const chosen = survivors(next, changes, start, cut);
      for (const { index, torn } of chosen) {
        crashed.apply(changes[index]!, torn === undefined ? undefined : (sector) => torn.has(sector));
      }
      const violation = look(crashed, cut, chosen);
      if (violation !== undefined) return { images, violation };
      crashed.restore(base);
    }
  }
  return { images, violation: undefined };
}

/** All prefixes and `runs` reorderings of one recording, until the first that fails. */
export function cutPower(recording: Recording, plan: CutPlan): CutResult {
  const { name, options, parent, driver, content } = recording;
  const expectation = new Expectation(content, recording.events, recording.aligned);
  const buffer = Buffer.alloc(content.length);
  let images = 0;
  return cutChanges(`${driver.id} (${name})`, recording, plan, {
    moveTo: (cut) => expectation.moveTo(cut),
    problem: (medium, isReordered) => {
      images += 1;
      const problem = examine(recording, medium.source, buffer) ?? expectation.problem(buffer);
      if (problem !== undefined) return problem;
      if (plan.kept !== undefined && isReordered && images % plan.keepEvery! === 0) {
        const file = medium.bytes.slice(0, medium.size);
        plan.kept.push({ parent, name, options, file, disk: Uint8Array.from(buffer) });
      }
      return undefined;
    },
  });
}
