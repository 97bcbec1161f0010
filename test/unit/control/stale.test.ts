/** Control sockets that nobody listens on: removed where their process is gone, and only there. */

import { existsSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient, removeStaleSockets } from '../../../src/control/client.ts';
import { makeOwnDirectory, newSocketPath } from '../../../src/control/place.ts';
import { gateOf } from '../../support/machine.ts';

const gate = gateOf('root');
const HASH = '0123456789abcdef';
const HELLO = '{"vdisk-mount":1,"pid":1,"mountpoint":"/x"}\n';

describe(gate.title('control sockets'), { skip: gate.skip }, () => {
  const elsewhere = mkdtempSync(join(tmpdir(), 'vdisk-stale-'));
  const made: string[] = [];
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
    for (const path of made.splice(0)) rmSync(path, { force: true });
  });

  /** A socket at `path` on which somebody listens, or nobody does any more. */
  async function socketAt(path: string, listens = false): Promise<string> {
    const server = createServer((socket) => socket.end(HELLO));
    const first = join(elsewhere, 's');
    await new Promise<void>((resolve) => server.listen(first, resolve));
    renameSync(first, path);
    made.push(path);
    if (listens) servers.push(server);
    else await new Promise((resolve) => server.close(resolve));
    return path;
  }
  const named = (mark: string): string => join(makeOwnDirectory(), `${HASH}-${mark}.sock`);

  it('of processes that are gone are removed, also where their number is in use again', async () => {
    for (const mark of ['4194303-1', `${process.pid}-1`]) {
      const path = await socketAt(named(mark));
      expect(await ControlClient.connect(path)).toBeUndefined();
      expect(existsSync(path)).toBe(false);
      await socketAt(path);
      await removeStaleSockets();
      expect(existsSync(path)).toBe(false);
    }
  });

  it('of processes that are there are left alone: they begin to listen just now', async () => {
    const path = await socketAt(newSocketPath('/nowhere'));
    expect(await ControlClient.connect(path)).toBeUndefined();
    await removeStaleSockets();
    expect(existsSync(path)).toBe(true);
  });

  it('on which somebody listens are left alone, wherever that process is', async () => {
    const path = await socketAt(named('4194303-1'), true);
    await removeStaleSockets();
    expect(existsSync(path)).toBe(true);
  });

  it('in other directories are left alone', async () => {
    const path = await socketAt(join(elsewhere, `${HASH}-4194303-1.sock`));
    expect(await ControlClient.connect(path)).toBeUndefined();
    expect(existsSync(path)).toBe(true);
    rmSync(elsewhere, { recursive: true });
  });
});
