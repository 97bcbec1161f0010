/** What a daemon does for who speaks to its control socket: one function for each verb of the protocol. */

import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { EBUSY, ENOSYS } from '../base/errno.ts';
import { ImageError } from '../base/errors.ts';
import { quoted } from '../base/text.ts';
import { LOG_LEVELS, type LogLevel, type MountState, type Verb, type Verbs } from '../control/protocol.ts';
import type { MountStats } from '../control/stats.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import { findMount } from '../transport/mountinfo.ts';
import type { Mount } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import type { Answerer } from './control.ts';
import { holdersOfMount } from './holders.ts';
import type { Keeper } from './keeper.ts';
import type { Log } from './log.ts';
import type { Member, Roster } from './roster.ts';

/** What the verbs work on. */
export interface ControlContext {
  readonly config: MountConfig;
  readonly mount: Mount;
  readonly roster: Roster;
  readonly keeper: Keeper | undefined;
  readonly log: Log;
  readonly stats: () => MountStats;
  /** Sets how much is logged; gives what it was. */
  readonly setLogLevel: (level: LogLevel) => string;
}

/** Answers requests by their verbs. */
export function answererOf(context: ControlContext): Answerer {
  const since = Date.now();
  const verbs: { [V in Verb]: Take<V> } = {
    state: () => stateOf(context, since),
    stats: () => context.stats(),
    flush: async (take) => {
      const name = take.optional('name');
      await flush(context, name === undefined ? undefined : context.roster.member(name));
      return {};
    },
    'log-level': (take) => ({ before: context.setLogLevel(take.oneOf('level', LOG_LEVELS)) }),
    add: async (take) => {
      const path = take.text('path');
      if (!path.startsWith('/')) throw new ImageError('usage', `path: ${quoted(path)} is not absolute`);
      const format = take.has('format')
        ? take.oneOf('format', DRIVERS.map(({ id }) => id) as readonly FormatId[])
        : undefined;
      const how = { ...(format === undefined ? {} : { format }), readOnly: take.flag('readOnly') };
      return { names: await context.roster.add(path, how) };
    },
    remove: async (take) => {
      const member = context.roster.member(take.text('name'));
      const force = take.flag('force');
      // Who has it open is cut off: what they wrote before is kept.
      if (force) {
        await flush(context, member).catch((problem: unknown) => {
          context.log.warn(ImageError.from(problem, 'io').message);
        });
      }
      return { names: await context.roster.remove(member.name, force) };
    },
    unmount: () => {
      unmount(context);
      return {};
    },
  };
  return async (request) => {
    const verb = String(request['do']);
    if (!Object.hasOwn(verbs, verb)) {
      throw new ImageError('usage', `there is no verb ${quoted(verb)}`, {
        hint: `There are: ${Object.keys(verbs).join(', ')}.`,
      });
    }
    return verbs[verb as Verb](new Taken(request));
  };
}

type Gives<V extends Verb> = Verbs[V]['gives'];
type Take<V extends Verb> = (take: Taken) => Gives<V> | Promise<Gives<V>>;

/** What comes with a verb, looked at before it is used. Throws ImageError('usage'). */
class Taken {
  readonly #request: Readonly<Record<string, unknown>>;

  constructor(request: Readonly<Record<string, unknown>>) {
    this.#request = request;
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#request, name);
  }

  optional(name: string): string | undefined {
    return this.has(name) ? this.text(name) : undefined;
  }

  text(name: string): string {
    const value = this.#request[name];
    if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
    throw new ImageError('usage', `${name}: expected a text`);
  }

  flag(name: string): boolean {
    const value = this.#request[name] ?? false;
    if (typeof value === 'boolean') return value;
    throw new ImageError('usage', `${name}: expected true or false`);
  }

  oneOf<T extends string>(name: string, words: readonly T[]): T {
    const value = this.#request[name];
    const word = words.find((one) => one === value);
    if (word !== undefined) return word;
    throw new ImageError('usage', `${name}: expected one of ${words.join(', ')}`);
  }
}

function stateOf({ config, roster }: ControlContext, since: number): MountState {
  return {
    mountpoint: config.mountpoint,
    pid: process.pid,
    since,
    files: roster.members.map(({ name, path, format, size, writable }) => {
      return { name, path, format, size, writable };
    }),
  };
}

/**
 * Makes stable what was written to a member, or to all: what the kernel's page cache still has, through the mount itself,
 * which other threads serve; then what waits in the image.
 */
async function flush({ config, keeper, roster }: ControlContext, only: Member | undefined): Promise<void> {
  if (keeper === undefined) return;
  if (config.mountpoint.startsWith('/dev/fd/')) {
    throw new ImageError(
      'unsupported',
      'the mountpoint is known to who mounted it: use sync(1) on its files',
    );
  }
  const wanted =
    only === undefined ? roster.members : roster.members.filter(({ image }) => image === only.image);
  for (const member of wanted) if (member.writable) await syncThroughMount(config.mountpoint, member);
  const numbers = wanted.flatMap(({ number }) => (number === undefined ? [] : [number]));
  const errno = await keeper.flush(numbers);
  if (errno !== 0) throw new ImageError('io', `${config.mountpoint}: flushing failed (errno ${errno})`);
}

async function syncThroughMount(mountpoint: string, { name, node }: Member): Promise<void> {
  const inPlace = node === 1;
  let file: FileHandle | undefined;
  try {
    file = await open(inPlace ? mountpoint : join(mountpoint, name), 'r');
    // Something may be mounted over it: that is not ours to sync.
    if ((await file.stat()).ino === node) await file.sync();
  } catch (problem) {
    throw ImageError.from(problem, 'io', `${name}: flushing failed`);
  } finally {
    await file?.close();
  }
}

/** Throws ImageError('denied') where it is. */
function unmount({ config: { mountpoint }, mount, log }: ControlContext): void {
  log.info(`asked to unmount ${mountpoint}`);
  const status = mount.unmount('clean');
  if (status === 0) return;
  if (status === -ENOSYS) {
    throw new ImageError('unsupported', `${mountpoint}: mounted by somebody else, who has to unmount it`);
  }
  if (status !== -EBUSY) throw new ImageError('io', `${mountpoint}: unmounting failed (errno ${-status})`);
  const entry = findMount(mountpoint);
  const holders = entry === undefined ? [] : holdersOfMount(entry.id, mountpoint);
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`;
  throw new ImageError('denied', `${mountpoint}: in use${by}`, { hint: 'Close what is open there first.' });
}
