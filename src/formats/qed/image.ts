/** An opened QED image, in the main thread. */

import { ImageError } from '../../base/errors.ts';
import { type ByteCount, type GuestOffset, guestOffset } from '../../base/units.ts';
import type { Image, OpenContext, SharedImage } from '../../image/driver.ts';
import type { IdentityMark, ParentLink } from '../../image/parent.ts';
import { PAGE_WORDS } from '../../shared/page-pool.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Geometry } from './geometry.ts';
import { checkHeader, factsOf, readHeader, reportOddities } from './open.ts';
import { parentOf, readBacking } from './parent.ts';
import { prepareEdit, type QedEdit } from './prepare.ts';
import type { QedHeader } from './structs.ts';
import { ABSENT, LOOK, TableReader, ZEROED } from './tables.ts';
import type { QedState } from './translator.ts';

/** Entries per call of `countAllocated`. */
const COUNT_SLICE = 64 * PAGE_WORDS;

export class QedImage implements Image {
  readonly format = 'qed';
  readonly variant = 'dynamic';
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 512;
  readonly virtualSize: ByteCount;
  readonly blockSize: ByteCount;
  readonly facts: ReadonlyMap<string, string>;
  readonly identity: readonly IdentityMark[] = [];
  readonly parent: ParentLink | undefined;
  readonly #header: QedHeader;
  readonly #geometry: Geometry;
  readonly #state: QedState;
  readonly #source: BlockSource;

  /** Throws ImageError, see open.ts. */
  constructor(source: BlockSource, context: OpenContext) {
    const header = readHeader(source);
    const geometry = checkHeader(header, source);
    reportOddities(header, source, context.report);
    this.virtualSize = geometry.virtualSize;
    this.blockSize = geometry.clusterSize;
    const backing = readBacking(header, geometry.headerBytes, source);
    this.facts = factsOf(header, backing);
    this.parent = backing === undefined ? undefined : parentOf(backing);
    this.#header = header;
    this.#geometry = geometry;
    this.#source = source;
    this.#state = {
      geometry,
      l1: context.tables.allocate(geometry.l1Entries),
      clusters: context.tables.allocate(geometry.clusters),
    };
  }

  /**
   * Goes over the L1 entries, so that ranges without an L2 table cost one entry each. A damaged L2 entry
   * counts as a cluster: this image decides about it, if badly.
   */
  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    const { clusterSize, tableEntries, clusters, l1Entries, virtualSize } = this.#geometry;
    const reader = new TableReader(this.#source, this.#geometry);
    const l1 = new Uint32Array(PAGE_WORDS);
    const words = new Uint32Array(PAGE_WORDS);
    let l1First = -1;
    let cluster = Math.floor(from / clusterSize);
    for (let looked = 0; cluster < clusters; ) {
      if (looked >= COUNT_SLICE) return guestOffset(cluster * clusterSize);
      const index = Math.floor(cluster / tableEntries);
      const entry = cluster - index * tableEntries;
      const first = index - (index % PAGE_WORDS);
      if (first !== l1First) {
        mustRead(reader.readL1(first, Math.min(PAGE_WORDS, l1Entries - first), l1, 0), `L1 entry ${first}`);
        l1First = first;
      }
      const table = l1[index - first]!;
      if (table === ABSENT || table === LOOK) {
        cluster = (index + 1) * tableEntries;
        looked += 1;
        continue;
      }
      const take = Math.min(PAGE_WORDS, tableEntries - entry, clusters - cluster);
      mustRead(reader.readL2(table, entry, take, words, 0), `L2 table ${index}, entry ${entry}`);
      let found = 0;
      for (let n = 0; n < take; n += 1) {
        if (words[n] !== ABSENT && words[n] !== ZEROED) found += clusterSize;
      }
      const last = words[take - 1];
      const excess = (cluster + take) * clusterSize - virtualSize;
      if (excess > 0 && last !== ABSENT && last !== ZEROED) found -= excess;
      if (found > 0) add(found);
      cluster += take;
      looked += take;
    }
    return undefined;
  }

  prepareEdit({ report }: OpenContext): QedEdit {
    return prepareEdit(this.#header, this.#geometry, this.#source, report);
  }

  share(): SharedImage {
    return { format: 'qed', virtualSize: this.virtualSize, state: this.#state };
  }
}

function mustRead(status: number, what: string): void {
  if (status < 0) throw new ImageError('io', `QED ${what}: cannot be read (errno ${-status})`);
}
