/** What a mount shows is the disk: the same bytes as qemu-img reads, the same holes, and what is said of it. */

import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  convert,
  convertBack,
  KINDS,
  makePatternDisk,
  PATTERN_DATA,
  PATTERN_SIZE,
  patternAllocation,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, type Need, run, TO_MOUNT } from '../support/machine.ts';
import { type Mounted, Stage } from '../support/mount.ts';

const TRANSPORTS: readonly { title: string; options: readonly string[]; needs: readonly Need[] }[] = [
  { title: 'kernel transport, 1 thread', options: ['--threads', '1'], needs: [] },
  { title: 'kernel transport, 4 threads', options: ['--threads', '4'], needs: [] },
  {
    title: 'fuse-native transport',
    options: ['--transport', 'fuse-native'],
    needs: ['package: fuse-native'],
  },
];

const READ_ATTRIBUTES = `
import os, sys
for name in sorted(os.listxattr(sys.argv[1])):
    print(name + "=" + os.getxattr(sys.argv[1], name).decode())
`;

const READ_ONE_ATTRIBUTE = 'import os, sys; os.getxattr(*sys.argv[1:])';

/** The bytes of a file between SEEK_DATA and SEEK_HOLE, added up. */
const COUNT_DATA = `
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
total = at = 0
try:
    while True:
        start = os.lseek(fd, at, os.SEEK_DATA)
        at = os.lseek(fd, start, os.SEEK_HOLE)
        total += at - start
except OSError as problem:
    if problem.errno != 6: raise
print(total)
`;

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES);

describe(gate.title('content of a mount'), { skip: gate.skip }, () => {
  let stage: Stage;
  let pattern: string;

  beforeAll(async () => {
    stage = await Stage.open();
    pattern = stage.path('pattern');
    makePatternDisk(pattern, 1);
  });
  afterAll(() => stage?.close());

  for (const kind of KINDS) {
    const stem = kind.name.replaceAll(' ', '-');

    describe(kind.name, () => {
      let image: string;
      let expected: string;

      beforeAll(async () => {
        image = stage.path(`${stem}${kind.suffix}`);
        expected = stage.path(`${stem}.expected`);
        await convert(kind, pattern, image);
        await convertBack(kind, image, expected);
      });

      for (const { title, options, needs } of TRANSPORTS) {
        const transport = gateOf(...needs);

        describe(transport.title(title), { skip: transport.skip }, () => {
          let mounted: Mounted;
          let raw: string;

          beforeAll(async () => {
            mounted = await stage.mount(image, { options });
            raw = join(mounted.mountpoint, `${stem}.raw`);
          });
          afterAll(() => mounted?.unmount());

          it('shows the bytes that qemu-img reads', async () => {
            expect(await must('ls', [mounted.mountpoint])).toBe(`${stem}.raw\n`);
            expect(statSync(raw).size).toBe(statSync(expected).size);
            await must('cmp', [raw, expected]);
          });

          it('takes the room of what is allocated', async () => {
            const shown = statSync(raw).blocks * 512;
            const file = statSync(image).blocks * 512;
            const units = kind.unit === 0 ? file : patternAllocation(kind.unit);
            expect(shown).toBeLessThanOrEqual(units);
            // The last unit ends with the disk; a file that is sparse takes less than its units.
            expect(shown).toBeGreaterThanOrEqual(Math.min(units - kind.unit, file, PATTERN_DATA));
            expect(Number.parseInt(await must('du', ['--block-size=1', raw]), 10)).toBe(shown);
          });

          const attributes = gateOf('program: python3');
          it(attributes.title('says what it is in attributes'), { skip: attributes.skip }, async () => {
            const said = (await must('python3', ['-c', READ_ATTRIBUTES, raw])).split('\n');
            expect(said).toContain(`user.vdisk.format=${kind.format}`);
            expect(said).toContain(`user.vdisk.virtual-size=${statSync(expected).size}`);
            expect(said).toContain(`user.vdisk.source=${image}`);
            const unknown = await run('python3', ['-c', READ_ONE_ATTRIBUTE, raw, 'user.no']);
            expect(unknown.stderr).toContain('No data available');
          });
        });
      }

      const seeking = gateOf('program: python3');
      it(seeking.title('has its holes, and keeps them in a copy'), { skip: seeking.skip }, async () => {
        const mounted = await stage.mount(image);
        const raw = join(mounted.mountpoint, `${stem}.raw`);
        const copy = stage.fresh('copy');
        await must('cp', ['--sparse=auto', raw, copy]);
        await must('cmp', [copy, expected]);
        const shown = Number(await must('python3', ['-c', COUNT_DATA, raw]));
        // Host file systems allocate in units of their own.
        const most = patternAllocation(kind.unit || 64 * 1024) + 1024 * 1024;
        for (const room of [shown, statSync(copy).blocks * 512]) {
          expect(room).toBeGreaterThanOrEqual(PATTERN_DATA);
          expect(room).toBeLessThanOrEqual(most);
          expect(room).toBeLessThan(PATTERN_SIZE / 2);
        }
        await mounted.unmount();
      });
    });
  }

  it('shows the times and the owner of the image file, and the modes of a read-only disk', async () => {
    const image = stage.makeFile('owned.img', new Uint8Array(4096));
    await must('touch', ['-d', '2001-02-03T04:05:06Z', image]);
    const mounted = await stage.mount(image, { options: ['-o', 'ro,uid=1234,gid=5678,umask=027'] });
    const raw = join(mounted.mountpoint, `${basename(image).replace(/\.[^.]*$/, '')}.raw`);
    const stat = statSync(raw);
    expect(stat.mtime.toISOString()).toBe('2001-02-03T04:05:06.000Z');
    expect([stat.uid, stat.gid, stat.mode.toString(8)]).toEqual([1234, 5678, '100440']);
    expect((await run('dd', ['if=/dev/zero', `of=${raw}`, 'count=1', 'conv=notrunc'])).stderr).toContain(
      'Read-only file system',
    );
    await mounted.unmount();
  });
});
