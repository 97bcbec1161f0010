/** VDI: VirtualBox's disk image. One map of u32 block numbers, no checksum, no journal. See README.md. */

import { formatGuid, isZero } from '../../base/guid.ts';
import { type ByteCount, type GuestOffset, guestOffset, hex } from '../../base/units.ts';
import { scanTable } from '../../image/count.ts';
import type {
  FormatDriver,
  Image,
  OpenContext,
  ProbeSample,
  ProbeVerdict,
  SharedImage,
} from '../../image/driver.ts';
import { NO_MATCH } from '../../image/driver.ts';
import type { IdentityMark, ParentLink } from '../../image/parent.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { checkVdi } from './check.ts';
import { vdiCreator } from './create.ts';
import { VdiEditor } from './editor.ts';
import { anyHeaderSize, readHeader, type VdiHeader, variantOf } from './header.ts';
import { identityOf, parentOf } from './parent.ts';
import { prepareEdit, type VdiEdit } from './prepare.ts';
import { vdiReshaper } from './reshape.ts';
import { HEADER_AT, header0, header1, preHeader, SIGNATURE } from './structs.ts';
import { blockHost, mapLoader, type VdiState, VdiTranslator } from './translator.ts';

class VdiImage implements Image {
  readonly format = 'vdi';
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 512;
  readonly variant: string;
  readonly virtualSize: ByteCount;
  readonly blockSize: ByteCount;
  readonly facts: ReadonlyMap<string, string>;
  readonly identity: readonly IdentityMark[];
  readonly parent: ParentLink | undefined;
  readonly #state: VdiState;
  readonly #source: BlockSource;
  readonly #header: VdiHeader;

  constructor(header: VdiHeader, source: BlockSource, context: OpenContext) {
    const { virtualSize, mapOffset, dataOffset, blockSize, blockExtra, blocks } = header;
    this.variant = header.variant;
    this.virtualSize = virtualSize;
    this.blockSize = blockSize;
    this.facts = factsOf(header);
    this.identity = identityOf(header);
    this.parent = parentOf(header);
    this.#source = source;
    this.#header = header;
    const map = context.tables.allocate(Math.ceil(virtualSize / blockSize));
    this.#state = { virtualSize, mapOffset, dataOffset, blockSize, blockExtra, blocks, map };
  }

  countAllocated(from: GuestOffset, add: (bytes: ByteCount) => void): GuestOffset | undefined {
    const state = this.#state;
    const { blockSize, virtualSize } = state;
    const source = this.#source;
    const load = mapLoader(source, state.mapOffset, state.map.words, () => {});
    const first = Math.floor(from / blockSize);
    const next = scanTable(load, state.map.words, first, source.label, (block, entry) => {
      // The markers are above every block number, so this leaves them out too.
      if (entry >= state.blocks || blockHost(state, entry) >= source.size) return;
      add(Math.min(blockSize, virtualSize - block * blockSize));
    });
    return next === undefined ? undefined : guestOffset(next * blockSize);
  }

  prepareEdit(context: OpenContext): VdiEdit {
    return prepareEdit(this.#header, this.#source, context);
  }

  share(): SharedImage {
    return { format: 'vdi', virtualSize: this.virtualSize, state: this.#state };
  }
}

function factsOf(header: VdiHeader): Map<string, string> {
  const facts = new Map<string, string>();
  facts.set('creator', header.creator);
  facts.set('format-version', header.version);
  facts.set('header-size', hex(header.headerSize));
  facts.set('image-type', `${header.type} (${header.variant})`);
  facts.set('flags', hex(header.flags));
  if (header.comment !== '') facts.set('comment', header.comment);
  facts.set('uuid-create', formatGuid(header.createUuid));
  facts.set('uuid-modify', formatGuid(header.modifyUuid));
  if (!isZero(header.linkageUuid)) facts.set('parent-uuid-create', formatGuid(header.linkageUuid));
  if (!isZero(header.parentModifyUuid)) facts.set('parent-uuid-modify', formatGuid(header.parentModifyUuid));
  facts.set('recorded-size', `${header.recordedSize}`);
  facts.set('size-rule', header.recordedSize === header.virtualSize ? 'recorded' : 'rounded down to 512');
  facts.set('block-extra', `${header.blockExtra}`);
  facts.set('blocks', `${header.blocks}`);
  facts.set('blocks-allocated', `${header.blocksAllocated}`);
  facts.set('map-offset', hex(header.mapOffset));
  facts.set('data-offset', hex(header.dataOffset));
  for (const [name, geometry] of [
    ['geometry', header.geometry],
    ['logical-geometry', header.logicalGeometry],
  ] as const) {
    if (geometry === undefined || geometry.cylinders === 0) continue;
    facts.set(name, `${geometry.cylinders}/${geometry.heads}/${geometry.sectors}`);
  }
  return facts;
}

function probe(sample: ProbeSample): ProbeVerdict {
  const { head } = sample;
  if (head.length < preHeader.size) return NO_MATCH;
  const { signature, version } = preHeader.decode(head);
  if (signature !== SIGNATURE) return NO_MATCH;
  const at = HEADER_AT + (version >>> 16 === 0 ? header0.at.type : header1.at.type);
  const variant =
    head.length < at + 4
      ? undefined
      : variantOf(new DataView(head.buffer, head.byteOffset).getUint32(at, true));
  return { match: 'signature', variant: variant ?? 'unknown type' };
}

export const vdiDriver: FormatDriver = Object.freeze({
  id: 'vdi',
  title: 'VirtualBox Disk Image',
  suffixes: ['.vdi'],
  options: [
    {
      name: 'vdi-header-size',
      values: ['checked', 'any'],
      doc: 'any: ignore a header size below 0x180 (QEMU never looks at it)',
    },
  ],
  probe,
  open: (source, context) =>
    new VdiImage(readHeader(source, anyHeaderSize(context), context.report), source, context),
  attach: (shared, source, context) => new VdiTranslator(shared.state as VdiState, source, context),
  attachEditor: (shared, source, context, translator) =>
    new VdiEditor(
      shared.state as VdiState,
      shared.edit as VdiEdit,
      source,
      context,
      (translator as VdiTranslator).map,
    ),
  check: checkVdi,
  create: vdiCreator,
  reshape: vdiReshaper,
} satisfies FormatDriver);
