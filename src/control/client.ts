/** The client's end of a control socket. */

import { unlinkSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { ImageError } from '../base/errors.ts';
import { isOrphaned, socketPaths } from './place.ts';
import {
  type Answer,
  type Ended,
  type Hello,
  LineReader,
  MAX_ANSWER_BYTES,
  type MountState,
  PROTOCOL,
  type Verb,
  type Verbs,
} from './protocol.ts';

/** A daemon answers at once, but for what it says may take long. */
const HELLO_MS = 5000;

export class ControlClient {
  readonly hello: Hello;
  readonly #socket: Socket;
  readonly #lines: Lines;

  private constructor(socket: Socket, lines: Lines, hello: Hello) {
    this.#socket = socket;
    this.#lines = lines;
    this.hello = hello;
  }

  /**
   * Connects. Undefined where no daemon listens: the socket of one that is gone is then removed, if it is in our own
   * directory. Throws ImageError where who listens is not to be spoken with.
   */
  static async connect(path: string): Promise<ControlClient | undefined> {
    const socket = createConnection(path);
    const lines = new Lines(socket);
    try {
      const hello = JSON.parse(await lines.next(HELLO_MS)) as Hello | { error?: { message: string } };
      if (!('vdisk-mount' in hello)) {
        throw new ImageError('denied', hello.error?.message ?? `${path}: is no vdisk-mount`);
      }
      if (hello['vdisk-mount'] !== PROTOCOL) {
        throw new ImageError(
          'unsupported',
          `${path}: speaks version ${hello['vdisk-mount']} of the protocol, expected ${PROTOCOL}`,
          { hint: 'vdisk and vdisk-mount are of different versions.' },
        );
      }
      return new ControlClient(socket, lines, hello);
    } catch (problem) {
      socket.destroy();
      const code = problem instanceof Error && 'code' in problem ? problem.code : undefined;
      if (code === 'ECONNREFUSED' || code === 'ENOENT') {
        if (code === 'ECONNREFUSED') removeStale(path);
        return undefined;
      }
      throw ImageError.from(problem, 'io', path);
    }
  }

  /** Asks, and waits `limitMs` for the answer at most. Throws the ImageError that the daemon gives. */
  async ask<V extends Verb>(verb: V, takes: Verbs[V]['takes'], limitMs = 60_000): Promise<Verbs[V]['gives']> {
    this.#socket.write(`${JSON.stringify({ do: verb, ...takes })}\n`);
    const answer = JSON.parse(await this.#lines.next(limitMs)) as Answer<Verbs[V]['gives']>;
    if (!answer.ok) throw ImageError.fromWire(answer.error);
    return answer.result;
  }

  /** After `unmount` with `wait`: how the mount ended, when the daemon is gone. */
  async ended(): Promise<Ended> {
    const text = await this.#lines.next();
    await this.#lines.closed;
    return (JSON.parse(text) as { ended: Ended }).ended;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** Nobody listens: the daemon was killed, or begins or ends just now. */
function removeStale(path: string): void {
  if (!isOrphaned(path)) return;
  try {
    unlinkSync(path);
  } catch {
    // Somebody else found it too.
  }
}

/** The lines that come, one at a time. */
class Lines {
  readonly closed: Promise<void>;
  readonly #ready: string[] = [];
  #failure: Error | undefined;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    const reader = new LineReader(MAX_ANSWER_BYTES);
    const fail = (problem: Error): void => {
      this.#failure ??= problem;
      this.#wake();
    };
    socket.on('data', (piece) => {
      this.#ready.push(...(reader.push(piece) ?? []));
      if (reader.overrun) {
        socket.destroy();
        fail(new ImageError('io', `the daemon's answer is longer than ${MAX_ANSWER_BYTES} bytes`));
      }
      this.#wake();
    });
    socket.on('error', fail);
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        fail(new ImageError('io', 'the daemon ended before it answered'));
        resolve();
      });
    });
  }

  async next(limitMs?: number): Promise<string> {
    const timer =
      limitMs === undefined
        ? undefined
        : setTimeout(() => {
            this.#failure ??= new ImageError('io', `the daemon gave no answer within ${limitMs / 1000} s`);
            this.#wake();
          }, limitMs);
    try {
      while (this.#ready.length === 0) {
        if (this.#failure !== undefined) throw this.#failure;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      return this.#ready.shift()!;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A daemon, and what it says of itself. */
export interface Found {
  readonly client: ControlClient;
  readonly state: MountState;
}

/**
 * All daemons that answer. `trouble` is told of those that do not answer well. The caller closes the clients.
 */
export async function findAll(trouble: (text: string) => void, mountpoint?: string): Promise<Found[]> {
  const found = await Promise.all(
    socketPaths(mountpoint).map(async (path): Promise<Found[]> => {
      let client: ControlClient | undefined;
      try {
        client = await ControlClient.connect(path);
        return client === undefined ? [] : [{ client, state: await client.ask('state', {}, HELLO_MS) }];
      } catch (problem) {
        client?.close();
        trouble(ImageError.from(problem, 'io', path).message);
        return [];
      }
    }),
  );
  return found
    .flat()
    .sort(({ state: a }, { state: b }) => (a.mountpoint < b.mountpoint ? -1 : Number(a !== b)));
}

/** Removes the sockets of this user's daemons that were killed. Never rejects. */
export async function removeStaleSockets(): Promise<void> {
  const connected = await Promise.allSettled(socketPaths().filter(isOrphaned).map(ControlClient.connect));
  // Of another container.
  for (const one of connected) if (one.status === 'fulfilled') one.value?.close();
}
