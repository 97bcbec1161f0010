/**
 * Power cuts. POWERCUT_RUNS reorderings per format (1200 unless said, which CI has time for) and every prefix of the recorded workloads;
 * POWERCUT_SEED repeats what a failure names.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { FORMATS, type QemuOracle } from '../model/formats.ts';
import { have, privateFolder } from '../support/oracle.ts';
import { flushesOf } from './barriers.ts';
import { type CrashImage, cutPower } from './harness.ts';
import { childRecording, continued, longRecording, recordings } from './recordings.ts';
import type { Recording } from './workload.ts';

const RUNS = Number(process.env['POWERCUT_RUNS'] ?? 1200);
const SEED = Number(process.env['POWERCUT_SEED'] ?? 20261121);
/** Crash images of a format that are worked on further, and those that qemu-img looks at. */
const CONTINUED = 6;
const FOR_QEMU = 20;
const MINUTES = 60_000;

const folder = privateFolder();

describe.each(FORMATS)('$format', (format) => {
  let all: Recording[] = [];
  beforeAll(() => {
    all = recordings(format, SEED);
  });
  const crashed: CrashImage[] = [];

  /** Fails with what repeats it. */
  function pass(violation: string | undefined): void {
    if (violation !== undefined) throw new Error(`POWERCUT_SEED=${SEED} POWERCUT_RUNS=${RUNS}: ${violation}`);
  }

  test(
    `every prefix, and ${RUNS} reorderings`,
    () => {
      let images = 0;
      for (const [n, recording] of all.entries()) {
        const runs = Math.ceil(RUNS / all.length);
        const kept: CrashImage[] = [];
        const result = cutPower(recording, {
          seed: SEED + n,
          runs,
          prefixes: true,
          keepEvery: Math.max(1, Math.ceil(runs / (format.qemu?.takes(recording.name) ? 12 : 3))),
          kept,
        });
        images += result.images;
        crashed.push(...kept);
        pass(result.violation);
      }
      expect(images).toBeGreaterThan(RUNS);
    },
    30 * MINUTES,
  );

  test(
    'the same on images that a power cut left',
    () => {
      const step = Math.max(1, Math.floor(crashed.length / CONTINUED));
      const chosen = crashed.filter((_, n) => n % step === 0).slice(0, CONTINUED);
      expect(chosen.length).toBeGreaterThan(0);
      for (const [n, image] of chosen.entries()) {
        const recording = continued(format, image, SEED + n);
        pass(cutPower(recording, { seed: SEED + n, runs: Math.ceil(RUNS / 20), prefixes: true }).violation);
      }
    },
    30 * MINUTES,
  );

  test(
    'a long mount, reordered',
    () => {
      const recording = longRecording(format, SEED);
      const runs = Math.ceil(RUNS / 4);
      pass(cutPower(recording, { seed: SEED, runs, prefixes: false }).violation);
    },
    30 * MINUTES,
  );

  // Of formats that have no parents (raw) there is no child.
  test.skipIf(format.format === 'raw')(
    'a child with many commits, reordered',
    () => {
      const recording = childRecording(format, SEED);
      if (recording === undefined) throw new Error('none of the samples is a child');
      const runs = Math.ceil(RUNS / 4);
      pass(cutPower(recording, { seed: SEED, runs, prefixes: false }).violation);
    },
    30 * MINUTES,
  );

  test.each(format.barriers.map((barrier) => [barrier.name, barrier] as const))(
    'the harness sees that a barrier is missing: %s',
    (_name, barrier) => {
      const places = all.map((recording) => flushesOf(recording, barrier));
      const left = places.reduce((sum, flushes) => sum + flushes.size, 0);
      // A few reorderings of each recording in turn, until one shows it.
      for (let round = 0; round < RUNS / 50; round += 1) {
        for (const [n, recording] of all.entries()) {
          if (places[n]!.size === 0) continue;
          const isBarrier = (index: number) => !places[n]!.has(index);
          const plan = { seed: SEED + round, runs: 50, prefixes: false, isBarrier };
          if (cutPower(recording, plan).violation !== undefined) return;
        }
      }
      expect.fail(`${left} flushes were left out, and nothing was seen`);
    },
    30 * MINUTES,
  );

  const { qemu } = format;
  const canAsk = qemu !== undefined && have('qemu-img');
  test.skipIf(!canAsk)(
    `qemu-img takes them too${canAsk ? '' : ' (where it is installed and right about the format)'}`,
    () => {
      const fit = crashed.filter(({ name }) => qemu!.takes(name));
      const step = Math.max(1, Math.floor(fit.length / FOR_QEMU));
      const chosen = fit.filter((_, n) => n % step === 0).slice(0, FOR_QEMU);
      expect(chosen.length).toBe(FOR_QEMU);
      for (const image of chosen) askQemu(qemu!, image);
    },
    30 * MINUTES,
  );
});

/** `qemu-img check` finds no errors, and it reads the bytes that we read. */
function askQemu(qemu: QemuOracle, { name, file, disk }: CrashImage): void {
  const [image, raw] = [folder.path('crashed'), folder.path('raw')];
  writeFileSync(image, file);
  const checked = spawnSync('qemu-img', ['check', '-f', qemu.name, ...qemu.checkOptions, image], {
    encoding: 'utf8',
  });
  const output = checked.stdout + checked.stderr;
  if (!qemu.accepts(checked.status ?? -1, output))
    throw new Error(`${name}: exit ${checked.status}\n${output}`);
  const read = spawnSync('qemu-img', ['convert', '-f', qemu.name, '-O', 'raw', image, raw], {
    encoding: 'utf8',
  });
  expect([name, read.status, read.stderr]).toEqual([name, 0, '']);
  const bytes = readFileSync(raw);
  expect(Buffer.compare(bytes.subarray(0, disk.length), disk), name).toBe(0);
}
