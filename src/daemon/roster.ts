/**
 * Who is in the mount: images join it and leave it while it serves. The threads follow by messages (TreeChange); names,
 * slots and open images are kept here, in the main thread.
 *
 * An image leaves in this order: its files are not opened any more (members.ts), no thread works on them any more, the
 * kernel forgets them, the keeper leaves the image clean, and it is closed. So its locks go last.
 */

import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { collectAfterLeave } from '../base/collect.ts';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { ShownFile } from '../control/protocol.ts';
import { Counters } from '../fuse/counters.ts';
import { Members } from '../fuse/members.ts';
import { FileTimes } from '../fuse/times.ts';
import { type FileSeed, isWritable, type Part, type TreeChange, type TreeSeed } from '../fuse/tree.ts';
import type { FormatId } from '../image/driver.ts';
import { PagePool } from '../shared/page-pool.ts';
import type { TableAllocator } from '../shared/paged-table.ts';
import type { LiveTree } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import {
  closeImages,
  countAllocation,
  type ExposedFile,
  exposedFiles,
  fileSeeds,
  type OpenedImage,
  openImages,
  unusedName,
} from './images.ts';
import type { Keeper } from './keeper.ts';
import type { Log } from './log.ts';
import { partitionsOf } from './partitions.ts';
import { Slots } from './slots.ts';

/** close(2) returns before the kernel tells of it: so long it is tried whether a file is free. */
const RELEASE_MS = 500;
const RETRY_MS = 20;
/** Of block tables in memory, while the partitions of an image are looked for. */
const READING_BYTES = 1 << 20;
/** So long who asked waits for requests and for the kernel; the work itself goes on. */
const LEAVE_LIMIT_MS = 30_000;

/** A file of the mount, or a window. */
export interface Member extends ShownFile {
  readonly slot: number;
  readonly node: number;
  /** See TreeChange; undefined for windows, whose disk is another's. */
  readonly number: number | undefined;
  readonly image: OpenedImage;
  readonly seed: FileSeed | undefined;
}

/** A file that joins, with its partitions. */
interface Joining {
  readonly member: Member;
  readonly windows: Extract<TreeChange, { kind: 'join' }>['windows'];
}

export interface RosterContext {
  readonly config: MountConfig;
  readonly tree: TreeSeed;
  readonly tables: TableAllocator;
  readonly keeper: Keeper | undefined;
  readonly live: LiveTree | undefined;
  readonly log: Log;
}

export class Roster {
  readonly #context: RosterContext;
  readonly #members: Members;
  readonly #counters: Counters;
  readonly #times: FileTimes;
  readonly #slots: Slots;
  /** Open images: the caller's own list, which it closes at the end. */
  readonly #opened: OpenedImage[];
  #shown: Member[];
  #turn: Promise<unknown> = Promise.resolve();
  readonly #counting = new Map<OpenedImage, () => void>();

  constructor(context: RosterContext, opened: OpenedImage[], files: readonly ExposedFile[]) {
    const { tree, config } = context;
    this.#context = context;
    this.#members = new Members(tree.members);
    this.#counters = new Counters(tree.counters, this.#members.capacity, config.threads + 1);
    this.#times = new FileTimes(tree.times);
    this.#slots = new Slots(this.#members, tree);
    this.#opened = opened;
    const nodeOf = (slot: number): number => this.#slots.firstNode(slot);
    const shown = files.map((file, at) =>
      memberOf(file, tree.files[at]!, { slot: at, node: nodeOf(at), number: at }, imageOf(file, opened)),
    );
    const parts = tree.windows.map((part, at): Member => {
      const slot = files.length + at;
      return windowOf(shown[part.of]!, part, slot, nodeOf(slot));
    });
    this.#shown = [...shown, ...parts];
  }

  /** In the order in which they came. */
  get members(): readonly Member[] {
    return this.#shown;
  }

  /** The member of a name or of the path of its image. Throws ImageError('usage'). */
  member(name: string): Member {
    const found =
      this.#shown.find((one) => one.name === name) ?? this.#shown.find(({ path }) => path === name);
    if (found !== undefined) return found;
    throw new ImageError('usage', `${this.#context.config.mountpoint}: shows no ${shownPath(name)}`, {
      hint: 'See vdisk list.',
    });
  }

