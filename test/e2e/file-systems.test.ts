/** File systems inside images, used through a loop device as an administrator would: checked, mounted, read. */

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  convert,
  differingFiles,
  FILE_SYSTEMS,
  type FileSystemDisk,
  KINDS,
  makeFileSystem,
  TO_MAKE_IMAGES,
} from '../support/images.ts';
import { gateOf, must, reasonToSkip, run, TO_MOUNT } from '../support/machine.ts';
import { type Mounted, Stage } from '../support/mount.ts';

const gate = gateOf(...TO_MOUNT, TO_MAKE_IMAGES, 'loop devices');
const possible = FILE_SYSTEMS.filter(({ needs }) => reasonToSkip(...needs) === undefined);

describe(gate.title('file systems in images'), { skip: gate.skip }, () => {
  let stage: Stage;
  const disks = new Map<string, FileSystemDisk>();

  beforeAll(async () => {
    stage = await Stage.open();
    for (const kind of possible) disks.set(kind.name, await makeFileSystem(stage, kind));
  });
  afterAll(() => stage?.close());

  for (const kind of KINDS) {
    describe(kind.name, () => {
      let mounted: Mounted;

      beforeAll(async () => {
        const directory = stage.makeDirectory('images');
        const images: string[] = [];
        for (const { name } of possible) {
          const image = join(directory, `${name}${kind.suffix}`);
          await convert(kind, disks.get(name)!.path, image);
          images.push(image);
        }
        mounted = await stage.mount(images);
      });
      afterAll(() => mounted?.unmount());

      for (const fileSystem of FILE_SYSTEMS) {
        const own = gateOf(...fileSystem.needs);

        it(own.title(`${fileSystem.name} is clean and holds its files`), { skip: own.skip }, async () => {
          const device = await stage.attachLoop(join(mounted.mountpoint, `${fileSystem.name}.raw`));
          try {
            const [program, ...options] = fileSystem.check;
            const checked = await run(program!, [...options, device]);
            expect(checked.status, `${checked.stdout}${checked.stderr}`).toBe(0);
            const directory = stage.makeDirectory('inside');
            await must('mount', ['-t', fileSystem.name, '-o', fileSystem.mount, device, directory]);
            try {
              expect(await differingFiles(directory, disks.get(fileSystem.name)!.files)).toEqual([]);
            } finally {
              await must('umount', [directory]);
            }
          } finally {
            await stage.detachLoop(device);
          }
        });
      }
    });
  }
});
