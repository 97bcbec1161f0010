/**
 * What signals do, from the first moment of a daemon to its last. Before the mount is there: it shall not
 * come. Then the first asks for a clean unmount and keeps asking while the mount is in use; the second cuts. After
 * the mount has ended, they change nothing.
 */

import { unlinkSync } from 'node:fs';
import { EBUSY, EINVAL, ENOSYS } from '../base/errno.ts';
import { findMount } from '../transport/mountinfo.ts';
import type { Mount } from '../transport/transport.ts';
import type { MountConfig } from './config.ts';
import { holdersOfMount } from './holders.ts';
import type { Log } from './log.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** How often a busy mount is tried again. */
const RETRY_MS = 500;
/** How long a cut connection may take to end before the process ends itself; and who uses elsewhere what is unmounted. */
const GRACE_MS = 5000;

export class Stopper {
  readonly #config: MountConfig;
  readonly #log: Log;
  readonly #onSignal: (name: NodeJS.Signals) => void;
  #mount: Mount | undefined;
  #early: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #asked = false;
  readonly #cancel = new AbortController();
  #lastWork: string | undefined;
  #over = false;
  #warned = false;
  #told = '';

  readonly #tell: (status: string) => void;

  /** Listens to signals until `close`. `tell` gets why it does not end yet, for who looks at the service. */
  constructor(config: MountConfig, log: Log, tell: (status: string) => void = () => {}) {
    this.#config = config;
    this.#log = log;
    this.#tell = tell;
    this.#onSignal = (name) => this.#request(name);
    for (const name of SIGNALS) process.on(name, this.#onSignal);
  }

  /** The signal that came before the mount was there. */
  get interruptedBy(): string | undefined {
    return this.#early;
  }

  /** Aborted by a signal before the mount is there, and by the second one of those that come during `lastWork`. */
  get cancelled(): AbortSignal {
    return this.#cancel.signal;
  }

  /** The mount has ended, and `work` is done that may be left undone: "the evidence is being compared". */
  beginLastWork(work: string): void {
    this.#lastWork = work;
  }

  /** From now on signals end this mount; once it has ended, nothing, so that the images can be written out. */
  watch(mount: Mount): void {
    this.#mount = mount;
    void mount.ended.then(() => {
      this.#over = true;
      clearTimeout(this.#timer);
    });
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const name of SIGNALS) process.off(name, this.#onSignal);
  }

  #request(signal: string): void {
    const { mountpoint } = this.#config;
    if (this.#mount === undefined) {
      this.#early = signal;
      this.#cancel.abort();
      return;
    }
    if (this.#over && this.#lastWork !== undefined) {
      if (this.#warned) this.#cancel.abort();
      else
        this.#log.warn(
          `${signal}: ${mountpoint} is unmounted, and ${this.#lastWork}; a second signal cuts that`,
        );
      this.#warned = true;
      return;
    }
    if (this.#over) {
      this.#log.info(`${signal}: ${mountpoint} is unmounted, and the images are being written out`);
      return;
    }
    if (!this.#asked) {
      this.#asked = true;
      this.#log.info(`${signal}: unmounting ${mountpoint}`);
      this.#tryUnmount(this.#mount);
      return;
    }
    const status = this.#mount.unmount('force');
    const unmounted = status === -EINVAL;
    const what = unmounted ? 'unmounted; who uses it elsewhere has 5 s' : 'cut off from whoever uses it';
    this.#log.warn(`${signal} again: ${mountpoint} is ${what}`);
    // Without fusectl an unprivileged daemon cannot cut the connection but by its own end.
    if (status < 0 && !unmounted) this.#stopServing();
    else this.#inGrace(() => (unmounted ? this.#stopServing() : this.#endProcess()));
  }

  /** What is mounted is dead from then on. The images are left clean, but where a request never ends. */
  #stopServing(): void {
    if (!this.#mount!.stop()) this.#endProcess();
    this.#inGrace(() => this.#endProcess());
  }

  #inGrace(act: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, GRACE_MS);
    this.#timer.unref();
  }

  #tryUnmount(mount: Mount): void {
    const { mountpoint } = this.#config;
    const status = mount.unmount('clean');
    if (status === -EINVAL) this.#log.info(`${mountpoint}: unmounted; serving goes on until nobody uses it`);
    if (status === 0 || status === -EINVAL) return;
    if (status === -ENOSYS) {
      this.#log.warn(`${mountpoint}: mounted by somebody else, who has to unmount it; this daemon ends`);
      this.#stopServing();
      return;
    }
    if (status === -EBUSY) this.#tellWhoHolds();
    else this.#log.error(`${mountpoint}: unmounting failed (errno ${-status})`);
    this.#timer = setTimeout(() => this.#tryUnmount(mount), RETRY_MS);
  }

  #tellWhoHolds(): void {
    const { mountpoint } = this.#config;
    const entry = findMount(mountpoint);
    const holders = entry === undefined ? [] : holdersOfMount(entry.id, mountpoint);
    const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`;
    if (by === this.#told && by !== '') return;
    this.#told = by;
    this.#tell(`asked to end; ${mountpoint} is in use${by}`);
    this.#log.warn(
      `${mountpoint}: in use${by}; serving goes on until it is released (a second signal cuts it off)`,
    );
  }

  /** Workers that wait in the device cannot be ended, and process.exit() would wait for them. */
  #endProcess(): never {
    removePidFile(this.#config);
    process.kill(process.pid, 'SIGKILL');
    throw new Error('unreachable: SIGKILL was sent');
  }
}

export function removePidFile(config: MountConfig): void {
  if (config.pidFile === undefined) return;
  try {
    unlinkSync(config.pidFile);
  } catch {
    // Somebody was faster, or its directory is gone: the file says nothing any more either way.
  }
}
