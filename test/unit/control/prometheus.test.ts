/** The text for Prometheus, read by a strict parser. */

import { describe, expect, it } from 'vitest';
import { prometheusText } from '../../../src/control/prometheus.ts';
import type { MountStats } from '../../../src/control/stats.ts';
import { Counters, READ } from '../../../src/fuse/counters.ts';
import { parseExposition } from '../../support/prometheus.ts';

function statsOf(mountpoint: string, names: readonly string[]): MountStats {
  const counters = new Counters(Counters.seed(1, 2), 2, 0);
  for (const ago of [0, 0.0005, 0.1, 3, 2000, 1e9]) counters.count(0, READ, 4096, performance.now() - ago);
  counters.count(0, READ, -5, performance.now());
  const [reads, writes] = [counters.tally(0, READ), counters.tally(1, READ)];
  return {
    mountpoint,
    pid: 1,
    uptime: 1.5,
    threads: 2,
    files: names.map((name) => ({
      name,
      path: `/${name}`,
      format: 'raw',
      reads,
      writes,
      zeroings: writes,
      flushes: writes,
      commits: { asked: 5, shared: 2, run: 3 },
      dirty: true,
      dirtyBytes: 8192,
    })),
    cache: { bytes: 100, usedBytes: 50, dirtyBytes: 4, hits: 9, misses: 1, evictions: 0 },
  };
}

describe('the text for Prometheus', () => {
  it('is accepted, whatever names are in it', () => {
    const strange = 'a "b" \\ {c="d"}\n é,';
    const samples = parseExposition(
      prometheusText([statsOf('/mnt/a', [strange, 'b.raw']), statsOf('/m', [])]),
    );
    expect(samples.filter(({ labels }) => labels['file'] === strange).length).toBeGreaterThan(30);
    const value = (name: string, want: Record<string, string>) =>
      samples.find(
        (one) => one.name === name && Object.entries(want).every(([key, text]) => one.labels[key] === text),
      )?.value;
    const reads = { file: 'b.raw', operation: 'read' };
    expect(value('vdisk_mount_requests_total', reads)).toBe(7);
    expect(value('vdisk_mount_bytes_total', reads)).toBe(6 * 4096);
    expect(value('vdisk_mount_errors_total', reads)).toBe(1);
    expect(value('vdisk_mount_request_duration_seconds_count', reads)).toBe(7);
    // Longer than the last bound: in +Inf alone.
    expect(value('vdisk_mount_request_duration_seconds_bucket', { ...reads, le: '67.108864' })).toBe(6);
    expect(value('vdisk_mount_request_duration_seconds_bucket', { ...reads, le: '2.097152' })).toBe(6);
    expect(value('vdisk_mount_request_duration_seconds_bucket', { ...reads, le: '1.048576' })).toBe(5);
    expect(value('vdisk_mount_image_flushes_total', { file: 'b.raw', outcome: 'own' })).toBe(3);
    expect(value('vdisk_mount_dirty_bytes', { file: 'b.raw' })).toBe(8192);
    expect(value('vdisk_mount_files', { mountpoint: '/m' })).toBe(0);
  });

  it('is empty without mounts', () => {
    expect(prometheusText([])).toBe('');
  });

  it.each([
    ['a b="c"} 1\n', /no sample|not of/],
    ['# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 2\n', /twice/],
    ['# HELP a x\n# TYPE a counter\na 1\n', /name and type/],
    ['# HELP a x\n# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\n', /order/],
    ['# HELP a x\n# TYPE a histogram\na_bucket{le="+Inf"} 1\na_sum 1\na_count 2\n', /count/],
  ])('the parser refuses %j', (text, why) => {
    expect(() => parseExposition(text)).toThrow(why);
  });
});
