/**
 * What systemd is told of a service (sd_notify(3), without its library): datagrams of lines to the socket that NOTIFY_SOCKET
 * names. Where there is none, nothing is told. Log lines with a priority are log.ts' business.
 */

import { EAGAIN } from '../base/errno.ts';
import { datagramSocket, sendDatagram } from '../source/syscalls.ts';

/** How much longer a start or a stop may take from now on, each time it is said; and how often that is. */
const EXTENSION_MS = 60_000;
const EXTEND_EVERY_MS = 10_000;

/** What a start may take that can say nothing meanwhile: images are opened, and their logs replayed, in one go. */
const OPENING_MS = 600_000;

/** Of a full queue, how long is waited for room. */
const PATIENCE_MS = 1000;

export interface Environment {
  readonly [name: string]: string | undefined;
}

export class ServiceManager {
  readonly #address: string | undefined;
  readonly #watchdogMs: number | undefined;
  #socket: number | undefined;
  #timers: NodeJS.Timeout[] = [];

  constructor(environment: Environment = process.env, pid: number = process.pid) {
    const address = environment['NOTIFY_SOCKET'];
    this.#address = address !== undefined && /^[/@]./.test(address) ? address : undefined;
    const period = Number(environment['WATCHDOG_USEC']) / 1000;
    const watched = [undefined, `${pid}`].includes(environment['WATCHDOG_PID']);
    this.#watchdogMs = watched && period >= 1 && Number.isFinite(period) ? period : undefined;
  }

  /** Images are about to be opened. */
  opening(status: string): void {
    this.#tell(`STATUS=${status}`, `EXTEND_TIMEOUT_USEC=${OPENING_MS * 1000}`);
  }

  /** A line for people: what `systemctl status` shows. */
  status(text: string): void {
    this.#tell(`STATUS=${text}`);
  }

  /**
   * The mount is usable. From now on, at half of the time that the watchdog allows, `isAnswering` is asked, and the
   * watchdog kept quiet where it says so.
   */
  ready(status: string, isAnswering: () => boolean): void {
    this.#stopTimers();
    this.#tell('READY=1', `MAINPID=${process.pid}`, `STATUS=${status}`);
    if (this.#watchdogMs === undefined) return;
    this.#every(this.#watchdogMs / 2, () => {
      if (isAnswering()) this.#tell('WATCHDOG=1');
    });
  }

  /** It is ending, and may take its time: until `close`, the manager is told to wait on. */
  stopping(status: string): void {
    this.#tell('STOPPING=1');
    this.atWork(status);
  }

  /** Something is done that takes its time, in the start or at the end. Until `ready` or `close` that goes on being said. */
  atWork(status: string): void {
    this.#stopTimers();
    const extend = `EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`;
    // A process that writes out large tables is alive, whatever time it takes.
    const alive = this.#watchdogMs === undefined ? [] : ['WATCHDOG=1'];
    this.#tell(`STATUS=${status}`, extend, ...alive);
    this.#every(Math.min(EXTEND_EVERY_MS, (this.#watchdogMs ?? Number.POSITIVE_INFINITY) / 2), () =>
      this.#tell(extend, ...alive),
    );
  }

  close(): void {
    this.#stopTimers();
  }

  #every(periodMs: number, run: () => void): void {
    if (this.#address === undefined) return;
    const timer = setInterval(run, periodMs);
    timer.unref();
    this.#timers.push(timer);
  }

  #stopTimers(): void {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
  }

  #tell(...lines: readonly string[]): void {
    if (this.#address === undefined) return;
    this.#socket ??= datagramSocket();
    if (this.#socket < 0) return;
    // A newline in a name would begin another assignment.
    const text = lines.map((line) => line.replace(/[\n\r\0]/g, ' ')).join('\n');
    const message = Buffer.from(text);
    const end = performance.now() + PATIENCE_MS;
    while (sendDatagram(this.#socket, this.#address, message) === -EAGAIN && performance.now() < end) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}
