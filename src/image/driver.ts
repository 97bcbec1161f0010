/**
 * The seam between the formats and everything above. A driver says where; the disk layer moves the bytes.
 *
 * Opening is control plane: main thread, may throw ImageError, reads what it must and no more. Translating is
 * data plane: any worker, synchronous, allocation-free, returns -errno. Between the two stands `SharedImage`:
 * plain data and SharedArrayBuffers, from which every thread attaches a translator of its own.
 */

import type { Status } from '../base/errno.ts';
import type { ByteCount, GuestOffset } from '../base/units.ts';
import type { IoGate } from '../shared/io-gate.ts';
import type { PagePool } from '../shared/page-pool.ts';
import type { TableAllocator } from '../shared/paged-table.ts';
import type { BlockSource } from '../source/block-source.ts';
import type { CheckReport } from './check.ts';
import type { Creator } from './create.ts';
import type { Extent } from './extent.ts';
import type { IdentityMark, ParentLink } from './parent.ts';
import type { Reservation } from './reservation.ts';
import type { Reshaper } from './reshape.ts';

export type FormatId = 'raw' | 'vhd' | 'vhdx' | 'vdi' | 'qed';

/** What `probe` sees of a source: enough for every format, and for two that claim the same file. */
export interface ProbeSample {
  /** The first 1 MiB, or all of a smaller source. */
  readonly head: Uint8Array;
  /** The last 1024 bytes, or all of a smaller source. */
  readonly tail: Uint8Array;
  readonly size: ByteCount;
}

/**
 * - none: not this format.
 * - signature: the format's magic is there.
 * `variant` is for messages ("dynamic").
 */
export type ProbeVerdict =
  | { readonly match: 'none' }
  | { readonly match: 'signature'; readonly variant: string };

export const NO_MATCH: ProbeVerdict = { match: 'none' };

/** A finding that does not keep the image from being read. */
export type Report = (notice: string) => void;

export interface OpenContext {
  readonly tables: TableAllocator;
  readonly report: Report;
  /** Format options given by the user (`-o vhd-size=chs`), names as in `FormatDriver.options`. */
  readonly options: ReadonlyMap<string, string>;
  /**
   * Sixteen bytes: what a first write makes the identity by which children know the image (VHDX DataWriteGuid, VDI
   * modify UUID), instead of a random one. Of formats whose writes leave it alone, nothing.
   */
  readonly nextIdentity?: Uint8Array;
  /**
   * For `Reshaper.resize` of a child: bytes of its parent's disk. What is added reads as zeros, so as far as the parent
   * reaches it must be hidden. Undefined: it is not known, and may reach anywhere.
   */
  readonly parentSize?: ByteCount;
}

/** What is known of an opened image; the source of `vdisk info`, the attributes and the log line. */
export interface Image {
  readonly format: FormatId;
  /** The kind within the format: 'fixed', 'dynamic', … */
  readonly variant: string;
  /** Bytes of the disk. */
  readonly virtualSize: ByteCount;
  /** 512 or 4096. */
  readonly logicalSectorSize: number;
  readonly physicalSectorSize: number;
  /** The mapping unit in bytes; 0 where the format has none. */
  readonly blockSize: ByteCount;
  /** By what its children know this image; empty where the format records nothing (QED, raw). */
  readonly identity: readonly IdentityMark[];
  /**
   * What it says of its parent; undefined where it stands alone. Where it is there, holes of the disk read as the
   * parent does, and as zeros behind the parent's end.
   */
  readonly parent: ParentLink | undefined;
  /** Format facts in words, in the order they should be shown: name in kebab-case → value. */
  readonly facts: ReadonlyMap<string, string>;
  /**
   * Adds up what this image allocates, for st_blocks: calls `add` with the allocated bytes met from guest
   * offset `from` on, does a bounded piece of work (about 64 Ki table entries, read into private memory: this
   * runs in the main thread), and returns where to go on, or undefined when the end is reached. Throws
   * ImageError where the table cannot be read.
   */
  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined;
  /** Structured-cloneable; given to `attach` in each worker. */
  share(): SharedImage;
  /**
   * For a mount that may write: looks whether the image can be written (its source is writable, its tables are
   * sound, no block is used twice) and finds free space in it. Reads only: the image is changed by the first
   * write. Returns plain data and shared memory for `SharedImage.edit`. Throws ImageError where the image must
   * not be written, with why; it can then still be read.
   */
  prepareEdit(context: OpenContext): unknown;
}

export interface SharedImage {
  readonly format: FormatId;
  readonly virtualSize: ByteCount;
  /** The format's own plain data. Only the format's `attach` looks inside. */
  readonly state: unknown;
  /** What `Image.prepareEdit` returned; undefined where the image is only read. */
  readonly edit?: unknown;
}

/** One per thread and image. */
export interface Translator {
  /**
   * Says where the disk's bytes from `at` on are. `at` is below the virtual size and `length` at least 1, both
   * checked by the caller; `out.length` is at least 1, may be less or more than `length`, and never reaches
   * beyond what is known to have the same answer. A DATA extent lies inside the source as far as the format
   * can tell. Returns 0, or -EIO where the table is damaged at this place (said once through `report`).
   */
  locate(at: GuestOffset, length: ByteCount, out: Extent): Status;
}

