/**
 * What is on the medium after a cut at any moment: a small, seeded sample for VHD alone. Beyond test/powercut it
 * wants a good footer at the end at all times, which other readers need and we do not.
 */

import { describe, expect, it } from 'vitest';
import { vhdDriver } from '../../../../src/formats/vhd/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { step } from '../../../model/workload.ts';
import { openDisk, openEditable, parentDisk, readDisk } from '../../../support/disk.ts';
import { samples } from '../../../support/encoders/vhd.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { between, type Random, random } from '../../../support/random.ts';
import { type Change, describeChange, RecordingSource, SECTOR } from '../../../support/recording-source.ts';

const STEPS = 40;
const CUTS = 25;

/** Applies a change to `file`, or only some of its sectors. */
function apply(file: MemorySource, change: Change, next?: Random): void {
  if (change.kind === 'flush') return;
  if (change.kind === 'size') {
    file.setSize(change.to);
    return;
  }
  const bytes = change.bytes ?? new Uint8Array(change.length);
  for (let at = 0; at < change.length; at += SECTOR) {
    if (next !== undefined && next() < 0.3) continue;
    const count = Math.min(SECTOR, change.length - at);
    if (change.kind === 'zero' && change.at + at >= file.size) continue;
    file.writeAt(bytes, at, count, (change.at + at) as never);
  }
}

/** The medium after a cut behind change `cut`: what was flushed, and some of the rest in some order. */
function afterCut(start: Uint8Array, changes: readonly Change[], cut: number, next: Random): MemorySource {
  const file = new MemorySource(start, 'cut', true);
  let stable = cut;
  while (stable > 0 && changes[stable - 1]!.kind !== 'flush') stable -= 1;
  for (const change of changes.slice(0, stable)) apply(file, change);
  for (const change of changes.slice(stable, cut)) {
    // A write of one sector behind the end, the footer's, is there with its size or not at all.
    if (change.kind === 'size' && change.to > change.from) continue;
    const chance = next();
    if (chance < 0.3) continue;
    apply(file, change, chance < 0.5 ? next : undefined);
  }
  return file;
}

/** How many changes there were when a flush returned, what the disk was, and where it changed after. */
interface Point {
  readonly changes: number;
  readonly disk: Uint8Array;
  readonly touched: Uint8Array;
}

const writable = samples(5).filter(
  ({ name, file }) => !name.startsWith('fixed') && !name.includes('version 1.1') && file.length < 3 << 20,
);

describe('VHD after a power cut', () => {
  it.each(writable.map((sample) => [sample.name, sample] as const))('%s', (_name, sample) => {
    const next = random(11);
    const source = new RecordingSource(new MemorySource(sample.file, 'medium', true));
    const parent = parentDisk(sample);
    const { disk, image } = openEditable(vhdDriver, source, sample.options, 1 << 20, parent);
    const model = sample.disk.slice();
    const point = (): Point => ({
      changes: source.changes.length,
      disk: model.slice(),
      touched: new Uint8Array(Math.ceil(model.length / SECTOR)),
    });
    const points = [point()];
    for (let n = 0; n < STEPS; n += 1) {
      const before = model.slice();
      const did = step(disk, model, next, image.blockSize);
      if (did === 'flush') points.push(point());
      const { touched } = points.at(-1)!;
      for (let at = 0; at < model.length; at += SECTOR) {
        const [old, now] = [before.subarray(at, at + SECTOR), model.subarray(at, at + SECTOR)];
        if (Buffer.compare(old, now) !== 0) touched[at / SECTOR] = 1;
      }
    }
    expect(disk.close()).toBe(0);
    points.push(point());

    const { changes } = source;
    const context = { tables: new TableAllocator(), report: () => {}, options: new Map() };
    const known = vhdDriver.check!(new MemorySource(sample.file), context);
    for (let n = 0; n < CUTS; n += 1) {
      const cut = n === 0 ? changes.length : between(next, 0, changes.length);
      const file = afterCut(sample.file, changes, cut, next);
      const place = `behind change ${cut}, ${cut === 0 ? 'none' : describeChange(changes[cut - 1]!)}`;
      const report = vhdDriver.check!(new MemorySource(file.bytes), context);
      expect(report.errors, place).toBeLessThanOrEqual(known.errors);
      const last = points.findLast((one) => one.changes <= cut)!;
      const opened = openDisk(vhdDriver, new MemorySource(file.bytes), sample.options, 1 << 20, parent);
      const found = readDisk(opened.disk);
      if (image.facts.get('footer') === 'at the end') {
        expect(opened.image.facts.get('footer'), place).toBe('at the end');
      }
      for (let at = 0; at < model.length; at += SECTOR) {
        if (last.touched[at / SECTOR] === 1) continue;
        const [want, have] = [last.disk.subarray(at, at + SECTOR), found.subarray(at, at + SECTOR)];
        if (Buffer.compare(want, have) !== 0)
          expect.fail(`${place}: the sector at ${at} was flushed and is lost`);
      }
      // It can be written again, and nothing is used twice.
      openEditable(vhdDriver, new MemorySource(file.bytes, 'again', true), sample.options);
    }
  });
});
