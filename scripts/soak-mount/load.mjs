// A child of soak-mount: random reads, writes, fsyncs and punches on the files it is given, each compared with what
// it wrote itself. Arguments: SEED MILLISECONDS-BETWEEN-REQUESTS FILE...
// To the parent: { kind: 'alive', requests } now and then; { kind: 'wrong', text }; at the end, after 'stop' came,
// { kind: 'done', requests, digests: { file: SHA-256 of all of it } }. It never returns from a request that hangs:
// the parent looks at `requests`.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const KIB = 1024;
const LARGEST = 512 * KIB;
const ALIVE_MS = 5000;

const [seed, pause, ...paths] = process.argv.slice(2);

// mulberry32: the same requests for the same seed.
let state = Number(seed);
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
const below = (limit) => Math.floor(random() * limit);

/** Each file open twice: through the page cache, and past it, so that the daemon is asked each time. */
const files = paths.map((path) => {
  const cached = openSync(path, 'r+');
  const direct = openSync(path, constants.O_RDWR | constants.O_DIRECT);
  const { size } = fstatSync(cached);
  return { path, cached, direct, content: Buffer.alloc(size), read: size };
});
for (const file of files) {
  if (readSync(file.direct, file.content, 0, file.content.length, 0) !== file.content.length) {
    throw new Error(`${file.path} is shorter than it says`);
  }
}

const buffer = Buffer.alloc(LARGEST);
let requests = 0;

function say(message) {
  process.send(message);
}

/** Many small ranges, some large ones; half of them whole pages. */
function range(file) {
  const align = below(2) === 0 ? 4096 : 512;
  const length = Math.max(align, Math.floor(LARGEST ** (0.5 + random() / 2) / align) * align);
  const at = below((file.content.length - length) / align) * align;
  return { at, length };
}

function compare(file, fd, at, length) {
  const count = readSync(fd, buffer, 0, length, at);
  if (count === length && buffer.compare(file.content, at, at + length, 0, length) === 0) return;
  say({ kind: 'wrong', text: `${basename(file.path)}: ${length} bytes at ${at} are not what was written` });
}

function write(file, fd, at, length) {
  const piece = file.content.subarray(at, at + length);
  piece.fill(below(256));
  for (let word = 0; word < length; word += 512) piece.writeUInt32LE(below(2 ** 32), word);
  if (writeSync(fd, piece, 0, length, at) !== length) throw new Error('a short write');
}

function punch(file, at, length) {
  const words = ['-p', '-o', `${at}`, '-l', `${length}`, file.path];
  const { status, stderr } = spawnSync('fallocate', words, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`fallocate: ${stderr}`);
  file.content.fill(0, at, at + length);
}

function step(file) {
  const { at, length } = range(file);
  const fd = below(2) === 0 ? file.direct : file.cached;
  const kind = below(1000);
  if (kind < 500) compare(file, fd, at, length);
  else if (kind < 960) write(file, fd, at, length);
  else if (kind < 995) fsyncSync(fd);
  else punch(file, at, length);
}

let stopped = false;
process.on('message', (message) => {
  if (message === 'stop') stopped = true;
});
// The parent is gone: so is the mount, soon.
process.on('disconnect', () => process.exit(1));

const alive = setInterval(() => say({ kind: 'alive', requests }), ALIVE_MS);
while (!stopped) {
  const file = files[below(files.length)];
  try {
    step(file);
  } catch (problem) {
    say({ kind: 'wrong', text: `${basename(file.path)}: ${problem.message}` });
    break;
  }
  requests += 1;
  await delay(Number(pause));
}
clearInterval(alive);
const digests = {};
for (const file of files) {
  try {
    for (let at = 0; at < file.content.length; at += LARGEST) {
      compare(file, file.direct, at, Math.min(LARGEST, file.content.length - at));
    }
    fsyncSync(file.cached);
  } catch (problem) {
    say({ kind: 'wrong', text: `${basename(file.path)}: ${problem.message}` });
  }
  digests[file.path] = createHash('sha256').update(file.content).digest('hex');
  closeSync(file.cached);
  closeSync(file.direct);
}
process.send({ kind: 'done', requests, digests }, () => process.disconnect());
