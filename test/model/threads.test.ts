/**
 * Four threads write to one disk of a real file at once, through their own translators and editors as the workers
 * of a mount do: each keeps a model of its own sectors. MODEL_SEED repeats what a failure names; MODEL_STEPS is the
 * number of operations of each thread.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';

import { driverOf } from '../../src/formats/registry.ts';
import { attachLayers, type FileSeed, type LayerSeed } from '../../src/fuse/tree.ts';
import { IoGate } from '../../src/shared/io-gate.ts';
import { PagePool } from '../../src/shared/page-pool.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';
import { type FileSource, openFile } from '../../src/source/file.ts';
import { examine } from '../powercut/harness.ts';
import { writableSamples } from '../powercut/recordings.ts';
import { MemorySource } from '../support/memory-source.ts';
import { privateFolder } from '../support/oracle.ts';
import { random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { threadScript } from '../support/threads.ts';
import { FORMATS } from './formats.ts';
import type { GuestData, GuestResult } from './threads/guest.ts';
import { divide } from './threads/owners.ts';

const SEED = Number(process.env['MODEL_SEED'] ?? 20261121);
const STEPS = Number(process.env['MODEL_STEPS'] ?? 500);
const THREADS = 4;
/** Images per format. */
const SAMPLES = 3;
const MIN_DISK = 40_000;

/** One for all: table numbers of a mount are its own. */
const TABLES = new TableAllocator();

const folder = privateFolder();
const script = threadScript('test/model/threads/guest.ts');

const isDeep = ({ parent }: SampleImage): boolean => parent?.parent !== undefined;

/** The parents of a sample as files, nearest first. */
function openParents(sample: SampleImage, path: string) {
  const seeds: LayerSeed[] = [];
  const sources: FileSource[] = [];
  for (let parent = sample.parent; parent !== undefined; parent = parent.parent) {
    const name = `${path}${sources.length + 1}`;
    writeFileSync(name, parent.file);
    const source = openFile(name, 'read');
    sources.push(source);
    const options = new Map(Object.entries(parent.options ?? {}));
    const image = driverOf(parent.format).open(source, { tables: TABLES, report: () => {}, options });
    seeds.push({ image: image.share(), source: source.share() });
  }
  return {
    seeds,
    close: () => {
      for (const source of sources) source.close();
    },
  };
}

describe.each(FORMATS)('$format', (format) => {
  const driver = driverOf(format.format);
  let samples: SampleImage[] = [];
  beforeAll(() => {
    samples = writableSamples(format, SEED)
      .filter(({ disk }) => disk.length >= MIN_DISK)
      .filter((sample, n, all) => n % Math.ceil(all.length / SAMPLES) === 0 || isDeep(sample));
  });

  /** One mount: the threads work, one closes (or none: the daemon is killed), the file is looked at. */
  async function mount(
    sample: SampleImage,
    path: string,
    content: Uint8Array,
    seed: number,
    pages: number,
    clean: boolean,
  ) {
    const what = `MODEL_SEED=${SEED}, ${sample.name}, mount ${seed}`;
    const options = sample.options ?? {};
    const report = (): void => {};
    const source = openFile(path, 'write');
    const parents = openParents(sample, `${path}-parent`);
    try {
      const context = { tables: TABLES, report, options: new Map(Object.entries(options)) };
      const image = driver.open(source, context);
      const shared = { ...image.share(), edit: image.prepareEdit(context) };
      const layers: FileSeed['layers'] = [{ image: shared, source: source.share() }, ...parents.seeds];
      const pool = PagePool.seed(pages * 4200);
      const gate = IoGate.seed(THREADS + 1);
      const owners = divide(random(seed), image.virtualSize, image.blockSize, THREADS);
      const { blockSize } = image;
      const work = Array.from({ length: THREADS }, (_, thread): GuestData => {
        return {
          layers,
          pool,
          gate,
          thread,
          ...owners,
          blockSize,
          content,
          seed,
          steps: STEPS,
        };
      });
      const results = await script.run<GuestResult>(work);
      expect([what, results.flatMap(({ problems }) => problems)]).toEqual([what, []]);
      const wanted = new Uint8Array(content.length);
      for (let at = 0; at < wanted.length; at += 1) {
        wanted[at] = results[owners.sectors[at >>> 9]!]!.model[at]!;
      }
      // As the last one of the threads.
      const mine = { pool: new PagePool(pool), report, gate: new IoGate(gate, THREADS) };
      const disk = attachLayers(layers, image.virtualSize, mine);
      expect([what, clean ? disk.close() : disk.flush()]).toEqual([what, 0]);
      expect(mine.pool.counters().pinned, `${what}: pages are still pinned`).toBe(0);
      expect(disk.counters().dirtyBytes, `${what}: pages count as dirty`).toBe(0);
      const found = new Uint8Array(wanted.length);
      const problem = examine(
        { driver, options, parent: sample.parent },
        new MemorySource(readFileSync(path)),
        found,
      );
      expect([what, problem]).toEqual([what, undefined]);
      const wrong = found.findIndex((byte, at) => byte !== wanted[at]);
      if (wrong >= 0) expect.fail(`${what}: byte ${wrong} is ${found[wrong]}, not ${wanted[wrong]}`);
      return wanted;
    } finally {
      source.close();
      parents.close();
    }
  }

  test.each([
    ['a pool of 16 pages', 16],
    ['a pool of 1024 pages', 1024],
  ])(
    'four threads, %s, mounted again and again',
    async (_name, pages) => {
      for (const sample of samples) {
        const path = folder.path('image');
        writeFileSync(path, sample.file);
        let content = sample.disk;
        for (let round = 0; round < 3; round += 1) {
          content = await mount(sample, path, content, SEED + round, pages, round === 1);
        }
      }
    },
    10 * 60_000,
  );
});
