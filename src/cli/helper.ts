/**
 * The helpers that mount(8) and umount(8) run for our types: /sbin/mount.TYPE and /sbin/umount.TYPE, for the types
 * "vdisk-mount" and "fuse.vdisk-mount". Their arguments are mount(8)'s (section EXTERNAL HELPERS), and so are their
 * exit statuses. They run with whatever PATH and environment mount(8) had, at boot with next to none.
 */

import { realpathSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { exitCodeOf, OK } from '../daemon/exit-code.ts';
import { DRIVERS } from '../formats/registry.ts';
import { splitOptions } from './mount-options.ts';

/** Programs are started by absolute paths; this is for what those start. */
const SAFE_PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

/** How long umount waits for the daemon. */
const UNMOUNT_LIMIT_MS = 300_000;

interface Arguments {
  readonly operands: readonly string[];
  readonly flags: ReadonlySet<string>;
  readonly values: ReadonlyMap<string, string>;
  /** Of -o, in the order given. */
  readonly options: readonly string[];
}

/** getopt's rules, for one-letter options: `flags` stand alone, `valued` take what follows. */
function readArguments(args: readonly string[], flags: string, valued: string): Arguments {
  const operands: string[] = [];
  const given = new Set<string>();
  const values = new Map<string, string>();
  const options: string[] = [];
  for (let at = 0; at < args.length; at += 1) {
    const word = args[at]!;
    if (word === '--') {
      operands.push(...args.slice(at + 1));
      break;
    }
    if (!/^-./.test(word)) {
      operands.push(word);
      continue;
    }
    for (let letter = 1; letter < word.length; letter += 1) {
      const name = word[letter]!;
      if (flags.includes(name)) given.add(name);
      else if (valued.includes(name)) {
        const attached = word.slice(letter + 1);
        if (attached === '') at += 1;
        const value = attached === '' ? args[at] : attached;
        if (value === undefined) throw new ImageError('usage', `-${name}: needs a value`);
        if (name === 'o') options.push(value);
        else values.set(name, value);
        break;
      } else throw new ImageError('usage', `-${name}: unknown option`);
    }
  }
  return { operands, flags: given, values, options };
}

/** "vhdx" of "vdisk-mount.vhdx": a subtype is a format. Throws ImageError('usage') for another. */
function formatOf(type: string | undefined): string | undefined {
  const subtype = /^(?:fuse\.)?vdisk-mount(?:\.(.*))?$/.exec(type ?? 'vdisk-mount');
  if (subtype === null) throw new ImageError('usage', `-t ${type}: expected vdisk-mount, and maybe a format`);
  const format = subtype[1];
  if (format !== undefined && !DRIVERS.some((driver) => driver.id === format)) {
    throw new ImageError('usage', `-t ${type}: ${format} is no format`, {
      hint: `The formats: ${DRIVERS.map((driver) => driver.id).join(', ')}.`,
    });
  }
  return format;
}

/** Where in the mount table `given` stands: its directory resolved; the mount itself is not touched. */
function placeOf(given: string): string {
  const path = resolve(given);
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}

/** mount.TYPE SOURCE DIR [-sfnv] [-N namespace] [-o options] [-t type.subtype] */
async function mountHelper(args: readonly string[]): Promise<number> {
  const { operands, flags, values, options } = readArguments(args, 'sfnvrw', 'Not');
  const [source, directory, ...more] = operands;
  if (source === undefined || directory === undefined || more.length > 0) {
    throw new ImageError('usage', `expected an image and a mountpoint, found ${operands.length} names`, {
      hint: 'mount -t fuse.vdisk-mount IMAGE DIRECTORY [-o options]',
    });
  }
  const namespace = values.get('N');
  if (namespace !== undefined) return enter(namespace, args);
  const format = formatOf(values.get('t'));
  const texts = [...options, ...(flags.has('r') ? ['ro'] : []), ...(flags.has('w') ? ['rw'] : [])];
  const words = texts.flatMap(splitOptions);
  if (flags.has('f')) return OK;
  if (words.includes('remount')) {
    const access = words.findLast((word) => word === 'ro' || word === 'rw');
    const { remountAs } = await import('../daemon/unmount.ts');
    if (access === 'ro' || access === 'rw') remountAs(placeOf(directory), access);
    return OK;
  }
  const { isForLibfuse, runLibfuseHelper } = await import('../daemon/libfuse.ts');
  if (isForLibfuse(words)) {
    return runLibfuseHelper(
      source,
      placeOf(directory),
      format === undefined ? words : [...words, `format=${format}`],
    );
  }
  const { main } = await import('./mount.ts');
  return main([
    ...(flags.has('s') ? ['-s'] : []),
    ...(flags.has('v') ? ['-v'] : []),
    ...texts.flatMap((text) => ['-o', text]),
    ...(format === undefined ? [] : ['--format', format]),
    ...['--', source, directory],
  ]);
}

/** umount.TYPE DIR [-flnrv] [-N namespace] [-t type.subtype] */
async function umountHelper(args: readonly string[]): Promise<number> {
  const { operands, flags, values } = readArguments(args, 'flnrvic', 'Not');
  const [directory, ...more] = operands;
  if (directory === undefined || more.length > 0) {
    throw new ImageError('usage', `expected a mountpoint, found ${operands.length} names`);
  }
  const namespace = values.get('N');
  if (namespace !== undefined) return enter(namespace, args);
  const { remountAs, unmountAndWait } = await import('../daemon/unmount.ts');
  const place = placeOf(directory);
  const how = flags.has('l') ? 'lazy' : flags.has('f') ? 'force' : 'clean';
  try {
    await unmountAndWait(place, how, UNMOUNT_LIMIT_MS, say);
  } catch (problem) {
    if (!flags.has('r') || !(problem instanceof ImageError) || problem.kind !== 'mount') throw problem;
    remountAs(place, 'ro');
    say(`${problem.message}; it is read-only now`);
  }
  return OK;
}

async function enter(namespace: string, args: readonly string[]): Promise<number> {
  const { runInNamespace } = await import('../daemon/namespace.ts');
  const at = args.findIndex((word) => word.startsWith('-N'));
  return runInNamespace(namespace, [
    ...args.slice(0, at),
    ...args.slice(args[at] === '-N' ? at + 2 : at + 1),
  ]);
}

const say = (text: string): void => void process.stderr.write(`vdisk-mount: ${text}\n`);

/** Runs the helper for mount(8) or umount(8); returns its exit status. */
export async function main(what: 'mount' | 'umount', args: readonly string[]): Promise<number> {
  process.env['PATH'] = SAFE_PATH;
  try {
    return await (what === 'mount' ? mountHelper(args) : umountHelper(args));
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    say(error.message);
    for (const line of error.explanation) process.stderr.write(`  ${line}\n`);
    return exitCodeOf(error.kind);
  }
}
