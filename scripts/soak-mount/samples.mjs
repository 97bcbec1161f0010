// What a process takes, from /proc, and whether it takes more and more.
import { readdirSync, readFileSync } from 'node:fs';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Anonymous memory may grow by less than this between the first and the last window after the warm-up. */
const MAX_GROWTH = 5 * MIB;
/** Each window is this part of the time after the warm-up. */
const WINDOW = 0.2;

/** Bytes, descriptors, threads and CPU seconds of a process now. Throws where it is gone. */
export function sampleOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // Behind the name in parentheses; utime and stime are fields 14 and 15 (proc(5)), in ticks of 10 ms.
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13);
  return {
    rss: field('VmRSS') * KIB,
    anonymous: field('RssAnon') * KIB,
    file: field('RssFile') * KIB,
    shared: field('RssShmem') * KIB,
    threads: field('Threads'),
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    cpu: (Number(user) + Number(system)) / 100,
  };
}

export const mib = (bytes) => (bytes / MIB).toFixed(1);

export function lineOf(seconds, sample) {
  const { rss, anonymous, file, shared, threads, descriptors, cpu } = sample;
  return (
    `${`${Math.round(seconds)}`.padStart(6)} s  rss ${mib(rss)} MiB (anonymous ${mib(anonymous)}, ` +
    `files ${mib(file)}, shared ${mib(shared)})  ${descriptors} descriptors  ${threads} threads  ${cpu.toFixed(1)} s CPU`
  );
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

/**
 * Compares the first and the last window of samples: [what is judged, whether it holds, the figures]. Samples are
 * [seconds since the start, sample] in order.
 */
export function judge(samples, warmUpSeconds) {
  const after = samples.filter(([seconds]) => seconds >= warmUpSeconds).map(([, sample]) => sample);
  if (after.length === 0) return [['there are samples after the warm-up', false, 'the run was too short']];
  const count = Math.max(1, Math.floor(after.length * WINDOW));
  const [first, last] = [after.slice(0, count), after.slice(-count)];
  const of = (name) => [median(first.map((one) => one[name])), median(last.map((one) => one[name]))];
  const [before, now] = of('anonymous');
  // The least: a thread that stays for a second has descriptors of its own.
  const least = (list) => Math.min(...list.map(({ descriptors }) => descriptors));
  return [
    [
      'anonymous memory does not grow',
      now - before < MAX_GROWTH,
      `${mib(before)} MiB after the warm-up, ${mib(now)} MiB at the end (medians of ${count} samples)`,
    ],
    [
      'descriptors do not grow',
      least(last) <= least(first),
      `${least(first)} after the warm-up, ${least(last)} at the end`,
    ],
  ];
}
