/** `vdisk hash` and `vdisk verify`, as programs and people meet them. Nothing is mounted for them. */

import { createHash } from 'node:crypto';
import {
  appendFileSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { age } from '../support/age.ts';
import { chains, encodeVdi, FREE } from '../support/encoders/vdi.ts';
import { gateOf, must, run, TO_MOUNT } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { random } from '../support/random.ts';

const hashOf = (name: string, bytes: Uint8Array): string => createHash(name).update(bytes).digest('hex');
const vdisk = (...args: string[]) => run(join(dirname(VDISK_MOUNT), 'vdisk'), args);

describe('evidence on the command line', () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** A chain of VDIs in a directory of its own, the child first. */
  function chain() {
    let sample = chains(random(5)).find(({ parent }) => parent !== undefined)!;
    while (sample.parent?.parent !== undefined) sample = sample.parent;
    const directory = stage.makeDirectory('case');
    const [child, parent] = ['child.vdi', 'parent.vdi'].map((name) => join(directory, name));
    writeFileSync(child!, sample.file);
    writeFileSync(parent!, sample.parent!.file);
    for (const path of [child!, parent!]) age(path);
    return { child: child!, parent: parent!, sample };
  }

  it('hash: files and content, as coreutils check them', async () => {
    const { child, parent, sample } = chain();
    const before = [child, parent].map((path) => statSync(path, { bigint: true }));
    const { status, stdout, stderr } = await vdisk('hash', child);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toBe(
      `SHA256 (${child}) = ${hashOf('sha256', sample.file)}\n` +
        `SHA256 (${parent}) = ${hashOf('sha256', sample.parent!.file)}\n` +
        `SHA256 (content of ${child}) = ${hashOf('sha256', sample.disk)}\n`,
    );
    expect([child, parent].map((path) => statSync(path, { bigint: true }))).toEqual(before);
    await must('sh', ['-c', 'sha256sum -c --ignore-missing --quiet'], { input: stdout });
  });

  it('hash: other digests, as JSON, of several images', async () => {
    const { child, sample } = chain();
    const odd = stage.makeFile('odd (1)\n.img', 'x'.repeat(1000));
    const { status, stdout } = await vdisk('hash', '--json', '--md5', '--sha1', child, odd);
    expect(status).toBe(0);
    const [first, second] = JSON.parse(stdout);
    expect(first.content).toEqual({ md5: hashOf('md5', sample.disk), sha1: hashOf('sha1', sample.disk) });
    expect(first.files[0]).toMatchObject({ filename: child, size: sample.file.length });
    expect(second.files[0].md5).toBe(hashOf('md5', Buffer.from('x'.repeat(1000))));
    const text = (await vdisk('hash', '--md5', odd)).stdout;
    expect(text.split('\n')[0]).toMatch(/^\\MD5 \(.*odd \(1\)\\n/);
  });

  it('hash: what cannot be hashed is said, the rest is there', async () => {
    const damaged = stage.makeFile(
      'damaged.vdi',
      encodeVdi({ map: [0, FREE, 2000], blockSize: 4096 }, random(1)).file,
    );
    const { status, stdout, stderr } = await vdisk('hash', damaged);
    expect(status).toBe(1);
    expect(stdout).toBe(`SHA256 (${damaged}) = ${hashOf('sha256', readFileSync(damaged))}\n`);
    expect(stderr).toContain('the content has no hash: it cannot be read: at 0x0: ');
    expect((await vdisk('hash', stage.path('none.vdi'))).status).toBe(2);
    expect((await vdisk('hash')).status).toBe(2);
  });

  const gate = gateOf(...TO_MOUNT);
  describe(gate.title('verify'), { skip: gate.skip }, () => {
    /** A record of a mount that has ended. */
    async function recorded(...options: string[]) {
      const made = chain();
      const to = stage.fresh('record.json');
      const mounted = await stage.mount(made.child, { options: ['--evidence', '--record', to, ...options] });
      await mounted.unmount();
      return { ...made, to };
    }

    it('0: the same, also when only times are different', async () => {
      const { child, parent, to } = await recorded();
      expect(await vdisk('verify', to)).toMatchObject({
        status: 0,
        stdout: expect.stringMatching(
          `the evidence was unchanged\n${child}: same\n${parent}: same\ncontent of child.raw: same\n$`,
        ),
      });
      utimesSync(parent, 1, 1);
      const { status, stdout } = await vdisk('verify', '--json', to);
      expect(status).toBe(0);
      const { items, outcome } = JSON.parse(stdout);
      expect(outcome).toBe('unchanged');
      expect(items.map((item: { result: string }) => item.result)).toEqual(['same', 'same', 'same']);
      expect(items[1].notes[0]).toContain('modified was 2019-02-12');
    });

    it('3: different, in a file and so in the content', async () => {
      const { parent, to } = await recorded();
      const bytes = readFileSync(parent);
      bytes[bytes.length - 10]! ^= 1;
      writeFileSync(parent, bytes);
      const { status, stdout } = await vdisk('verify', to);
      expect(status).toBe(3);
      expect(stdout).toContain(`${parent}: DIFFERENT\n  sha256 was `);
    });

    it('4: a file is missing, and the content with it', async () => {
      const { child, parent, to } = await recorded();
      rmSync(parent);
      const { status, stdout } = await vdisk('verify', to);
      expect(status).toBe(4);
      expect(stdout).toContain(
        `${child}: same\n${parent}: MISSING\ncontent of child.raw: MISSING\n  ${parent} is missing\n`,
      );
      // Different is more than missing.
      appendFileSync(child, 'x');
      expect((await vdisk('verify', to)).status).toBe(3);
    });

    it('0: another file with the same bytes is the same', async () => {
      const { child, to } = await recorded();
      renameSync(child, `${child}.aside`);
      writeFileSync(child, readFileSync(`${child}.aside`));
      expect((await vdisk('verify', to)).status).toBe(0);
    });

    it('without hashes: size and time of modification', async () => {
      const { parent, to } = await recorded('--hash', 'none');
      expect(await vdisk('verify', to)).toMatchObject({
        status: 0,
        stdout: expect.stringContaining('content of child.raw: no hash is recorded\n'),
      });
      utimesSync(parent, 1, 1);
      expect((await vdisk('verify', to)).status).toBe(3);
    });

    it('1: what is there cannot be read', async () => {
      const { parent, to } = await recorded();
      rmSync(parent);
      await must('mkdir', [parent]);
      const { status, stdout } = await vdisk('verify', to);
      expect(status).toBe(1);
      expect(stdout).toContain('is a directory, not a disk image');
    });

    it('2: what is no record', async () => {
      const { to } = await recorded();
      const half = stage.makeFile('half.json', readFileSync(to).subarray(0, 200));
      for (const path of [half, stage.path('none.json'), stage.makeFile('empty.json')]) {
        const { status, stdout, stderr } = await vdisk('verify', path);
        expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
        expect(stderr).toContain(path);
      }
      expect((await vdisk('verify')).status).toBe(2);
    });
  });
});
