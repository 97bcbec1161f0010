/** Finding the footer: at the end, one byte short at the end, or the copy at the start. */

import { corrupt, ImageError, unsupported } from '../../base/errors.ts';
import { quoted } from '../../base/text.ts';
import { type ByteCount, hex } from '../../base/units.ts';
import type { ProbeSample, ProbeVerdict, Report } from '../../image/driver.ts';
import { NO_MATCH } from '../../image/driver.ts';
import { safeNumber } from '../../layout/struct.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';
import { LARGEST } from './geometry.ts';
import {
  CREATOR_TAPDISK,
  FOOTER_COOKIE,
  type Footer,
  footerStruct,
  HEADER_COOKIE,
  headerStruct,
  POISON_COOKIE,
  SECTOR,
  SHORT_FOOTER,
  TYPE_DIFFERENCING,
  TYPE_DYNAMIC,
  TYPE_FIXED,
  VHD_EPOCH,
} from './structs.ts';

/**
 * The checksum of footer and dynamic header: the complement of the sum of all bytes but those of the checksum
 * itself (VHD 1.0, "Checksum"). `without` is one more byte to leave out, if any.
 */
export function checksumOf(structure: Uint8Array, checksumAt: number, without = -1): number {
  let sum = 0;
  for (let at = 0; at < structure.length; at += 1) {
    if ((at < checksumAt || at >= checksumAt + 4) && at !== without) sum += structure[at]!;
  }
  return ~sum >>> 0;
}

/** Gives a footer a time of writing, in seconds since the epoch of Unix, and the checksum that goes with it. */
export function stampFooter(bytes: Uint8Array, seconds: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR);
  view.setUint32(footerStruct.at.timestamp, (seconds - VHD_EPOCH) >>> 0);
  view.setUint32(footerStruct.at.checksum, checksumOf(bytes, footerStruct.at.checksum));
}

/**
 * A footer for a disk of `size` bytes: with the largest geometry, by which every reader goes by that size, as create
 * has it.
 */
export function setSize(view: DataView, size: ByteCount): void {
  const { at } = footerStruct;
  view.setBigUint64(at.currentSize, BigInt(size));
  view.setUint16(at.cylinders, LARGEST.cylinders);
  view.setUint8(at.heads, LARGEST.heads);
  view.setUint8(at.sectors, LARGEST.sectors);
}

/** The same, of a copy that gets the present time. */
export function withSize(footer: Uint8Array, size: ByteCount): Uint8Array {
  const bytes = footer.slice();
  setSize(new DataView(bytes.buffer), size);
  stampFooter(bytes, Math.floor(Date.now() / 1000));
  return bytes;
}

type Place = 'tail' | 'short-tail' | 'head';

export interface FooterCopy {
  readonly place: Place;
  /** Host offset. */
  readonly at: number;
  readonly bytes: Uint8Array;
  readonly footer: Footer;
  /** - absent: another cookie. - poisoned: disabled by tapdisk. - damaged: the checksum is wrong. */
  readonly state: 'good' | 'damaged' | 'poisoned' | 'absent';
  readonly computed: number;
}

function examine(place: Place, at: number, raw: Uint8Array): FooterCopy {
  const bytes = new Uint8Array(SECTOR);
  bytes.set(raw);
  const footer = footerStruct.decode(bytes);
  const computed = checksumOf(bytes, footerStruct.at.checksum);
  const made = { place, at, bytes, footer, computed };
  if (footer.cookie === POISON_COOKIE) return { ...made, state: 'poisoned' };
  if (footer.cookie !== FOOTER_COOKIE) return { ...made, state: 'absent' };
  if (computed === footer.checksum) return { ...made, state: 'good' };
  // tapdisk 0.1 and 1.1 hid an image without mending the checksum (libvhd).
  const unhidden = checksumOf(bytes, footerStruct.at.checksum, footerStruct.at.hidden);
  const hidden = footer.creator === CREATOR_TAPDISK && unhidden === footer.checksum;
  return { ...made, state: hidden ? 'good' : 'damaged' };
}

