/**
 * The options of vdisk-mount, in one table: the command line, `-o` and the documentation are made from it.
 * A long option `--cache-size 1G` is `-o cache_size=1G` as well; in `-o`, "-" and "_" are the same.
 */

import { availableParallelism } from 'node:os';
import { ImageError } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
import { HASH_MODES } from '../evidence/record.ts';
import { DRIVERS } from '../formats/registry.ts';

export interface OptionSpec {
  readonly name: string;
  readonly short?: string;
  /** What follows the option; none for a flag. */
  readonly value?: 'TEXT' | 'PATH' | 'SIZE' | 'NUMBER' | 'OCTAL';
  readonly choices?: readonly string[];
  readonly doc: string;
  /** It can be given several times, and each counts. */
  readonly repeatable?: true;
  /** In words, for the documentation. */
  readonly default?: string;
}

export type OptionValues = Map<string, string>;
/** The values of options that are repeatable, in the order given. */
export type OptionLists = Map<string, string[]>;

const formatIds = DRIVERS.map((driver) => driver.id);

export const MOUNT_OPTIONS: readonly OptionSpec[] = [
  { name: 'foreground', short: 'f', doc: 'stay in the foreground and log to stderr' },
  { name: 'debug', short: 'd', doc: 'trace every request to stderr; implies -f' },
  { name: 'verbose', short: 'v', doc: 'log more, and say what is done' },
  {
    name: 'ro',
    short: 'r',
    doc: 'read-only: the image is not changed, not even by cleaning up after a crash',
  },
  {
    name: 'evidence',
    doc: 'ro,noexec, access times left alone; the files are hashed, and compared at the end',
  },
  {
    name: 'record',
    value: 'PATH',
    doc: 'with --evidence: a new file with who, when, what, hashes, and at the end whether all is as it was',
  },
  {
    name: 'hash',
    value: 'TEXT',
    choices: HASH_MODES,
    doc: 'with --evidence: when files and disks are hashed',
    default: 'now',
  },
  { name: 'rw', short: 'w', doc: 'for reading and writing', default: 'where the image can be written' },
  { name: 'sync', doc: 'each write is on stable storage when it returns' },
  {
    name: 'format',
    value: 'TEXT',
    choices: formatIds,
    doc: 'the format of the images, instead of recognizing it by content',
  },
  {
    name: 'parent',
    value: 'PATH',
    repeatable: true,
    doc: 'a parent of the images, where it is not where they say; repeatable, the nearest parent first',
  },
  {
    name: 'parent-dir',
    value: 'PATH',
    repeatable: true,
    doc: 'a directory in which parents may lie, and are looked for; repeatable',
    default: "the first image's own",
  },
  { name: 'force-parent', doc: 'take a parent that is not the recorded one, only for reading' },
  {
    name: 'overlay',
    value: 'PATH',
    doc: 'write to this file, and leave the image as it is; "tmp": to one that is gone at the end',
  },
  { name: 'layers', doc: 'show each parent as well, read-only: disk.parent1.raw, …' },
  { name: 'partitions', doc: 'show each partition as well: disk.p1, disk.p2, …' },
  { name: 'allow-other', doc: 'let other users see the mount (not root: needs user_allow_other)' },
  { name: 'uid', value: 'NUMBER', doc: 'owner of the files shown', default: 'you' },
  { name: 'gid', value: 'NUMBER', doc: 'group of the files shown', default: 'yours' },
  { name: 'umask', value: 'OCTAL', doc: 'permission bits to take away', default: '022' },
  { name: 'noexec', doc: 'no program on the mount may be run' },
  { name: 'nonempty', doc: 'mount on a directory that is not empty' },
  { name: 'fsname', value: 'TEXT', doc: 'source shown in the mount table', default: 'the first image' },
  { name: 'lock', value: 'TEXT', choices: ['on', 'off'], doc: "take QEMU's image locks", default: 'on' },
  {
    name: 'threads',
    value: 'NUMBER',
    doc: 'threads that answer requests, 1 to 64',
    default: '2 to 4, by cores',
  },
  { name: 'cache-size', value: 'SIZE', doc: 'memory for block tables', default: '64M' },
  {
    name: 'transport',
    value: 'TEXT',
    choices: ['kernel', 'fuse-native'],
    doc: 'how to speak FUSE',
    default: 'kernel',
  },
  { name: 'log-file', value: 'PATH', doc: 'log of a daemon in the background', default: 'the system log' },
  { name: 'pid-file', value: 'PATH', doc: "written with the daemon's process ID while mounted" },
  {
    name: 'metrics',
    value: 'PATH',
    doc: 'a file with statistics for Prometheus, written every 15 s while mounted',
  },
  ...DRIVERS.flatMap((driver) =>
    driver.options.map((option) => ({
      name: option.name,
      value: 'TEXT' as const,
      choices: option.values,
      doc: option.doc,
    })),
  ),
];

