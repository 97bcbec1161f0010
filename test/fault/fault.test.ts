/**
 * Errors of the host at every named step of writing. They reach the guest by the operation or the next flush, as
 * numbers, never as exceptions; nothing acknowledged is lost and nothing is mixed up; and when the host is well
 * again, writing goes on. Only a failed flush ends writing. FAULT_SEED repeats what a failure names.
 */

import { beforeAll, describe, expect, test } from 'vitest';
import { EFBIG, EIO, ENOSPC } from '../../src/base/errno.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatDriver } from '../../src/image/driver.ts';
import type { WriteStep } from '../../src/source/block-source.ts';
import { FORMATS } from '../model/formats.ts';
import { examine } from '../powercut/harness.ts';
import { writableSamples } from '../powercut/recordings.ts';
import { work } from '../powercut/workload.ts';
import { openEditable, parentDisk } from '../support/disk.ts';
import { type Fault, FaultSource } from '../support/fault-source.ts';
import { MemorySource } from '../support/memory-source.ts';
import { random } from '../support/random.ts';
import type { SampleImage } from '../support/sample.ts';
import { FaultGuest } from './guest.ts';

const SEED = Number(process.env['FAULT_SEED'] ?? 20261121);
/** Images per format, of the smaller disks but for tiny ones; places per step at which it fails. */
const MIN_DISK = 20_000;
const SAMPLES = 4;
const PLACES = 4;
const STEPS = 30;
/** Operations that the guest goes on with while the fault lasts. */
const DURING = 6;

interface Bench {
  readonly driver: FormatDriver;
  readonly sample: SampleImage;
}

/** An image that is being written to, over a source that can fail. */
class Session {
  readonly memory: MemorySource;
  readonly source: FaultSource;
  readonly guest: FaultGuest;
  readonly #bench: Bench;
  readonly #step: () => boolean;
  readonly #close: () => boolean;

  constructor(bench: Bench, file: Uint8Array, content: Uint8Array) {
    const { driver, sample } = bench;
    this.#bench = bench;
    this.memory = new MemorySource(file, sample.name, true);
    this.source = new FaultSource(this.memory);
    const { disk, image } = openEditable(driver, this.source, sample.options, 1, parentDisk(sample));
    this.guest = new FaultGuest(disk, content);
    const next = random(SEED);
    this.#step = () => work(this.guest, next, image.blockSize);
    this.#close = () => this.guest.close();
  }

