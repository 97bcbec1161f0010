/**
 * What every transport must do on a writable mount: bytes that are written are read again, whichever way they went,
 * and are in the image when it is mounted anew. The same rules as in transport-suite.ts.
 */

import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMount } from '../../src/transport/mountinfo.ts';
import { encodeVdi, FREE } from '../support/encoders/vdi.ts';
import { gateOf, must, type Need, run, TO_MOUNT, until } from '../support/machine.ts';
import { type Mounted, Stage } from '../support/mount.ts';
import { random, randomBytes } from '../support/random.ts';

export interface WritingCase {
  /** Options of vdisk-mount that choose the transport. */
  readonly options: readonly string[];
  readonly needs?: readonly Need[];
  /** Whether fallocate(2) gets through. */
  readonly fallocates: boolean;
}

const PROBE = fileURLToPath(new URL('./writing-probe.py', import.meta.url));
const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

interface WritableImage {
  readonly name: string;
  readonly format: string;
  make(path: string, seed: number): void;
}

/** With a hole in it, and a last page that is not whole. */
const RAW: WritableImage = {
  name: 'raw',
  format: 'raw',
  make(path, seed) {
    const fd = openSync(path, 'wx');
    try {
      ftruncateSync(fd, SIZE - 512 * 3);
      writeSync(fd, randomBytes(random(seed), 9 * MIB), 0, 9 * MIB, 3 * MIB);
    } finally {
      closeSync(fd);
    }
  },
};

/** Blocks of 1 MiB, out of order, most of them not there yet. */
const VDI: WritableImage = {
  name: 'VDI',
  format: 'vdi',
  make(path, seed) {
    const map = Array.from({ length: SIZE / MIB }, () => FREE);
    for (const [physical, block] of [5, 0, 15, 6, 11].entries()) map[block] = physical;
    writeFileSync(path, encodeVdi({ map, blockSize: MIB }, random(seed)).file);
  },
};

