#!/usr/bin/env node
// The last step of a build: runs what was built, and keeps the code that V8 has made of it by then (see src/start/code.ts), so
// that it starts faster from now on. Mounts an image for a moment where that is possible. Of what did not run, what V8
// makes of it while it is read is kept.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');
const work = mkdtempSync(join(tmpdir(), 'vdisk-build-'));

/** Whether it ended well. `NODE_OPTIONS` reaches the daemon and all threads, too. */
function run(program, ...argv) {
  const keep = JSON.stringify(join(root, 'scripts', 'keep-code.cjs'));
  const env = { ...process.env, NODE_OPTIONS: `--require ${keep}` };
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'bin', program), ...argv], { env });
  if (status !== 0) console.error(`${program} ${argv.join(' ')}: ${stderr}`);
  return status === 0;
}

function must(...words) {
  if (!run(...words)) throw new Error('what was built does not work');
}

function mountAndUnmount(image, directory) {
  mkdirSync(directory);
  for (const program of ['vdisk-mount', 'mount-helper']) {
    if (!run(program, image, directory)) return;
    readFileSync(join(directory, 'disk.raw'));
    must('vdisk', 'unmount', directory);
  }
}

try {
  const disk = join(work, 'disk.raw');
  const image = join(work, 'disk.vhdx');
  writeFileSync(disk, Buffer.alloc(2 ** 20, 1));
  must('vdisk', 'convert', disk, image);
  must('vdisk', 'info', image);
  must('vdisk', 'check', image);
  must('vdisk', 'hash', image);
  must('vdisk-mount', '--help');
  mountAndUnmount(image, join(work, 'mnt'));
  const { compile } = createRequire(import.meta.url)(join(dist, 'code.cjs'));
  const names = new Set(readdirSync(dist));
  for (const name of names) {
    if (!/-[^.]{8}\.cjs$/.test(name) || names.has(`${name}.code`)) continue;
    console.log(`only read, not run: ${name}`);
    writeFileSync(join(dist, `${name}.code`), compile(join(dist, name)).createCachedData());
  }
} finally {
  rmSync(work, { recursive: true });
}
