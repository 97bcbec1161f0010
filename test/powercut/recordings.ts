/** The recorded workloads of a format. */

import { ImageError } from '../../src/base/errors.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatDriver } from '../../src/image/driver.ts';
import type { WritableFormat } from '../model/formats.ts';
import { openEditable } from '../support/disk.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import type { CrashImage } from './harness.ts';
import { type Recording, record, type Session } from './workload.ts';

/** Larger images make every crash image dear, and show nothing more. */
const MAX_DISK = 10 * 1024 * 1024;
const MAX_BLOCK = 2 * 1024 * 1024;

/** Whether the sample serves here: small enough, and its driver writes to it. */
function serves(driver: FormatDriver, sample: SampleImage): boolean {
  if (sample.disk.length === 0 || sample.disk.length > MAX_DISK) return false;
  try {
    const { image } = openEditable(
      driver,
      new MemorySource(sample.file, sample.name, true),
      sample.options,
      1,
    );
    return image.blockSize <= MAX_BLOCK;
  } catch (problem) {
    if (problem instanceof ImageError && problem.kind !== 'bug') return false;
    throw problem;
  }
}

/** Every sample of the format that serves. */
export function writableSamples(format: WritableFormat, seed: number): SampleImage[] {
  const driver = driverOf(format.format);
  return format.samples(seed).filter((sample) => serves(driver, sample));
}

/** Sessions on one image: ends in order, killed ones, and work on top of what they left. */
const SESSIONS: readonly Session[] = [
  { steps: 8, end: 'close' },
  { steps: 8, end: 'die in flush' },
  { steps: 8, end: 'die' },
  { steps: 6, end: 'trim' },
  { steps: 5, end: 'kill' },
  { steps: 6, end: 'flush' },
];

/** One recording of each sample. */
export function recordings(format: WritableFormat, seed: number): Recording[] {
  const driver = driverOf(format.format);
  return writableSamples(format, seed).map((sample, n) => record(driver, sample, random(seed + n), SESSIONS));
}

/** One mount with so many commits that whatever is used in turn comes round again (the log of VHDX does). */
export function longRecording(format: WritableFormat, seed: number): Recording {
  const samples = writableSamples(format, seed).filter(({ disk }) => disk.length >= 100_000);
  const sample =
    samples.find(({ name }) => /empty|without blocks|nothing allocated/.test(name)) ?? samples[0]!;
  const name = `${sample.name}, a long mount`;
  const sessions: Session[] = [{ steps: 1000, flushes: 0.45, end: 'close' }];
  return record(driverOf(format.format), { ...sample, name }, random(seed), sessions);
}

/**
 * Mounts of a child with many commits, so that what the parent shows is written over also where the file has grown and
 * is stable as zeros. Undefined where the format has no parents.
 */
export function childRecording(format: WritableFormat, seed: number): Recording | undefined {
  const sample = writableSamples(format, seed)
    .filter(({ parent }) => parent !== undefined)
    .sort((a, b) => b.disk.length - a.disk.length)[0];
  if (sample === undefined) return undefined;
  const name = `${sample.name}, many commits`;
  const sessions = Array<Session>(4).fill({ steps: 60, flushes: 0.45, end: 'flush' });
  return record(driverOf(format.format), { ...sample, name }, random(seed), sessions);
}

/** One recording on an image that a power cut left. Throws where the driver does not write to it. */
export function continued(format: WritableFormat, image: CrashImage, seed: number): Recording {
  const name = `${image.name}, after a power cut`;
  return record(driverOf(format.format), { ...image, name }, random(seed), SESSIONS.slice(1));
}
