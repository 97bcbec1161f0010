/**
 * Mounts described by files: /etc/vdisk-mount/NAME.toml. The keys are the options of vdisk-mount with "_" for "-", besides
 * `images`, `mountpoint` and `read_only`. What is wrong is told with its line and column, all of it at once.
 */

import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import type { TomlPrimitive } from 'smol-toml';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { CommandLine } from './mount-command.ts';
import { addTo, MOUNT_OPTIONS, type OptionSpec, problemWith } from './mount-options.ts';
import { endOf, type Place, readToml, type TomlEntry, TomlError } from './toml.ts';

export const SYSTEM_DIRECTORY = '/etc/vdisk-mount';

/** Where this user's descriptions are. */
export function configDirectory(): string {
  if (process.geteuid?.() === 0) return SYSTEM_DIRECTORY;
  const given = process.env['XDG_CONFIG_HOME'];
  return `${given?.startsWith('/') ? given : `${homedir()}/.config`}/vdisk-mount`;
}

/** The file that NAME stands for; a word with a slash or a ".toml" at its end is a path already. */
export function configPath(nameOrPath: string): string {
  const isPath = nameOrPath.includes('/') || nameOrPath.endsWith('.toml');
  return isPath ? nameOrPath : `${configDirectory()}/${nameOrPath}.toml`;
}

/** More is no description of a mount. */
const MAX_BYTES = 1 << 20;

/** A file with all that is wrong in it, a line each: "PATH:LINE:COLUMN: …". */
export class ConfigProblems extends ImageError {
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super('usage', problems[0]!, {
      hint: problems.length > 1 ? `${problems.length - 1} more: see vdisk config check.` : undefined,
    });
    this.problems = problems;
  }
}

/** Said otherwise here, or of no use in a file. */
const NOT_KEYS: Readonly<Record<string, string>> = {
  ro: 'write read_only = true',
  rw: 'write read_only = false',
  foreground: 'it belongs on the command line',
  debug: 'it belongs on the command line',
};

const keyOf = ({ name }: OptionSpec): string => name.replaceAll('-', '_');

/** Every key. */
export const CONFIG_KEYS: readonly string[] = [
  'images',
  'mountpoint',
  'read_only',
  ...MOUNT_OPTIONS.map(keyOf).filter((key) => NOT_KEYS[key] === undefined),
];

/** Reads the description NAME or PATH. Throws ConfigProblems, or ImageError('usage') where there is no such file. */
export function readConfig(nameOrPath: string): CommandLine {
  const path = configPath(nameOrPath);
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (problem) {
    const missing = (problem as NodeJS.ErrnoException).code === 'ENOENT';
    throw new ImageError(
      'usage',
      missing
        ? `${shownPath(path)}: does not exist`
        : `${shownPath(path)}: cannot be read: ${(problem as Error).message}`,
      missing && path !== nameOrPath ? { hint: `A name stands for ${configDirectory()}/NAME.toml.` } : {},
    );
  }
  if (bytes.length > MAX_BYTES)
    throw new ConfigProblems([`${shownPath(path)}: larger than ${MAX_BYTES} bytes`]);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new ConfigProblems([`${shownPath(path)}: is not valid UTF-8`]);
  }
  return parseConfig(text, path);
}

