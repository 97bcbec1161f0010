/**
 * In which state an image is: what something that was built upon it (an overlay) must find again. Written down as a
 * checksummed record.
 */

import { fstatSync } from 'node:fs';
import { crc32c } from '../base/crc32c.ts';
import { corrupt } from '../base/errors.ts';
import { ascii, struct, u32 } from '../layout/struct.ts';
import type { Layer } from './layer.ts';

export interface ImageState {
  readonly format: string;
  /** Bytes of the disk. */
  readonly virtualSize: number;
  /** `Image.identity`: name → text. */
  readonly marks: Readonly<Record<string, string>>;
  /**
   * Where the marks do not change with every write, what the host knows of the file: its bytes, and the time of its
   * last change in ns since 1970 (a device has none). Undefined where they do.
   */
  readonly file?: { readonly size: number; readonly mtime?: string };
}

/**
 * Formats whose marks a writer must change before it writes: the UUID of the last change, the DataWriteGuid. VHD's
 * marks are made once; raw and QED have none.
 */
const MARKED_BY_WRITERS: ReadonlySet<string> = new Set(['vdi', 'vhdx']);

export function stateOf({ image, source, device }: Layer): ImageState {
  const { format, virtualSize, identity } = image;
  const marks = Object.fromEntries(identity.map(({ name, text }) => [name, text]));
  if (MARKED_BY_WRITERS.has(format) && identity.length > 0) return { format, virtualSize, marks };
  const stat = fstatSync(source.share().fd, { bigint: true });
  const file = { size: source.size, ...(device ? {} : { mtime: `${stat.mtimeNs}` }) };
  return { format, virtualSize, marks, file };
}

/** What is compared, in the order in which it is shown: name → text. */
function partsOf({ format, virtualSize, marks, file }: ImageState): [name: string, text: string][] {
  return [
    ['format', format],
    ['virtual size', `${virtualSize}`],
    ...Object.entries(marks).sort(([a], [b]) => (a < b ? -1 : 1)),
    ...(file === undefined ? [] : [['file size', `${file.size}`] as [string, string]]),
    ...(file?.mtime === undefined ? [] : [['changed', timeText(file.mtime)] as [string, string]]),
  ];
}

/** "2026-11-21T15:06:12.123456789Z" */
function timeText(nanoseconds: string): string {
  const ns = BigInt(nanoseconds);
  const seconds = new Date(Number(ns / 1_000_000_000n) * 1000);
  if (Number.isNaN(seconds.getTime())) return `${nanoseconds} ns`;
  return `${seconds.toISOString().slice(0, 19)}.${String(ns % 1_000_000_000n).padStart(9, '0')}Z`;
}

/** "format raw, virtual size 1048576, file size 1048576, changed 2026-…" */
export function describeState(state: ImageState): string {
  return partsOf(state)
    .map(([name, text]) => `${name} ${text}`)
    .join(', ');
}

export function isSameState(one: ImageState, other: ImageState): boolean {
  return describeState(one) === describeState(other);
}

/** The state of the image, and the name that stood beside it when it was recorded. */
export interface StateRecord {
  /** CRC-32C of the backing file's name: whether it was changed since. */
  readonly name: number;
  readonly image: ImageState;
  /** A commit into the image was begun in that state, and not ended: see overlay-record.ts. */
  readonly committing?: boolean;
}

export const checksumOfName = (name: string): number => crc32c(new TextEncoder().encode(name));

const MAGIC = 'vdisk:on';
const VERSION = 1;

const recordHead = struct(
  'state record',
  { size: 20, endian: 'little', spec: 'of our own' },
  {
    magic: ascii(8, MAGIC),
    version: u32('1'),
    length: u32('bytes of the text behind this, JSON of StateRecord in UTF-8'),
    checksum: u32('CRC-32C of magic, version, length and the text'),
  },
);

function checksumOf(bytes: Uint8Array, length: number): number {
  const text = bytes.subarray(recordHead.size, recordHead.size + length);
  return crc32c(text, crc32c(bytes.subarray(0, recordHead.at.checksum)));
}

export function encodeRecord(record: StateRecord): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(record));
  const bytes = new Uint8Array(recordHead.size + text.length);
  bytes.set(text, recordHead.size);
  const head = { magic: MAGIC, version: VERSION, length: text.length, checksum: 0 };
  recordHead.encode(head, bytes);
  recordHead.encode({ ...head, checksum: checksumOf(bytes, text.length) }, bytes);
  return bytes;
}

/** Undefined where there is none. Throws ImageError('corrupt') for one that is damaged or of a later version. */
export function decodeRecord(bytes: Uint8Array): StateRecord | undefined {
  if (bytes.length < recordHead.size) return undefined;
  const { magic, version, length, checksum } = recordHead.decode(bytes);
  if (magic !== MAGIC) return undefined;
  if (version !== VERSION)
    throw corrupt(`its record of the image has version ${version}, known is ${VERSION}`);
  if (length > bytes.length - recordHead.size) {
    throw corrupt(`its record of the image has ${length} bytes, there is room for ${bytes.length}`);
  }
  const computed = checksumOf(bytes, length);
  if (computed !== checksum) {
    throw corrupt(`its record of the image is damaged: checksum is ${checksum}, computed ${computed}`);
  }
  const text = new TextDecoder().decode(bytes.subarray(recordHead.size, recordHead.size + length));
  const record = parse(text);
  if (!isRecord(record)) throw corrupt('its record of the image has no sense');
  return record;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A checksum can be forged. */
function isRecord(value: unknown): value is StateRecord {
  if (!isObject(value) || typeof value['name'] !== 'number' || !isObject(value['image'])) return false;
  const { format, virtualSize, marks, file } = value['image'];
  return (
    typeof format === 'string' &&
    Number.isSafeInteger(virtualSize) &&
    isObject(marks) &&
    Object.values(marks).every((text) => typeof text === 'string') &&
    (file === undefined || isFile(file))
  );
}

function isFile(value: unknown): boolean {
  if (!isObject(value) || !Number.isSafeInteger(value['size'])) return false;
  const { mtime } = value;
  return mtime === undefined || (typeof mtime === 'string' && /^-?\d{1,20}$/.test(mtime));
}
