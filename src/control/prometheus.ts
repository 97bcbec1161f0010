/** Statistics in the text exposition format of Prometheus, version 0.0.4. */

import { BUCKET_BOUNDS, type Tally } from '../fuse/counters.ts';
import type { FileStats, MountStats } from './stats.ts';

type Labels = Readonly<Record<string, string>>;
type Kind = 'counter' | 'gauge' | 'histogram';

/** In label values. */
const escaped = (text: string): string =>
  text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

function labelled(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

/** Samples of one metric stand together, whatever mount they are of. */
class Exposition {
  readonly #families = new Map<string, string[]>();

  family(name: string, kind: Kind, help: string): (labels: Labels, value: number, suffix?: string) => void {
    let lines = this.#families.get(name);
    if (lines === undefined) {
      lines = [`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`];
      this.#families.set(name, lines);
    }
    const into = lines;
    return (labels, value, suffix = '') => into.push(`${name}${suffix}${labelled(labels)} ${value}`);
  }

  get text(): string {
    return [...this.#families.values()].map((lines) => `${lines.join('\n')}\n`).join('');
  }
}

const operations = ({ reads, writes, zeroings, flushes }: FileStats): [string, Tally][] => [
  ['read', reads],
  ['write', writes],
  ['zero', zeroings],
  ['flush', flushes],
];

function putFile(to: Exposition, labels: Labels, file: FileStats): void {
  const requests = to.family('vdisk_mount_requests_total', 'counter', 'Requests of the kernel.');
  const bytes = to.family('vdisk_mount_bytes_total', 'counter', 'Bytes read, written or zeroed.');
  const errors = to.family('vdisk_mount_errors_total', 'counter', 'Requests that failed.');
  const seconds = to.family(
    'vdisk_mount_request_duration_seconds',
    'histogram',
    'Time that the daemon took for a request, without what the kernel adds.',
  );
  for (const [operation, tally] of operations(file)) {
    const those = { ...labels, operation };
    requests(those, tally.count);
    if (operation !== 'flush') bytes(those, tally.bytes);
    errors(those, tally.errors);
    if (tally.count === 0) continue;
    let below = 0;
    BUCKET_BOUNDS.forEach((bound, at) => {
      below += tally.buckets[at] ?? 0;
      seconds({ ...those, le: `${bound}` }, below, '_bucket');
    });
    // Threads go on counting while they are added up: a histogram agrees with itself.
    const all = below + (tally.buckets[BUCKET_BOUNDS.length] ?? 0);
    seconds({ ...those, le: '+Inf' }, all, '_bucket');
    seconds(those, tally.seconds, '_sum');
    seconds(those, all, '_count');
  }
  const { asked, shared, run } = file.commits;
  const flushes = to.family('vdisk_mount_image_flushes_total', 'counter', 'Flushes that came to an image.');
  flushes({ ...labels, outcome: 'shared' }, shared);
  flushes({ ...labels, outcome: 'own' }, asked - shared);
  to.family('vdisk_mount_commits_total', 'counter', 'Commits that made an image stable.')(labels, run);
  to.family(
    'vdisk_mount_dirty',
    'gauge',
    'Whether metadata of an image waits in memory.',
  )(labels, Number(file.dirty));
  to.family(
    'vdisk_mount_dirty_bytes',
    'gauge',
    'Pages of the block tables of an image that wait to be written.',
  )(labels, file.dirtyBytes);
}

/** The text for one mount or several. */
export function prometheusText(mounts: readonly MountStats[]): string {
  const to = new Exposition();
  for (const { mountpoint, uptime, threads, files, cache } of mounts) {
    const labels = { mountpoint };
    to.family('vdisk_mount_uptime_seconds', 'gauge', 'Time since the mount was made.')(labels, uptime);
    to.family('vdisk_mount_threads', 'gauge', 'Threads that answer requests.')(labels, threads);
    to.family('vdisk_mount_files', 'gauge', 'Files in the mount.')(labels, files.length);
    const gauge = (name: string, help: string): ((labels: Labels, value: number) => void) =>
      to.family(`vdisk_mount_table_cache_${name}`, 'gauge', help);
    const counter = (name: string, help: string): ((labels: Labels, value: number) => void) =>
      to.family(`vdisk_mount_table_cache_${name}_total`, 'counter', help);
    gauge('limit_bytes', 'Memory for pages of block tables.')(labels, cache.bytes);
    gauge('used_bytes', 'Pages of block tables in memory.')(labels, cache.usedBytes);
    gauge('dirty_bytes', 'Pages of block tables that wait to be written.')(labels, cache.dirtyBytes);
    counter('hits', 'Pages of block tables found in memory.')(labels, cache.hits);
    counter('misses', 'Pages of block tables that were read.')(labels, cache.misses);
    counter('evictions', 'Pages of block tables that made place for others.')(labels, cache.evictions);
    for (const file of files) putFile(to, { ...labels, file: file.name, format: file.format }, file);
  }
  return to.text;
}
