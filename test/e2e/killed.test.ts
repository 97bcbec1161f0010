/** The daemon is killed under a file system that is in use: what its user sees, and the way back (docs/recovery.md). */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mountsIn } from '../support/leftovers.ts';
import { gateOf, isRunning, must, run, TO_MOUNT, until } from '../support/machine.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const VDISK = join(REPOSITORY, 'bin', 'vdisk');
const gate = gateOf(...TO_MOUNT, 'loop devices', 'program: mkfs.ext4', 'program: fsck.ext4', 'kernel: ext4');

describe(gate.title('kill -9 under a file system'), { skip: gate.skip }, () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  it.each(['vhdx', 'qed', 'vdi'])(
    '%s: errors, no hang; what was synced is there again',
    async (format) => {
      const image = stage.fresh(`disk.${format}`);
      await must(VDISK, ['create', '-f', format, image, '256M']);
      const mounted = await stage.mount(image);
      const raw = (mountpoint: string): string =>
        join(
          mountpoint,
          `${image
            .split('/')
            .at(-1)!
            .slice(0, -format.length - 1)}.raw`,
        );
      const device = await stage.attachLoop(raw(mounted.mountpoint), []);
      const inside = stage.makeDirectory('inside');
      await must('mkfs.ext4', ['-q', device]);
      await must('mount', [device, inside]);
      const kept = 'synced\n'.repeat(MIB / 7);
      await must('sh', ['-c', 'cat > "$1" && sync -f "$1"', 'sh', join(inside, 'kept')], { input: kept });
      // Load: files that nobody syncs, until an error comes.
      const load = stage.hold('sh', [
        '-c',
        'echo begun; n=0; while dd if=/dev/urandom of="$1/load$n" bs=64k count=64 conv=fsync status=none 2> /dev/null; do n=$((n + 1)); done; echo failed; read -r line',
        'sh',
        inside,
      ]);
      const loader = await load;
      process.kill(mounted.pid, 'SIGKILL');
      await until('the daemon is gone', () => !isRunning(mounted.pid));
      // Whoever uses the file system gets errors, soon.
      await until('the load fails', async () => {
        const { status } = await run(
          'dd',
          [`of=${join(inside, 'probe')}`, 'bs=4k', 'conv=fsync', 'status=none'],
          {
            input: 'x',
          },
        );
        return status !== 0;
      });
      await loader.release();
      // The way back, as docs/recovery.md tells it.
      await must('umount', [inside]);
      await stage.detachLoop(device);
      await must('umount', [mounted.mountpoint]);
      expect(mountsIn(stage.directory)).toEqual([]);

      const again = await stage.mount(image, { mountpoint: mounted.mountpoint });
      const fresh = await stage.attachLoop(raw(again.mountpoint), []);
      // 1: the file system was repaired (its journal replayed).
      expect([0, 1]).toContain((await run('fsck.ext4', ['-p', fresh], { limitMs: 60_000 })).status);
      await must('mount', [fresh, inside]);
      expect(readFileSync(join(inside, 'kept'), 'utf8') === kept).toBe(true);
      await must('umount', [inside]);
      await stage.detachLoop(fresh);
      await again.unmount();
      // 3: space that nothing uses, which a crash may leave.
      expect([0, 3]).toContain((await run(VDISK, ['check', image])).status);
    },
    120_000,
  );
});
