/** ZFS. Facts: "ZFS On-Disk Specification" (Sun, 2006) 1.2 and 1.3, and RFC 4506 for the encoding of its lists. */

import { KIB } from '../../base/units.ts';
import type { DiskRange } from '../range.ts';
import type { Probe } from './signature.ts';
import { utf8 } from './text.ts';

const LABEL_BYTES = 256 * KIB;
const LIST_AT = 16 * KIB;
const LIST_BYTES = 112 * KIB;
const UBERBLOCKS_AT = 128 * KIB;
const UBERBLOCKS_BYTES = 128 * KIB;
/** The least that one takes. */
const UBERBLOCK_BYTES = 1024;
const UBERBLOCK_MAGIC = 0x00bab10cn;
/** Encoding and byte order, then the version and the flags of the list. */
const LIST_HEAD = 12;
const TYPE_U64 = 8;
const TYPE_STRING = 9;
/** Of a list; a pool's has about 20. */
const MAX_PAIRS = 256;

/** A member of a pool: an uberblock in one of the labels at its two ends. */
export const zfs: Probe = (range) => {
  const end = range.size - (range.size % LABEL_BYTES);
  for (const at of [0, LABEL_BYTES, end - 2 * LABEL_BYTES, end - LABEL_BYTES]) {
    if (!hasUberblock(range, at)) continue;
    const list = range.bytes(at + LIST_AT, LIST_BYTES);
    const { name, guid } = list === undefined ? {} : poolOf(list);
    return { type: 'zfs_member', label: name ?? '', uuid: guid?.toString(), container: true };
  }
  return undefined;
};

function hasUberblock(range: DiskRange, label: number): boolean {
  // Nothing is read of most disks but this: a label that is in use has an uberblock in every place by and by.
  const blocks = range.bytes(label + UBERBLOCKS_AT, UBERBLOCKS_BYTES);
  if (blocks === undefined) return false;
  for (let at = 0; at < blocks.length; at += UBERBLOCK_BYTES) {
    if (blocks.readBigUInt64LE(at) === UBERBLOCK_MAGIC || blocks.readBigUInt64BE(at) === UBERBLOCK_MAGIC) {
      return true;
    }
  }
  return false;
}

/** The pool's name and GUID out of a list of pairs in XDR. */
function poolOf(list: Buffer): { readonly name?: string; readonly guid?: bigint } {
  let name: string | undefined;
  let guid: bigint | undefined;
  let at = LIST_HEAD;
  for (let count = 0; count < MAX_PAIRS && at + 8 <= list.length; count += 1) {
    const size = list.readUInt32BE(at);
    if (size < 24 || at + size > list.length) break;
    const pair = list.subarray(at + 8, at + size);
    const key = textAt(pair, 0);
    if (key === undefined) break;
    // After the key: the type, how many values, and the first value.
    const typeAt = key.end;
    if (typeAt + 8 <= pair.length) {
      const type = pair.readUInt32BE(typeAt);
      const valueAt = typeAt + 8;
      if (key.text === 'name' && type === TYPE_STRING) name = textAt(pair, valueAt)?.text;
      if (key.text === 'pool_guid' && type === TYPE_U64 && valueAt + 8 <= pair.length) {
        guid = pair.readBigUInt64BE(valueAt);
      }
    }
    at += size;
  }
  return { ...(name === undefined ? {} : { name }), ...(guid === undefined ? {} : { guid }) };
}

/** A length and so many bytes, filled up to whole words. */
function textAt(bytes: Buffer, at: number): { readonly text: string; readonly end: number } | undefined {
  if (at + 4 > bytes.length) return undefined;
  const length = bytes.readUInt32BE(at);
  if (length > bytes.length - at - 4) return undefined;
  const from = at + 4;
  return { text: utf8(bytes.subarray(from, from + length)), end: from + Math.ceil(length / 4) * 4 };
}
