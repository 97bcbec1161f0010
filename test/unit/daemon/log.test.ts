/** Lines of the log: what programs find in their fields. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { fieldsOf, journalText, openLog } from '../../../src/daemon/log.ts';

const folder = mkdtempSync(join(tmpdir(), 'vdisk-log-'));
afterAll(() => rmSync(folder, { recursive: true }));

const images = ['/img/a: b.vhdx', '/img/c.vdi'];

describe('what a line is about', () => {
  it.each([
    ['/img/a: b.vhdx: is mounted read-only', { image: '/img/a: b.vhdx' }],
    ['/img/c.vdi: its parent was changed', { image: '/img/c.vdi' }],
    ['/img/base.vdi: damaged: an entry', { path: '/img/base.vdi' }],
    ['/img/c.vdi2: another', { path: '/img/c.vdi2' }],
    ['mounted /img/c.vdi on /mnt', {}],
    ['worker 1 died: /x', {}],
  ])('%s', (text, fields) => {
    expect(fieldsOf(text, images)).toEqual(fields);
  });
});

it('lines of a file have them, with the mountpoint', () => {
  const to = join(folder, 'log');
  const log = openLog({ to, level: 'info', mountpoint: '/mnt', images });
  log.warn('/img/c.vdi: looks bad');
  log.info({ hint: 'do this' }, 'mounted');
  log.debug('not this');
  const lines = readFileSync(to, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines).toEqual([
    expect.objectContaining({
      level: 40,
      mountpoint: '/mnt',
      image: '/img/c.vdi',
      msg: '/img/c.vdi: looks bad',
    }),
    expect.objectContaining({ level: 30, mountpoint: '/mnt', hint: 'do this', msg: 'mounted' }),
  ]);
  expect(lines[1]).not.toHaveProperty('image');
});

it('a line in the journal has its priority, and so has each line of a hint', () => {
  expect(journalText(JSON.stringify({ level: 50, msg: 'bad', hint: 'mend it' }))).toBe(
    '<3>bad\n<3>mend it\n',
  );
});
