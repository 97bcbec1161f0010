/**
 * Mounting on a place that autofs watches, while somebody waits for it. The kernel lets nobody pass there but the process
 * group that it was told of, as automount(8) and systemd (for its .automount units) tell it of theirs.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';

const gate = gateOf(...TO_MOUNT, 'kernel: autofs', 'package: koffi', 'program: setsid');

/**
 * An automounter for one request: $1 is its pipe, $2 the place, what follows the command that mounts. Runs as the leader of its
 * process group. It reads the whole packet of autofs protocol 5 (linux/auto_fs.h: 304 bytes), which says that somebody waits.
 */
const AUTOMOUNTER = `
mkfifo "$1" && exec 5<>"$1" || exit 90
mount -i -t autofs -o "fd=5,pgrp=$$,minproto=5,maxproto=5,direct" autofs "$2" || exit 91
setsid ls "$2" 5>&- >/dev/null 2>&1 & waiting=$!
head -c 304 <&5 >/dev/null || exit 92
shift 2
"$@" 5>&-
status=$?
kill -9 $waiting
exit $status
`;

describe(gate.title('a mountpoint of autofs'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  it('is mounted on while somebody waits for it', async () => {
    const image = stage.makeFile('disk.img', 'awaited'.padEnd(2048, '.'));
    const mountpoint = stage.makeDirectory('mnt');
    const command = [VDISK_MOUNT, '-o', `log-file=${stage.fresh('log')}`, image, mountpoint];
    const args = ['-w', 'sh', '-c', AUTOMOUNTER, 'sh', stage.fresh('pipe'), mountpoint, ...command];
    try {
      expect(await run('setsid', args, { limitMs: 20_000 })).toEqual({ status: 0, stdout: '', stderr: '' });
      const types = await must('findmnt', ['-n', '-o', 'FSTYPE', '--mountpoint', mountpoint]);
      expect(types.split('\n')).toContain('fuse.vdisk-mount');
      await must('umount', ['-i', mountpoint]);
    } finally {
      await run('umount', ['-i', '-l', mountpoint]);
    }
  });
});
