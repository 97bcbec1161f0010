#!/usr/bin/env node
// vdisk convert beside qemu-img convert, as ratios, in one run.
//
//   npm run bench -- convert [--size 4G] [--rounds 5] [--pairs raw:vhdx,vhdx:raw] [--duty both|memory|medium]
//                            [--out bench-results]
//
// A half-full image, runs of data and holes of 256 KiB to 4 MiB, from raw to every format and back; the images to read
// are qemu-img's, and in memory. Two duties: "memory", the new image need not be on the medium (qemu-img's default; ours
// is --flush=off), and "medium", it is there at the end (ours by default; qemu-img's -t writeback). Within a round each
// program does each pair in turn, and who is first changes; the best round counts. Content is compared once.
import { spawn } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { bytesOf, FORMATS, geomean, have, machine, publish, root, run, work } from './lib.mjs';

const { values: args } = parseArgs({
  options: {
    size: { type: 'string', default: '4G' },
    rounds: { type: 'string', default: '5' },
    pairs: {
      type: 'string',
      default: 'raw:raw,raw:vhd,raw:vhdx,raw:vdi,raw:qed,vhd:raw,vhdx:raw,vdi:raw,qed:raw',
    },
    duty: { type: 'string', default: 'both' },
    out: { type: 'string', default: 'bench-results' },
  },
});

const UNIT = 256 * 1024;

/** Noise and holes by turns, half of each. */
function makeHalfFull(path, size) {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  const block = Buffer.alloc(UNIT);
  let state = 0x2545f491;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
  for (let at = 0; at < size; ) {
    const units = ((next() >>> 16) % 16) + 1;
    for (let n = 0; n < units && at + n * UNIT < size; n += 1) {
      for (let word = 0; word < UNIT; word += 4) block.writeUInt32LE(next(), word);
      writeSync(fd, block, 0, UNIT, at + n * UNIT);
    }
    at += 2 * units * UNIT;
  }
  closeSync(fd);
}

/** As users have it: with this one each start of Node reads all certificates of the machine. */
const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;

/** How long a program takes, and the most memory that it had. */
function measure(program, argv) {
  return new Promise((resolve, reject) => {
    const begun = performance.now();
    const child = spawn(program, argv, { env, stdio: ['ignore', 'ignore', 'inherit'] });
    let peak = 0;
    const timer = setInterval(() => {
      try {
        const found = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'));
        peak = Math.max(peak, Number(found?.[1] ?? 0) / 1024);
      } catch {
        // It has just ended.
      }
    }, 10);
    child.on('error', reject);
    child.on('exit', (status) => {
      clearInterval(timer);
      const seconds = (performance.now() - begun) / 1000;
      if (status === 0) resolve({ seconds, peak });
      else reject(new Error(`${program} ${argv.join(' ')}: status ${status}`));
    });
  });
}

/** Brings an image into memory, where it is not: a host may take back what it has lent for a cache, too. */
function readThrough(path) {
  const fd = openSync(path, 'r');
  const piece = Buffer.alloc(2 ** 20);
  while (readSync(fd, piece) > 0);
  closeSync(fd);
}

const DUTIES = { memory: ['--flush=off', 'unsafe'], medium: ['--flush=on', 'writeback'] };

function commands(from, to, duty) {
  const [ours, theirs] = DUTIES[duty];
  const source = join(work, `source.${from}`);
  const options = to === 'vhd' ? ['-o', 'force_size=on'] : [];
  return {
    vdisk: {
      out: join(work, `ours.${to}`),
      program: join(root, 'bin/vdisk'),
      argv: ['convert', '--format', from, '-O', to, ours, source, join(work, `ours.${to}`)],
    },
    'qemu-img': {
      out: join(work, `theirs.${to}`),
      program: 'qemu-img',
      argv: [
        ...['convert', '-t', theirs, '-f', FORMATS[from].qemu, '-O', FORMATS[to].qemu, ...options],
        ...[source, join(work, `theirs.${to}`)],
      ],
    },
  };
}

if (!have('qemu-img')) throw new Error('qemu-img is needed: run scripts/setup --tests');
const pairs = args.pairs.split(',').map((pair) => pair.split(':'));
const duties = args.duty === 'both' ? Object.keys(DUTIES) : [args.duty];
makeHalfFull(join(work, 'source.raw'), bytesOf(args.size));
for (const format of new Set(pairs.map(([from]) => from))) {
  if (format === 'raw') continue;
  const options = format === 'vhd' ? ['-o', 'force_size=on'] : [];
  const [source, image] = [join(work, 'source.raw'), join(work, `source.${format}`)];
  run('qemu-img', ['convert', '-f', 'raw', '-O', FORMATS[format].qemu, ...options, source, image]);
}
const results = [];
let last = '';
for (const duty of duties) {
  for (const [from, to] of pairs) {
    const both = commands(from, to, duty);
    const best = {};
    for (let round = 0; round < Number(args.rounds); round += 1) {
      const names = round % 2 === 0 ? Object.keys(both) : Object.keys(both).reverse();
      for (const name of names) {
        const { program, argv, out } = both[name];
        readThrough(join(work, `source.${from}`));
        // At once before: what has been free for two seconds a virtual machine's host may have taken back, and who first
        // uses it again waits ten times as long.
        rmSync(last, { force: true });
        last = out;
        const { seconds, peak } = await measure(program, argv);
        const disk = statSync(out).blocks * 512;
        const known = best[name] ?? { seconds: Number.POSITIVE_INFINITY, peak: 0 };
        best[name] = { seconds: Math.min(seconds, known.seconds), peak: Math.max(peak, known.peak), disk };
        if (round === 0 && name === 'vdisk') {
          run('qemu-img', ['compare', '-f', 'raw', '-F', FORMATS[to].qemu, join(work, 'source.raw'), out]);
        }
      }
    }
    const [ours, theirs] = [best.vdisk, best['qemu-img']];
    results.push({ duty, from, to, ours, theirs, ratio: theirs.seconds / ours.seconds });
    const { ratio } = results.at(-1);
    console.error(`${duty} ${from} to ${to}: ${ours.seconds.toFixed(2)} s, ratio ${ratio.toFixed(2)}`);
  }
}
const about = machine({ size: args.size, rounds: args.rounds });
const mib = (bytes) => Math.round(bytes / 2 ** 20);
const lines = [
  `Machine: ${about.cpu}, ${about.cores} cores, Linux ${about.kernel}, Node ${about.node}; ` +
    `${about.size} half-full, best of ${about.rounds} rounds.`,
  '',
  '| duty | from | to | vdisk s | qemu-img s | qemu-img / vdisk | vdisk MiB memory | MiB on disk: vdisk | qemu-img |',
  '|---|---|---|---|---|---|---|---|---|',
  ...results.map(
    ({ duty, from, to, ours, theirs, ratio }) =>
      `| ${duty} | ${from} | ${to} | ${ours.seconds.toFixed(2)} | ${theirs.seconds.toFixed(2)} | ${ratio.toFixed(2)} | ` +
      `${Math.round(ours.peak)} | ${mib(ours.disk)} | ${mib(theirs.disk)} |`,
  ),
  '',
  ...duties.map((duty) => {
    const ratios = results.filter((result) => result.duty === duty).map(({ ratio }) => ratio);
    return `${duty}: geometric mean ${geomean(ratios).toFixed(2)}, least ${Math.min(...ratios).toFixed(2)}`;
  }),
  '',
];
publish(args.out, 'convert', lines.join('\n'), { about, results });
