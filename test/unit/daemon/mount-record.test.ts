import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { awaitCleanEnd, findRecord, keepRecord } from '../../../src/daemon/mount-record.ts';
import { gateOf } from '../../support/machine.ts';

const gate = gateOf('root');
const PATH = `/run/vdisk-mount/${process.pid}.mount`;
const silent = (): void => {};

describe(gate.title('the record of a mount'), { skip: gate.skip }, () => {
  it('is found by the mount while its process lives, and gone after a good end', async () => {
    const conclude = keepRecord('/proc');
    try {
      const record = findRecord('/proc')!;
      expect(record).toMatchObject({ pid: process.pid, mountpoint: '/proc' });
      expect(findRecord('/sys')).toBeUndefined();
      let waited = false;
      await expect(awaitCleanEnd(record, 1100, () => (waited = true))).rejects.toThrow(
        /is not done after 1 s/,
      );
      expect(waited).toBe(true);
      setTimeout(() => conclude(undefined), 50);
      await awaitCleanEnd(record, 5000, silent);
    } finally {
      conclude(undefined);
    }
    expect(existsSync(PATH)).toBe(false);
    expect(findRecord('/proc')).toBeUndefined();
  });

  it('says why the end was no good one, once', async () => {
    const conclude = keepRecord('/proc');
    const record = findRecord('/proc')!;
    conclude('an image was not left clean');
    await expect(awaitCleanEnd(record, 5000, silent)).rejects.toMatchObject({
      kind: 'io',
      message: '/proc: unmounted, but an image was not left clean',
    });
    expect(existsSync(PATH)).toBe(false);
  });

  it('of a process that is gone is not believed, and swept away', async () => {
    const conclude = keepRecord('/proc');
    const stale = PATH.replace(`${process.pid}`, '4194303');
    try {
      const record = { ...JSON.parse(readFileSync(PATH, 'utf8')), pid: 4194303, started: '1' };
      writeFileSync(stale, JSON.stringify(record));
      expect(findRecord('/proc')!.pid).toBe(process.pid);
      await expect(awaitCleanEnd(record, 5000, silent)).rejects.toThrow(/was killed/);
      expect(existsSync(stale)).toBe(false);
      writeFileSync(stale, JSON.stringify(record));
      keepRecord('/proc');
      expect(existsSync(stale)).toBe(false);
    } finally {
      conclude(undefined);
    }
  });
});