  /** `count` operations, or up to the first that fails where `until` says so; how many went wrong. */
  work(count: number, until = false): number {
    let wrong = 0;
    for (let n = 0; n < count; n += 1) {
      if (this.#step()) continue;
      wrong += 1;
      if (until) break;
    }
    return wrong;
  }

  /** The file as it is now, as the next daemon would find it. */
  expectSound(what: string, killed: boolean): Uint8Array {
    const { driver, sample } = this.#bench;
    const found = new Uint8Array(this.guest.now.length);
    const options = sample.options ?? {};
    const problem =
      examine({ driver, options, parent: sample.parent }, new MemorySource(this.memory.bytes), found) ??
      (killed || Buffer.compare(found, this.guest.now) === 0
        ? this.guest.problemAfterKill(found)
        : 'it is not what was written');
    if (problem !== undefined) expect.fail(`${what}: ${problem}`);
    return found;
  }

  /** After the fault: all goes on, and in the end all is there. */
  expectRecovery(what: string): void {
    this.source.lift();
    this.guest.expectReads(`${what}, fault lifted`);
    const wrong = this.work(STEPS);
    if (wrong > 0)
      expect.fail(`${what}: ${wrong} operations fail after the fault, errno ${this.guest.failures.at(-1)}`);
    this.guest.expectReads(`${what}, work after the fault`);
    if (!this.guest.flush())
      expect.fail(`${what}: the flush after the fault gives ${this.guest.failures.at(-1)}`);
    this.expectSound(`${what}, killed after a flush`, false);
    if (!this.#close()) expect.fail(`${what}: closing gives ${this.guest.failures.at(-1)}`);
    this.expectSound(`${what}, closed`, false);
  }
}

/** Up to `count` numbers from 1 to `last`, both ends among them. */
function places(last: number, count: number): number[] {
  const found = new Set<number>();
  for (let n = 0; n < count; n += 1) found.add(1 + Math.round(((last - 1) * n) / Math.max(1, count - 1)));
  return [...found];
}

describe.each(FORMATS)('$format', { timeout: 5 * 60_000 }, (format) => {
  const driver = driverOf(format.format);
  let benches: Bench[] = [];
  beforeAll(() => {
    benches = writableSamples(format, SEED)
      .filter(({ disk }) => disk.length >= MIN_DISK)
      .sort((one, other) => one.disk.length - other.disk.length)
      .slice(0, SAMPLES * 3)
      .filter((_, n, all) => n % Math.ceil(all.length / SAMPLES) === 0)
      .map((sample) => ({ driver, sample }));
  });

  const open = (bench: Bench) => new Session(bench, bench.sample.file, bench.sample.disk);

  /** How often each step occurs where nothing fails. */
  function countsOf(bench: Bench): Map<WriteStep, number> {
    const session = open(bench);
    session.work(STEPS);
    session.guest.flush();
    return new Map(session.source.counts);
  }

  /** Calls `each` for every image, step and place, with a text for messages. */
  function everywhere(
    wants: (step: WriteStep) => boolean,
    each: (bench: Bench, step: WriteStep, nth: number, what: string) => void,
  ): void {
    let met = 0;
    for (const bench of benches) {
      for (const [step, count] of countsOf(bench)) {
        if (!wants(step)) continue;
        for (const nth of places(count, PLACES)) {
          met += 1;
          each(bench, step, nth, `FAULT_SEED=${SEED}, ${bench.sample.name}: ${step} number ${nth}`);
        }
      }
    }
    expect(met).toBeGreaterThan(0);
  }

  const ERRORS = [
    ['EIO', EIO],
    ['ENOSPC', ENOSPC],
  ] as const;
  const notFlush = (step: WriteStep) => step !== 'flush';

  test.each(ERRORS)('%s once, at any step, before or after a part of the write', (name, errno) => {
    everywhere(notFlush, (bench, step, nth, what) => {
      for (const part of nth === 1 ? [0, 0.6] : [nth % 2 === 0 ? 0.6 : 0]) {
        const session = open(bench);
        session.source.set({ step, nth, times: 1, errno, part });
        session.work(STEPS, true);
        const text = `${name} at ${what}, part ${part}`;
        session.guest.expectReads(text);
        session.expectSound(`${text}, killed`, true);
        session.expectRecovery(text);
      }
    });
  });

  test.each(ERRORS)('%s for a while: it is told by the next flush, the rest goes on', (name, errno) => {
    everywhere(notFlush, (bench, step, nth, what) => {
      const session = open(bench);
      const fault: Fault = { step, nth, times: Number.POSITIVE_INFINITY, errno, part: 0 };
      session.source.set(fault);
      session.work(STEPS, true);
      session.work(DURING);
      session.guest.flush();
      const text = `${name} at ${what}, for a while`;
      // Where the file cannot grow, there may be room inside it.
      if (step !== 'size.set' && session.source.hits > 0 && session.guest.failures.length === 0) {
        expect.fail(`${text}: ${session.source.hits} errors, none was told`);
      }
      for (const failure of session.guest.failures) {
        if (failure !== -errno && failure !== -EIO && failure !== -ENOSPC) expect.fail(`${text}: ${failure}`);
      }
      session.guest.expectReads(text);
      session.expectSound(`${text}, killed`, true);
      session.expectRecovery(text);
    });
  });

  test('a file-size limit: what fits goes on, and everything when it is lifted', () => {
    let hits = 0;
    for (const bench of benches) {
      for (const room of [0, 700, 200_000]) {
        const session = open(bench);
        session.source.limit = session.source.size + room;
        session.work(STEPS);
        hits += session.source.hits;
        session.guest.flush();
        const what = `FAULT_SEED=${SEED}, ${bench.sample.name}: limit ${room}`;
        const { failures } = session.guest;
        expect(
          failures.every((failure) => [-EFBIG, -ENOSPC].includes(failure)),
          `${what}: ${failures}`,
        ).toBe(true);
        session.guest.expectReads(what);
        session.expectSound(`${what}, killed`, true);
        session.expectRecovery(what);
      }
    }
    // A disk that lies in one piece never grows.
    if (format.format !== 'raw') expect(hits).toBeGreaterThan(0);
  });

  test.each(ERRORS)('a flush that fails with %s ends writing; reading goes on', (name, errno) => {
    everywhere(
      (step) => step === 'flush',
      (bench, step, nth, what) => {
        const session = open(bench);
        session.source.set({ step, nth, times: 1, errno, part: 0 });
        session.work(STEPS, true);
        const text = `${name} at ${what}`;
        const { guest, source } = session;
        if (source.hits === 0) guest.flush();
        expect([text, source.hits, guest.failures.length]).toEqual([text, 1, 1]);
        source.lift();
        const before = session.memory.bytes.slice();
        expect([
          guest.write(0, Uint8Array.of(1)),
          guest.zero(0, 1, 'keep'),
          guest.flush(),
          guest.close(),
        ]).toEqual([false, false, false, false]);
        expect(new Set(guest.failures.slice(1))).toEqual(new Set([-EIO]));
        expect(Buffer.compare(before, session.memory.bytes), `${text}: the file was changed`).toBe(0);
        guest.expectReads(text);
        // The next daemon works with what there is.
        const found = session.expectSound(`${text}, killed`, true);
        new Session(bench, session.memory.bytes, found).expectRecovery(`${text}, mounted again`);
      },
    );
  });
});
