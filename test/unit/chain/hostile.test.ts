/** What is not opened on the word of an image, and what is said of it. */

import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { MAX_DEPTH } from '../../../src/chain/chain.ts';
import { Gate } from '../../../src/chain/gate.ts';
import { openLayer } from '../../../src/chain/layer.ts';
import { DEFAULT_POLICY } from '../../../src/chain/policy.ts';
import { MAX_SCANNED } from '../../../src/chain/scan.ts';
import type { ParentPlace } from '../../../src/image/parent.ts';
import { linkTo, Place, qedOn } from './support.ts';

const place = new Place();
const posix = (path: string): ParentPlace => ({ path, style: 'posix', origin: 'test' });

describe('recorded paths', () => {
  it.each([
    ['..\\..\\secret.vdi', 'secret.vdi: it is outside of vm/child, where parents may lie'],
    ['..\\secret.vdi', 'vm/secret.vdi: it is outside of vm/child, where parents may lie'],
    ['sub\\..\\..\\..\\secret.vdi', 'secret.vdi: it is outside of vm/child, where parents may lie'],
    [
      '\\\\host\\share\\secret.vdi',
      '"\\\\\\\\host\\\\share\\\\secret.vdi" (test): it is on a share of another host',
    ],
    ['\\\\.\\PhysicalDrive0', '"\\\\\\\\.\\\\PhysicalDrive0" (test): it is a device of Windows'],
    ['nbd:host:10809', '"nbd:host:10809" (test): it is a URL or names a protocol, which is never opened'],
    ['file://host/x/secret.vdi', '"file://host/x/secret.vdi" (test): it is on another host'],
  ])('%j', (path, reason) => {
    place.put('secret.vdi', { id: 1 });
    place.put('vm/secret.vdi', { id: 1 });
    place.put('vm/child/top.vdi', { id: 3 });
    const { kind, looked } = place.refused('vm/child/top.vdi', {}, linkTo([path], 1));
    expect(kind).toBe('missing');
    expect(looked[0]).toBe(reason);
  });

  it('absolute ones outside', () => {
    const secret = place.put('secret.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    for (const path of [secret, `file://${secret}`, `${place.path('vm')}/../secret.vdi`]) {
      const { looked } = place.refused('vm/top.vdi', {}, linkTo([posix(path)], 1));
      expect(looked[0]).toBe('secret.vdi: it is outside of vm, where parents may lie');
    }
  });

  it('a directory whose name begins like that of an allowed one', () => {
    place.put('vm-other/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    expect(place.refused('vm/top.vdi', {}, linkTo(['..\\vm-other\\base.vdi'], 1)).looked[0]).toContain(
      'outside',
    );
  });

  it('beside Snapshots only what lies there itself', () => {
    place.put('vm/vm.vdi', { id: 1 });
    place.put('vm/other/base.vdi', { id: 1 });
    place.put('vm/Snapshots/top.vdi', { id: 3 });
    expect(place.find('vm/Snapshots/top.vdi', {}, linkTo(['..\\vm.vdi'], 1)).paths).toEqual(['vm/vm.vdi']);
    const deep = place.refused('vm/Snapshots/top.vdi', {}, linkTo([posix('../other/base.vdi')]));
    expect(deep.looked[0]).toContain('outside of vm/Snapshots and vm');
  });

  it('links that lead out', () => {
    place.put('secret/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    symlinkSync(place.path('secret/base.vdi'), place.path('vm/base.vdi'));
    symlinkSync(place.path('secret'), place.path('vm/dir'));
    symlinkSync('loop.vdi', place.path('vm/loop.vdi'));
    const link = linkTo(['base.vdi', 'dir\\base.vdi', 'loop.vdi'], 1);
    expect(place.refused('vm/top.vdi', {}, link).looked).toEqual([
      'vm/base.vdi: it leads to secret/base.vdi: it is outside of vm, where parents may lie',
      'vm/dir/base.vdi: it leads to secret/base.vdi: it is outside of vm, where parents may lie',
      'vm/loop.vdi: its links lead nowhere',
      'vm: none of the images in it (1) is the one',
    ]);
    // With the directory they lead to allowed, they are good.
    expect(place.find('vm/top.vdi', { parentDirs: [place.path('secret')] }, link).paths).toEqual([
      'secret/base.vdi',
    ]);
  });

  it('pipes, devices and directories, which are not opened', () => {
    place.put('vm/top.vdi', { id: 3 });
    place.put('vm/dir.vdi/x', new Uint8Array(1));
    execFileSync('mkfifo', [place.path('vm/pipe.vdi')]);
    const link = linkTo(['pipe.vdi', 'dir.vdi'].map(posix));
    expect(place.refused('vm/top.vdi', {}, link).looked).toEqual([
      'vm/pipe.vdi: it is not a regular file',
      'vm/dir.vdi: it is not a regular file',
    ]);
    const parents = ['/dev/null', place.path('vm/dir.vdi')];
    const named = place.refused('vm/top.vdi', { parents }, linkTo(['gone.vdi'], 1));
    expect(named.looked.slice(0, 2)).toEqual([
      '/dev/null: is neither a regular file nor a block device',
      'vm/dir.vdi: is a directory, not a disk image',
    ]);
  });

  it('nothing that would act on a terminal is shown as it is', () => {
    place.put('vm/top.vdi', { id: 3 });
    const path = '..\\\u001b[31mred\u202e\n.vdi';
    const error = place.refused(
      'vm/top.vdi',
      {},
      linkTo([path, 'a\u001b]0;x\u0007.vdi', '\\\\h\\s\u009b1m'], 1),
    );
    const said = [error.message, ...error.explanation, JSON.stringify(error.toWire())].join('');
    expect(said).toContain('\\u001b[31mred\\u202e');
    expect(said).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  });
});

describe('between looking and opening', () => {
  it('what was put in the place is refused when it is open', () => {
    place.put('secret.vdi', { id: 1 });
    place.put('vm/base.vdi', { id: 1 });
    place.put('vm/top.vdi', { id: 3 });
    const gate = new Gate(place.path('vm/top.vdi'), DEFAULT_POLICY, () => {});
    const context = place.context([]);
    const open = (path: string) =>
      openLayer(path, 'read', undefined, context, { verify: (fd) => gate.verify(fd) });
    open(place.path('vm/base.vdi')).source.close();
    symlinkSync(place.path('secret.vdi'), place.path('vm/swapped.vdi'));
    for (const path of [place.path('vm/swapped.vdi'), place.path('secret.vdi')]) {
      expect(() => open(path)).toThrow(
        expect.objectContaining({
          kind: 'denied',
          message: expect.stringContaining('secret.vdi: it is outside of'),
        }),
      );
    }
  });
});

describe('circles', () => {
  it('an image that is its own parent', () => {
    place.put('vm/top.vdi', { id: 3, parent: 3 });
    const { kind, message } = place.refused('vm/top.vdi');
    expect({ kind, message: place.short(message) }).toEqual({
      kind: 'corrupt',
      message:
        'vm/top.vdi: its parent vm/top.vdi cannot be used: it is vm/top.vdi of this chain: ' +
        'an image cannot be its own parent',
    });
  });

  it('under another name', () => {
    const top = place.put('vm/top.vdi', { id: 3 });
    linkSync(top, place.path('vm/hard.vdi'));
    symlinkSync('top.vdi', place.path('vm/soft.vdi'));
    const link = linkTo(['hard.vdi', 'soft.vdi'].map(posix));
    const { looked } = place.refused('vm/top.vdi', {}, link);
    expect(looked).toEqual([
      'vm/hard.vdi: it is vm/top.vdi of this chain: an image cannot be its own parent',
      'vm/soft.vdi: it is vm/top.vdi of this chain: an image cannot be its own parent',
    ]);
  });

  it('of three, by names', () => {
    const next = { a: 'b', b: 'c', c: 'a' };
    for (const [name, parent] of Object.entries(next)) {
      place.put(`vm/${name}.qed`, qedOn(`${parent}.qed`));
    }
    const { message } = place.refused('vm/a.qed');
    expect(place.short(message)).toBe(
      'vm/c.qed: its parent vm/a.qed cannot be used: it is vm/a.qed of this chain: an image cannot be its own parent',
    );
  });
});

describe('deep chains', () => {
  /** Files of which only the header takes space. */
  const makeChain = (images: number): void => {
    mkdirSync(place.path('vm'), { recursive: true });
    for (let n = 1; n <= images; n += 1) {
      const file = qedOn(n === images ? undefined : `${n + 1}.qed`);
      const path = place.path(`vm/${n}.qed`);
      writeFileSync(path, file.subarray(0, 128));
      truncateSync(path, file.length);
    }
  };

  it(`of ${MAX_DEPTH} images are opened`, () => {
    makeChain(MAX_DEPTH);
    expect(place.find('vm/1.qed').paths).toHaveLength(MAX_DEPTH - 1);
  });

  it.each([MAX_DEPTH + 1, 10_000])('of %i are refused', (images) => {
    makeChain(images);
    const { kind, message } = place.refused('vm/1.qed');
    expect({ kind, message: place.short(message) }).toEqual({
      kind: 'unsupported',
      message: 'vm/1.qed: its chain of parents has more than 64 images',
    });
  });

  it('are searched by identity', () => {
    for (let id = 1; id <= 100; id += 1)
      place.put(`vm/${id}.vdi`, id === 100 ? { id } : { id, parent: id + 1 });
    expect(place.refused('vm/1.vdi').kind).toBe('unsupported');
    expect(place.find('vm/40.vdi').paths).toHaveLength(60);
  });

  it('are searched among a bounded number of files', () => {
    const other = place.put('vm/0.vdi', { id: 0x7000 });
    for (let n = 1; n < MAX_SCANNED; n += 1) linkSync(other, place.path(`vm/a${n}.vdi`));
    place.put('vm/z.vdi', { id: 1 });
    place.put('vm/~top.vdi', { id: 3, parent: 1 });
    const { looked } = place.refused('vm/~top.vdi');
    expect(looked).toEqual(['vm: only 4096 files are looked into']);
    rmSync(place.path('vm/a1.vdi'));
    expect(place.find('vm/~top.vdi').paths).toEqual(['vm/z.vdi']);
  });
});

describe('errors of the gate', () => {
  it('a root that is a device allows nothing', () => {
    const gate = new Gate(undefined, DEFAULT_POLICY, () => {});
    expect(gate.admit('/dev/shm/x.vdi')).toEqual({
      refused: 'no directory is allowed: a device lies in none',
      missing: false,
    });
    expect(() => gate.verify(0)).toThrow(ImageError);
  });
});
