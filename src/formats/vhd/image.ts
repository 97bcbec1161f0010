/** An opened VHD: what is known of it, and what reading, writing and checking go by. */

import { type ByteCount, type GuestOffset, guestOffset } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import type { Image, SharedImage } from '../../image/driver.ts';
import type { IdentityMark, ParentLink } from '../../image/parent.ts';
import type { BlockSource } from '../../source/block-source.ts';
import type { Batmap } from './batmap.ts';
import { type FoundFooter, variantOf } from './footer.ts';
import type { PlacedHeader } from './header.ts';
import { identityOf, type ParentRecord } from './parent.ts';
import { prepareEdit, type VhdEdit } from './prepare.ts';
import { UNALLOCATED } from './structs.ts';
import { tableLoader, usedBytes } from './table.ts';
import type { DynamicState } from './translator.ts';

export type VhdState = { readonly kind: 'fixed' } | ({ readonly kind: 'dynamic' } & DynamicState);

/** What dynamic and differencing images have, as it was found at open. */
export interface DynamicParts {
  readonly placed: PlacedHeader;
  /** Undefined where the image is no differencing one. */
  readonly parent: ParentRecord | undefined;
  /** Entries of the table that are in the file: those of the disk, and what more there is. */
  readonly entries: number;
  readonly batmap: Batmap | undefined;
}

export class VhdImage implements Image {
  readonly format = 'vhd';
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 512;
  readonly variant: string;
  readonly virtualSize: ByteCount;
  readonly blockSize: ByteCount;
  readonly facts: ReadonlyMap<string, string>;
  readonly identity: readonly IdentityMark[];
  readonly parent: ParentLink | undefined;
  readonly source: BlockSource;
  readonly state: VhdState;
  readonly found: FoundFooter;
  /** Undefined where the image is fixed. */
  readonly parts: DynamicParts | undefined;

  constructor(
    source: BlockSource,
    size: ByteCount,
    state: VhdState,
    facts: ReadonlyMap<string, string>,
    found: FoundFooter,
    parts?: DynamicParts,
  ) {
    this.variant = variantOf(found.copy.footer.type);
    this.virtualSize = size;
    this.blockSize = state.kind === 'fixed' ? 0 : state.layout.blockSize;
    this.facts = facts;
    this.identity = identityOf(found.copy.footer);
    this.parent = parts?.parent?.link;
    this.source = source;
    this.state = state;
    this.found = found;
    this.parts = parts;
  }

  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    if (this.state.kind === 'fixed') {
      if (from === guestOffset(0)) add(Math.min(this.virtualSize, this.source.allocated));
      return undefined;
    }
    const { layout } = this.state;
    const load = tableLoader(this.source, layout);
    const first = Math.floor(from / layout.blockSize);
    const next = scanTable(load, layout.blockCount, first, this.source.label, (block, entry) => {
      if (entry !== UNALLOCATED) add(usedBytes(layout, block));
    });
    return next === undefined ? undefined : guestOffset(next * layout.blockSize);
  }

  prepareEdit(): VhdEdit {
    return prepareEdit(this);
  }

  share(): SharedImage {
    return { format: 'vhd', virtualSize: this.virtualSize, state: this.state };
  }
}