/** The same for a text; `path` is for messages. Throws ConfigProblems. */
export function parseConfig(text: string, path: string): CommandLine {
  const problems: { readonly place: Place; readonly message: string }[] = [];
  const refuse: Refuse = (place, message) => void problems.push({ place, message });
  const config: CommandLine & { paths: string[] } = { paths: [], values: new Map(), lists: new Map() };
  try {
    let images: readonly string[] | undefined;
    let mountpoint: string | undefined;
    const entries = readToml(text);
    for (const entry of entries) {
      const { key, value, valueAt } = entry;
      if (key === 'images') images = pathsIn(entry, refuse);
      else if (key === 'mountpoint') mountpoint = pathIn(entry, value, refuse);
      else if (key === 'read_only') {
        if (typeof value !== 'boolean') refuse(valueAt, `${key}: expected true or false`);
        else config.values.set(value ? 'ro' : 'rw', 'true');
      } else take(config, entry, refuse);
    }
    if (images?.length === 0) refuse(entries.find(({ key }) => key === 'images')!.keyAt, 'images: is empty');
    for (const key of ['images', 'mountpoint']) {
      if (!entries.some((entry) => entry.key === key)) refuse(endOf(text), `${key}: is missing`);
    }
    if (images !== undefined && mountpoint !== undefined) config.paths.push(...images, mountpoint);
  } catch (problem) {
    if (!(problem instanceof TomlError)) throw problem;
    refuse(problem.place, problem.message);
  }
  if (problems.length === 0) return config;
  throw new ConfigProblems(
    problems.map(
      ({ place: { line, column }, message }) => `${shownPath(path)}:${line}:${column}: ${message}`,
    ),
  );
}

type Refuse = (place: Place, message: string) => undefined;

function pathIn({ key, valueAt }: TomlEntry, value: TomlPrimitive, refuse: Refuse): string | undefined {
  if (typeof value !== 'string') return refuse(valueAt, `${key}: expected a path in quotes`);
  if (value.includes('\0')) return refuse(valueAt, `${key}: a path has no NUL`);
  if (!value.startsWith('/')) {
    return refuse(valueAt, `${key}: expected an absolute path, found "${value}"`);
  }
  return value;
}

function pathsIn(entry: TomlEntry, refuse: Refuse): readonly string[] | undefined {
  const items = Array.isArray(entry.value) ? entry.value : [entry.value];
  const paths = items.map((item) => pathIn(entry, item, refuse));
  return paths.includes(undefined) ? undefined : (paths as string[]);
}

/** Takes one of MOUNT_OPTIONS into `config`. */
function take(config: CommandLine, entry: TomlEntry, refuse: Refuse): void {
  const { key, value, keyAt, valueAt } = entry;
  const spec = MOUNT_OPTIONS.find((option) => keyOf(option) === key);
  const otherwise = NOT_KEYS[key];
  if (spec === undefined || otherwise !== undefined) {
    refuse(keyAt, `${key}: unknown key; ${otherwise ?? `the keys are ${CONFIG_KEYS.join(', ')}`}`);
    return;
  }
  const items = spec.repeatable === true && Array.isArray(value) ? value : [value];
  for (const item of items) {
    const text = textOf(spec, entry, item, refuse);
    if (text === undefined) continue;
    const problem = problemWith(spec, text);
    if (problem !== undefined) refuse(valueAt, `${key}: ${problem}`);
    else if (spec.repeatable === true) addTo(config.lists, spec.name, [text]);
    else config.values.set(spec.name, text);
  }
}

/** The value as -o would have it; undefined where it is wrong, or a flag that is false. */
function textOf(
  spec: OptionSpec,
  entry: TomlEntry,
  value: TomlPrimitive,
  refuse: Refuse,
): string | undefined {
  const { key, valueAt } = entry;
  if (spec.value === undefined) {
    if (typeof value !== 'boolean') return refuse(valueAt, `${key}: expected true or false`);
    return value ? 'true' : undefined;
  }
  if (spec.choices?.join() === 'on,off' && typeof value === 'boolean') return value ? 'on' : 'off';
  if (spec.value === 'PATH') {
    // overlay = "tmp"
    return key === 'overlay' && value === 'tmp' ? value : pathIn(entry, value, refuse);
  }
  if (typeof value === 'string') {
    return /[\0\n]/.test(value) ? refuse(valueAt, `${key}: expected one line`) : value;
  }
  const isNumber = spec.value === 'NUMBER' || spec.value === 'SIZE';
  if (isNumber && Number.isSafeInteger(value)) return `${value}`;
  // 22, 022 and 0o22 are three things in TOML, one of them an error: in quotes it is what everybody takes it for.
  if (spec.value === 'OCTAL') return refuse(valueAt, `${key}: expected octal digits in quotes, like "022"`);
  return refuse(valueAt, `${key}: expected ${isNumber ? 'a number' : 'a text in quotes'}`);
}
