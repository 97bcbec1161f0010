/**
 * Mounts described by files: /etc/vdisk-mount/NAME.toml. The keys are the options of vdisk-mount with "_" for "-", besides
 * `images`, `mountpoint` and `read_only`. What is wrong is told with its line and column, all of it at once.
 */

import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { CommandLine } from './mount-command.ts';
import { addTo, MOUNT_OPTIONS, type OptionSpec, problemWith } from './mount-options.ts';
import { placeIn, readToml, TomlError, type TomlValue } from './toml.ts';

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
  const problems: { readonly at: number; readonly message: string }[] = [];
  const refuse = (at: number, message: string): undefined => void problems.push({ at, message });
  const config: CommandLine & { paths: string[] } = { paths: [], values: new Map(), lists: new Map() };
  try {
    let images: readonly string[] | undefined;
    let mountpoint: string | undefined;
    const entries = readToml(text);
    for (const { key, at, value } of entries) {
      if (key === 'images') images = pathsIn(key, value, refuse);
      else if (key === 'mountpoint') mountpoint = pathIn(key, value, refuse);
      else if (key === 'read_only') {
        if (value.kind !== 'boolean') refuse(value.at, `${key}: expected true or false`);
        else config.values.set(value.value ? 'ro' : 'rw', 'true');
      } else take(config, key, at, value, refuse);
    }
    const end = text.length;
    if (images?.length === 0) refuse(entries.find(({ key }) => key === 'images')!.at, 'images: is empty');
    for (const key of ['images', 'mountpoint']) {
      if (!entries.some((entry) => entry.key === key)) refuse(end, `${key}: is missing`);
    }
    if (images !== undefined && mountpoint !== undefined) config.paths.push(...images, mountpoint);
  } catch (problem) {
    if (!(problem instanceof TomlError)) throw problem;
    refuse(problem.at, problem.message);
  }
  if (problems.length === 0) return config;
  throw new ConfigProblems(
    problems.map(({ at, message }) => {
      const { line, column } = placeIn(text, at);
      return `${shownPath(path)}:${line}:${column}: ${message}`;
    }),
  );
}

type Refuse = (at: number, message: string) => undefined;

function pathIn(key: string, value: TomlValue, refuse: Refuse): string | undefined {
  if (value.kind !== 'text') return refuse(value.at, `${key}: expected a path in quotes`);
  if (value.text.includes('\0')) return refuse(value.at, `${key}: a path has no NUL`);
  if (!value.text.startsWith('/')) {
    return refuse(value.at, `${key}: expected an absolute path, found "${value.text}"`);
  }
  return value.text;
}

function pathsIn(key: string, value: TomlValue, refuse: Refuse): readonly string[] | undefined {
  const items = value.kind === 'array' ? value.items : [value];
  const paths = items.map((item) => pathIn(key, item, refuse));
  return paths.includes(undefined) ? undefined : (paths as string[]);
}

/** Takes one of MOUNT_OPTIONS into `config`. */
function take(config: CommandLine, key: string, at: number, value: TomlValue, refuse: Refuse): void {
  const spec = MOUNT_OPTIONS.find((option) => keyOf(option) === key);
  const otherwise = NOT_KEYS[key];
  if (spec === undefined || otherwise !== undefined) {
    refuse(at, `${key}: unknown key; ${otherwise ?? `the keys are ${CONFIG_KEYS.join(', ')}`}`);
    return;
  }
  const items = spec.repeatable === true && value.kind === 'array' ? value.items : [value];
  for (const item of items) {
    const text = textOf(spec, key, item, refuse);
    if (text === undefined) continue;
    const problem = problemWith(spec, text);
    if (problem !== undefined) refuse(item.at, `${key}: ${problem}`);
    else if (spec.repeatable === true) addTo(config.lists, spec.name, [text]);
    else config.values.set(spec.name, text);
  }
}

/** The value as -o would have it; undefined where it is wrong, or a flag that is false. */
function textOf(spec: OptionSpec, key: string, value: TomlValue, refuse: Refuse): string | undefined {
  if (spec.value === undefined) {
    if (value.kind !== 'boolean') return refuse(value.at, `${key}: expected true or false`);
    return value.value ? 'true' : undefined;
  }
  if (spec.choices?.join() === 'on,off' && value.kind === 'boolean') return value.value ? 'on' : 'off';
  if (spec.value === 'PATH') {
    // overlay = "tmp"
    const isWord = key === 'overlay' && value.kind === 'text' && value.text === 'tmp';
    return isWord ? value.text : pathIn(key, value, refuse);
  }
  if (value.kind === 'text') {
    return /[\0\n]/.test(value.text) ? refuse(value.at, `${key}: expected one line`) : value.text;
  }
  if (value.kind === 'integer' && (spec.value === 'NUMBER' || spec.value === 'SIZE')) return `${value.value}`;
  if (value.kind === 'integer' && spec.value === 'OCTAL') {
    if (/^0o/i.test(value.text)) return value.value.toString(8);
    return refuse(value.at, `${key}: expected octal digits, 0o${value.text} or "${value.text}"`);
  }
  const number = spec.value === 'NUMBER' ? 'a number' : 'a text in quotes';
  return refuse(value.at, `${key}: expected ${number}`);
}
