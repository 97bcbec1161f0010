/** vdisk-image-formats(5): what the formats declare of themselves and of their structures. */

import * as qed from '../../formats/qed/structs.ts';
import { DRIVERS } from '../../formats/registry.ts';
import * as vdi from '../../formats/vdi/structs.ts';
import * as vhd from '../../formats/vhd/structs.ts';
import * as vhdx from '../../formats/vhdx/structs.ts';
import type { FormatDriver, FormatId } from '../../image/driver.ts';
import type { FieldInfo, Struct } from '../../layout/struct.ts';
import { sentence } from './parts.ts';
import {
  type About,
  bold,
  escaped,
  heading,
  marked,
  paragraph,
  section,
  seeAlso,
  subsection,
  tagged,
} from './roff.ts';

/** Where each format declares its structures; a new format is asked for by the compiler. */
const DECLARATIONS: Readonly<Record<FormatId, object>> = { vhd, vhdx, vdi, qed, raw: {} };

const ABOUT: Readonly<Record<FormatId, readonly string[]>> = {
  vhd: [
    'A footer of 512 bytes at the end says what the image is; files of products before 2004 are one byte shorter. A `fixed` ' +
      'image is the disk with that footer behind it. A `dynamic` or `differencing` one has a copy of the footer at the ' +
      'start, a dynamic header, and a block allocation table: for each block of the disk the 512-byte sector of the file where ' +
      'it begins, or 0xFFFFFFFF where there is none. A block begins with a bitmap, one bit for each of its sectors, the ' +
      'highest bit of a byte first; a clear bit shows the parent, or zeros.',
    'The size of the disk is the current size. Images whose creator is "vpc " or "qemu" have the size that their geometry ' +
      'says, unless it is the largest geometry or more than the current size.',
  ],
  vhdx: [
    'Two headers, of which the valid one with the larger sequence number counts, and two copies of a region table that says ' +
      'where metadata and block allocation table (BAT) are. A BAT entry has 64 bits: bits 0 to 2 are the state, bits 20 to 63 ' +
      'the host offset in MiB. Blocks in state 0 show the parent, those in states 1, 2 and 3 are zeros, those in state 6 are in ' +
      'the file, and in state 7 a sector bitmap tells which sectors are there and which are in the parent.',
    'Metadata is changed through a log. An image whose log is not empty was not closed: it reads as it does after the ' +
      'replay, and the file is changed by the first write only.',
  ],
  vdi: [
    'A pre-header, a header, and a block map: for each block of the disk the number of the physical block that holds it, ' +
      '0xFFFFFFFF where the parent shows (zeros without one), or 0xFFFFFFFE for zeros. There is no checksum and no log. ' +
      'A child names its parent by UUIDs only, never by a path.',
  ],
  qed: [
    'A header, an L1 table, L2 tables and clusters. Tables are arrays of 64-bit host offsets: those of L1 lead to L2 tables, ' +
      'those of L2 to clusters. An L2 entry of 0 shows the backing file (zeros without one), 1 is a cluster of zeros. Of the ' +
      'backing file only the name is recorded, and whether it is raw.',
  ],
  raw: ['The file or the block device is the disk. It has no structure, and is never recognized by content.'],
};

const isStruct = (value: unknown): value is Struct<object> =>
  typeof value === 'object' && value !== null && 'fields' in value && 'decode' in value;

/** The structures that a format declares, by their names: a module has its exports in no order of their own. */
const structuresOf = (id: FormatId): Struct<object>[] =>
  Object.values(DECLARATIONS[id])
    .filter(isStruct)
    .sort((a, b) => (a.name < b.name ? -1 : 1));

/** "  24  u32  timestamp"; digit-wide spaces keep the columns. */
function fieldTag({ at, kind, name }: FieldInfo): string {
  const column = (text: string, width: number): string => escaped(text) + '\\ '.repeat(width - text.length);
  return `${'\\ '.repeat(4 - `${at}`.length)}${at}\\ \\ ${column(kind, 9)}${bold(name)}`;
}

function structurePart({ name, size, endian, spec, fields }: Struct<object>): string {
  return [
    paragraph(`${bold(name)}: ${escaped(`${size} bytes, ${endian}-endian. Source: ${spec}.`)}`),
    '.PD 0\n',
    tagged(
      fields.map((field) => ({ tag: fieldTag(field), text: escaped(field.doc) })),
      '34n',
    ),
    '.PD\n',
  ].join('');
}

function formatPart({ id, title, suffixes, options, check }: FormatDriver): string {
  return section(
    id.toUpperCase(),
    paragraph(
      escaped(`${title}. Usual suffixes: ${suffixes.join(', ')}. `) + marked(`In options: \`${id}\`.`),
    ),
    ...ABOUT[id].map((text) => paragraph(marked(text))),
    ...(check === undefined ? [paragraph(marked('`vdisk check` has nothing to check in it.'))] : []),
    ...(options.length === 0
      ? []
      : [
          subsection(
            `Options of ${id}`,
            tagged(
              options.map(({ name, values, doc }) => ({
                tag: `${bold(`--${name}`)} ${values.map(bold).join('|')}`,
                text: sentence(doc, values),
              })),
            ),
          ),
        ]),
    ...(structuresOf(id).length === 0
      ? []
      : [subsection(`Structures of ${id}`, ...structuresOf(id).map(structurePart))]),
  );
}

/** The page. */
export function formatsPage(about: About): string {
  const ids = DRIVERS.map(({ id }) => id.toUpperCase()).join(', ');
  return [
    heading({ ...about, name: 'vdisk-image-formats', section: 5, manual: 'Disk images' }),
    section(
      'NAME',
      `vdisk\\-image\\-formats \\- ${escaped(`the disk images that vdisk and vdisk-mount know: ${ids}`)}\n`,
    ),
    section(
      'DESCRIPTION',
      paragraph(
        escaped(
          'Each format with its options and the structures in its files. Of a structure, each field is shown with its offset ' +
            'in bytes from the start of the structure, its type and its meaning: u8 to u64 are unsigned integers, u8[N] is N ' +
            'bytes, char[N] is text of N bytes. The names of the fields are those of the program.',
        ),
      ),
      paragraph(
        escaped(
          'A disk is what the virtual machine sees; an offset in the file is a host offset. A sector is the unit of the ' +
            'device, a block (in QED a cluster) the unit in which a format maps the disk to its file.',
        ),
      ),
    ),
    ...DRIVERS.map(formatPart),
    seeAlso('vdisk(1)', 'vdisk-mount(8)'),
  ].join('');
}
