/** `vdisk map` and `vdisk compare` as built, on a pipe and on a terminal. Nothing is mounted for them. */

import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeVdi, FREE } from '../support/encoders/vdi.ts';
import { gateOf, run } from '../support/machine.ts';
import { Stage, VDISK_MOUNT } from '../support/mount.ts';
import { random } from '../support/random.ts';

const VDISK = join(dirname(VDISK_MOUNT), 'vdisk');
const K = 4096;

describe('map and compare', () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open();
  });
  afterAll(() => stage?.close());

  /** Every other block is allocated. */
  function striped(blocks: number): { path: string; disk: Uint8Array } {
    const map = Array.from({ length: blocks }, (_, block) => (block % 2 === 0 ? block / 2 : FREE));
    const { file, disk } = encodeVdi({ map, blockSize: K }, random(1));
    return { path: stage.makeFile('striped.vdi', file), disk };
  }

  it('map: more lines than a pipe holds, all of them', async () => {
    const { path } = striped(6000);
    const { status, stdout, stderr } = await run(VDISK, ['map', '--json', path]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const found = JSON.parse(stdout) as { start: number; data: boolean; length: number }[];
    expect(found).toHaveLength(6000);
    expect(
      found.every(({ start, length, data }, n) => start === n * K && length === K && data === (n % 2 === 0)),
    ).toBe(true);
  });

  it('map: a reader that has enough is no error message', async () => {
    const { path } = striped(6000);
    const { stdout, stderr } = await run('sh', ['-c', '"$0" map "$1" | head -n 1', VDISK, path]);
    expect({ stdout, stderr }).toEqual({ stdout: `layer 0: ${path} (vdi)\n`, stderr: '' });
  });

  it('map: a full device is', async () => {
    const { path } = striped(10);
    const { status, stderr } = await run('sh', ['-c', '"$0" map "$1" > /dev/full', VDISK, path]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^vdisk: .*ENOSPC/);
  });

  it('compare: statuses', async () => {
    const { path, disk } = striped(100);
    const raw = stage.makeFile('same.raw', disk);
    const changed = disk.slice();
    changed[50 * K]! ^= 1;
    const other = stage.makeFile('other.raw', changed);
    expect((await run(VDISK, ['compare', path, raw])).status).toBe(0);
    const { status, stdout } = await run(VDISK, ['compare', raw, other]);
    expect({ status, stdout }).toEqual({
      status: 1,
      stdout: 'different: the first byte that is not the same is at 0x32000 (204800)\n',
    });
    expect((await run(VDISK, ['compare', raw, stage.path('none')])).status).toBe(2);
    expect((await run(VDISK, ['compare', raw])).status).toBe(2);
  });

  const gate = gateOf('program: script');
  describe(gate.title('on a terminal'), { skip: gate.skip }, () => {
    const onTerminal = (command: string) =>
      run('script', ['-qec', `stty cols 50; ${command}`, '/dev/null'], { cwd: stage.directory });

    it('map: a bar of its width, below the sums', async () => {
      const map = [0, FREE, FREE, FREE, 1];
      const path = stage.makeFile('five.vdi', encodeVdi({ map, blockSize: K }, random(1)).file);
      const { stdout } = await onTerminal(`${VDISK} map ${path}`);
      expect(stdout.split('\r\n').at(-2)).toBe('█'.repeat(10) + '·'.repeat(30) + '█'.repeat(10));
    });
  });
});