export function describeWriting(name: string, { options, needs = [], fallocates }: WritingCase): void {
  const gate = gateOf(...TO_MOUNT, ...needs, 'program: python3', 'program: cmp', 'program: dd');

  describe.skipIf(gate.skip)(gate.title(`writing through ${name}`), () => {
    let stage: Stage;
    beforeAll(async () => {
      stage = await Stage.open();
    });
    afterAll(() => stage?.close());

    const probe = async (...args: readonly string[]): Promise<unknown> =>
      JSON.parse(await must('python3', [PROBE, ...args]));
    const isSame = async (left: string, right: string): Promise<boolean> =>
      (await run('cmp', [left, right])).status === 0;

    describe.each([RAW, VDI])('$name', (kind) => {
      let image: string;
      let mounted: Mounted;
      let shown: string;
      const mount = async (...more: readonly string[]): Promise<void> => {
        mounted = await stage.mount(image, { options: ['-o', `format=${kind.format}`, ...options, ...more] });
        shown = join(mounted.mountpoint, `${image.split('/').at(-1)!.split('.')[0]}.raw`);
      };

      beforeAll(async () => {
        image = stage.fresh(`disk.${kind.format}`);
        kind.make(image, 3);
        await mount();
      });

      it('is mounted for writing, and shows it', async () => {
        const line = readFileSync('/proc/self/mountinfo', 'utf8')
          .split('\n')
          .find((text) => text.startsWith(`${findMount(mounted.mountpoint)?.id} `));
        expect(line?.split(' ')[5]?.split(',')).toEqual(expect.arrayContaining(['rw', 'nosuid', 'nodev']));
        expect((await must('stat', ['-c', '%a %F', shown])).trim()).toBe('644 regular file');
      });

      it('is not changed by mounting and reading', async () => {
        const before = stage.fresh('before');
        copyFileSync(image, before);
        const { mtimeMs } = statSync(image);
        await must('cat', [shown]);
        await mounted.unmount();
        await mount();
        expect(await isSame(before, image)).toBe(true);
        expect(statSync(image).mtimeMs).toBe(mtimeMs);
      });

      it.each([1, 2])(
        'reads what was written in any way, also when it is mounted anew (%i)',
        async (seed) => {
          const model = stage.fresh('model');
          const found = (await probe('scribble', shown, model, `${seed}`, fallocates ? 'yes' : 'no')) as {
            wrong: number;
            steps: Record<string, number>;
          };
          expect(found.wrong).toBe(0);
          expect(Object.keys(found.steps).length).toBe(8);
          await mounted.unmount();
          await mount();
          expect(await isSame(shown, model)).toBe(true);
        },
      );

      it('is written to by eight processes at once', async () => {
        expect(await probe('parallel', shown, '8')).toEqual({ statuses: Array(8).fill(0), wrong: 0 });
      });

      it('has no space past its end, and keeps its size', async () => {
        const ends = ['past', 'far past', 'over'];
        const each = ends.map((at) => [
          [at, 'no space'],
          [`${at}, then`, 'ok'],
          [`${at}, size`, true],
        ]);
        expect(await probe('end', shown)).toEqual({
          ...Object.fromEntries(each.flat()),
          'direct, past': 'ENOSPC',
          read: true,
          fsync: 'ok',
        });
      });

      it('ends who writes until it is full, and has its size when nobody uses it', async () => {
        const { size } = statSync(shown);
        const found = (await probe('endless', shown)) as { ended: string };
        expect(found.ended).toBe('ENOSPC');
        await until('the size is right', () => statSync(shown).size === size);
      });

      it('cut, reads as zeros behind it, and keeps its size', async () => {
        const fill = ['if=/dev/urandom', `of=${shown}`, 'bs=1M', 'count=8', 'conv=notrunc', 'status=none'];
        const { size } = statSync(shown);
        for (const at of ['3000001', '4096', '0']) {
          await must('dd', fill);
          expect(await probe('cut', shown, at), at).toEqual({ kept: true, zeros: true, 'were zeros': false });
          expect(statSync(shown).size).toBe(size);
        }
      });

      it('holds what cp and dd write to it, and zeros', async () => {
        const source = stage.fresh('source');
        const { size } = statSync(shown);
        writeFileSync(source, randomBytes(random(9), 2 * MIB + 77));
        ftruncateSync(openSync(source, 'r+'), size);
        await must('dd', [
          'if=/dev/urandom',
          `of=${shown}`,
          'bs=1M',
          'count=8',
          'conv=notrunc',
          'status=none',
        ]);
        await must('cp', ['--sparse=always', source, shown]);
        expect(await isSame(shown, source)).toBe(true);
        await must('dd', [
          'if=/dev/urandom',
          `of=${shown}`,
          'bs=1M',
          'count=8',
          'conv=notrunc',
          'status=none',
        ]);
        await must('dd', [`if=${source}`, `of=${shown}`, 'bs=1M', 'count=3', 'status=none']);
        expect(await isSame(shown, source)).toBe(true);
      });

      it('takes no other change', async () => {
        const refused = ['create', 'mkdir', 'symlink', 'link', 'rename', 'unlink', 'chmod', 'chown'];
        expect(await probe('changes', shown, mounted.mountpoint)).toEqual({
          ...Object.fromEntries(refused.map((what) => [what, 'EPERM'])),
          rmdir: 'ENOTDIR',
          'chmod, the same': 'ok',
          'chown, the same': 'ok',
          grow: 'EFBIG',
          stay: 'ok',
          'same size': true,
        });
      });

      it('keeps times', async () => {
        const ms = 1_234_567_890_123;
        expect(await probe('times', shown)).toEqual({ set: [ms, ms], 'written later': true });
      });

      it(fallocates ? 'reserves nothing, and makes zeros' : 'knows no fallocate', async () => {
        const found = (await probe('kinds', shown)) as Record<string, unknown>;
        const { 'same size': same, ...calls } = found;
        expect(same).toBe(true);
        if (!fallocates) {
          expect(new Set(Object.values(calls))).toEqual(new Set(['ENOTSUP']));
          return;
        }
        expect(calls).toEqual({
          reserve: 'ok',
          'reserve past the end': 'ENOSPC',
          'reserve past the end, not seen': 'ok',
          zeros: 'ok',
          'zeros past the end': 'ENOSPC',
          'zeros past the end, not seen': 'ok',
          'hole past the end': 'ok',
          collapse: 'ENOTSUP',
          insert: 'ENOTSUP',
        });
      });

      it('with -o sync, keeps nothing back', async () => {
        await mounted.unmount();
        await mount('-o', 'sync');
        const model = stage.fresh('model');
        const found = await probe('scribble', shown, model, '5', fallocates ? 'yes' : 'no');
        expect(found).toMatchObject({ wrong: 0 });
        await mounted.unmount();
        await mount();
        expect(await isSame(shown, model)).toBe(true);
      });
    });

    it('has written when O_DSYNC, O_SYNC or -o sync say so', async () => {
      const image = stage.fresh('disk.img');
      RAW.make(image, 4);
      const mounted = await stage.mount(image, { options: ['-o', 'format=raw', ...options] });
      const shown = join(mounted.mountpoint, `${image.split('/').at(-1)!.split('.')[0]}.raw`);
      expect(await probe('stable', shown, image, 'dsync')).toEqual([true, true, true]);
      expect(await probe('stable', shown, image, 'sync')).toEqual([true, true, true]);
      await mounted.unmount();
      const strict = await stage.mount(image, { options: ['-o', 'format=raw,sync', ...options] });
      const again = join(strict.mountpoint, `${image.split('/').at(-1)!.split('.')[0]}.raw`);
      expect(await probe('stable', again, image, 'mount')).toEqual([true, true, true]);
      await strict.unmount();
    });

    it('is written where the mountpoint is the file', async () => {
      const image = stage.fresh('disk.img');
      RAW.make(image, 4);
      const mountpoint = stage.makeFile('place', 'what was there before');
      const mounted = await stage.mount(image, { mountpoint, options: ['-o', 'format=raw', ...options] });
      const model = stage.fresh('model');
      const found = await probe('scribble', mountpoint, model, '6', fallocates ? 'yes' : 'no');
      expect(found).toMatchObject({ wrong: 0 });
      await mounted.unmount();
      expect(await isSame(image, model)).toBe(true);
      expect(readFileSync(mountpoint, 'utf8')).toBe('what was there before');
    });
  });
}
