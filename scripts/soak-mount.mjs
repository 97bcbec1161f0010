#!/usr/bin/env node
// npm run soak:mount: a real mount of images of every format under random load for MINUTES (30), while images join
// and leave it and a second mount comes and goes. What is read must be what was written, at the end the images must
// be clean and hold it, and the daemon's memory and descriptors must not grow after the first sixth of the time (5
// minutes at most). In a run of less than half an hour V8 still fills its heaps, and memory may fail for it.
// It needs /dev/fuse and what "npm run build" made. SEED=n repeats the requests; PAUSE_MS (10) is the time between two
// requests of a child: with it the whole takes about a third of a core.
import { execFile, fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { judge, lineOf, sampleOf } from './soak-mount/samples.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const [VDISK_MOUNT, VDISK] = ['vdisk-mount', 'vdisk'].map((name) => join(here, '..', 'bin', name));
const MINUTES = Number(process.env.MINUTES ?? 30);
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const PAUSE_MS = Number(process.env.PAUSE_MS ?? 10);
const WARM_UP_SECONDS = Math.min(300, MINUTES * 10);
const SAMPLE_MS = 10_000;
const CHURN_MS = 5000;
const REMOUNT_MS = 60_000;
/** A child that has not got through a request for so long: the mount hangs. */
const STALL_MS = 60_000;
const COMMAND_MS = 60_000;
const FORMATS = ['raw', 'vhd', 'vhdx', 'vdi', 'qed'];

const directory = realpathSync(mkdtempSync(join(tmpdir(), 'vdisk-soak-')));
const results = [];
const wrong = [];
let interrupted = false;
for (const name of ['SIGINT', 'SIGTERM']) process.on(name, () => (interrupted = true));

const run = promisify(execFile);
/** Runs a program to its end; gives its standard output, throws with what it said where it fails. */
async function must(program, ...words) {
  try {
    return (await run(program, words, { timeout: COMMAND_MS, killSignal: 'SIGKILL' })).stdout;
  } catch (problem) {
    const what = problem.killed ? `no end after ${COMMAND_MS} ms` : `${problem.stdout}${problem.stderr}`;
    throw new Error(`${basename(program)} ${words.join(' ')}: ${what}`);
  }
}

function result(name, passed, figures = '') {
  results.push(passed);
  console.log(`${passed ? 'ok    ' : 'FAILED'} ${name}${figures === '' ? '' : `: ${figures}`}`);
}

function note(text) {
  wrong.push(text);
  console.log(`wrong: ${text}`);
}

async function create(name, format, ...words) {
  const path = join(directory, `${name}.${format}`);
  await must(VDISK, 'create', '-f', format, ...words, path, ...(words.includes('-b') ? [] : ['32M']));
  return path;
}

const rawOf = (mount, image) => join(mount.point, `${basename(image, `.${image.split('.').at(-1)}`)}.raw`);

async function mounted(name, images) {
  const point = join(directory, name);
  mkdirSync(point, { recursive: true });
  const pidFile = join(directory, `${name}.pid`);
  const log = join(directory, `${name}.log`);
  // A small cache, so that it is full long before the first window.
  const words = ['--pid-file', pidFile, '--log-file', log, '--cache-size', '4M'];
  await must(VDISK_MOUNT, ...words, ...images, point);
  return { name, point, log, pid: Number(readFileSync(pidFile, 'utf8')) };
}

function startLoad(seed, files) {
  const child = fork(join(here, 'soak-mount', 'load.mjs'), [`${seed}`, `${PAUSE_MS}`, ...files]);
  const load = { child, requests: 0, since: Date.now(), done: undefined, gone: false };
  load.ended = new Promise((resolve) => child.on('exit', resolve)).then(() => (load.gone = true));
  child.on('message', (message) => {
    if (message.kind === 'wrong') note(message.text);
    if (message.kind === 'done') load.done = message;
    if (message.requests > load.requests) {
      load.requests = message.requests;
      load.since = Date.now();
    }
  });
  return load;
}

/** Puts images into the mount and takes them out, one of each format in turn, with a few bytes kept in each. */
function churn(mount, spares) {
  const written = new Map();
  let round = 0;
  return async () => {
    const image = spares[round % spares.length];
    const file = rawOf(mount, image);
    await must(VDISK, 'add', mount.point, image);
    const text = `round ${round} `.repeat(100);
    const before = written.get(image);
    if (before !== undefined && !readFileSync(file).subarray(0, before.length).equals(Buffer.from(before))) {
      note(`${basename(image)}: what was written in an earlier round is not there`);
    }
    writeFileSync(file, text, { flag: 'r+' });
    written.set(image, text);
    await must(VDISK, 'remove', mount.point, basename(file));
    round += 1;
    return round;
  };
}

/** Throws where the image has errors. Raw has nothing to check; in VHD and QED nothing can be told of space that was punched. */
async function check(image) {
  if (image.endsWith('.raw')) return;
  try {
    await run(VDISK, ['check', image], { timeout: COMMAND_MS, killSignal: 'SIGKILL' });
  } catch (problem) {
    const LEAKS = 3;
    if (problem.code !== LEAKS) throw new Error(`vdisk check ${image}: ${problem.stdout}${problem.stderr}`);
  }
}

/** A second mount, again and again: its file says how often. */
function remounts(image) {
  let round = 0;
  return async () => {
    const mount = await mounted('second', [image]);
    const file = rawOf(mount, image);
    const [found] = readFileSync(file).subarray(0, 16).toString().split('\0');
    if (found !== (round === 0 ? '' : `${round}`)) note(`second mount: ${found} instead of ${round}`);
    round += 1;
    writeFileSync(file, `${round}`, { flag: 'r+' });
    await must(VDISK, 'unmount', '--wait', mount.point);
    return round;
  };
}

async function soak() {
  const images = [];
  for (const format of FORMATS) images.push(await create(`main-${format}`, format));
  images.push(await create('child', 'vhdx', '-b', images[FORMATS.indexOf('vhdx')]));
  // Its parent is locked against writers while the child is there.
  images.splice(FORMATS.indexOf('vhdx'), 1);
  images.push(await create('alone', 'vhdx'));
  const spares = [];
  for (const format of FORMATS) spares.push(await create(`spare-${format}`, format));
  const second = await create('second-image', 'vhdx');
  const main = await mounted('main', images);
  const files = images.map((image) => rawOf(main, image));
  const half = Math.ceil(files.length / 2);
  const loads = [startLoad(SEED, files.slice(0, half)), startLoad(SEED + 1, files.slice(half))];
  const samples = [];
  const counts = { churned: 0, remounted: 0, looked: 0 };
  try {
    const begun = Date.now();
    const end = begun + MINUTES * 60_000;
    const [changeImages, mountAgain] = [churn(main, spares), remounts(second)];
    const jobs = [
      { every: SAMPLE_MS, job: async () => sample(main, begun, samples) },
      { every: CHURN_MS, job: async () => (counts.churned = await changeImages()) },
      { every: REMOUNT_MS, job: async () => (counts.remounted = await mountAgain()) },
      {
        every: 3 * SAMPLE_MS,
        job: async () => {
          JSON.parse(await must(VDISK, 'stats', '--format', 'json', main.point));
          counts.looked += 1;
        },
      },
    ].map((one) => ({ ...one, next: begun + one.every / 2 }));
    while (Date.now() < end && !interrupted) {
      for (const one of jobs) {
        if (Date.now() < one.next) continue;
        one.next = Date.now() + one.every;
        await one.job();
      }
      const stalled = loads.filter(({ since, gone }) => gone || Date.now() - since > STALL_MS);
      if (stalled.length > 0) throw new Error(`${stalled.length} of 2 loads stand still or are gone`);
      await delay(100);
    }
    if (interrupted) throw new Error('interrupted');
    for (const { child } of loads) child.send('stop');
    await Promise.race([
      Promise.all(loads.map(({ ended }) => ended)),
      delay(STALL_MS, undefined, { ref: false }),
    ]);
  } finally {
    for (const { child } of loads) child.kill('SIGKILL');
  }
  const requests = loads.reduce((sum, load) => sum + load.requests, 0);
  result(
    'the load ran to its end',
    loads.every(({ done }) => done !== undefined) && requests > 0,
    `${requests} requests`,
  );
  result(
    'images joined and left, mounts came and went',
    counts.churned > 0 && counts.remounted > 0 && counts.looked > 0,
    `${counts.churned} joined, ${counts.remounted} mounts, ${counts.looked} times stats`,
  );
  const { cpu } = sampleOf(main.pid);
  console.log(`the daemon took ${cpu.toFixed(1)} s of CPU in ${MINUTES} minutes`);
  for (const judged of judge(samples, WARM_UP_SECONDS)) result(...judged);
  await must(VDISK, 'unmount', '--wait', main.point);
  const said = readFileSync(main.log, 'utf8')
    .split('\n')
    .filter((line) => /"level":[456]0/.test(line));
  result('the daemon had nothing to complain of', said.length === 0, said.slice(0, 3).join('; '));
  const digests = Object.assign({}, ...loads.map(({ done }) => done?.digests));
  for (const image of [...images, ...spares, second]) {
    const path = rawOf(main, image);
    await check(image);
    if (digests[path] === undefined) continue;
    const report = JSON.parse(await must(VDISK, 'hash', '--json', image))[0];
    result(
      `${basename(image)} is clean and holds what was written`,
      JSON.stringify(report).includes(digests[path]),
    );
  }
  result('all that was read was what was written', wrong.length === 0, wrong.slice(0, 3).join('; '));
}

function sample(mount, begun, samples) {
  const seconds = (Date.now() - begun) / 1000;
  const taken = sampleOf(mount.pid);
  samples.push([seconds, taken]);
  console.log(lineOf(seconds, taken));
}

/** Ends whatever is left, however it stands. */
async function clear() {
  for (const name of ['main', 'second']) {
    await run('umount', ['-l', join(directory, name)]).catch(() => {});
    try {
      const pid = Number(readFileSync(join(directory, `${name}.pid`), 'utf8'));
      for (let waited = 0; waited < 50; waited += 1) {
        process.kill(pid, 0);
        await delay(100);
      }
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended: with its pid file, or before it had one.
    }
  }
  rmSync(directory, { recursive: true, force: true });
}

console.log(`SEED=${SEED} MINUTES=${MINUTES} PAUSE_MS=${PAUSE_MS}`);
try {
  await soak();
} catch (problem) {
  result('the soak', false, problem.message);
} finally {
  await clear();
}
const failed = results.filter((passed) => !passed).length;
console.log(`${results.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
