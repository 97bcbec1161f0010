/**
 * A disk, or several joined, as a new image of any format. The image is made as `vdisk create` makes one (chain/create.ts):
 * under another name, filled here by several threads, read back, compared where that is wanted, and only then named.
 */

import { fdatasync, fstatSync, statSync } from 'node:fs';
import { promisify } from 'node:util';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, MIB } from '../base/units.ts';
import { createImage, type MadeImage, type NewImageRequest, sourceOf } from '../chain/create.ts';
import { keyOf } from '../chain/gate.ts';
import type { Layer } from '../chain/layer.ts';
import { CONTENT_FIELDS, describeDifference, differences, stateOf } from '../evidence/file-state.ts';
import { stateOfLayer } from '../evidence/held.ts';
import type { LayerSeed } from '../fuse/tree.ts';
import { IoGate } from '../shared/io-gate.ts';
import { PagePool } from '../shared/page-pool.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { forgetCached } from '../source/syscalls.ts';
import { attachForWriting, type SourceSeed, type TargetSeed } from './attach.ts';
import type { Crew, PassOptions } from './crew.ts';
import { ResumeRecord } from './record.ts';
import type { Work } from './work.ts';

/** Of the tables of one chain; memory is touched as it is used. */
const POOL_BYTES = 16 * MIB;
/** So often a copy that may be gone on with is made stable. */
const STABLE_SECONDS = 2;

/** What is read: one disk behind the other, each an image with its parents, nearest first. */
export type SourceChains = readonly (readonly [Layer, ...Layer[]])[];

export interface ConvertRequest {
  readonly sources: SourceChains;
  /** What is made; its parent is undefined, and its size that of the sources, rounded up. */
  readonly target: Omit<NewImageRequest, 'content' | 'progress' | 'parent' | 'virtualSize'>;
  readonly crew: Crew;
  /** Threads of the crew. */
  readonly threads: number;
  /** Keeps what was made where it is interrupted, and goes on with it. */
  readonly resume: boolean;
  /** Reads the new image and compares it with the source. */
  readonly verify: boolean;
  /** Whether the new image is on the medium at the end. */
  readonly flush: boolean;
  /** `doing`: "converting", "verifying". */
  readonly progress: (doing: string) => PassOptions['progress'];
}

export interface Converted extends MadeImage {
  /** Bytes of the disk that were written: the rest are zeros, or were there. */
  readonly written: ByteCount;
  /** Bytes of the disk at its beginning that were there from before. */
  readonly resumed: ByteCount;
}

/** Bytes that the sources have, one behind the other. */
export const sizeOfSources = (sources: SourceChains): ByteCount =>
  sources.reduce((sum, [{ image }]) => sum + image.virtualSize, 0);

/** What the threads attach. */
export function seedsOf(sources: SourceChains): SourceSeed[] {
  return sources.map(([top, ...parents]) => {
    const seed = ({ image, source }: Layer): LayerSeed => ({ image: image.share(), source: source.share() });
    return {
      layers: [seed(top), ...parents.map(seed)],
      size: top.image.virtualSize,
      pool: PagePool.seed(POOL_BYTES),
    };
  });
}

/** Throws ImageError where a file of the sources was changed since it was opened. */
export function refuseChanged(sources: SourceChains): void {
  for (const layer of sources.flat().filter(({ device }) => !device)) {
    const before = stateOf(layer.source.found!.stat, layer.source.size);
    const [moved] = differences(layer.path, before, stateOfLayer(layer), CONTENT_FIELDS);
    if (moved === undefined) continue;
    throw new ImageError('changed', `it changed while it was converted: ${describeDifference(moved)}`);
  }
}

/**
 * Makes the new image. Throws ImageError; then nothing of it is left, but with `resume` what can be gone on with, as the
 * error's hint says.
 */