  /** Opens an image and shows it. Returns the names of its files. Throws ImageError with everything as before. */
  add(path: string, how: { readonly format?: FormatId; readonly readOnly?: boolean }): Promise<string[]> {
    return this.#inTurn(() => this.#add(path, how));
  }

  /**
   * Takes the image of a member out of the mount, and leaves it clean. Throws ImageError('denied') where one of its files
   * is open; with `force` whoever has it open gets EIO from then on.
   */
  remove(name: string, force: boolean): Promise<string[]> {
    return this.#inTurn(() => this.#remove(name, force));
  }

  /** Stops what goes on in the background. */
  close(): void {
    for (const stop of this.#counting.values()) stop();
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  #changeable(): LiveTree {
    const { config, tree, live } = this.#context;
    const refuse = (why: string): ImageError => new ImageError('unsupported', `${config.mountpoint}: ${why}`);
    if (config.evidence !== undefined) throw refuse('is evidence, and shows what it was made for');
    if (config.overlay !== undefined) throw refuse('has an overlay, and shows its image only');
    if (tree.shape === 'file') throw refuse('is a file, which shows one image only');
    if (live === undefined) throw refuse(`images cannot come and go with the transport ${config.transport}`);
    return live;
  }

  async #add(path: string, how: { readonly format?: FormatId; readonly readOnly?: boolean }) {
    const live = this.#changeable();
    const { config, tree, tables, keeper, log } = this.#context;
    const opening = {
      ...config,
      images: [path],
      format: how.format,
      readOnly: how.readOnly === true || !isWritable(tree),
      chain: { ...config.chain, parents: [] },
      overlay: undefined,
    };
    const opened = openImages(opening, (text) => log.warn(text), tables);
    const image = opened[0]!;
    let joining: Joining[];
    try {
      joining = this.#places(image);
    } catch (problem) {
      closeImages(opened);
      throw problem;
    }
    this.#opened.push(image);
    for (const { member, windows } of joining) {
      for (const { slot } of [member, ...windows]) {
        this.#counters.reset(slot);
        this.#slots.use(slot);
      }
      const { slot, node } = member;
      const [number, file] = [member.number!, member.seed!];
      this.#times.forget(number);
      keeper?.join(number, file);
      await live.change({ kind: 'join', slot, node, number, file, windows });
    }
    const members = joining.flatMap(({ member, windows }) => [
      member,
      ...windows.map(({ slot, node, part }) => windowOf(member, part, slot, node)),
    ]);
    this.#shown = [...this.#shown, ...members];
    log.info(`${config.mountpoint}: ${path} joined as ${members.map(({ name }) => name).join(', ')}`);
    return members.map(({ name }) => name);
  }

