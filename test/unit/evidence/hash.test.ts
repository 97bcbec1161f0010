/** Hashes as coreutils would have them, of files and of disks, in real threads. */

import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import type { Layer } from '../../../src/chain/layer.ts';
import { openImages } from '../../../src/daemon/images.ts';
import { hashAll } from '../../../src/evidence/hash.ts';
import type { HashTask } from '../../../src/evidence/hash-thread.ts';
import { diskTask, fileTask } from '../../../src/evidence/held.ts';
import { BUFFER_BYTES } from '../../../src/evidence/pipe.ts';
import { PagePool } from '../../../src/shared/page-pool.ts';
import { openFile } from '../../../src/source/file.ts';
import { encodeVdi, FREE } from '../../support/encoders/vdi.ts';
import { samples } from '../../support/encoders/vhdx.ts';
import { privateFolder } from '../../support/oracle.ts';
import { random, randomBytes } from '../../support/random.ts';
import { builtThread } from '../../support/threads.ts';

const folder = privateFolder();
const script = builtThread('src/evidence/hash-thread.ts');
const digest = (bytes: Uint8Array, name = 'sha256'): string => createHash(name).update(bytes).digest('hex');

const openTask = (path: string) => {
  const source = openFile(path);
  return { task: fileTask({ source }), close: () => source.close() };
};

/** A task for the disk of the image at `path`, and the images to close. */
function openDiskTask(path: string): { task: HashTask; close: () => void } {
  const chain = { parents: [], parentDirs: [], force: false };
  const config = { images: [path], format: undefined, formatOptions: [], lock: false, readOnly: true, chain };
  const [opened] = openImages(config, () => {});
  const layers: [Layer, ...Layer[]] = [opened!, ...opened!.parents];
  const close = () => {
    for (const { source } of layers) source.close();
  };
  return { task: diskTask(layers, PagePool.seed(MIB)), close };
}

const hashOne = async (task: HashTask) =>
  (await hashAll([task], { algorithms: ['sha256'], script: script() }))[0]!;

/** More than the pipe holds at once, and no multiple of anything. */
const SIZE = 5 * BUFFER_BYTES + 4321;

describe('hashAll', () => {
  it('a file, with every algorithm', async () => {
    const bytes = randomBytes(random(1), 100_001);
    writeFileSync(folder.path('a'), bytes);
    const { task, close } = openTask(folder.path('a'));
    const [outcome] = await hashAll([task], { algorithms: ['md5', 'sha1', 'sha256'], script: script() });
    close();
    expect(outcome).toEqual({
      digests: { md5: digest(bytes, 'md5'), sha1: digest(bytes, 'sha1'), sha256: digest(bytes) },
    });
  });

  it('an empty file', async () => {
    writeFileSync(folder.path('empty'), '');
    const { task, close } = openTask(folder.path('empty'));
    expect(await hashOne(task)).toEqual({ digests: { sha256: digest(new Uint8Array(0)) } });
    close();
  });

  it('does not depend on how sparse a file is', async () => {
    const bytes = new Uint8Array(SIZE);
    const pieces: [number, Uint8Array][] = [
      [3 * MIB + 100, randomBytes(random(2), 70_000)],
      [SIZE - 9 * MIB, randomBytes(random(3), 5 * MIB)],
      [SIZE - 1, Uint8Array.of(7)],
    ];
    for (const [at, piece] of pieces) bytes.set(piece, at);
    writeFileSync(folder.path('dense'), bytes);
    const fd = openSync(folder.path('sparse'), 'wx');
    ftruncateSync(fd, SIZE);
    for (const [at, piece] of pieces) writeSync(fd, piece, 0, piece.length, at);
    closeSync(fd);
    const files = ['dense', 'sparse'].map((name) => openTask(folder.path(name)));
    expect(files.map(({ task }) => task.kind)).toEqual(['file', 'file']);
    const seen: [number, number][] = [];
    const outcomes = await hashAll(
      files.map(({ task }) => task),
      { algorithms: ['sha256'], script: script(), progress: (done, total) => seen.push([done, total]) },
    );
    for (const { close } of files) close();
    expect(outcomes.map(({ digests }) => digests?.sha256)).toEqual([digest(bytes), digest(bytes)]);
    expect(seen.at(-1)).toEqual([2 * SIZE, 2 * SIZE]);
  });

  it('disks, as the mount shows them: also those of dirty images', async () => {
    const dirty = samples(4).filter(({ name, parent }) => parent === undefined && name.includes('log'));
    expect(dirty.length).toBeGreaterThan(1);
    for (const sample of dirty.slice(0, 4)) {
      const path = folder.path(`${sample.name.replaceAll('/', '_')}.vhdx`);
      writeFileSync(path, sample.file);
      const { task, close } = openDiskTask(path);
      const [outcome, file] = await hashAll([task, openTask(path).task], {
        algorithms: ['sha256'],
        script: script(),
      });
      close();
      expect(outcome!.digests?.sha256, sample.name).toBe(digest(sample.disk));
      expect(file!.digests?.sha256, sample.name).toBe(digest(sample.file));
    }
  });

  it('one that cannot be read says where, and the others go on', async () => {
    // The third block's place is behind the end of the file.
    const { file } = encodeVdi({ map: [0, FREE, 2000], blockSize: 4096 }, random(5));
    writeFileSync(folder.path('damaged.vdi'), file);
    const damaged = openDiskTask(folder.path('damaged.vdi'));
    const container = openTask(folder.path('damaged.vdi'));
    const outcomes = await hashAll([damaged.task, container.task], {
      algorithms: ['sha256'],
      script: script(),
    });
    damaged.close();
    container.close();
    expect(outcomes[0]!.problem?.kind).toBe('io');
    expect(outcomes[0]!.problem?.message).toMatch(/^at 0x0: reading 12288 bytes failed with errno 5 \(.*VDI/);
    expect(outcomes[1]!.digests?.sha256).toBe(digest(file));
  });

  // Cut at the edge of a buffer, all that is missing is a hole to lseek(2).
  it.each([4096, BUFFER_BYTES])('a file that is cut to %i bytes meanwhile', async (left) => {
    const path = folder.path(`cut-${left}`);
    writeFileSync(path, randomBytes(random(6), BUFFER_BYTES + 10_000));
    const { task, close } = openTask(path);
    truncateSync(path, left);
    const { problem } = await hashOne(task);
    close();
    expect(problem?.kind).toBe('io');
    expect(problem?.message).toContain(`${BUFFER_BYTES + 10_000}`);
  });

  it('ends at once when it is interrupted, with no thread left', async () => {
    const fd = openSync(folder.path('vast'), 'wx');
    ftruncateSync(fd, 2 ** 42);
    closeSync(fd);
    const { task, close } = openTask(folder.path('vast'));
    const control = new AbortController();
    const hashed = hashAll([task, task, task, task], {
      algorithms: ['sha256'],
      script: script(),
      signal: control.signal,
      progress: (done) => {
        if (done > 0) control.abort();
      },
    });
    await expect(hashed).rejects.toMatchObject({ kind: 'interrupted' });
    await expect(
      hashAll([task], { algorithms: ['sha256'], script: script(), signal: control.signal }),
    ).rejects.toMatchObject({ kind: 'interrupted' });
    close();
  });
});