/** Since the mount was made, but for what is told of now. */
export interface EditCounters {
  /** Flushes asked for. */
  readonly flushes: number;
  /** Those of them that another's commit had done already. */
  readonly shared: number;
  readonly commits: number;
  /** Now: bytes of table pages that were changed, and are not stable in the image yet. */
  readonly dirtyBytes: number;
}

/**
 * Changes to an image, one per thread and image. Data plane: nothing throws. All of it goes through the image's
 * group commit (group-commit.ts); nothing but `flush` and `close` makes anything stable.
 */
export interface Editor {
  /**
   * The unit in which space is given back; 0 where the format cannot unmap (raw, fixed, differencing VHD): then the
   * disk layer punches holes, and forks what the parent shows.
   */
  readonly unit: ByteCount;
  /** Before any change of bytes or tables. Cheap after the first time. Returns 0 or -errno. */
  begin(): Status;
  /**
   * Makes `at` and as much as it can of `length` bytes from there DATA, as `locate` says afterwards, reading as
   * before (zeros). Takes blocks that were freed before the file grows. -ENOSPC where the host or the format
   * has no room. In an image with a parent it is asked for ZERO only, and leaves alone what is HOLE.
   */
  allocate(at: GuestOffset, length: ByteCount): Status;
  /**
   * With a parent, what is HOLE is not allocated but forked: its place is reserved, filled, and only then named, so
   * that nobody ever sees anything between the parent's bytes and the new ones. The caller holds the lock of
   * the block from before it looked (`locate` said HOLE) until after `publish` or `cancel`. To take it may end the
   * caller's operation in the eyes of the gate and begin another: what was looked up before does not count any more.
   */
  lockBlock(at: GuestOffset): void;
  unlockBlock(at: GuestOffset): void;
  /** Bytes of what one lock of a block covers: a reservation lies in one block. */
  readonly blockSize: ByteCount;
  /**
   * Finds a place for `at` and as much as it can of the `length` bytes from there, which are HOLE and in one block.
   * The reservation is widened at both ends to what the format can name (a sector, a block), but never
   * beyond the disk's end. Nothing of it is named yet. -ESTALE: it is not HOLE any more.
   */
  reserve(at: GuestOffset, length: ByteCount, out: Reservation): Status;
  /**
   * All bytes of the place are written: from now on `locate` says DATA. Whatever it returns, the place is no longer
   * the caller's. -ESTALE: somebody discarded these bytes of the disk meanwhile.
   */
  publish(reservation: Reservation): Status;
  /** The place was not filled: it stays unnamed. */
  cancel(reservation: Reservation): void;
  /**
   * Unmaps whole units: they read as zeros, whatever a parent holds, what is HOLE included. `at` is a multiple of `unit`; `length` is
   * too, or reaches the end of the disk. Their host space is punched, and given out again after the next commit.
   * A block that the format must keep mapped is zeroed in place.
   */
  discard(at: GuestOffset, length: ByteCount): Status;
  /** Payload was written: `flush` has something to do. */
  changed(): void;
  /** Makes all stable that was acknowledged before the call. Returns 0 or -errno. */
  flush(): Status;
  /** Whether metadata waits in memory for a flush: a timer sees to it. */
  readonly isDirty: boolean;
  counters(): EditCounters;
  /** Whether `begin` has changed the image. */
  readonly isWritten: boolean;
  /** At the end of a mount, by one thread when no other works: flushes and leaves the image clean. */
  close(): Status;
}

export interface AttachContext {
  readonly pool: PagePool;
  /** Damage found while serving; the caller logs each text once. Not for expected failures. */
  readonly report: Report;
}

export interface EditContext extends AttachContext {
  readonly gate: IoGate;
}

export interface FormatOption {
  readonly name: string;
  readonly values: readonly string[];
  readonly doc: string;
}

/** Frozen, without state; one per format, listed in formats/registry.ts. */
export interface FormatDriver {
  readonly id: FormatId;
  /** "Virtual Hard Disk (Virtual PC, Hyper-V, Azure)" */
  readonly title: string;
  /** With the dot. A hint in messages, never used to decide. */
  readonly suffixes: readonly string[];
  readonly options: readonly FormatOption[];
  /** Pure: bytes in, verdict out. Never throws. */
  probe(sample: ProbeSample): ProbeVerdict;
  /** Throws ImageError. Reads only through `source`; allocates nothing in proportion to unchecked values. */
  open(source: BlockSource, context: OpenContext): Image;
  /** No I/O. `shared` comes from this driver's `Image.share()`. */
  attach(shared: SharedImage, source: BlockSource, context: AttachContext): Translator;
  /**
   * No I/O. Only for images whose `edit` is there. `translator` is what `attach` returned in this thread for the
   * same image: the tables are used together.
   */
  attachEditor(
    shared: SharedImage,
    source: BlockSource,
    context: EditContext,
    translator: Translator,
  ): Editor;
  /**
   * Looks the whole image through, reading only: everything that README.md of the format lists under check.
   * Undefined where the format has nothing to check (raw). Throws ImageError as `open` does where the image
   * cannot even be opened. Memory stays in proportion to the tables.
   */
  readonly check: ((source: BlockSource, context: OpenContext) => CheckReport) | undefined;
  /** How new images of the format are made. */
  readonly create: Creator;
  /** How images of the format are changed as a whole. */
  readonly reshape: Reshaper;
}
