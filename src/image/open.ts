/**
 * From a source to an image: which format it has, decided by content, and what the driver makes of it.
 */

import { ImageError } from '../base/errors.ts';
import { formatSize } from '../base/units.ts';
import { type BlockSource, readExactly } from '../source/block-source.ts';
import type { FormatDriver, FormatId, Image, OpenContext, ProbeSample } from './driver.ts';

const HEAD_BYTES = 1024 * 1024;
const TAIL_BYTES = 1024;

export interface OpenRequest {
  readonly drivers: readonly FormatDriver[];
  /** The format named by the user; undefined: probe. */
  readonly format: FormatId | undefined;
  /** Whether the source is a block device, which is raw where nothing else matches. */
  readonly device: boolean;
  /**
   * Where nothing matches, a file whose name says nothing is raw: for parents whose child does not record their
   * format. QEMU makes such chains of raw files of any name, and nobody but the child could say what they are. Names
   * of other formats and signatures of formats that are not read here are refused all the same.
   */
  readonly anyNameIsRaw?: boolean;
  readonly context: OpenContext;
}

/**
 * Formats that are not read here, by their first bytes: their containers must not pass for the bytes of a disk.
 * Sources: QEMU's block drivers (QFI, qcow v1 to 3), VMware's "Virtual Disk Format 5.0", libewf's documentation.
 */
const FOREIGN: readonly (readonly [signature: string, title: string])[] = [
  ['QFI\xfb', 'QCOW'],
  ['KDMV', 'VMDK'],
  ['COWD', 'VMDK'],
  ['# Disk DescriptorFile', 'VMDK'],
  ['WithoutFreeSpace', 'Parallels'],
  ['WithouFreSpacExt', 'Parallels'],
  ['EVF\x09\x0d\x0a\xff\x00', 'EWF'],
];

/** What the drivers' probes get to see. Throws ImageError('io') where it cannot be read. */
export function sampleOf(source: BlockSource): ProbeSample {
  const unreadable = (outcome: number) =>
    new ImageError(
      'io',
      `reading the first or last bytes failed (${outcome < 0 ? `errno ${-outcome}` : 'short read'})`,
    );
  const head = Math.min(source.size, HEAD_BYTES);
  const tail = Math.min(source.size, TAIL_BYTES);
  return {
    head: readExactly(source, 0, head, unreadable),
    tail: readExactly(source, source.size - tail, tail, unreadable),
    size: source.size,
  };
}

/**
 * The driver for `source`. Throws ImageError('unrecognized') where two formats match, or where none does and
 * the file is not one that may be taken as raw: its suffix must be one of raw's, or it must be a device. A
 * damaged image must not pass for a raw disk.
 */
export function chooseDriver(source: BlockSource, request: OpenRequest): FormatDriver {
  const { drivers } = request;
  if (source.size === 0) throw new ImageError('unrecognized', 'the file is empty');
  if (request.format !== undefined) {
    const named = drivers.find((driver) => driver.id === request.format);
    if (named === undefined) throw new ImageError('usage', `there is no format "${request.format}"`);
    return named;
  }
  const sample = sampleOf(source);
  const matches = drivers.flatMap((driver) => {
    const verdict = driver.probe(sample);
    return verdict.match === 'none' ? [] : [{ driver, variant: verdict.variant }];
  });
  if (matches.length === 1) return matches[0]!.driver;
  if (matches.length > 1) {
    const names = matches.map(({ driver, variant }) => `${driver.id} (${variant})`).join(' and ');
    throw new ImageError('unrecognized', `two formats match: ${names}`, {
      hint: `Say which one it is: --format=${matches[0]!.driver.id}.`,
    });
  }
  return rawOrRefuse(source, sample, request);
}

function rawOrRefuse(source: BlockSource, { head }: ProbeSample, request: OpenRequest): FormatDriver {
  const suffix = /\.[^./]+$/.exec(source.label)?.[0].toLowerCase() ?? '';
  const claimed = request.drivers.find((driver) => driver.suffixes.includes(suffix));
  const raw = request.drivers.find((driver) => driver.id === 'raw');
  const start = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 32)).toString('latin1');
  const foreign = FOREIGN.find(([signature]) => start.startsWith(signature))?.[1];
  if (foreign !== undefined) {
    throw new ImageError('unrecognized', `its signature says ${foreign}, a format that is not read`, {
      hint: 'If these are the bytes of the disk itself, say --format=raw.',
    });
  }
  const nameless = claimed === undefined && request.anyNameIsRaw === true;
  if (raw !== undefined && (request.device || claimed === raw || nameless)) return raw;
  const names = request.drivers.filter((driver) => driver !== raw).map((driver) => driver.id.toUpperCase());
  const text =
    claimed === undefined
      ? `no known format: neither ${names.join(' nor ')}`
      : `no known format: the name says ${claimed.id.toUpperCase()}, but its signature is not there (${formatSize(source.size)})`;
  throw new ImageError('unrecognized', text, {
    hint: 'If these are the bytes of the disk itself, say --format=raw; else the file is damaged or of another format.',
  });
}

/** Opens `source`. Every ImageError that leaves here begins with the source's name. */
export function openImage(source: BlockSource, request: OpenRequest): Image {
  try {
    const image = chooseDriver(source, request).open(source, request.context);
    if (image.virtualSize === 0) throw new ImageError('unsupported', 'the disk has a size of 0 bytes');
    return image;
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    const hint = error.hint === undefined ? {} : { hint: error.hint };
    throw new ImageError(error.kind, `${source.label}: ${error.message}`, { ...hint, cause: problem });
  }
}
