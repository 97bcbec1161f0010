/**
 * Real threads for tests. Node 20 loads no TypeScript in a worker (vitest transforms only its own), so a worker's
 * module is bundled with all that it imports into a folder that goes with the test file.
 */

import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { rolldown } from 'rolldown';
import { afterAll, beforeAll } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface ThreadScript {
  /** One thread per item of `data`, all at once; what each posts first. Fails with the first that throws. */
  run<Result>(data: readonly unknown[]): Promise<Result[]>;
}

/**
 * The worker module at `path` (from the root of the project), built before the tests of this file. It reads its
 * `workerData` and posts one message.
 */
export function threadScript(path: string): ThreadScript {
  const script = builtThread(path);
  return {
    run: <Result>(data: readonly unknown[]) =>
      Promise.all(data.map((workerData) => runOne<Result>(script(), workerData))),
  };
}

/** Builds the worker module at `path` before the tests of this file; says where it is then. */
export function builtThread(path: string): () => URL {
  let folder = '';
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'vdisk-threads-'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    // For koffi, which stays outside of the bundle.
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    const bundle = await rolldown({ input: join(ROOT, path), platform: 'node', external: ['koffi'] });
    await bundle.write({ dir: folder, format: 'esm', entryFileNames: '[name].js' });
    await bundle.close();
  });
  afterAll(() => {
    if (folder !== '') rmSync(folder, { recursive: true, force: true });
  });
  return () => pathToFileURL(join(folder, `${basename(path, '.ts')}.js`));
}

function runOne<Result>(script: URL, workerData: unknown): Promise<Result> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(script, { workerData });
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', () => reject(new Error('the thread ended without a message')));
  });
}