/** A file that ends 511 bytes after a sector boundary may end with a footer that is one byte short. */
const endsShort = (size: number): boolean => size % SECTOR === SHORT_FOOTER;

const VARIANTS: Readonly<Record<number, string>> = {
  [TYPE_FIXED]: 'fixed',
  [TYPE_DYNAMIC]: 'dynamic',
  [TYPE_DIFFERENCING]: 'differencing',
};

export function variantOf(type: number): string {
  return VARIANTS[type] ?? `type ${type}`;
}

/**
 * A VHD is known by a footer with its cookie and a good checksum; the copy at the start counts only for the
 * types that have one, because the first sector of a fixed image is the guest's. A poisoned image is claimed
 * too, so that opening can say so.
 */
export function probeFooter(sample: ProbeSample): ProbeVerdict {
  const { head, tail, size } = sample;
  const copies: FooterCopy[] = [];
  if (tail.length >= SECTOR) copies.push(examine('tail', size - SECTOR, tail.subarray(-SECTOR)));
  if (endsShort(size)) {
    copies.push(examine('short-tail', size - SHORT_FOOTER, tail.subarray(-SHORT_FOOTER)));
  }
  if (head.length >= SECTOR) copies.push(examine('head', 0, head.subarray(0, SECTOR)));
  for (const copy of copies) {
    if (copy.state === 'poisoned' && copy.computed === copy.footer.checksum) {
      return { match: 'signature', variant: 'poisoned' };
    }
    if (copy.state !== 'good' || (copy.place === 'head' && copy.footer.type === TYPE_FIXED)) continue;
    return { match: 'signature', variant: variantOf(copy.footer.type) };
  }
  return NO_MATCH;
}

function readFooter(source: BlockSource, place: Place, at: number, length: number): FooterCopy {
  const raw = readExactly(source, at, length, (outcome) => {
    const found = outcome < 0 ? `errno ${-outcome}` : `${outcome} bytes`;
    return new ImageError('io', `VHD footer at ${hex(at)}: expected to read ${length} bytes, found ${found}`);
  });
  return examine(place, at, raw);
}

/** The structure at its place, for messages: the footer proper, or its copy at the start. */
const nameOf = (copy: FooterCopy): string =>
  `VHD footer${copy.place === 'head' ? ' copy' : ''} at ${hex(copy.at)}`;

function wrongWith(copy: FooterCopy): string {
  if (copy.state === 'damaged') {
    return `${nameOf(copy)}: checksum is ${hex(copy.footer.checksum)}, computed ${hex(copy.computed)}`;
  }
  return `${nameOf(copy)}: expected the cookie "${FOOTER_COOKIE}", found ${quoted(copy.footer.cookie)}`;
}

/** A time of the format, in seconds since its epoch, as users see it; texts compare as times do. */
export function timeText(seconds: number): string {
  return new Date((VHD_EPOCH + seconds) * 1000).toISOString();
}

/** Whether a footer leads to a dynamic header, as those of a sane dynamic or differencing image do. */
export function leadsToHeader(source: BlockSource, { footer }: FooterCopy): boolean {
  if (footer.type !== TYPE_DYNAMIC && footer.type !== TYPE_DIFFERENCING) return false;
  const at = safeNumber(footer.dataOffset);
  if (at === undefined || at + headerStruct.size > source.size) return false;
  if (safeNumber(footer.currentSize) === undefined) return false;
  const cookie = readExactly(source, at, HEADER_COOKIE.length, (outcome) => {
    return new ImageError('io', `VHD dynamic header at ${hex(at)}: cannot be read (${outcome})`);
  });
  return HEADER_COOKIE === String.fromCharCode(...cookie);
}

