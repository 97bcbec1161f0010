/**
 * The record of an evidence mount: what was looked at, by whom, with what, and that it was left as it was. JSON; the
 * names of the fields here are those in the file.
 */

import { ImageError } from '../base/errors.ts';
import type { FormatId } from '../image/driver.ts';
import type { Difference, FileState } from './file-state.ts';

/** When files and disks are hashed: before the mount is usable, after its end, never. */
export const HASH_MODES = ['now', 'at-end', 'none'] as const;
export type HashMode = (typeof HASH_MODES)[number];

/** A file as it was when it was opened, before anything of it was read. */
export interface RecordedFile extends FileState {
  /** Absolute, as it was opened. */
  readonly path: string;
  /** Where that led. */
  readonly 'real-path': string;
  readonly 'block-device': boolean;
  /** Whether it was open with O_NOATIME. */
  readonly 'no-atime': boolean;
  readonly format: FormatId;
  readonly variant: string;
  /** By what its children know it: name → mark. */
  readonly identity: Readonly<Record<string, string>>;
  /** What it says of its parent (in words, where it says anything), and the file that was taken for it. */
  readonly parent: { readonly path: string; readonly wanted: string | undefined } | undefined;
  sha256?: string;
}

/** A disk that the mount showed. */
export interface RecordedDisk {
  /** "disk.raw" */
  readonly name: string;
  readonly size: number;
  /** Paths: the image, then its parents, nearest first. */
  readonly files: readonly string[];
  sha256?: string;
  /** Why it has no hash: a damaged image cannot be read in all places. */
  problem?: string;
}

export interface RecordResult {
  /** UTC. */
  readonly at: string;
  /** How the mount ended. */
  readonly mount: string;
  /** incomplete: a file could not be compared, or not be hashed. */
  readonly outcome: 'unchanged' | 'changed' | 'incomplete';
  readonly differences: readonly Difference[];
  /** The files as they were then. */
  readonly files: readonly (FileState & { readonly path: string; readonly sha256?: string })[];
}

export interface EvidenceRecord {
  /** The version of what is described here. */
  readonly 'vdisk-record': 1;
  /** open: the mount has not ended, or it ended without comparing (killed, no power). */
  readonly state: 'open' | 'closed';
  readonly tool: { readonly name: string; readonly version: string };
  readonly 'command-line': readonly string[];
  readonly user: { readonly uid: number; readonly name: string; readonly host: string };
  readonly pid: number;
  /** UTC. */
  readonly begun: string;
  readonly mountpoint: string;
  readonly 'mount-options': readonly string[];
  /** How the images were opened: what it takes to open them so again. */
  readonly 'opened-with': {
    /** undefined: by content. */
    readonly format?: FormatId;
    readonly 'format-options': readonly (readonly [string, string])[];
    readonly 'force-parent': boolean;
    readonly locks: boolean;
  };
  readonly hash: HashMode;
  readonly files: readonly RecordedFile[];
  readonly disks: readonly RecordedDisk[];
  /** Warnings and errors, in the order in which they came. */
  readonly notices: readonly string[];
  readonly result?: RecordResult;
}

export const formatRecord = (record: EvidenceRecord): string => `${JSON.stringify(record, null, 2)}\n`;

/** A list is written as one of its items. */
type Shape = 'string' | 'number' | 'boolean' | 'string?' | readonly [Shape] | Fields;
interface Fields {
  readonly [name: string]: Shape;
}

/** What a reader of records relies on. */
const RECORD: Shape = {
  state: 'string',
  begun: 'string',
  hash: 'string',
  user: { uid: 'number', name: 'string', host: 'string' },
  'opened-with': {
    format: 'string?',
    'format-options': [['string']],
    'force-parent': 'boolean',
    locks: 'boolean',
  },
  files: [
    {
      path: 'string',
      device: 'string',
      inode: 'string',
      size: 'number',
      modified: 'string',
      changed: 'string',
      accessed: 'string',
      format: 'string',
      sha256: 'string?',
    },
  ],
  disks: [{ name: 'string', size: 'number', files: ['string'], sha256: 'string?' }],
};

/** Checks what is in `value` against `fields`; returns the first that is wrong. */
function wrong(value: unknown, fields: Shape, place: string): string | undefined {
  const unfit = (expected: string): string =>
    `${place}: expected ${expected}, found ${JSON.stringify(value)?.slice(0, 60)}`;
  if (typeof fields === 'string') {
    if (fields === 'string?') return value === undefined ? undefined : wrong(value, 'string', place);
    return typeof value === fields ? undefined : unfit(`a ${fields}`);
  }
  if (Array.isArray(fields)) {
    if (!Array.isArray(value)) return unfit('a list');
    for (const [index, item] of value.entries()) {
      const found = wrong(item, fields[0] as Shape, `${place}[${index}]`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return unfit('an object');
  for (const [name, shape] of Object.entries(fields as Fields)) {
    const inside = place === '' ? name : `${place}.${name}`;
    const found = wrong((value as Record<string, unknown>)[name], shape, inside);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** A record from its text. Throws ImageError('usage') that says what is wrong with it; `path` is for that. */
export function parseRecord(text: string, path: string): EvidenceRecord {
  const refuse = (why: string): ImageError => new ImageError('usage', `${path}: is no record: ${why}`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (problem) {
    throw new ImageError('usage', `${path}: is no record: it is not JSON`, { cause: problem });
  }
  const version =
    typeof value === 'object' && value !== null ? Reflect.get(value, 'vdisk-record') : undefined;
  if (version !== 1) throw refuse(`vdisk-record: expected 1, found ${JSON.stringify(version)}`);
  const fault = wrong(value, RECORD, '');
  if (fault !== undefined) throw refuse(fault);
  return value as EvidenceRecord;
}
