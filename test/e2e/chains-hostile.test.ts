/** Images that name what is none of their business: refused with the reason, and nothing of it is opened. */

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TO_MAKE_IMAGES } from '../support/images.ts';
import { gateOf, must } from '../support/machine.ts';
import { REPOSITORY, Stage } from '../support/mount.ts';

const MIB = 1024 * 1024;
const VDISK = join(REPOSITORY, 'bin', 'vdisk');
const gate = gateOf('program: strace', 'program: mkfifo', TO_MAKE_IMAGES);

describe(gate.title('what an image names is not opened'), { skip: gate.skip }, () => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** Paths that `vdisk info` opens for an image, and what it says. */
  async function opened(image: string): Promise<{ paths: string[]; said: string }> {
    const log = stage.fresh('strace');
    const said = await must('strace', [
      '-f',
      '-qq',
      '-e',
      'trace=open,openat,openat2,connect',
      '-o',
      log,
      VDISK,
      'info',
      image,
    ]);
    const calls = readFileSync(log, 'utf8');
    expect(calls).not.toContain('connect(');
    const paths = [...calls.matchAll(/open(?:at2?)?\((?:[A-Z_]+, )?"([^"]+)"/g)].map(([, path]) => path!);
    return { paths: paths.filter((path) => !path.startsWith(REPOSITORY)), said };
  }

  it.each([
    ['a path that leads out', '../secret.img', 'outside'],
    ['an absolute path', '', 'outside'],
    ['a link that leads out', 'link.img', 'it leads to'],
    ['a pipe', 'pipe.img', 'not a regular file'],
    ['a device', '/dev/zero', 'outside'],
    ['a server', 'nbd:localhost:10809', 'never opened'],
    ['a page', 'http://localhost/secret.img', 'never opened'],
    ['a pseudo-protocol', 'json:{"driver":"file","filename":"../secret.img"}', 'never opened'],
    ['itself', 'top.qed', 'its own parent'],
  ])('%s', async (_, name, reason) => {
    const directory = stage.makeDirectory('hostile');
    const secret = join(directory, 'secret.img');
    const pipe = join(directory, 'vm', 'pipe.img');
    const image = join(directory, 'vm', 'top.qed');
    mkdirSync(join(directory, 'vm'));
    writeFileSync(secret, new Uint8Array(MIB));
    symlinkSync('../secret.img', join(directory, 'vm', 'link.img'));
    await must('mkfifo', [pipe]);
    const backing = name === '' ? secret : name;
    await must('qemu-img', ['create', '-q', '-u', '-f', 'qed', '-b', backing, '-F', 'raw', image, '1M']);
    const { paths, said } = await opened(image);
    expect(said).toContain(reason);
    expect(paths.filter((path) => path === image)).toHaveLength(1);
    expect(paths.filter((path) => /secret|pipe|link\.img|\/dev\/zero|localhost/.test(path))).toEqual([]);
  });

  it('and what it may name is', async () => {
    const directory = stage.makeDirectory('honest');
    writeFileSync(join(directory, 'base.img'), new Uint8Array(MIB));
    const image = join(directory, 'top.qed');
    await must('qemu-img', ['create', '-q', '-u', '-f', 'qed', '-b', 'base.img', '-F', 'raw', image, '1M']);
    expect((await opened(image)).paths).toContain(join(directory, 'base.img'));
  });
});