/** True where two copies differ in more than the hidden byte of tapdisk and the checksum over it. */
function differ(a: FooterCopy, b: FooterCopy): boolean {
  const length = a.place === 'short-tail' ? SHORT_FOOTER : SECTOR;
  const { checksum, hidden } = footerStruct.at;
  for (let at = 0; at < length; at += 1) {
    if ((at >= checksum && at < checksum + 4) || at === hidden) continue;
    if (a.bytes[at] !== b.bytes[at]) return true;
  }
  return false;
}

/** What is in the last sector and in the first one, good or not; the latter where the file has more than one. */
export function footerSectors(source: BlockSource): FooterCopy[] {
  const { size } = source;
  if (size < SECTOR) return [];
  const tail = readFooter(source, 'tail', size - SECTOR, SECTOR);
  return size < 2 * SECTOR ? [tail] : [tail, readFooter(source, 'head', 0, SECTOR)];
}

/** The footer in the sector at `at`, as one at the end of a file would be judged. */
export const footerAt = (source: BlockSource, at: number): FooterCopy =>
  readFooter(source, 'tail', at, SECTOR);

export interface FoundFooter {
  /** The one to go by. */
  readonly copy: FooterCopy;
  /** Host offset of the footer at the end, good or damaged; undefined where the end is anything else. */
  readonly tailAt: number | undefined;
  /** The last sector of the file and the first one hold the same good footer. */
  readonly paired: boolean;
}

/**
 * The footer to go by. One at the end that says "fixed" is final: then the first sector belongs to the guest.
 * Throws ImageError where there is none.
 */
export function findFooter(source: BlockSource, report: Report): FoundFooter {
  const { size } = source;
  if (size < SHORT_FOOTER) throw corrupt(`VHD: expected at least a footer of 512 bytes, found ${size} bytes`);

  let tail =
    size < SECTOR
      ? readFooter(source, 'short-tail', 0, SHORT_FOOTER)
      : readFooter(source, 'tail', size - SECTOR, SECTOR);
  if (tail.state !== 'good' && endsShort(size)) {
    const short = readFooter(source, 'short-tail', size - SHORT_FOOTER, SHORT_FOOTER);
    if (short.state !== 'absent') tail = short;
  }
  refusePoison(tail);
  const tailAt = tail.state === 'absent' ? undefined : tail.at;
  const alone = { tailAt, paired: false };
  if (tail.state === 'good' && tail.footer.type === TYPE_FIXED) return { copy: tail, ...alone };
  if (size < SECTOR) throw corrupt(wrongWith(tail));

  const head = readFooter(source, 'head', 0, SECTOR);
  refusePoison(head);
  const headUsable = head.state === 'good' && head.footer.type !== TYPE_FIXED;
  if (tail.state === 'good') {
    if (!headUsable) {
      const found =
        head.state === 'good'
          ? `${nameOf(head)}: expected disk type ${tail.footer.type}, found 2`
          : wrongWith(head);
      report(`${found}; the footer at the end is used`);
      return { copy: tail, ...alone };
    }
    const useHead = !leadsToHeader(source, tail) && leadsToHeader(source, head);
    const same = !differ(tail, head);
    if (!same) {
      const which = useHead ? 'the copy is used' : 'the one at the end is used';
      report(`${nameOf(tail)}: expected the same as the copy at 0x0, found another; ${which}`);
    }
    return { copy: useHead ? head : tail, tailAt, paired: same && tail.place === 'tail' };
  }
  if (headUsable) {
    report(`${wrongWith(tail)}; the copy at 0x0 is used`);
    return { copy: head, ...alone };
  }
  if (head.state === 'damaged' && tail.state === 'absent') throw corrupt(wrongWith(head));
  throw corrupt(wrongWith(tail));
}

function refusePoison(copy: FooterCopy): void {
  if (copy.state !== 'poisoned') return;
  throw unsupported(
    `${nameOf(copy)}: cookie is "${POISON_COOKIE}", by which tapdisk disables an image`,
    'XenServer marks images so whose contents have moved elsewhere; look for the image that replaced it.',
  );
}