/** A word in `-o` that goes into the table of mount(8), and changes nothing else. */
export const NETDEV = '_netdev';

/**
 * Words in `-o` that say nothing to us: what mount(8) adds on its own, what libfuse's users are used to, and
 * what always holds here (nosuid, nodev, default_permissions).
 */
const ACCEPTED = new Set(
  (
    'dev nodev suid nosuid exec atime noatime relatime norelatime strictatime diratime nodiratime ' +
    'lazytime nolazytime async dirsync defaults auto noauto user nouser users owner group _netdev ' +
    'nofail default_permissions kernel_cache auto_cache clone_fd big_writes iversion noiversion mand nomand'
  ).split(' '),
);
const ACCEPTED_PREFIXES = [
  'x-',
  'X-',
  'comment=',
  'subtype=',
  'max_read=',
  'attr_timeout=',
  'entry_timeout=',
];

/**
 * Splits the text of `-o` at commas. A comma is kept by a backslash before it or by double quotes around it:
 * `fsname=a\,b` and `fsname="a,b"` are the same.
 */
export function splitOptions(text: string): string[] {
  const words: string[] = [];
  let word = '';
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at]!;
    if (letter === '\\' && at + 1 < text.length) {
      at += 1;
      word += text[at]!;
    } else if (letter === '"') quoted = !quoted;
    else if (letter === ',' && !quoted) {
      words.push(word);
      word = '';
    } else word += letter;
  }
  words.push(word);
  return words.filter((item) => item !== '');
}

const usage = (message: string, hint?: string): ImageError =>
  new ImageError('usage', message, hint === undefined ? {} : { hint });

/**
 * Reads the words of `-o` into `values`, and those that are repeatable into `lists`. Throws ImageError('usage') for a
 * word that nobody knows, unless `sloppy` (mount -s).
 */
export function readOptionWords(
  words: readonly string[],
  values: OptionValues,
  lists: OptionLists,
  sloppy = false,
): void {
  for (const word of words) {
    const equals = word.indexOf('=');
    const key = (equals < 0 ? word : word.slice(0, equals)).replaceAll('_', '-');
    const spec = MOUNT_OPTIONS.find((option) => option.name === key);
    if (spec === undefined) {
      if (word === 'async') values.delete('sync');
      if (word === NETDEV) values.set(word, 'true');
      if (ACCEPTED.has(word) || ACCEPTED_PREFIXES.some((prefix) => word.startsWith(prefix))) continue;
      if (sloppy) continue;
      throw usage(`-o ${word}: unknown option`, 'See vdisk-mount --help for those that exist.');
    }
    if (spec.value === undefined && equals >= 0) throw usage(`-o ${word}: ${key} takes no value`);
    if (spec.value !== undefined && equals < 0) throw usage(`-o ${word}: ${key} needs a value`);
    // The last of the two holds, as in mount(8).
    if (key === 'ro') values.delete('rw');
    if (key === 'rw') values.delete('ro');
    if (spec.repeatable === true) addTo(lists, spec.name, [word.slice(equals + 1)]);
    else values.set(spec.name, equals < 0 ? 'true' : word.slice(equals + 1));
  }
}

/** Adds values of a repeatable option behind those that are there. */
export function addTo(lists: OptionLists, name: string, more: readonly string[]): void {
  lists.set(name, [...(lists.get(name) ?? []), ...more]);
}

/** Checks every value against its option. Throws ImageError('usage') naming the option, expected and found. */
export function checkValues(values: OptionValues, lists: OptionLists = new Map()): void {
  const all = [
    ...values,
    ...[...lists].flatMap(([name, some]) => some.map((value) => [name, value] as const)),
  ];
  for (const [name, value] of all) {
    const spec = MOUNT_OPTIONS.find((option) => option.name === name);
    if (spec === undefined) continue;
    const problem = problemWith(spec, value);
    if (problem !== undefined) throw usage(`--${name}: ${problem}`);
  }
}

/** What is wrong with a value of an option: what was expected and what was found; undefined where it is right. */
export function problemWith(spec: OptionSpec, value: string): string | undefined {
  if (spec.choices !== undefined && !spec.choices.includes(value)) {
    return `expected one of ${spec.choices.join(', ')}, found "${value}"`;
  }
  if (spec.value === 'SIZE' && parseSize(value) === undefined) {
    return `expected a size such as 64M, found "${value}"`;
  }
  if (spec.value === 'NUMBER' && !/^\d{1,10}$/.test(value)) return `expected a number, found "${value}"`;
  if (spec.value === 'OCTAL' && !/^[0-7]{1,4}$/.test(value)) {
    return `expected octal digits such as 022, found "${value}"`;
  }
  return (spec.value === 'TEXT' || spec.value === 'PATH') && value === '' ? 'needs a value' : undefined;
}

/** Workers where the user does not say: one per core, at least 2 so that one long read does not stop all. */
export function defaultThreads(): number {
  return Math.min(4, Math.max(2, availableParallelism()));
}
