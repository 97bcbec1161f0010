/**
 * The QED header and its limits. There is one structure; the tables are plain arrays of little-endian u64.
 * Source: "QED image file format specification" (QEMU, docs/interop/qed_spec), Header and Tables.
 */

import { type Decoded, struct, u32, u64 } from '../../layout/struct.ts';

const SPEC = 'QEMU docs/interop/qed_spec, Header';

/** "QED\0" */
export const MAGIC = 0x00444551;

/** Incompatible features: a reader that does not know a set bit must not open the image. */
export const BACKING_FILE = 1n;
/** The image was in use and not closed: tables may hold entries that point at nothing. */
export const NEED_CHECK = 2n;
/** The backing file is raw and must not be probed. */
export const BACKING_NO_PROBE = 4n;
export const KNOWN_FEATURES = BACKING_FILE | NEED_CHECK | BACKING_NO_PROBE;

export const MIN_CLUSTER_SIZE = 4096;
export const MAX_CLUSTER_SIZE = 64 * 1024 * 1024;
/** Clusters per table: powers of two up to this. */
export const MAX_TABLE_SIZE = 16;
/** Bytes per L1 or L2 entry. */
export const ENTRY_BYTES = 8;
/** The longest backing file name that the format's only writer produces, in bytes. */
export const MAX_BACKING_NAME = 1023;

export const qedHeader = struct(
  'QED header',
  { size: 64, endian: 'little', spec: SPEC },
  {
    magic: u32('"QED", 0'),
    clusterSize: u32('bytes per cluster: a power of two, 4096 to 67108864'),
    tableSize: u32('clusters per L1 or L2 table: 1, 2, 4, 8 or 16'),
    headerSize: u32('clusters before the first regular cluster, at least 1'),
    features: u64('incompatible features: 1 backing file, 2 needs check, 4 backing file is raw'),
    compatFeatures: u64('features that a reader may ignore'),
    autoclearFeatures: u64('features that a writer which does not know them clears'),
    l1TableOffset: u64('bytes from the start of the file; a multiple of the cluster size'),
    imageSize: u64('bytes of the disk, a multiple of 512'),
    backingFilenameOffset: u32('bytes from the start of the file; valid with feature 1 only'),
    backingFilenameSize: u32('bytes, without a NUL; valid with feature 1 only'),
  },
);
export type QedHeader = Decoded<typeof qedHeader>;
