/** What the host says of a file, and what is different between two looks at it. */

import { type BigIntStats, fstatSync, statSync } from 'node:fs';

/** Times are UTC with all nine digits of the nanoseconds. */
export interface FileState {
  /** "8:1": major and minor number of the device that holds it. */
  readonly device: string;
  /** In decimal: 64 bits. */
  readonly inode: string;
  /** Bytes. */
  readonly size: number;
  readonly modified: string;
  readonly changed: string;
  readonly accessed: string;
}

export interface Difference {
  /** The path of the file, or the name of the disk. */
  readonly of: string;
  /** "size", "modified", "sha256", "path", … */
  readonly what: string;
  readonly before: string;
  readonly after: string;
}

/** Those that nobody but a writer changes. */
export const CONTENT_FIELDS = ['size', 'modified', 'changed'] as const;

const BILLION = 1_000_000_000n;

/** "2026-01-02T03:04:05.678901234Z", from nanoseconds since 1970. */
export function isoOf(nanoseconds: bigint): string {
  const rest = ((nanoseconds % BILLION) + BILLION) % BILLION;
  const seconds = new Date(Number((nanoseconds - rest) / BILLION) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${`${rest}`.padStart(9, '0')}Z`;
}

/** makedev(3), taken apart as glibc does. */
function deviceOf(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn & 0xffffffffn);
  return `${major}:${minor}`;
}

/** `size` is that of the source: fstat(2) says 0 for a device. */
export function stateOf(stat: BigIntStats, size: number): FileState {
  return {
    device: deviceOf(stat.dev),
    inode: `${stat.ino}`,
    size,
    modified: isoOf(stat.mtimeNs),
    changed: isoOf(stat.ctimeNs),
    accessed: isoOf(stat.atimeNs),
  };
}

/** An open file as it is now; `known` is the size that its source had when it was opened. */
export function stateNow(fd: number, known: number): FileState {
  const stat = fstatSync(fd, { bigint: true });
  return stateOf(stat, stat.isFile() ? Number(stat.size) : known);
}

/** What differs between two states of `path`, in the order given. */
export function differences(
  path: string,
  before: FileState,
  after: FileState,
  fields: readonly (keyof FileState)[],
): Difference[] {
  return fields
    .filter((field) => before[field] !== after[field])
    .map((what) => ({ of: path, what, before: `${before[what]}`, after: `${after[what]}` }));
}

/** Whether `path` still leads to the file that was found there; else what is there instead. */
export function pathDifference(path: string, found: FileState): Difference | undefined {
  const difference = (after: string): Difference => ({
    of: path,
    what: 'path',
    before: `inode ${found.inode} of device ${found.device}`,
    after,
  });
  let stat: BigIntStats | undefined;
  try {
    stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  } catch (problem) {
    return difference(problem instanceof Error ? problem.message : String(problem));
  }
  if (stat === undefined) return difference('no file');
  const now = stateOf(stat, 0);
  if (now.inode === found.inode && now.device === found.device) return undefined;
  return difference(`inode ${now.inode} of device ${now.device}`);
}

/** "/vm/disk.vhdx: size was 5, is 6" */
export const describeDifference = ({ of, what, before, after }: Difference): string =>
  `${of}: ${what} was ${before}, is ${after}`;
