import { existsSync, readFileSync, renameSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { startOf } from '../../../src/control/process.ts';
import {
  awaitCleanEnd,
  findRecord,
  keepRecord,
  removeStaleRecords,
} from '../../../src/daemon/mount-record.ts';
import { gateOf } from '../../support/machine.ts';

const gate = gateOf('root');
const PATH = `/run/vdisk-mount/${process.pid}-${startOf(process.pid)}.mount`;
/** Those of processes that are gone: one whose number nobody has, and one whose number is ours now. */
const STALE = ['4194303-1', `${process.pid}-1`].map((mark) => `/run/vdisk-mount/${mark}.mount`);
const silent = (): void => {};

function removeAll(): void {
  for (const path of [PATH, ...STALE, ...STALE.map((one) => `${one}.new`)]) {
    if (existsSync(path)) unlinkSync(path);
  }
}

describe(gate.title('the record of a mount'), { skip: gate.skip }, () => {
  afterEach(removeAll);

  it('is found by the mount while its process lives, and gone after a good end', async () => {
    const conclude = keepRecord('/proc');
    const record = findRecord('/proc')!;
    expect(record).toMatchObject({ pid: process.pid, mountpoint: '/proc' });
    expect(findRecord('/sys')).toBeUndefined();
    let waited = false;
    await expect(awaitCleanEnd(record, 1100, () => (waited = true))).rejects.toThrow(/is not done after 1 s/);
    expect(waited).toBe(true);
    setTimeout(() => conclude(undefined), 50);
    await awaitCleanEnd(record, 5000, silent);
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

  it('of a process that is gone is not believed, and removed by the next one, or by who lists mounts', () => {
    const conclude = keepRecord('/proc');
    const text = readFileSync(PATH, 'utf8');
    for (const sweep of [() => removeStaleRecords(), () => keepRecord('/sys')]) {
      const left = [...STALE, `${STALE[0]}.new`];
      for (const path of left) writeFileSync(path, text.replace(/"started":"\d+"/, '"started":"1"'));
      // It was killed when it had emptied its record.
      writeFileSync(STALE[1]!, '');
      expect(findRecord('/proc')!.pid).toBe(process.pid);
      sweep();
      expect([...left, PATH].map(existsSync)).toEqual([false, false, false, true]);
    }
    conclude(undefined);
  });

  it('that somebody removed under the eyes of who waits is no good end', async () => {
    keepRecord('/proc');
    const record = findRecord('/proc')!;
    unlinkSync(PATH);
    await expect(awaitCleanEnd(record, 5000, silent)).rejects.toThrow(/was killed/);
  });

  it('of a failure stays for who unmounts: for an hour, or until the next mount is there', () => {
    const [stale] = STALE as [string];
    const leave = (): void => {
      keepRecord('/proc')('it failed');
      renameSync(PATH, stale);
    };
    leave();
    removeStaleRecords();
    keepRecord('/sys')(undefined);
    expect(existsSync(stale)).toBe(true);
    keepRecord('/proc')(undefined);
    expect(existsSync(stale)).toBe(false);
    leave();
    const before = Date.now() / 1000 - 3700;
    utimesSync(stale, before, before);
    removeStaleRecords();
    expect(existsSync(stale)).toBe(false);
  });
});