export async function convert(request: ConvertRequest): Promise<Converted> {
  const { sources, target, resume } = request;
  refuseSource(request);
  const size = sizeWanted(request);
  const record = resume ? new ResumeRecord(target.path, madeOf(request, size)) : undefined;
  const conversion = new Conversion(request, size, record);
  try {
    const made = await createImage({
      ...target,
      parent: undefined,
      virtualSize: size,
      content: {
        partial: record && { path: record.partial, keeps: () => conversion.isKept },
        flush: request.flush,
        goesOn: (fd) => conversion.goesOn(fd),
        fill: (fd) => conversion.fill(fd),
        judge: (image, source) => {
          refuseChanged(sources);
          return conversion.judge({ image: image.share(), source: source.share() });
        },
      },
    });
    record?.remove();
    return { ...made, written: conversion.written, resumed: conversion.resumed };
  } catch (problem) {
    throw conversion.explain(ImageError.from(problem, 'bug'));
  }
}

/** A source that is replaced by what is made of it would be gone where that is damaged in a way nobody has seen yet. */
function refuseSource({ sources, target: { path } }: ConvertRequest): void {
  const there = statSync(path, { throwIfNoEntry: false });
  if (there === undefined) return;
  for (const { source } of sources.flat()) {
    if (keyOf(fstatSync(source.share().fd)) !== keyOf(there)) continue;
    throw new ImageError('usage', `${shownPath(path)}: is what is to be converted, and is not replaced`, {
      hint: 'Give the new image another name.',
    });
  }
}

function sizeWanted({ sources, target: { driver, context } }: ConvertRequest): ByteCount {
  const size = sizeOfSources(sources);
  const { sizeUnit } = driver.create;
  const rest = size % sizeUnit;
  if (rest === 0) return size;
  const { path } = sources[0]![0];
  const more = sizeUnit - rest;
  context.report(
    `${path}: its ${size} bytes are no multiple of ${sizeUnit}: ${more} zeros are added behind, as ${driver.id.toUpperCase()} needs it`,
  );
  return size + more;
}

/** What a partial output must have been made of, and how. */
function madeOf({ sources, target }: ConvertRequest, size: ByteCount): unknown {
  const fileOf = (layer: Layer) => {
    const { device, inode, size: bytes, modified } = stateOfLayer(layer);
    return { path: layer.path, device, inode, size: bytes, modified, format: layer.image.format };
  };
  return {
    sources: sources.map((layers) => layers.map(fileOf)),
    format: target.driver.id,
    options: target.options,
    readAs: target.context.formatOptions,
    size,
  };
}

class Conversion {
  written: ByteCount = 0;
  resumed: ByteCount = 0;
  readonly #request: ConvertRequest;
  readonly #size: ByteCount;
  readonly #record: ResumeRecord | undefined;
  readonly #seeds: SourceSeed[];
  #kept = false;

  constructor(request: ConvertRequest, size: ByteCount, record: ResumeRecord | undefined) {
    this.#request = request;
    this.#size = size;
    this.#record = record;
    this.#seeds = seedsOf(request.sources);
  }

  /** Whether what was made can be gone on with. */
  get isKept(): boolean {
    return this.#kept;
  }

  goesOn(fd: number): boolean {
    const record = this.#record;
    const found = record?.find(fd);
    if (record === undefined || found === undefined) return false;
    if ('useless' in found) {
      const { report } = this.#request.target.context;
      report(`${shownPath(record.partial)}: is begun anew: ${found.useless}`);
      // Before the bytes it tells of are gone.
      record.remove();
      return false;
    }
    this.resumed = Math.min(found.upTo, this.#size);
    this.#kept = true;
    return true;
  }

  async fill(fd: number): Promise<void> {
    const { crew, threads, flush, target, progress } = this.#request;
    const record = this.#record;
    const seed = this.#openTarget(fd, threads);
    const task = {
      kind: 'copy',
      sources: this.#seeds,
      target: seed,
      writeback: flush,
      stableSeconds: record === undefined ? 0 : STABLE_SECONDS,
    } as const;
    const options = {
      signal: target.signal,
      progress: progress('converting'),
      stable: (upTo: number) => this.#note(fd, upTo),
    };
    record?.write(fd, this.resumed);
    this.#kept = record !== undefined;
    const work = await crew.run(task, this.#size, this.resumed, options, (done) => {
      this.#end(seed, fd, done);
    });
    if (!work.isDone) throw this.#interrupted();
    if (flush) await promisify(fdatasync)(fd);
  }

