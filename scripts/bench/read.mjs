#!/usr/bin/env node
// Reading, measured side by side with the tools that people use today, in one run, as ratios.
//
//   npm run bench -- read [--formats raw,vhd,vhdx,vdi,qed] [--rounds 3] [--seconds 3] [--size 1G]
//                         [--threads N] [--out bench-results]
//
// For every format: an image full of data is shown by us, by qemu-storage-daemon, by vhdimount (VHD, VHDX) and
// by xmount (raw); the raw host file stands beside them. fio runs each job on each of them in turn, round by
// round in another order, so that a busy moment hits all alike; the median counts. Everything is read once
// first: what is measured is the way through the tools, not the medium.
import { rmSync, statSync } from 'node:fs';
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
  rssMiB,
  run,
  TARGETS as SHARED,
  work,
} from './lib.mjs';

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
const TARGETS = {
  ...SHARED,
  /** The raw file itself, out of the host's page cache: what no daemon can do better than once per copy. */
  'host page cache': () => ({ path: join(work, 'source.raw'), cached: true, startMs: 0, stop: () => {} }),
};

function measure(job, target) {
  const { cpu, job: done } = fio(
    [
      `--filename=${target.path}`,
      '--readonly',
      '--time_based',
      `--runtime=${SECONDS}`,
      `--size=${statSync(target.path).size}`,
      '--ioengine=psync',
      ...job.fio,
      ...(target.cached ? ['--direct=0', '--invalidate=0'] : []),
    ],
    target.pid,
  );
  const { read } = done;
  return {
    rate: job.unit === 'IOPS' ? read.iops : read.bw / 1024,
    cpuMicroseconds: read.total_ios === 0 ? 0 : (cpu * 1e6) / read.total_ios,
  };
}

function main() {
  for (const tool of ['fio', 'qemu-img', 'umount']) {
    if (!have(tool)) throw new Error(`${tool} is needed: run scripts/setup --tests`);
  }
  const source = join(work, 'source.raw');
  console.error(`making ${args.size} of data`);
  makeSource(source, bytesOf(args.size));
  const results = [];
  for (const format of args.formats.split(',')) {
    const { qemu, suffix, create = [] } = FORMATS[format];
    const image = join(work, `disk.${suffix}`);
    run('qemu-img', ['convert', '-f', 'raw', '-O', qemu, ...create, source, image]);
    const targets = [];
    for (const [name, start] of Object.entries(TARGETS)) {
      const target = start(image, format, { threads: args.threads });
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
        const target = start(image, format, { threads: args.threads });
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
  const about = machine({ rounds: ROUNDS, seconds: SECONDS, size: args.size });
  const markdown = [
    `Machine: ${about.cpu}, ${about.cores} cores, Linux ${about.kernel}, Node ${about.node}; ${args.size} image, ${ROUNDS} rounds of ${SECONDS} s, medians.`,
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
  publish(args.out, 'read', markdown, { machine: about, overall, peers, results });
}

main();
