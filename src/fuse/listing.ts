/**
 * Which files a mount shows, in one thread: by slot, by node and by name; and the disk of each.
 *
 * Nodes: 1 is the root; file n of the seed is node n + 2, or the root itself where the mountpoint is a file. Windows
 * follow behind the files, and files that join later behind these (members.ts). A handle is the node's number: a file has
 * no state per open.
 */

import { EBADF, EIO, ENAMETOOLONG, ENOENT } from '../base/errno.ts';
import type { Disk } from '../disk/disk.ts';
import { Window } from '../disk/window.ts';
import { ROOT_NODE } from './abi.ts';
import { S_IFREG } from './attributes.ts';
import { Members } from './members.ts';
import {
  type AttachThread,
  attachLayers,
  type FileSeed,
  isShared,
  type TreeChange,
  type TreeSeed,
} from './tree.ts';

/** Longest name, as statfs says: NAME_MAX of <linux/limits.h>. */
export const NAME_BYTES = 255;

export interface DirectoryEntry {
  readonly name: Buffer;
  readonly node: number;
  readonly mode: number;
}

/** A file or a window. */
export interface Shown extends FileSeed {
  readonly node: number;
  /** Number of the file whose disk it is (in times and allocation): its own, but for windows. */
  readonly file: number;
  /** A part of another file's disk. */
  readonly part: boolean;
  /** Others change the same bytes. */
  readonly shared: boolean;
}

export class Listing {
  readonly members: Members;
  /** By slot, as all of these. */
  readonly shown: (Shown | undefined)[];
  readonly disks: (Disk | Window | undefined)[];
  readonly #entries: (DirectoryEntry | undefined)[];
  /** The last node that a slot had when its file left: this one and those before answer EIO. */
  readonly #left: number[] = [];
  readonly #attach: AttachThread;
  /** Node of slot 0. */
  readonly #first: number;
  readonly #byName: Map<string, number>;
  #changed = false;

  constructor(seed: TreeSeed, attach: AttachThread) {
    this.members = new Members(seed.members);
    this.#attach = attach;
    this.#first = seed.shape === 'file' ? ROOT_NODE : ROOT_NODE + 1;
    const disks = seed.files.map(({ layers, size }) => attachLayers(layers, size, attach));
    const windows = seed.windows.map(({ of, start, size }) => new Window(disks[of]!, start, size));
    this.disks = [...disks, ...windows];
    const files = seed.files.map((file, at): Shown => {
      return { ...file, node: this.#first + at, file: at, part: false, shared: isShared(seed, at) };
    });
    const parts = seed.windows.map(({ of, name, size, attributes }, at): Shown => {
      return { ...files[of]!, node: this.#first + files.length + at, part: true, name, size, attributes };
    });
    const shown = [...files, ...parts];
    this.shown = shown;
    const entries = seed.shape === 'file' ? [] : shown.map((file) => entryOf(file.name, file.node));
    this.#entries = entries;
    this.#byName = new Map(entries.map((entry) => [latin1(entry.name), entry.node]));
  }

  /**
   * The root directory's entries; none where the mountpoint is a file. An entry keeps its place as others come and go,
   * so that a listing under way misses none: there are gaps.
   */
  get entries(): readonly (DirectoryEntry | undefined)[] {
    return this.#entries;
  }

  /** Whether files have joined or left: what the kernel knows of the directory may be old. */
  get hasChanged(): boolean {
    return this.#changed;
  }

  /** A file joins with its windows, or files leave. No request is being answered in this thread. */
  change(change: TreeChange): void {
    this.#changed = true;
    if (change.kind === 'join') {
      const { slot, node, number, file, windows } = change;
      const disk = attachLayers(file.layers, file.size, this.#attach);
      const shared = file.writable && windows.length > 0;
      const whole: Shown = { ...file, node, file: number, part: false, shared };
      this.#put(slot, whole, disk);
      for (const { slot: at, node: other, part } of windows) {
        const { name, start, size, attributes } = part;
        const window = new Window(disk, start, size);
        this.#put(at, { ...whole, node: other, part: true, name, size, attributes }, window);
      }
      return;
    }
    for (const slot of change.slots) {
      const file = this.shown[slot];
      if (file === undefined) continue;
      this.#byName.delete(latin1(Buffer.from(file.name)));
      this.#left[slot] = file.node;
      this.disks[slot] = undefined;
      this.shown[slot] = undefined;
      this.#entries[slot] = undefined;
    }
  }

  #put(slot: number, file: Shown, disk: Disk | Window): void {
    this.disks[slot] = disk;
    this.shown[slot] = file;
    const entry = entryOf(file.name, file.node);
    this.#entries[slot] = entry;
    this.#byName.set(latin1(entry.name), file.node);
  }

  /** The slot of a node, or -1 where it has none, or none any more. */
  slotOf(node: number): number {
    const slot = (node - this.#first) % this.members.capacity;
    return this.shown[slot]?.node === node ? slot : -1;
  }

  /** The slot of a handle: there is a disk in it. Or -errno. */
  slotOfHandle(handle: number): number {
    const slot = (handle - this.#first) % this.members.capacity;
    if (this.shown[slot]?.node === handle) return slot;
    const last = this.#left[slot];
    return last !== undefined && handle <= last ? -EIO : -EBADF;
  }

  fileOf(node: number): Shown | undefined {
    return this.shown[this.slotOf(node)];
  }

  /** The node of `name` (its bytes, as Latin-1), or -errno. */
  nodeOf(name: string): number {
    return this.#byName.get(name) ?? (name.length > NAME_BYTES ? -ENAMETOOLONG : -ENOENT);
  }
}

const latin1 = (name: Buffer): string => name.toString('latin1');

function entryOf(name: string, node: number): DirectoryEntry {
  return { name: Buffer.from(name), node, mode: S_IFREG };
}