  #openTarget(fd: number, threads: number): TargetSeed {
    const { driver, context } = this.#request.target;
    const source = sourceOf(fd, this.#request.target.path, true);
    const tables = new TableAllocator();
    const image = driver.open(source, { tables, report: context.report, options: new Map() });
    const edit = image.prepareEdit({ tables, report: context.report, options: new Map() });
    return {
      layer: { image: { ...image.share(), edit }, source: source.share() },
      size: this.#size,
      pool: PagePool.seed(POOL_BYTES),
      // The last one is the main thread.
      gate: IoGate.seed(threads + 1),
      flushes: this.#record !== undefined,
    };
  }

  /** No thread works any more: leaves the image whole, and says how much of it is. */
  #end(seed: TargetSeed, fd: number, work: Work): void {
    const { target, threads } = this.#request;
    this.written = work.allMoved;
    if (this.#record === undefined && !work.isDone) return;
    const disk = attachForWriting(seed, threads, target.context.report);
    const status = disk.close();
    if (status < 0) throw new ImageError('io', `its tables cannot be written (errno ${-status})`);
    this.#note(fd, work.doneUpTo);
  }

  #note(fd: number, upTo: number): void {
    try {
      this.#record?.write(fd, upTo);
    } catch {
      // No space, say: what the last one says holds still.
    }
  }

  async judge(copy: LayerSeed): Promise<void> {
    const { verify, crew, target, progress } = this.#request;
    if (!verify) return;
    // What is compared is to come from the medium, where it is there.
    forgetCached(copy.source.fd);
    const seed = { layers: [copy], size: this.#size, pool: PagePool.seed(POOL_BYTES) } as const;
    const task = { kind: 'verify', sources: this.#seeds, copy: seed } as const;
    const options = { signal: target.signal, progress: progress('verifying') };
    try {
      const work = await crew.run(task, this.#size, 0, options);
      if (!work.isDone) throw this.#interrupted();
    } catch (problem) {
      if (!(problem instanceof ImageError && problem.kind === 'interrupted')) this.#drop();
      throw problem;
    }
  }

  /** What was made is not what it is to be: nobody goes on with it. */
  #drop(): void {
    this.#kept = false;
    this.#record?.removeAll();
  }

  #interrupted(): ImageError {
    const { path, signal } = this.#request.target;
    return new ImageError('interrupted', `${shownPath(path)}: was not made: ${signal.reason}`);
  }

  /** With the name of what was to be made, and what is left of it. */
  explain({ kind, message, hint, cause, wanted }: ImageError): ImageError {
    const { sources, target } = this.#request;
    if (kind === 'changed') this.#drop();
    const named = message.startsWith('/')
      ? message
      : `${sources[0]![0].path} to ${shownPath(target.path)}: ${message}`;
    const left = this.#kept
      ? `${shownPath(this.#record!.partial)} is kept: the same command goes on with it.`
      : hint;
    return new ImageError(kind, named, { hint: left, cause, wanted });
  }
}

/** A line for people. */
export function describeConverted({ image, path, resumed, written }: Converted): string {
  const from = resumed === 0 ? '' : `, gone on with at ${formatSize(resumed)}`;
  const kind = `${image.format} (${image.variant})`;
  return `${shownPath(path)}: ${kind}, ${formatSize(image.virtualSize)}, of it ${formatSize(written)} written${from}`;
}
