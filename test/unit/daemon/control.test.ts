/** The control socket against clients that send anything, or take nothing. */

import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { ControlClient } from '../../../src/control/client.ts';
import { MAX_REQUEST_BYTES } from '../../../src/control/protocol.ts';
import { Control, MAX_CLIENTS } from '../../../src/daemon/control.ts';
import * as syscalls from '../../../src/source/syscalls.ts';
import { until } from '../../support/machine.ts';
import { random, randomBytes } from '../../support/random.ts';

describe('a control socket', () => {
  let directory: string;
  let path: string;
  let control: Control;
  let running = 0;
  let most = 0;
  let asked = 0;
  const sockets: Socket[] = [];

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vdisk-control-'));
    path = join(directory, 's.sock');
    asked = 0;
    control = await Control.listen(
      '/mnt/x',
      async (request) => {
        asked += 1;
        running += 1;
        most = Math.max(most, running);
        await new Promise(setImmediate);
        running -= 1;
        if (request['do'] === 'fail') throw new ImageError('usage', 'no', { hint: 'why' });
        if (request['do'] === 'throw') throw new TypeError('a defect');
        return { echo: request['n'], text: 'x'.repeat(Number(request['size'] ?? 0)) };
      },
      path,
    );
  });
  afterEach(() => {
    vi.restoreAllMocks();
    for (const socket of sockets.splice(0)) socket.destroy();
    control.close({ how: 'unmounted', clean: true });
    rmSync(directory, { recursive: true });
  });

  /** A connection, with all that came. */
  async function connect() {
    const socket = createConnection(path);
    sockets.push(socket);
    const came = { text: '', closed: false };
    socket.on('data', (piece) => {
      came.text += piece.toString();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      came.closed = true;
    });
    await until('the hello comes', () => came.text.includes('\n') || came.closed);
    return { socket, came, lines: () => came.text.split('\n').filter((line) => line !== '') };
  }
  const works = async (): Promise<void> => {
    const client = (await ControlClient.connect(path))!;
    expect(await client.ask('state', { n: 5 } as object)).toMatchObject({ echo: 5 });
    client.close();
  };

  it('is for its user only, says who it is, and is gone at the end', async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const { came } = await connect();
    expect(JSON.parse(came.text)).toEqual({ 'vdisk-mount': 1, pid: process.pid, mountpoint: '/mnt/x' });
    control.close({ how: 'unmounted', clean: true });
    expect(existsSync(path)).toBe(false);
  });

  it('answers in order, one at a time, whatever is sent at once', async () => {
    most = 0;
    const { socket, lines } = await connect();
    const many = Array.from({ length: 200 }, (_, n) => `${JSON.stringify({ do: 'x', n })}\n`).join('');
    socket.write(many);
    await until('all answers come', () => lines().length === 201);
    expect(
      lines()
        .slice(1)
        .map((line) => JSON.parse(line).result.echo),
    ).toEqual([...Array(200).keys()]);
    expect(most).toBe(1);
  });

  it('tells errors as they are, and defects as such', async () => {
    const client = (await ControlClient.connect(path))!;
    await expect(client.ask('fail' as 'state', {})).rejects.toMatchObject({ kind: 'usage', hint: 'why' });
    await expect(client.ask('throw' as 'state', {})).rejects.toMatchObject({ kind: 'bug' });
    client.close();
  });

  it('answers garbage with an error each line, and goes on', async () => {
    const { socket, lines } = await connect();
    for (const line of ['', '{', 'null', '[]', '{"do":1}', '"x"', '\u0000', '{"do":"x","n":1}']) {
      socket.write(`${line}\n`);
    }
    await until('all answers come', () => lines().length === 9);
    expect(
      lines()
        .slice(1)
        .map((line) => JSON.parse(line).ok),
    ).toEqual([...Array(7).fill(false), true]);
    const next = random(3);
    for (let round = 0; round < 20; round += 1) {
      const { socket } = await connect();
      socket.end(randomBytes(next, 5000));
    }
    await works();
  });

  it('ends who sends a line without an end', async () => {
    const { socket, came, lines } = await connect();
    socket.write('a'.repeat(MAX_REQUEST_BYTES + 1));
    await until('it is ended', () => came.closed);
    expect(JSON.parse(lines()[1]!)).toMatchObject({ ok: false, error: { kind: 'usage' } });
    await works();
  });

  it('does no more for who takes nothing than fills the buffers', async () => {
    const { socket } = await connect();
    socket.pause();
    const ask = `${JSON.stringify({ do: 'x', size: 1 << 20 })}\n`;
    for (let n = 0; n < 2000; n += 1) socket.write(ask);
    await works();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(asked).toBeLessThan(10);
    await works();
  });

  it('has place for one more, at the cost of who was idle longest', async () => {
    const clients: Awaited<ReturnType<typeof connect>>[] = [];
    for (let n = 0; n < MAX_CLIENTS; n += 1) clients.push(await connect());
    clients[0]!.socket.write('{"do":"x"}\n');
    await until('it is answered', () => clients[0]!.lines().length === 2);
    await works();
    await until('the idle one is ended', () => clients[1]!.came.closed);
    expect(clients.filter(({ came }) => came.closed)).toHaveLength(1);
  });

  it('speaks with root and its own user only', async () => {
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    const peer = vi.spyOn(syscalls, 'peerUser');
    peer.mockReturnValue(1001);
    await expect(ControlClient.connect(path)).rejects.toMatchObject({ kind: 'denied' });
    for (const user of [0, 1000]) {
      peer.mockReturnValue(user);
      await works();
    }
  });

  it('tells who waits how the mount ended', async () => {
    const waiting = await connect();
    const other = await connect();
    waiting.socket.write('{"do":"unmount","wait":true}\n');
    await until('it is answered', () => waiting.lines().length === 2);
    control.close({ how: 'unmounted', clean: false });
    await until('it is told', () => waiting.lines().length === 3);
    expect(JSON.parse(waiting.lines()[2]!)).toEqual({ ended: { how: 'unmounted', clean: false } });
    await until('the other is ended', () => other.came.closed);
    expect(other.lines()).toHaveLength(1);
  });

  it('knows the user of the other end', async () => {
    const peer = vi.spyOn(syscalls, 'peerUser');
    await works();
    expect(peer.mock.results[0]!.value).toBe(syscalls.haveSyscalls() ? process.geteuid!() : -38);
  });
});