  /**
   * Names and slots for the files of an image and for its partitions, and the count of what it allocates. Changes only
   * which slots are free.
   */
  #places(image: OpenedImage): Joining[] {
    const { config, tree, log } = this.#context;
    const taken = new Set(this.#shown.map(({ name }) => name));
    const files = exposedFiles([image], config.layers).map((file, at) => {
      const whole = at === 0 && taken.has(file.name) ? basename(file.shown.path) : file.name.slice(0, -4);
      return { ...file, name: unusedName(whole, '.raw', taken) };
    });
    const seeds = fileSeeds(files);
    let parts: Part[] = [];
    if (config.partitions) {
      const pool = PagePool.seed(READING_BYTES);
      const found = partitionsOf(seeds[0]!, files[0]!.shown, pool, taken, (text) => log.warn(text));
      seeds[0] = found.file;
      parts = found.parts;
    }
    const slots = this.#slots.take(files.length + parts.length);
    if (typeof slots === 'number') {
      throw new ImageError(
        'unsupported',
        `${config.mountpoint}: has room for ${slots} more files, ${files.length + parts.length} needed`,
        { hint: 'Make another mount.' },
      );
    }
    const place = (slot: number) => ({ slot, node: this.#slots.nextNode(slot)! });
    const windows = parts.map((part, at) => ({ ...place(slots[files.length + at]!), part }));
    return files.map((file, at) => {
      const number = this.#slots.numberOf(slots[at]!);
      new Float64Array(tree.allocated)[number] = 0;
      if (at === 0) {
        const stop = countAllocation([file], tree.allocated, (text) => log.warn(text), number);
        this.#counting.set(image, stop);
      }
      const member = memberOf(file, seeds[at]!, { ...place(slots[at]!), number }, image);
      return { member, windows: at === 0 ? windows : [] };
    });
  }

  async #remove(name: string, force: boolean): Promise<string[]> {
    const live = this.#changeable();
    const { image } = this.member(name);
    const leaving = this.#shown.filter((one) => one.image === image);
    if (force) for (const { slot } of leaving) this.#members.cut(slot);
    else await this.#leaveUnused(leaving);
    this.#shown = this.#shown.filter((one) => one.image !== image);
    const names = leaving.map((one) => one.name);
    const work = this.#takeOut(live, image, leaving, force);
    const limit = new AbortController();
    const late = delay(LEAVE_LIMIT_MS, 'late' as const, { signal: limit.signal }).catch(
      () => 'late' as const,
    );
    const errno = await Promise.race([work, late]).finally(() => limit.abort());
    const { mountpoint } = this.#context.config;
    if (errno === 'late') {
      work.catch((problem: unknown) => this.#context.log.error(String(problem)));
      throw new ImageError('io', `${image.path}: has left ${mountpoint}, and is still being written out`);
    }
    if (errno !== 0) {
      throw new ImageError(
        'io',
        `${image.path}: was not left clean (errno ${errno}): what was not flushed may be lost`,
      );
    }
    return names;
  }

  async #leaveUnused(leaving: readonly Member[]): Promise<void> {
    for (const until = performance.now() + RELEASE_MS; ; await delay(RETRY_MS)) {
      const used = leaving.find(({ slot }) => this.#members.opens(slot) > 0);
      if (used === undefined) {
        const left: number[] = [];
        const kept = leaving.find(({ slot }) => {
          if (!this.#members.leave(slot)) return true;
          left.push(slot);
          return false;
        });
        if (kept === undefined) return;
        for (const slot of left) this.#members.join(slot);
      }
      if (performance.now() < until) continue;
      throw new ImageError('denied', `${used?.name ?? leaving[0]!.name}: is open`, {
        hint: 'Close it first; --force cuts off whoever uses it.',
      });
    }
  }

  /** Returns the errno with which the image was not left clean, or 0. */
  async #takeOut(
    live: LiveTree,
    image: OpenedImage,
    leaving: readonly Member[],
    force: boolean,
  ): Promise<number> {
    const { config, keeper, log } = this.#context;
    this.#counting.get(image)?.();
    this.#counting.delete(image);
    await live.change({ kind: 'leave', slots: leaving.map(({ slot }) => slot) });
    for (const { name, node } of leaving) {
      await live.forgetName(name, node);
      if (force) await live.forgetPages(node);
    }
    const numbers = leaving.flatMap(({ number }) => (number === undefined ? [] : [number]));
    const errno = (await keeper?.leave(numbers)) ?? 0;
    closeImages([image]);
    this.#opened.splice(this.#opened.indexOf(image), 1);
    for (const { slot } of leaving) this.#slots.release(slot);
    log.info(`${config.mountpoint}: ${image.path} left`);
    collectAfterLeave();
    return errno;
  }
}

function memberOf(
  { shown }: ExposedFile,
  seed: FileSeed,
  place: Pick<Member, 'slot' | 'node' | 'number'>,
  image: OpenedImage,
): Member {
  const { name, size, writable } = seed;
  return { name, path: shown.path, format: shown.image.format, size, writable, ...place, image, seed };
}

/** A part of the disk of a member as a member. */
function windowOf(whole: Member, { name, size }: Part, slot: number, node: number): Member {
  return { ...whole, name, size, slot, node, number: undefined, seed: undefined };
}

/** The opened image that a file shows, or one of whose parents. */
function imageOf({ layers: [top] }: ExposedFile, opened: readonly OpenedImage[]): OpenedImage {
  return opened.find((image) => image === top || image.parents.includes(top))!;
}
