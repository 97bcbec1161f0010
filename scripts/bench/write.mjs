#!/usr/bin/env node
// Writing, measured side by side with qemu-storage-daemon and a plain host file, in one run, as ratios.
//
//   npm run bench -- write [--formats raw,vhd,vhdx,vdi,qed] [--rounds 3] [--seconds 3] [--size 512M]
//                          [--jobs full,fresh,counts,loop] [--out bench-results]
//
// full    an image full of data, written again in place: the way through the tools
// fresh   an empty dynamic image that grows; every measurement gets a new one
// counts  host writes and syncs per guest operation, counted with strace
// loop    losetup and ext4 on the shown file, beside the same on the host's raw file (root)
//
// The order changes from round to round; the median counts. Where a job ends with a flush, its time counts too.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  bytesOf,
  cleanups,
  FORMATS,
  fio,
  geomean,
  have,
  machine,
  makeSource,
  median,
  number,
  publish,
  run,
  TARGETS,
  waitFor,
  work,
} from './lib.mjs';

const { values: args } = parseArgs({
  options: {
    formats: { type: 'string', default: 'raw,vhd,vhdx,vdi,qed' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    size: { type: 'string', default: '512M' },
    jobs: { type: 'string', default: 'full,fresh,counts,loop' },
    out: { type: 'string', default: 'bench-results' },
  },
});
const ROUNDS = Number(args.rounds);
const SECONDS = Number(args.seconds);
const BYTES = bytesOf(args.size);
const TIMED = ['--time_based', `--runtime=${SECONDS}`];
const ONCE = [`--io_size=${BYTES}`, '--end_fsync=1'];

const FULL = [
  { name: '4 KiB random, direct', unit: 'IOPS', fio: ['--rw=randwrite', '--bs=4k', '--direct=1', ...TIMED] },
  {
    name: '4 KiB random, direct, 4 jobs',
    unit: 'IOPS',
    fio: ['--rw=randwrite', '--bs=4k', '--direct=1', '--numjobs=4', ...TIMED],
  },
  {
    name: '4 KiB random, buffered, flushed at the end',
    unit: 'IOPS',
    fio: [
      '--rw=randwrite',
      '--bs=4k',
      '--direct=0',
      `--io_size=${BYTES / 4}`,
      '--end_fsync=1',
      '--norandommap',
    ],
  },
  { name: '1 MiB sequential, direct', unit: 'MiB/s', fio: ['--rw=write', '--bs=1m', '--direct=1', ...TIMED] },
  {
    name: '4 KiB random, direct, fdatasync after each',
    unit: 'IOPS',
    fio: ['--rw=randwrite', '--bs=4k', '--direct=1', '--fdatasync=1', ...TIMED],
  },
];
const FRESH = [
  { name: 'fresh, 1 MiB sequential', unit: 'MiB/s', fio: ['--rw=write', '--bs=1m', ...ONCE] },
  {
    name: 'fresh, 1 MiB sequential, fdatasync every 16',
    unit: 'MiB/s',
    fio: ['--rw=write', '--bs=1m', '--fdatasync=16', ...ONCE],
  },
  { name: 'fresh, 64 KiB random', unit: 'MiB/s', fio: ['--rw=randwrite', '--bs=64k', ...ONCE] },
  {
    name: 'fresh, 64 KiB random, fdatasync every 16',
    unit: 'MiB/s',
    fio: ['--rw=randwrite', '--bs=64k', '--fdatasync=16', `--io_size=${BYTES / 4}`, '--end_fsync=1'],
  },
].map((job) => ({ ...job, fio: [...job.fio, '--direct=1'] }));

/** Guest operations whose host system calls are counted. */
const COUNTS = [
  {
    name: 'per guest fdatasync, overwriting',
    image: 'full',
    operations: 200,
    fio: ['--rw=randwrite', '--bs=4k', '--fdatasync=1', `--io_size=${200 * 4096}`],
  },
  {
    name: 'per guest fdatasync, 64 KiB each into a fresh image',
    image: 'fresh',
    operations: 200,
    fio: ['--rw=randwrite', '--bs=64k', '--fdatasync=1', `--io_size=${200 * 65536}`],
  },
  {
    name: 'per 1000 sequential 4 KiB writes into a fresh image, one flush',
    image: 'fresh',
    operations: 1,
    fio: ['--rw=write', '--bs=4k', `--io_size=${1000 * 4096}`, '--end_fsync=1'],
  },
  {
    name: 'per 1000 random 64 KiB writes into a fresh image, one flush',
    image: 'fresh',
    operations: 1,
    fio: ['--rw=randwrite', '--bs=64k', `--io_size=${1000 * 65536}`, '--end_fsync=1'],
  },
].map((job) => ({ ...job, fio: [...job.fio, '--direct=1'] }));

const common = (path) => [`--filename=${path}`, `--size=${BYTES}`, '--ioengine=psync', '--fallocate=none'];

const tools = (host) => {
  const ours = TARGETS['vdisk-mount'];
  const theirs = TARGETS['qemu-storage-daemon'];
  return host === undefined
    ? { 'vdisk-mount': ours, 'qemu-storage-daemon': theirs }
    : { 'vdisk-mount': ours, 'qemu-storage-daemon': theirs, 'host file': host };
};

function start(name, image, format) {
  const target = tools(() => ({ path: image, stop: () => {} }))[name](image, format, { writable: true });
  if (target === undefined) return undefined;
  cleanups.push(target.stop);
  return target;
}
function stop(target) {
  cleanups.splice(cleanups.indexOf(target.stop), 1);
  target.stop();
}

function rateOf(job, { write }) {
  // Flushes at the end are part of the run time.
  const seconds = write.runtime / 1000;
  return job.unit === 'IOPS' ? write.total_ios / seconds : write.io_bytes / 2 ** 20 / seconds;
}

function fullImage(format, source, tag) {
  const { qemu, suffix, create = [] } = FORMATS[format];
  const image = join(work, `disk-${tag}.${suffix}`);
  run('qemu-img', ['convert', '-f', 'raw', '-O', qemu, ...create, source, image]);
  return image;
}
function freshImage(format, tag) {
  const { qemu, suffix, create = [] } = FORMATS[format];
  const image = join(work, `disk-${tag}.${suffix}`);
  rmSync(image, { force: true });
  run('qemu-img', ['create', '-q', '-f', qemu, ...create, image, `${BYTES}`]);
  return image;
}

function entryOf(format, job, rates) {
  const targets = {};
  for (const [name, list] of rates) {
    if (list.length > 0)
      targets[name] = { rate: median(list), all: list.map((rate) => Math.round(rate * 10) / 10) };
  }
  console.error(
    `${format}, ${job.name}: ${Object.entries(targets)
      .map(([name, { rate }]) => `${name} ${number(rate)}`)
      .join(', ')} ${job.unit}`,
  );
  return { format, job: job.name, unit: job.unit, targets };
}

/** Every tool has an image of its own; all stay mounted for all jobs. */
function measureFull(format, source) {
  const hostFile = join(work, 'host.raw');
  run('cp', ['--sparse=never', source, hostFile]);
  const targets = [];
  for (const name of Object.keys(tools(() => undefined))) {
    const image = name === 'host file' ? hostFile : fullImage(format, source, name);
    const target = start(name, image, format);
    if (target !== undefined) targets.push({ name, image, ...target });
  }
  const results = FULL.map((job) => {
    const rates = new Map(targets.map(({ name }) => [name, []]));
    for (let round = 0; round < ROUNDS; round += 1) {
      for (let turn = 0; turn < targets.length; turn += 1) {
        const target = targets[(round + turn) % targets.length];
        const { job: done } = fio([...common(target.path), ...job.fio], target.pid);
        rates.get(target.name).push(rateOf(job, done));
      }
    }
    return entryOf(format, job, rates);
  });
  for (const target of targets) {
    stop(target);
    rmSync(target.image);
  }
  return results;
}

/** Each run gets an image and a mount of its own. */
function measureFresh(format) {
  const names = Object.keys(tools());
  return FRESH.map((job) => {
    const rates = new Map(names.map((name) => [name, []]));
    for (let round = 0; round < ROUNDS; round += 1) {
      for (let turn = 0; turn < names.length; turn += 1) {
        const name = names[(round + turn) % names.length];
        const image = freshImage(format, 'fresh');
        const target = start(name, image, format);
        if (target === undefined) continue;
        const { job: done } = fio([...common(target.path), ...job.fio], target.pid);
        rates.get(name).push(rateOf(job, done));
        stop(target);
        rmSync(image);
      }
    }
    return entryOf(format, job, rates);
  });
}

/** Runs `task` while strace counts the host calls of a process; returns writes and syncs. */
function counted(pid, task) {
  const out = join(work, 'strace.txt');
  rmSync(out, { force: true });
  const calls = 'pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate,ftruncate';
  const tracer = spawn(
    'strace',
    ['-f', '-q', '-e', `trace=${calls}`, '-e', 'signal=none', '-o', out, '-p', `${pid}`],
    {
      stdio: 'ignore',
    },
  );
  waitFor('strace', () => /TracerPid:\s+[1-9]/.test(readFileSync(`/proc/${pid}/status`, 'utf8')));
  try {
    task();
  } finally {
    process.kill(tracer.pid, 'SIGINT');
    waitFor(
      'end of strace',
      () =>
        !existsSync(`/proc/${tracer.pid}/exe`) ||
        !existsSync(`/proc/${tracer.pid}`) ||
        /State:\s+Z/.test(readFileSync(`/proc/${tracer.pid}/status`, 'utf8')),
    );
  }
  const lines = readFileSync(out, 'utf8')
    .split('\n')
    .filter((line) => !line.includes('resumed>'));
  const count = (pattern) => lines.filter((line) => pattern.test(line)).length;
  return {
    writes: count(/ (pwrite64|pwritev2?)\(/),
    syncs: count(/ (fdatasync|fsync)\(/),
    sizes: count(/ (ftruncate|fallocate)\(/),
  };
}

function measureCounts(format, source) {
  return COUNTS.flatMap((job) => {
    const counts = {};
    for (const name of Object.keys(tools())) {
      const image = job.image === 'full' ? fullImage(format, source, 'count') : freshImage(format, 'count');
      const target = start(name, image, format);
      if (target === undefined) continue;
      counts[name] = counted(target.pid, () => fio([...common(target.path), ...job.fio], target.pid));
      stop(target);
      rmSync(image);
    }
    return ['writes', 'syncs', 'sizes'].map((what) => {
      const targets = {};
      for (const [name, all] of Object.entries(counts)) targets[name] = { rate: all[what] / job.operations };
      const label = { writes: 'host writes', syncs: 'host syncs', sizes: 'fallocate and ftruncate' }[what];
      return { format, job: `${label} ${job.name}`, unit: 'calls', targets };
    });
  });
}

/** losetup, ext4, mixed random I/O: through us and on the host's own file. */
function measureLoop(format, source) {
  const job = { name: 'loop, ext4, mixed random 4 KiB, 4 jobs', unit: 'IOPS' };
  const rates = new Map([
    ['vdisk-mount', []],
    ['host file', []],
  ]);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let turn = 0; turn < 2; turn += 1) {
      const name = [...rates.keys()][(round + turn) % 2];
      const image = name === 'host file' ? join(work, 'host.raw') : fullImage(format, source, 'loop');
      if (name === 'host file') run('cp', ['--sparse=never', source, image]);
      const target = start(name, image, format);
      const device = run('losetup', ['--find', '--show', '--direct-io=on', target.path]).trim();
      const detach = { stop: () => run('losetup', ['-d', device]) };
      cleanups.push(detach.stop);
      const folder = join(work, 'ext4');
      mkdirSync(folder, { recursive: true });
      run('mkfs.ext4', ['-q', '-F', device]);
      run('mount', [device, folder]);
      const unmount = { stop: () => run('umount', [folder]) };
      cleanups.push(unmount.stop);
      const argv = [
        `--directory=${folder}`,
        `--size=${Math.floor(BYTES / 8)}`,
        '--rw=randrw',
        '--rwmixread=70',
        '--bs=4k',
        '--numjobs=4',
        '--ioengine=psync',
        '--direct=1',
        ...TIMED,
      ];
      const { job: done } = fio(argv, target.pid);
      rates.get(name).push(done.read.iops + done.write.iops);
      stop(unmount);
      stop(detach);
      waitFor('end of the loop device', () => !run('losetup', ['-a']).includes(`${device}:`));
      stop(target);
      rmSync(image);
    }
  }
  return [entryOf(format, job, rates)];
}

function main() {
  for (const tool of ['fio', 'qemu-img', 'umount', 'strace']) {
    if (!have(tool)) throw new Error(`${tool} is needed: run scripts/setup --tests`);
  }
  const parts = new Set(args.jobs.split(','));
  const source = join(work, 'source.raw');
  makeSource(source, BYTES);
  const results = [];
  for (const format of args.formats.split(',')) {
    if (parts.has('full')) results.push(...measureFull(format, source));
    if (parts.has('fresh')) results.push(...measureFresh(format));
    if (parts.has('counts')) results.push(...measureCounts(format, source));
    if (parts.has('loop')) results.push(...measureLoop(format, source));
  }
  report(results);
}

function ratio(entry, peer) {
  const [ours, theirs] = [entry.targets['vdisk-mount']?.rate, entry.targets[peer]?.rate];
  return ours === undefined || theirs === undefined ? undefined : ours / theirs;
}

function report(results) {
  const names = ['vdisk-mount', 'qemu-storage-daemon', 'host file'];
  const rows = results.map((entry) => {
    const cells = names.map((name) => number(entry.targets[name]?.rate));
    const ratios = [ratio(entry, 'qemu-storage-daemon'), ratio(entry, 'host file')].map(
      (value) => value?.toFixed(2) ?? '',
    );
    return `| ${entry.format} | ${entry.job} | ${entry.unit} | ${cells.join(' | ')} | ${ratios.join(' | ')} |`;
  });
  const summary = (what, choose) => {
    const list = results
      .filter(({ unit, job }) => unit !== 'calls' && choose(job))
      .map((entry) => ratio(entry, 'qemu-storage-daemon'))
      .filter((value) => value !== undefined);
    if (list.length === 0) return [];
    return [
      `${what} against qemu-storage-daemon: geometric mean ${geomean(list).toFixed(2)}, least ${Math.min(...list).toFixed(2)}.`,
    ];
  };
  const about = machine({ rounds: ROUNDS, seconds: SECONDS, size: args.size });
  const markdown = [
    `Machine: ${about.cpu}, ${about.cores} cores, Linux ${about.kernel}, Node ${about.node}; ${args.size} image, ${ROUNDS} rounds of ${SECONDS} s, medians.`,
    '',
    `| format | job | unit | ${names.join(' | ')} | ours / qemu-storage-daemon | ours / host file |`,
    '|---|---|---|---|---|---|---|---|',
    ...rows,
    '',
    ...summary('Writing in place', (job) => FULL.some(({ name }) => name === job)),
    ...summary('Writing fresh images', (job) => FRESH.some(({ name }) => name === job)),
    '',
  ].join('\n');
  publish(args.out, 'write', markdown, { machine: about, results });
}

main();
