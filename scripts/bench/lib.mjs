// What the benchmarks share: a working directory that is always cleaned up, targets that show an image, and
// numbers made of what fio says.
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

export const FORMATS = {
  raw: { qemu: 'raw', driver: 'raw', suffix: 'img' },
  vhd: { qemu: 'vpc', driver: 'vpc', suffix: 'vhd', create: ['-o', 'subformat=dynamic,force_size=on'] },
  vhdx: { qemu: 'vhdx', driver: 'vhdx', suffix: 'vhdx' },
  vdi: { qemu: 'vdi', driver: 'vdi', suffix: 'vdi' },
  qed: { qemu: 'qed', driver: 'qed', suffix: 'qed' },
};

export const work = mkdtempSync(join(process.env.BENCH_DIR ?? tmpdir(), 'vdisk-bench-'));
export const cleanups = [];
function cleanUp() {
  while (cleanups.length > 0) {
    try {
      cleanups.pop()();
    } catch (problem) {
      console.error(`clean-up: ${problem.message}`);
    }
  }
  rmSync(work, { recursive: true, force: true });
}
process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));
process.on('exit', cleanUp);

export function run(program, argv, options = {}) {
  const done = spawnSync(program, argv, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (done.status !== 0)
    throw new Error(`${program} ${argv.join(' ')}: ${done.error?.message ?? done.stderr}`);
  return done.stdout;
}
export const have = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
export function waitFor(what, test, ms = 30_000) {
  const end = Date.now() + ms;
  while (!test()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    sleep(2);
  }
}
export function rssMiB(pid) {
  const line = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return line === null ? 0 : Math.round(Number(line[1]) / 102.4) / 10;
}
export function cpuSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
export const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
export const geomean = (list) =>
  Math.exp(list.reduce((sum, value) => sum + Math.log(value), 0) / list.length);

/** Each target: start(image, format, mode) → { path, pid?, startMs, stop() }, or undefined where it does not apply. */
export const TARGETS = {
  'vdisk-mount': (image, _format, { writable = false, threads } = {}) => {
    const dir = mkdtempSync(join(work, 'ours-'));
    const pidFile = join(work, 'ours.pid');
    const options = [...(threads === undefined ? [] : ['--threads', threads]), ...(writable ? [] : ['-r'])];
    const started = performance.now();
    run(join(root, 'bin/vdisk-mount'), [...options, '--pid-file', pidFile, image, dir]);
    const startMs = performance.now() - started;
    const pid = Number(readFileSync(pidFile, 'utf8'));
    return {
      path: join(dir, basename(image).replace(/\.[^.]+$/, '.raw')),
      pid,
      startMs,
      stop: () => {
        run('umount', [dir]);
        waitFor('end of vdisk-mount', () => !existsSync(`/proc/${pid}`));
      },
    };
  },
  'qemu-storage-daemon': (image, format, { writable = false } = {}) => {
    if (!have('qemu-storage-daemon')) return undefined;
    const path = join(work, 'qsd.raw');
    const pidFile = join(work, 'qsd.pid');
    writeFileSync(path, '');
    const readOnly = writable ? 'off' : 'on';
    const started = performance.now();
    run('qemu-storage-daemon', [
      '--blockdev',
      `driver=file,node-name=f,filename=${image},read-only=${readOnly},discard=unmap`,
      '--blockdev',
      `driver=${FORMATS[format].driver},node-name=d,file=f,read-only=${readOnly},discard=unmap`,
      '--export',
      `type=fuse,id=e,node-name=d,mountpoint=${path},writable=${writable ? 'on' : 'off'}`,
      '--daemonize',
      '--pidfile',
      pidFile,
    ]);
    const startMs = performance.now() - started;
    const pid = Number(readFileSync(pidFile, 'utf8'));
    return {
      path,
      pid,
      startMs,
      stop: () => {
        process.kill(pid, 'SIGTERM');
        waitFor('end of qemu-storage-daemon', () => !existsSync(`/proc/${pid}`));
      },
    };
  },
  vhdimount: (image, format, { writable = false } = {}) => {
    if (writable || !have('vhdimount') || !['vhd', 'vhdx'].includes(format)) return undefined;
    const dir = mkdtempSync(join(work, 'vhdi-'));
    const started = performance.now();
    const child = spawn('vhdimount', ['-v', image, dir], { stdio: 'ignore' });
    const path = join(dir, 'vhdi1');
    waitFor('vhdimount', () => existsSync(path));
    return { path, pid: child.pid, startMs: performance.now() - started, stop: () => run('umount', [dir]) };
  },
  xmount: (image, format, { writable = false } = {}) => {
    if (writable || !have('xmount') || format !== 'raw') return undefined;
    const dir = mkdtempSync(join(work, 'xm-'));
    const started = performance.now();
    run('xmount', ['--in', 'raw', image, '--out', 'raw', dir], { stdio: 'ignore' });
    const path = join(dir, 'disk.dd');
    waitFor('xmount', () => existsSync(path));
    return { path, startMs: performance.now() - started, stop: () => run('umount', [dir]) };
  },
};

/** "1G" in bytes. */
export function bytesOf(size) {
  return Number.parseInt(size, 10) * { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[size.at(-1)];
}

/** A file of `bytes` noise. */
export function makeSource(path, bytes) {
  const fd = openSync(path, 'w');
  const block = Buffer.alloc(1 << 20);
  let state = 0x9e3779b9;
  for (let at = 0; at < bytes; at += block.length) {
    for (let n = 0; n < block.length; n += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      block.writeUInt32LE(state, n);
    }
    writeSync(fd, block);
  }
  closeSync(fd);
}

/** What fio did, with what it took of the daemon's CPU time. */
export function fio(argv, pid) {
  const before = pid === undefined ? 0 : cpuSeconds(pid);
  const text = run('fio', [
    '--name=bench',
    '--group_reporting',
    '--output-format=json',
    '--randseed=1',
    ...argv,
  ]);
  const cpu = pid === undefined ? 0 : cpuSeconds(pid) - before;
  return { cpu, job: JSON.parse(text.slice(text.indexOf('{'))).jobs[0] };
}

export const number = (value) =>
  value === undefined ? '' : value >= 100 ? Math.round(value).toString() : value.toFixed(value < 1 ? 3 : 1);

export function machine(about) {
  return { cpu: cpus()[0]?.model, cores: cpus().length, kernel: release(), node: process.version, ...about };
}

/** Writes `name`.md and `name`.json below `folder` of the project, and prints the first. */
export function publish(folder, name, markdown, data) {
  const out = resolve(root, folder);
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, `${name}.md`), markdown);
  writeFileSync(join(out, `${name}.json`), `${JSON.stringify(data, null, 2)}\n`);
  console.log(markdown);
}
