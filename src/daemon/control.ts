/**
 * The daemon's end of the control socket (docs/control.md): who may speak, and how much. What is asked is answered
 * elsewhere (control-verbs.ts). No client can hold up the mount: lines and clients are bounded, one that does not read
 * what it asked for is not listened to, and ended after a while.
 */

import { chmodSync, unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { ImageError } from '../base/errors.ts';
import { newSocketPath } from '../control/place.ts';
import { type Ended, type Hello, LineReader, MAX_REQUEST_BYTES, PROTOCOL } from '../control/protocol.ts';
import { peerUser } from '../source/syscalls.ts';

/** The one that has asked for nothing for the longest time makes place for another. */
export const MAX_CLIENTS = 32;
/** How long a client may leave an answer unread. */
const DRAIN_MS = 30_000;

/** Answers one request: the result, as plain data. Throws ImageError. */
export type Answerer = (request: Readonly<Record<string, unknown>>) => Promise<object>;

interface Descriptor {
  readonly _handle?: { readonly fd?: number };
}

export class Control {
  readonly #server: Server;
  readonly #path: string;
  readonly #clients = new Set<Client>();

  private constructor(server: Server, path: string, hello: Hello, answer: Answerer) {
    this.#server = server;
    this.#path = path;
    server.on('connection', (socket) => this.#accept(socket, hello, answer));
    // What fails later is one connection's, or is met by who looks for the socket.
    server.on('error', () => {});
    // It keeps no daemon alive whose mount has ended.
    server.unref();
  }

  /**
   * Listens for the mount at `mountpoint`. Throws ImageError where no socket can be made: the mount can do without.
   * `directoryPath` is for tests: the path of the socket.
   */
  static async listen(
    mountpoint: string,
    answer: Answerer,
    path: string = newSocketPath(mountpoint),
  ): Promise<Control> {
    const server = createServer({ pauseOnConnect: false });
    const before = process.umask(0o177);
    try {
      // Binds before it returns: the mask is set for that moment only.
      const listening = new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, resolve);
      });
      process.umask(before);
      await listening;
      chmodSync(path, 0o600);
    } catch (problem) {
      server.close();
      throw ImageError.from(problem, 'io', 'the control socket cannot be made');
    } finally {
      process.umask(before);
    }
    return new Control(server, path, { 'vdisk-mount': PROTOCOL, pid: process.pid, mountpoint }, answer);
  }

  #accept(socket: Socket, hello: Hello, answer: Answerer): void {
    const user = peerUser((socket as Descriptor)._handle?.fd ?? -1);
    // Without koffi it cannot be asked: then the socket's mode says who may.
    if (user >= 0 && user !== 0 && user !== process.geteuid!()) {
      const error = new ImageError('denied', `${hello.mountpoint}: belongs to another user`).toWire();
      socket.on('error', () => {});
      socket.end(`${JSON.stringify({ error })}\n`);
      return;
    }
    if (this.#clients.size >= MAX_CLIENTS) this.#makePlace();
    const client = new Client(socket, answer, () => this.#clients.delete(client));
    this.#clients.add(client);
    client.send(hello);
  }

  /** Ends the client that has been idle for the longest time; one that waits for an answer only where all do. */
  #makePlace(): void {
    const oldest = [...this.#clients].sort(
      (a, b) => Number(a.isBusy) - Number(b.isBusy) || a.since - b.since,
    );
    oldest[0]!.end();
  }

  /** The mount has ended: says how, to those who asked to wait, and listens no more. */
  close(ended: Ended): void {
    this.#server.close();
    unlinkIfThere(this.#path);
    for (const client of this.#clients) {
      if (client.waits) client.send({ ended });
      // Those who wait see the connection end with the process.
      client.unref();
      if (!client.waits) client.end();
    }
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was not there, or its directory is gone: nobody finds it either way.
  }
}

/** One connection. Its requests are answered one after another, each when the answer before it has been taken. */
class Client {
  /** When it last asked, in ms of performance.now(). */
  since = performance.now();
  isBusy = false;
  /** It asked for the end, and wants to know of it. */
  waits = false;
  readonly #socket: Socket;
  readonly #answer: Answerer;
  readonly #lines = new LineReader(MAX_REQUEST_BYTES);
  #queue: string[] = [];

  constructor(socket: Socket, answer: Answerer, gone: () => void) {
    this.#socket = socket;
    this.#answer = answer;
    socket.on('data', (piece) => this.#take(piece));
    socket.on('error', () => socket.destroy());
    socket.on('close', gone);
  }

  send(message: object): void {
    this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  end(): void {
    this.#socket.destroy();
  }

  unref(): void {
    this.#socket.unref();
  }

  #take(piece: Buffer): void {
    this.#queue.push(...(this.#lines.push(piece) ?? []));
    // No more is read while there is something to answer: what a client sends waits at its own end.
    this.#socket.pause();
    if (!this.isBusy) void this.#work();
  }

  async #work(): Promise<void> {
    this.isBusy = true;
    for (let line = this.#queue.shift(); line !== undefined; line = this.#queue.shift()) {
      this.since = performance.now();
      this.send(await this.#answerTo(line));
      if (this.#socket.destroyed || !(await this.#drained())) return this.end();
    }
    this.isBusy = false;
    if (this.#lines.overrun) {
      const error = new ImageError('usage', `a request has ${MAX_REQUEST_BYTES} bytes at most`).toWire();
      this.#socket.end(`${JSON.stringify({ ok: false, error })}\n`);
      return;
    }
    this.#socket.resume();
  }

  async #answerTo(line: string): Promise<object> {
    try {
      const request = requestOf(line);
      const result = await this.#answer(request);
      this.waits ||= request['do'] === 'unmount' && request['wait'] === true;
      return { ok: true, result };
    } catch (problem) {
      return { ok: false, error: ImageError.from(problem, 'bug').toWire() };
    }
  }

  /** Waits until the answer is taken; false where it is not. */
  #drained(): Promise<boolean> {
    const socket = this.#socket;
    if (!socket.writableNeedDrain) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => done(false), DRAIN_MS);
      timer.unref();
      const done = (taken: boolean): void => {
        clearTimeout(timer);
        socket.off('drain', drained);
        socket.off('close', closed);
        resolve(taken);
      };
      const drained = (): void => done(true);
      const closed = (): void => done(false);
      socket.on('drain', drained);
      socket.on('close', closed);
    });
  }
}

/** A request line as an object with a verb. Throws ImageError('usage'). */
function requestOf(line: string): Record<string, unknown> {
  let request: unknown;
  try {
    request = JSON.parse(line);
  } catch {
    throw new ImageError('usage', 'a request is a line of JSON');
  }
  if (typeof request === 'object' && request !== null && 'do' in request && typeof request.do === 'string') {
    return request as Record<string, unknown>;
  }
  throw new ImageError('usage', 'a request is an object with a verb: {"do":"state"}');
}
