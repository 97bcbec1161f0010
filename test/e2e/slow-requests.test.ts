/** A request that hangs because the file system under the image does: it is told what waits, and for what. */

import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, TO_MOUNT, until } from '../support/machine.ts';
import { logged, Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const gate = gateOf(...TO_MOUNT);

describe(gate.title('a request that takes long'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  it('is logged once with what it waits for, and once when it is over', async () => {
    const image = stage.path('disk.img');
    writeFileSync(image, 'begin');
    truncateSync(image, 64 * MIB);
    // A mount whose image lies in another mount, which stops answering.
    const under = await stage.mount(image);
    const shown = join(under.mountpoint, 'disk.raw');
    const over = await stage.mount(shown, { options: ['--format', 'raw'] });
    const file = join(over.mountpoint, 'disk.raw');
    const holder = await stage.holdOpen(file);
    const told = (): string[] => logged(over).filter((text) => text.startsWith('disk.raw: '));
    try {
      process.kill(under.pid, 'SIGSTOP');
      const answer = holder.ask(`${32 * MIB}`);
      const warning = await until('it is told', () => told()[0], 30_000);
      expect(warning).toMatch(/^disk\.raw: READ takes longer than 10 s: worker \d+ waits in pread of /);
      expect(warning).toContain(shown);
      process.kill(under.pid, 'SIGCONT');
      expect(await answer).toBe('\0'.repeat(16));
      const end = await until('its end is told', () => told()[1], 30_000);
      expect(end).toMatch(/^disk\.raw: READ is over, after 1\d s$/);
      expect(told()).toHaveLength(2);
    } finally {
      process.kill(under.pid, 'SIGCONT');
    }
    await holder.release();
    await over.unmount();
    await under.unmount();
  }, 90_000);
});
