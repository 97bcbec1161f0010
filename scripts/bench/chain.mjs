#!/usr/bin/env node
// Reading through chains of parents, as ratios to a flat image of the same content, in one run.
//
//   npm run bench -- chain [--depths 2,4,8] [--rounds 3] [--seconds 2] [--size 256M] [--out bench-results]
//
// QED images that qemu-img made. "top": the last image of the chain holds all the data, the others are never asked.
// "base": the first one holds it, and every image above it has to say that it does not. The flat image and all chains
// are mounted at once; fio reads each in turn, round by round in another order, so that a busy moment hits all
// alike; the median counts. Everything is read once first.
import { rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  bytesOf,
  cleanups,
  fio,
  have,
  machine,
  makeSource,
  median,
  number,
  publish,
  run,
  TARGETS,
  work,
} from './lib.mjs';

const { values: args } = parseArgs({
  options: {
    depths: { type: 'string', default: '2,4,8' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    size: { type: 'string', default: '256M' },
    out: { type: 'string', default: 'bench-results' },
  },
});
const JOBS = [
  { name: '4 KiB random', unit: 'IOPS', fio: ['--rw=randread', '--bs=4k', '--direct=1'] },
  { name: '1 MiB sequential', unit: 'MiB/s', fio: ['--rw=read', '--bs=1m', '--direct=1'] },
];

/** `count` images, each on the one before, named after `name`; `full` (0 is the first) gets the content. */
function makeChain(name, count, full, source) {
  let below;
  for (let n = 0; n < count; n += 1) {
    const image = join(work, `${name}-${n}.qed`);
    if (n === 0 && n === full) run('qemu-img', ['convert', '-f', 'raw', '-O', 'qed', source, image]);
    else {
      const backing = below === undefined ? [] : ['-b', basename(below), '-F', 'qed'];
      run('qemu-img', ['create', '-q', '-f', 'qed', ...backing, image, `${statSync(source).size}`]);
      if (n === full) {
        run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'qed', source, image]);
      }
    }
    below = image;
  }
  return below;
}

function measure(job, target) {
  const { job: done } = fio([
    `--filename=${target.path}`,
    '--readonly',
    '--time_based',
    `--runtime=${args.seconds}`,
    '--ioengine=psync',
    ...job.fio,
  ]);
  return job.unit === 'IOPS' ? done.read.iops : done.read.bw / 1024;
}

for (const tool of ['fio', 'qemu-img', 'umount']) {
  if (!have(tool)) throw new Error(`${tool} is needed: run scripts/setup --tests`);
}
const source = join(work, 'source.raw');
makeSource(source, bytesOf(args.size));
const depths = args.depths.split(',').map(Number);
const images = [
  { name: 'flat', image: makeChain('flat', 1, 0, source) },
  ...depths.map((depth) => ({
    name: `top of ${depth}`,
    image: makeChain(`top${depth}`, depth, depth - 1, source),
  })),
  ...depths.map((depth) => ({
    name: `base of ${depth}`,
    image: makeChain(`base${depth}`, depth, 0, source),
  })),
];
const targets = images.map(({ name, image }) => {
  const target = TARGETS['vdisk-mount'](image, 'qed');
  cleanups.push(target.stop);
  run('cmp', [source, target.path]);
  return { name, ...target };
});
rmSync(source);
const results = JOBS.map((job) => {
  const rates = new Map(targets.map(({ name }) => [name, []]));
  for (let round = 0; round < Number(args.rounds); round += 1) {
    for (let turn = 0; turn < targets.length; turn += 1) {
      const target = targets[(round + turn) % targets.length];
      rates.get(target.name).push(measure(job, target));
    }
  }
  return { job, rates: new Map([...rates].map(([name, list]) => [name, median(list)])) };
});
const about = machine({ size: args.size, rounds: args.rounds, seconds: args.seconds });
const lines = [
  `Machine: ${about.cpu}, ${about.cores} cores, Linux ${about.kernel}, Node ${about.node}; ` +
    `${about.size} image, ${about.rounds} rounds of ${about.seconds} s, medians.`,
  '',
  '| job | unit | image | rate | flat / this |',
  '|---|---|---|---|---|',
  ...results.flatMap(({ job, rates }) =>
    [...rates].map(
      ([name, rate]) =>
        `| ${job.name} | ${job.unit} | ${name} | ${number(rate)} | ${(rates.get('flat') / rate).toFixed(2)} |`,
    ),
  ),
  '',
];
publish(args.out, 'chain', lines.join('\n'), {
  about,
  results: results.map(({ job, rates }) => ({
    job: job.name,
    unit: job.unit,
    rates: Object.fromEntries(rates),
  })),
});
