/** What a conversion says of what went wrong meanwhile, and leaves then. */

import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import type { Crew, Task } from '../../../src/convert/crew.ts';
import { convertTo } from '../../support/convert.ts';
import { random, randomBytes } from '../../support/random.ts';
import { builtThread } from '../../support/threads.ts';

const script = builtThread('src/convert/convert-thread.ts');

describe('convert', () => {
  let folder = '';
  let source = '';
  const bytes = randomBytes(random(3), 5 * MIB);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'vdisk-convert-'));
    source = join(folder, 'source.raw');
    bytes.fill(0, MIB, 2 * MIB);
    writeFileSync(source, bytes);
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const asked = () => ({
    sources: [[source, 'raw']] as const,
    path: join(folder, 'new.raw'),
    format: 'raw' as const,
  });

  /** Does `meddle` before each pass. */
  const meddling =
    (meddle: (task: Task) => void) =>
    ({ crew }: { readonly crew: Crew }): void => {
      const run = crew.run.bind(crew);
      crew.run = (task, ...rest) => {
        meddle(task);
        return run(task, ...rest);
      };
    };

  test('zeros are not written, but read as such', async () => {
    const { written, allocated } = await convertTo(asked(), script());
    expect(written).toBe(4 * MIB);
    expect(allocated).toBeLessThan(4.5 * MIB);
    expect(readFileSync(join(folder, 'new.raw')).equals(bytes)).toBe(true);
  });

  test.each([1, 2, 5])('a crew of %i: all chunks, each once', async (threads) => {
    const many = randomBytes(random(threads), 41 * MIB);
    writeFileSync(source, many);
    const { written } = await convertTo({ ...asked(), threads, verify: true }, script());
    expect(written).toBe(41 * MIB);
    expect(readFileSync(join(folder, 'new.raw')).equals(many)).toBe(true);
  });

  test.each([1, 3])('a crew of %i stops between two chunks', async (threads) => {
    const chunks = 64;
    truncateSync(source, chunks * 4 * MIB);
    const stop = new AbortController();
    let claimed = 0;
    // Data in each chunk: a hole is passed over at once.
    const fd = openSync(source, 'r+');
    for (let n = 0; n < chunks; n += 1) writeSync(fd, Uint8Array.of(1), 0, 1, n * 4 * MIB);
    closeSync(fd);
    const alter = ({ crew }: { readonly crew: Crew }): void => {
      const run = crew.run.bind(crew);
      crew.run = async (task, size, from, options, ended) => {
        setImmediate(() => stop.abort('enough'));
        const work = await run(task, size, from, options, ended);
        claimed = work.claimed;
        return work;
      };
    };
    await expect(
      convertTo({ ...asked(), threads, alter, signal: stop.signal }, script()),
    ).rejects.toMatchObject({ kind: 'interrupted' });
    expect(claimed).toBeLessThan(chunks * 4 * MIB);
    expect(readdirSync(folder)).toEqual(['source.raw']);
  });

  test.each([0, MIB + 7, 5 * MIB - 1])('--verify: finds the byte %i that is not the same', async (at) => {
    const alter = meddling((task) => {
      if (task.kind === 'verify')
        writeSync(task.copy.layers[0].source.fd, Uint8Array.of(~bytes[at]!), 0, 1, at);
    });
    await expect(
      convertTo({ ...asked(), verify: true, resume: true, alter }, script()),
    ).rejects.toMatchObject({
      kind: 'io',
      message: expect.stringContaining('the copy is not the same between 0x'),
    });
    expect(readdirSync(folder)).toEqual(['source.raw']);
  });

  test('a source that changes meanwhile: it is said, and nothing is made', async () => {
    const alter = meddling(() => utimesSync(source, 1, 1));
    await expect(convertTo({ ...asked(), resume: true, alter }, script())).rejects.toMatchObject({
      kind: 'changed',
      message: expect.stringContaining('it changed while it was converted'),
    });
    expect(readdirSync(folder)).toEqual(['source.raw']);
  });

  test('a source that is cut off: its zeros are not taken for bytes', async () => {
    const alter = meddling(() => writeFileSync(source, bytes.subarray(0, MIB / 2)));
    const failed = convertTo({ ...asked(), format: 'vdi', alter }, script());
    await expect(failed).rejects.toMatchObject({ kind: 'changed', message: expect.stringContaining('size') });
    expect(readdirSync(folder)).toEqual(['source.raw']);
  });
});
