/** What a mount did so far: the counts of all threads, added up when somebody asks. */

import type { FileStats, MountStats } from '../control/stats.ts';
import type { Disk } from '../disk/disk.ts';
import { Counters, FLUSH, READ, WRITE, ZERO } from '../fuse/counters.ts';
import { Members } from '../fuse/members.ts';
import { attachLayers, attachThread, type TreeSeed } from '../fuse/tree.ts';
import { PAGE_BYTES } from '../shared/page-pool.ts';
import type { MountConfig } from './config.ts';
import type { Member } from './roster.ts';

export class StatsGatherer {
  readonly #config: MountConfig;
  readonly #tree: TreeSeed;
  readonly #counters: Counters;
  readonly #attach: ReturnType<typeof attachThread>;
  /** By node. They are only looked at, never read or written: their counters are in shared memory. */
  readonly #disks = new Map<number, Disk>();
  readonly #since = performance.now();

  constructor(config: MountConfig, tree: TreeSeed) {
    this.#config = config;
    this.#tree = tree;
    const thread = config.threads + 1;
    this.#counters = new Counters(tree.counters, new Members(tree.members).capacity, thread);
    this.#attach = attachThread(tree, () => {}, thread);
  }

  gather(members: readonly Member[]): MountStats {
    const { hits, misses, evictions, pages, pinned } = this.#attach.pool.counters();
    const nodes = new Set(members.map(({ node }) => node));
    for (const node of this.#disks.keys()) if (!nodes.has(node)) this.#disks.delete(node);
    return {
      mountpoint: this.#config.mountpoint,
      pid: process.pid,
      uptime: (performance.now() - this.#since) / 1000,
      threads: this.#config.threads,
      files: members.map((member) => this.#file(member)),
      cache: {
        bytes: this.#tree.pool.memory.byteLength,
        usedBytes: pages * PAGE_BYTES,
        dirtyBytes: pinned * PAGE_BYTES,
        hits,
        misses,
        evictions,
      },
    };
  }

  #file(member: Member): FileStats {
    const { name, path, format, slot } = member;
    const tally = (kind: number) => this.#counters.tally(slot, kind);
    const disk = this.#diskOf(member);
    const counters = disk?.counters();
    return {
      name,
      path,
      format,
      reads: tally(READ),
      writes: tally(WRITE),
      zeroings: tally(ZERO),
      flushes: tally(FLUSH),
      commits: {
        asked: counters?.flushes ?? 0,
        shared: counters?.shared ?? 0,
        run: counters?.commits ?? 0,
      },
      dirty: disk?.isDirty ?? false,
      dirtyBytes: counters?.dirtyBytes ?? 0,
    };
  }

  #diskOf({ node, seed }: Member): Disk | undefined {
    if (seed?.writable !== true) return undefined;
    const known = this.#disks.get(node);
    if (known !== undefined) return known;
    const disk = attachLayers(seed.layers, seed.size, this.#attach);
    this.#disks.set(node, disk);
    return disk;
  }
}
