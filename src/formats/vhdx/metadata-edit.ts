/** Changing items of the metadata region: in a patch, so that all of it happens at once ([MS-VHDX] 2.6). */

import { unsupported } from '../../base/errors.ts';
import { equalBytes } from '../../base/guid.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { Patch } from './patch.ts';
import { guidOf } from './read.ts';
import type { Region } from './regions.ts';
import {
  FILE_PARAMETERS,
  fileParameters,
  HAS_PARENT,
  LEAVE_BLOCK_ALLOCATED,
  MAX_TABLE_ENTRIES,
  METADATA_IS_REQUIRED,
  METADATA_IS_USER,
  metadataEntry,
  metadataTableHeader,
  PARENT_LOCATOR,
  TABLE_BYTES,
  VIRTUAL_DISK_SIZE,
} from './structs.ts';

interface Place {
  readonly index: number;
  /** From the start of the region. */
  readonly offset: number;
  readonly length: number;
}

/** The items of a region that was checked as it was opened. */
export class MetadataEdit {
  readonly #region: Region;
  readonly #patch: Patch;

  constructor(region: Region, patch: Patch) {
    this.#region = region;
    this.#patch = patch;
  }

  setVirtualSize(size: ByteCount): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(size), true);
    this.#putItem(VIRTUAL_DISK_SIZE, bytes);
  }

  setHasParent(hasParent: boolean): void {
    const { offset } = this.#find(FILE_PARAMETERS)!;
    const bytes = this.#patch.get(this.#region.at + offset, fileParameters.size);
    const { blockSize, flags } = fileParameters.decode(bytes);
    // With a parent the other flag has no meaning, so it says nothing of what is to come either.
    const kept = flags & ~(HAS_PARENT | LEAVE_BLOCK_ALLOCATED);
    fileParameters.encode({ blockSize, flags: (hasParent ? kept | HAS_PARENT : kept) >>> 0 }, bytes);
    this.#putItem(FILE_PARAMETERS, bytes);
  }

  /** The bytes of the parent locator; undefined where there is none. */
  locator(): Uint8Array | undefined {
    const place = this.#find(PARENT_LOCATOR);
    return place && this.#patch.get(this.#region.at + place.offset, place.length);
  }

  /** Puts the locator where there is room, or, with undefined, takes it away. Throws ImageError('unsupported'). */
  setLocator(bytes: Uint8Array | undefined): void {
    const now = this.#find(PARENT_LOCATOR);
    const places = this.#places();
    if (bytes === undefined) {
      if (now !== undefined) this.#remove(now, places.length);
      return;
    }
    const index = now?.index ?? places.length;
    if (index >= MAX_TABLE_ENTRIES) throw unsupported(`${this.#name}: has no room for another item`);
    const others = places.filter(({ index: other }) => other !== now?.index);
    const offset = this.#freeOffset(others, bytes.length);
    const entry = new Uint8Array(metadataEntry.size);
    const itemId = guidOf(PARENT_LOCATOR);
    const { length } = bytes;
    metadataEntry.encode({ itemId, offset, length, flags: METADATA_IS_REQUIRED, reserved: 0 }, entry);
    this.#patch.put(this.#region.at + offset, bytes);
    this.#patch.put(this.#entryAt(index), entry);
    if (now === undefined) this.#setCount(places.length + 1);
  }

  get #name(): string {
    return `VHDX metadata table at ${hex(this.#region.at)}`;
  }

  #entryAt(index: number): number {
    return this.#region.at + metadataTableHeader.size + index * metadataEntry.size;
  }

  #places(): (Place & { readonly id: Uint8Array; readonly isUser: boolean })[] {
    const table = this.#patch.get(this.#region.at, TABLE_BYTES);
    const { entryCount } = metadataTableHeader.decode(table);
    return Array.from({ length: entryCount }, (_, index) => {
      const at = metadataTableHeader.size + index * metadataEntry.size;
      const { itemId: id, offset, length, flags } = metadataEntry.decode(table, at);
      return { index, id, isUser: (flags & METADATA_IS_USER) !== 0, offset, length };
    });
  }

  #find(guid: string): Place | undefined {
    const wanted = guidOf(guid);
    return this.#places().find(({ id, isUser }) => !isUser && equalBytes(id, wanted));
  }

  #putItem(guid: string, bytes: Uint8Array): void {
    this.#patch.put(this.#region.at + this.#find(guid)!.offset, bytes);
  }

  #setCount(count: number): void {
    const bytes = new Uint8Array(2);
    new DataView(bytes.buffer).setUint16(0, count, true);
    this.#patch.put(this.#region.at + metadataTableHeader.at.entryCount, bytes);
  }

  /** The entries behind it move up. */
  #remove({ index }: Place, count: number): void {
    const rest = this.#patch.get(this.#entryAt(index + 1), (count - index - 1) * metadataEntry.size);
    this.#patch.put(this.#entryAt(index), rest);
    this.#patch.put(this.#entryAt(count - 1), new Uint8Array(metadataEntry.size));
    this.#setCount(count - 1);
  }

  /** The first gap between items; what was there has no meaning. */
  #freeOffset(places: readonly Place[], length: number): number {
    let offset = TABLE_BYTES;
    for (const place of places.filter((item) => item.length > 0).sort((a, b) => a.offset - b.offset)) {
      if (offset + length <= place.offset) break;
      offset = Math.max(offset, place.offset + place.length);
    }
    if (offset + length <= this.#region.length) return offset;
    throw unsupported(`${this.#name}: the region has no room for a parent locator of ${length} bytes`);
  }
}
