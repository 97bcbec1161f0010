/** Every kind of damage that a format lists is found, and mended or left as listed, also when the power fails. */

import { describe, expect, test } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { CheckReport } from '../../src/image/check.ts';
import type { FormatDriver, OpenContext } from '../../src/image/driver.ts';
import type { Repair, RepairScope } from '../../src/image/reshape.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { finish } from '../powercut/reshape.ts';
import { openDisk, parentDisk, readDisk } from '../support/disk.ts';
import { MemorySource } from '../support/memory-source.ts';
import { type Corruption, type CorruptionTable, type DamagedImage, SCOPES } from './corruption.ts';
import { cutRepair, difference, look } from './interrupted.ts';
import { qedCorruptions } from './qed.ts';
import { vdiCorruptions } from './vdi.ts';
import { vhdCorruptions } from './vhd.ts';
import { vhdxCorruptions } from './vhdx.ts';

const TABLES: readonly CorruptionTable[] = [vhdCorruptions, vhdxCorruptions, vdiCorruptions, qedCorruptions];

const RUNS = 25;

function contextOf({ options = {} }: DamagedImage): OpenContext {
  return { tables: new TableAllocator(), report: () => {}, options: new Map(Object.entries(options)) };
}

/** What check says; the error where it refuses. */
function checked(driver: FormatDriver, image: DamagedImage, file: Uint8Array): CheckReport | ImageError {
  try {
    return driver.check!(new MemorySource(file), contextOf(image));
  } catch (problem) {
    if (problem instanceof ImageError) return problem;
    throw problem;
  }
}

function isFound(report: CheckReport | ImageError, { found }: Corruption): boolean {
  if (report instanceof ImageError) return found.as === 'refused' && found.text.test(report.message);
  return report.findings.some(({ severity, text }) => severity === found.as && found.text.test(text));
}

/** `toEqual` takes seconds for megabytes, and minutes to show how they differ. */
const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function diskOf(driver: FormatDriver, image: DamagedImage, file: Uint8Array): Uint8Array {
  const { disk } = openDisk(driver, new MemorySource(file), image.options, 1 << 18, parentDisk(image));
  return readDisk(disk);
}

interface Mended {
  readonly file: Uint8Array;
  readonly repairs: readonly Repair[];
  readonly refused: ImageError | undefined;
}

function repair(driver: FormatDriver, image: DamagedImage, file: Uint8Array, scope: RepairScope): Mended {
  const source = new MemorySource(file.slice(), 'damaged', true);
  let repairs: readonly Repair[] = [];
  let refused: ImageError | undefined;
  try {
    repairs = finish(driver.reshape.repair!(source, scope, contextOf(image)));
  } catch (problem) {
    if (!(problem instanceof ImageError) || problem.kind === 'bug') throw problem;
    refused = problem;
  }
  return { file: source.bytes.slice(), repairs, refused };
}

describe.each(TABLES)('$format', ({ format, corruptions }) => {
  const driver = driverOf(format);

  test('each has a name of its own', () => {
    expect(new Set(corruptions.map(({ name }) => name)).size).toBe(corruptions.length);
  });

  describe.each(corruptions)('$name', (corruption) => {
    const image = corruption.make();
    const { mendedBy, lostBytes = 0 } = corruption;
    const reach = mendedBy === 'never' ? SCOPES.length : SCOPES.indexOf(mendedBy);

    test('is found, and looking changes nothing', () => {
      const before = image.file.slice();
      expect(checked(driver, image, image.file), 'what check says').toSatisfy(
        (report: CheckReport | ImageError) => isFound(report, corruption),
      );
      expect(isSame(image.file, before)).toBe(true);
      if (image.disk !== undefined) expect(isSame(diskOf(driver, image, image.file), image.disk)).toBe(true);
    });

    test.each(SCOPES.filter((_, n) => n < reach))('stays with a repair of %s', (scope) => {
      const { file } = repair(driver, image, image.file, scope);
      expect(isFound(checked(driver, image, file), corruption)).toBe(true);
      const [before, after] = [image.file, file].map((bytes) => look(driver, new MemorySource(bytes), image));
      expect(difference(before!, after!, corruption.mended), 'what can be read is as it was').toBeUndefined();
      const wanted = corruption.mended ?? image.disk;
      if (mendedBy === 'never' || wanted === undefined) return;
      const wider = repair(driver, image, file, mendedBy);
      expect(isSame(diskOf(driver, image, wider.file), wanted), 'and what a wider one mends').toBe(true);
    });

    test.each(SCOPES.filter((_, n) => n >= reach))('is mended by a repair of %s', (scope) => {
      const { file, repairs, refused } = repair(driver, image, image.file, scope);
      expect(refused).toBeUndefined();
      expect(repairs.length).toBeGreaterThan(0);
      expect(repairs.reduce((sum, { lostBytes: lost }) => sum + lost, 0)).toBe(lostBytes);
      const report = checked(driver, image, file);
      expect(report).not.toBeInstanceOf(ImageError);
      expect(report).toMatchObject({ errors: 0 });
      expect(isFound(report, corruption)).toBe(false);
      const wanted = corruption.mended ?? image.disk;
      if (wanted !== undefined) expect(isSame(diskOf(driver, image, file), wanted)).toBe(true);
      const again = repair(driver, image, file, scope);
      expect(again.repairs, 'a second repair finds nothing to do').toEqual([]);
      expect(isSame(again.file, file)).toBe(true);
    });

    test.skipIf(mendedBy === 'never')('the power may fail while it is mended', () => {
      const scope = mendedBy as RepairScope;
      const plan = { seed: 11, runs: RUNS, prefixes: true };
      const { violation } = cutRepair(driver, corruption, image, scope, plan);
      expect(violation).toBeUndefined();
    });
  });
});
