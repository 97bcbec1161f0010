#!/usr/bin/env node
// Reading, measured side by side with the tools that people use today, in one run, as ratios.
//
//   npm run bench -- [--formats raw,vhd,vhdx,vdi,qed] [--rounds 3] [--seconds 3] [--size 1G]
//                    [--threads N] [--out bench-results]
//
// For every format: an image full of data is shown by us, by qemu-storage-daemon, by vhdimount (VHD, VHDX) and
// by xmount (raw); the raw host file stands beside them. fio runs each job on each of them in turn, round by
// round in another order, so that a busy moment hits all alike; the median counts. Everything is read once
// first: what is measured is the way through the tools, not the medium.
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values: args } = parseArgs({
  options: {
    formats: { type: 'string', default: 'raw,vhd,vhdx,vdi,qed' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    size: { type: 'string', default: '1G' },
    threads: { type: 'string' },
    out: { type: 'string', default: 'bench-results' },
  },
});
const ROUNDS = Number(args.rounds);
const SECONDS = Number(args.seconds);
const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const JOBS = [
  {
    name: '4 KiB random, 1 job',
    fio: ['--rw=randread', '--bs=4k', '--numjobs=1', '--direct=1'],
    unit: 'IOPS',
  },
  {
    name: '4 KiB random, 4 jobs',
    fio: ['--rw=randread', '--bs=4k', '--numjobs=4', '--direct=1'],
    unit: 'IOPS',
  },
  {
    name: '1 MiB sequential, 2 jobs',
    fio: ['--rw=read', '--bs=1m', '--numjobs=2', '--direct=1'],
    unit: 'MiB/s',
  },
  {
    name: 'buffered sequential',
    fio: ['--rw=read', '--bs=128k', '--numjobs=1', '--direct=0', '--invalidate=1'],
    unit: 'MiB/s',
  },
];
const FORMATS = {
  raw: { qemu: 'raw', driver: 'raw', suffix: 'img' },
  vhd: { qemu: 'vpc', driver: 'vpc', suffix: 'vhd', create: ['-o', 'subformat=dynamic,force_size=on'] },
  vhdx: { qemu: 'vhdx', driver: 'vhdx', suffix: 'vhdx' },
  vdi: { qemu: 'vdi', driver: 'vdi', suffix: 'vdi' },
  qed: { qemu: 'qed', driver: 'qed', suffix: 'qed' },
};

const work = mkdtempSync(join(tmpdir(), 'vdisk-bench-'));
const cleanups = [];
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

function run(program, argv, options = {}) {
  const done = spawnSync(program, argv, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (done.status !== 0)
    throw new Error(`${program} ${argv.join(' ')}: ${done.error?.message ?? done.stderr}`);
  return done.stdout;
}
const have = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
function waitFor(what, test, ms = 10_000) {
  const end = Date.now() + ms;
  while (!test()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    sleep(2);
  }
}
function rssMiB(pid) {
  const line = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return line === null ? 0 : Math.round(Number(line[1]) / 102.4) / 10;
}
function cpuSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const geomean = (list) => Math.exp(list.reduce((sum, value) => sum + Math.log(value), 0) / list.length);

/** Each target: start(image, format) → { path, pid?, startMs, stop() }, or undefined where it does not apply. */
const TARGETS = {
  'vdisk-mount': (image) => {
    const dir = mkdtempSync(join(work, 'ours-'));
    const pidFile = join(work, 'ours.pid');
    const threads = args.threads === undefined ? [] : ['--threads', args.threads];
    const started = performance.now();
    run(join(root, 'bin/vdisk-mount'), [...threads, '--pid-file', pidFile, image, dir]);
    const startMs = performance.now() - started;
    const pid = Number(readFileSync(pidFile, 'utf8'));
    return { path: join(dir, 'disk.raw'), pid, startMs, stop: () => run('umount', [dir]) };
  },
  'qemu-storage-daemon': (image, format) => {
    if (!have('qemu-storage-daemon')) return undefined;
    const path = join(work, 'qsd.raw');
    const pidFile = join(work, 'qsd.pid');
    writeFileSync(path, '');
    const started = performance.now();
    run('qemu-storage-daemon', [
      '--blockdev',
      `driver=file,node-name=f,filename=${image},read-only=on`,
      '--blockdev',
      `driver=${FORMATS[format].driver},node-name=d,file=f,read-only=on`,
      '--export',
      `type=fuse,id=e,node-name=d,mountpoint=${path},writable=off`,
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
  vhdimount: (image, format) => {
    if (!have('vhdimount') || !['vhd', 'vhdx'].includes(format)) return undefined;
    const dir = mkdtempSync(join(work, 'vhdi-'));
    const started = performance.now();
    const child = spawn('vhdimount', ['-v', image, dir], { stdio: 'ignore' });
    const path = join(dir, 'vhdi1');
    waitFor('vhdimount', () => existsSync(path));
    return { path, pid: child.pid, startMs: performance.now() - started, stop: () => run('umount', [dir]) };
  },
  xmount: (image, format) => {
    if (!have('xmount') || format !== 'raw') return undefined;
    const dir = mkdtempSync(join(work, 'xm-'));
    const started = performance.now();
    run('xmount', ['--in', 'raw', image, '--out', 'raw', dir], { stdio: 'ignore' });
    const path = join(dir, 'disk.dd');
    waitFor('xmount', () => existsSync(path));
    return { path, startMs: performance.now() - started, stop: () => run('umount', [dir]) };
  },
  /** The raw file itself, out of the host's page cache: what no daemon can do better than once per copy. */
  'host page cache': () => ({ path: join(work, 'source.raw'), cached: true, startMs: 0, stop: () => {} }),
};

function measure(job, target) {
  const before = target.pid === undefined ? 0 : cpuSeconds(target.pid);
  const text = run('fio', [
    '--name=bench',
    `--filename=${target.path}`,
    '--readonly',
    '--time_based',
    `--runtime=${SECONDS}`,
    `--size=${statSync(target.path).size}`,
    '--ioengine=psync',
    '--group_reporting',
    '--output-format=json',
    '--randseed=1',
    ...job.fio,
    ...(target.cached ? ['--direct=0', '--invalidate=0'] : []),
  ]);
  const { read } = JSON.parse(text.slice(text.indexOf('{'))).jobs[0];
  const cpu = target.pid === undefined ? 0 : cpuSeconds(target.pid) - before;
  return {
    rate: job.unit === 'IOPS' ? read.iops : read.bw / 1024,
    cpuMicroseconds: read.total_ios === 0 ? 0 : (cpu * 1e6) / read.total_ios,
  };
}

function makeSource(path) {
  const bytes = Number.parseInt(args.size, 10) * { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[args.size.at(-1)];
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

function main() {
  for (const tool of ['fio', 'qemu-img', 'umount']) {
    if (!have(tool)) throw new Error(`${tool} is needed: run scripts/setup --tests`);
  }
  const source = join(work, 'source.raw');
  console.error(`making ${args.size} of data`);
  makeSource(source);
  const results = [];
  for (const format of args.formats.split(',')) {
    const { qemu, suffix, create = [] } = FORMATS[format];
    const image = join(work, `disk.${suffix}`);
    run('qemu-img', ['convert', '-f', 'raw', '-O', qemu, ...create, source, image]);
    const targets = [];
    for (const [name, start] of Object.entries(TARGETS)) {
      const target = start(image, format);
      if (target === undefined) continue;
      cleanups.push(target.stop);
      targets.push({ name, ...target });
      run('cmp', ['-n', `${statSync(source).size}`, source, target.path]);
    }
    for (const job of JOBS) {
      const rates = new Map(targets.map(({ name }) => [name, []]));
      for (let round = 0; round < ROUNDS; round += 1) {
        for (let turn = 0; turn < targets.length; turn += 1) {
          const target = targets[(round + turn) % targets.length];
          rates.get(target.name).push(measure(job, target));
        }
      }
      const entry = { format, job: job.name, unit: job.unit, targets: {} };
      for (const [name, list] of rates) {
        entry.targets[name] = {
          rate: median(list.map(({ rate }) => rate)),
          cpuMicroseconds: median(list.map(({ cpuMicroseconds }) => cpuMicroseconds)),
          all: list.map(({ rate }) => Math.round(rate)),
        };
      }
      results.push(entry);
      console.error(
        `${format}, ${job.name}: ${[...rates].map(([name, list]) => `${name} ${Math.round(median(list.map((m) => m.rate)))}`).join(', ')} ${job.unit}`,
      );
    }
    const starts = Object.fromEntries(targets.map(({ name, startMs }) => [name, [startMs]]));
    const memory = Object.fromEntries(
      targets.filter(({ pid }) => pid !== undefined).map(({ name, pid }) => [name, rssMiB(pid)]),
    );
    for (const target of targets.reverse()) {
      target.stop();
      cleanups.pop();
    }
    for (let again = 0; again < 4; again += 1) {
      for (const [name, start] of Object.entries(TARGETS)) {
        if (starts[name] === undefined || name === 'host page cache') continue;
        const target = start(image, format);
        starts[name].push(target.startMs);
        target.stop();
      }
    }
    results.push({
      format,
      job: 'start to usable',
      unit: 'ms',
      targets: Object.fromEntries(
        Object.entries(starts)
          .filter(([name]) => name !== 'host page cache')
          .map(([name, list]) => [name, { rate: median(list) }]),
      ),
    });
    results.push({
      format,
      job: 'resident memory after reading all',
      unit: 'MiB',
      targets: Object.fromEntries(Object.entries(memory).map(([name, rate]) => [name, { rate }])),
    });
    rmSync(image);
  }
  report(results);
}

function report(results) {
  const names = [...new Set(results.flatMap(({ targets }) => Object.keys(targets)))];
  const number = (value) =>
    value === undefined ? '' : value >= 100 ? Math.round(value).toString() : value.toFixed(1);
  const ratio = (entry) => {
    const peer = entry.targets['qemu-storage-daemon'];
    return peer === undefined ? undefined : entry.targets['vdisk-mount'].rate / peer.rate;
  };
  const rows = results.map((entry) => {
    const cells = names.map((name) => number(entry.targets[name]?.rate));
    return `| ${entry.format} | ${entry.job} | ${entry.unit} | ${cells.join(' | ')} | ${ratio(entry)?.toFixed(2) ?? ''} |`;
  });
  const rates = results.filter((entry) => entry.unit === 'IOPS' || entry.unit === 'MiB/s');
  const ratios = rates.map(ratio).filter((value) => value !== undefined);
  const overall =
    ratios.length === 0 ? undefined : { geometricMean: geomean(ratios), least: Math.min(...ratios) };
  const versus = (peer) => {
    const list = rates
      .filter(({ targets }) => targets[peer] !== undefined)
      .map(({ targets }) => targets['vdisk-mount'].rate / targets[peer].rate);
    return list.length === 0 ? undefined : { peer, geometricMean: geomean(list), least: Math.min(...list) };
  };
  const peers = names
    .filter((name) => name !== 'vdisk-mount')
    .map(versus)
    .filter((entry) => entry !== undefined);
  const machine = {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    kernel: release(),
    node: process.version,
    rounds: ROUNDS,
    seconds: SECONDS,
    size: args.size,
  };
  const markdown = [
    `Machine: ${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}, Node ${machine.node}; ${args.size} image, ${ROUNDS} rounds of ${SECONDS} s, medians.`,
    '',
    `| format | job | unit | ${names.join(' | ')} | ours / qemu-storage-daemon |`,
    `|---|---|---|${names.map(() => '---').join('|')}|---|`,
    ...rows,
    '',
    ...peers.map(
      ({ peer, geometricMean, least }) =>
        `Read jobs against ${peer}: geometric mean ${geometricMean.toFixed(2)}, least ${least.toFixed(2)}.`,
    ),
    '',
  ].join('\n');
  const out = join(root, args.out);
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'read.md'), markdown);
  writeFileSync(join(out, 'read.json'), `${JSON.stringify({ machine, overall, peers, results }, null, 2)}\n`);
  console.log(markdown);
}

main();
