/** `vdisk stats`: what running mounts have done. */

import { setTimeout as delay } from 'node:timers/promises';
import type { Argv } from 'yargs';
import { shownPath } from '../../base/text.ts';
import { formatSize } from '../../base/units.ts';
import type { Found } from '../../control/client.ts';
import { prometheusText } from '../../control/prometheus.ts';
import type { FileStats, MountStats } from '../../control/stats.ts';
import { BUCKET_BOUNDS, type Tally } from '../../fuse/counters.ts';
import { type Command, OK } from '../command.ts';
import { MOUNT_DOC, withAll, withMount } from './find.ts';

const FORMATS = ['text', 'json', 'prometheus'] as const;
const WATCH_MS = 1000;

function takeStatsArguments(command: Argv): void {
  command
    .positional('mount', { type: 'string', describe: `${MOUNT_DOC}; all mounts where it is left out` })
    .option('format', { type: 'string', choices: FORMATS, default: 'text', describe: 'how to print it' })
    .option('json', { type: 'boolean', describe: 'as --format json' })
    .option('watch', { type: 'boolean', describe: 'again every second, until interrupted or unmounted' })
    .example('$0 stats /mnt/img', 'requests, bytes, times, flushes, the cache')
    .example('$0 stats --format prometheus', 'what a scraper of Prometheus reads')
    .epilogue(
      'Times are those that the daemon took; the 99 % are below the time shown, which is a power of two. ' +
        'Exit status: 0 done, 1 failed, 2 usage.',
    );
}

const formatOf = (parsed: Record<string, unknown>): unknown =>
  parsed['json'] === true ? 'json' : parsed['format'];

/** Seconds below which `share` of the operations stayed; Infinity past the last bound. */
export function quantile({ buckets }: Tally, share: number): number {
  const all = buckets.reduce((sum, count) => sum + count, 0);
  let below = 0;
  const at = buckets.findIndex((count) => {
    below += count;
    return below >= all * share && below > 0;
  });
  return BUCKET_BOUNDS[at] ?? Number.POSITIVE_INFINITY;
}

function duration(seconds: number): string {
  if (seconds === Number.POSITIVE_INFINITY) return 'over a minute';
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  return seconds < 1 ? `${Math.round(seconds * 1e4) / 10} ms` : `${Math.round(seconds * 10) / 10} s`;
}

function tallyText(name: string, tally: Tally): string {
  const { count, bytes, errors, seconds } = tally;
  if (count === 0) return '';
  const amount = bytes === 0 ? '' : `, ${formatSize(bytes)}`;
  const failed = errors === 0 ? '' : `, ${errors} failed`;
  const times = `mean ${duration(seconds / count)}, 99 % below ${duration(quantile(tally, 0.99))}`;
  return `    ${name.padEnd(8)} ${count}${amount}${failed}; ${times}\n`;
}

function fileText({
  name,
  path,
  format,
  reads,
  writes,
  zeroings,
  flushes,
  commits,
  dirty,
  dirtyBytes,
}: FileStats): string {
  const { asked, shared, run } = commits;
  const committed =
    asked === 0 ? '' : `    commits  ${run}, for ${asked} flushes (${shared} done by another's commit)\n`;
  const size = dirtyBytes === 0 ? '' : ` (${formatSize(dirtyBytes)})`;
  const waits = dirty || dirtyBytes > 0 ? `  metadata waits to be written${size}` : '';
  return (
    `  ${shownPath(name)}  (${format}, ${shownPath(path)})${waits}\n` +
    tallyText('reads', reads) +
    tallyText('writes', writes) +
    tallyText('zeroings', zeroings) +
    tallyText('flushes', flushes) +
    committed
  );
}

/** What a person reads. */
export function statsText({ mountpoint, uptime, threads, files, cache }: MountStats): string {
  const { hits, misses, evictions, bytes, usedBytes, dirtyBytes } = cache;
  const share = hits + misses === 0 ? '' : ` (${Math.floor((100 * hits) / (hits + misses))} % hits)`;
  return (
    `${shownPath(mountpoint)}  up ${Math.round(uptime)} s, ${threads} threads\n` +
    files.map(fileText).join('') +
    `  table cache  ${formatSize(usedBytes)} of ${formatSize(bytes)}, ${formatSize(dirtyBytes)} dirty; ` +
    `${hits} hits, ${misses} misses, ${evictions} evictions${share}\n`
  );
}

function shown(stats: readonly MountStats[], format: (typeof FORMATS)[number]): string {
  if (format === 'json') return `${JSON.stringify(stats)}\n`;
  return format === 'prometheus' ? prometheusText(stats) : stats.map(statsText).join('');
}

async function print(found: readonly Found[], parsed: Record<string, unknown>): Promise<number> {
  const format = formatOf(parsed) as (typeof FORMATS)[number];
  const ask = () => Promise.all(found.map(({ client }) => client.ask('stats', {})));
  process.stdout.write(shown(await ask(), format));
  while (parsed['watch'] === true && found.length > 0) {
    await delay(WATCH_MS);
    let text: string;
    try {
      text = shown(await ask(), format);
    } catch {
      // It was unmounted: the end of what there is to see.
      return OK;
    }
    const clear = format === 'text' && process.stdout.isTTY ? '\x1b[H\x1b[J' : '';
    process.stdout.write(`${clear}${text}`);
  }
  return OK;
}

function stats(parsed: Record<string, unknown>): Promise<number> {
  return parsed['mount'] === undefined
    ? withAll((found) => print(found, parsed))
    : withMount(parsed['mount'], (found) => print([found], parsed));
}

export const statsCommand: Command = {
  usage: 'stats [mount]',
  describe: 'show what running mounts have done',
  take: takeStatsArguments,
  run: stats,
};
