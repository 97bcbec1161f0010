/** `vdisk doctor` with its trial mount, as root and as somebody else; nothing is left of it. */

import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, run, TO_MOUNT } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { TO_BE_A_USER, User } from '../support/user.ts';

const VDISK = join(dirname(VDISK_MOUNT), 'vdisk');
const root = gateOf(...TO_MOUNT);
const other = gateOf(...TO_BE_A_USER);

const MADE = /^ok {4}a mount: was made, read and ended again: ready in \d+\.\d\d s, protocol 7\.\d+$/m;

const leftovers = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('vdisk-doctor-'));

describe(root.title('root'), { skip: root.skip }, () => {
  it('can mount', async () => {
    const before = leftovers();
    const { status, stdout, stderr } = await run(VDISK, ['doctor']);
    expect(stderr).toBe('');
    expect(stdout).toMatch(MADE);
    expect(status).toBe(0);
    expect(leftovers()).toEqual(before);
  });
});

describe(other.title('an ordinary user'), { skip: other.skip }, () => {
  let stage: Stage;
  let user: User;
  beforeAll(async () => {
    stage = await Stage.open();
    user = await User.open(stage);
  });
  afterAll(async () => {
    await user?.close();
    await stage?.close();
  });
  const doctor = () => user.run(join(dirname(user.program), 'vdisk'), ['doctor']);

  it('can mount, and is told how root may see it', async () => {
    const { status, stdout } = await doctor();
    expect(stdout).toMatch(MADE);
    expect(stdout).toMatch(/ {2}allow_other: /);
    expect(status).toBe(0);
  });

  it('is told what is in the way', async () => {
    expect((await user.runAsRoot('chmod', ['600', '/dev/fuse'])).status).toBe(0);
    const { status, stdout } = await doctor();
    expect(stdout).toMatch(/^FAIL {2}\/dev\/fuse: cannot be opened by this user: permission denied$/m);
    expect(stdout).toMatch(/→ chmod 666 \/dev\/fuse/);
    expect(stdout).toMatch(/^FAIL {2}a mount: was tried, and failed: /m);
    expect(status).toBe(1);
  });
});
