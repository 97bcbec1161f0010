/** Records: their text, their file, and the words for progress and differences. */

import { readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GIB, MIB } from '../../../src/base/units.ts';
import {
  describeDifference,
  differences,
  isoOf,
  pathDifference,
  stateOf,
} from '../../../src/evidence/file-state.ts';
import { progressText } from '../../../src/evidence/progress.ts';
import { type EvidenceRecord, formatRecord, parseRecord } from '../../../src/evidence/record.ts';
import { RecordFile, readRecordText } from '../../../src/evidence/record-file.ts';
import { privateFolder } from '../../support/oracle.ts';

const folder = privateFolder();

const RECORD: EvidenceRecord = {
  'vdisk-record': 1,
  state: 'open',
  tool: { name: 'vdisk-mount', version: '1' },
  'command-line': [],
  user: { uid: 0, name: 'root', host: 'here' },
  pid: 1,
  begun: '2026-01-02T03:04:05.678Z',
  mountpoint: '/mnt',
  'mount-options': ['ro'],
  'opened-with': { 'format-options': [['vhd-size', 'chs']], 'force-parent': false, locks: true },
  hash: 'now',
  files: [],
  disks: [{ name: 'disk.raw', size: 512, files: ['/a.vhd'], sha256: 'ab' }],
  notices: [],
};

describe('a record', () => {
  it('is read as it was written', () => {
    expect(parseRecord(formatRecord(RECORD), 'r')).toEqual(RECORD);
  });

  const broken: [string, unknown, string][] = [
    ['no object', [], 'vdisk-record: expected 1, found undefined'],
    ['null', null, 'vdisk-record: expected 1'],
    ['another version', { ...RECORD, 'vdisk-record': 2 }, 'vdisk-record: expected 1, found 2'],
    ['no files', { ...RECORD, files: undefined }, 'files: expected a list, found undefined'],
    ['a file that is none', { ...RECORD, files: [7] }, 'files[0]: expected an object, found 7'],
    [
      'a disk of files that are none',
      { ...RECORD, disks: [{ name: 'd', size: 1, files: [null] }] },
      'disks[0].files[0]: expected a string, found null',
    ],
    [
      'a hash that is none',
      { ...RECORD, disks: [{ name: 'd', size: 1, files: [], sha256: 5 }] },
      'disks[0].sha256: expected a string, found 5',
    ],
    ['no options', { ...RECORD, 'opened-with': {} }, 'opened-with.format-options: expected a list'],
  ];
  it.each(broken)('is refused: %s', (_, value, said) => {
    expect(() => parseRecord(JSON.stringify(value), '/r.json')).toThrow(`/r.json: is no record: ${said}`);
  });

  it('is refused where it is half there', () => {
    const text = formatRecord(RECORD);
    expect(() => parseRecord(text.slice(0, -20), 'r')).toThrow('r: is no record: ');
    expect(() => parseRecord('', 'r')).toThrow('r: is no record: ');
  });
});

describe('the file of a record', () => {
  const names = (): string[] => readdirSync(folder.at).sort();

  it('is there at once and whole, and then in its new state', () => {
    const path = folder.path('one.json');
    const file = new RecordFile(path);
    file.draft('first');
    expect(names()).not.toContain('one.json');
    file.publish();
    expect(readFileSync(path, 'utf8')).toBe('first');
    const { ino } = statSync(path);
    file.draft('second');
    expect(readFileSync(path, 'utf8')).toBe('first');
    file.publish();
    expect(readFileSync(path, 'utf8')).toBe('second');
    expect(statSync(path).ino).not.toBe(ino);
    file.remove('draft');
    expect(names()).toEqual(['one.json']);
    file.remove('all');
    expect(names()).toEqual([]);
  });

  it('takes the place of no other file: not of one before it, nor of one that came meanwhile', () => {
    const path = folder.path('two.json');
    writeFileSync(path, 'theirs');
    expect(() => new RecordFile(path)).toThrow(/exists, and a record overwrites nothing/);
    rmSync(path);
    const file = new RecordFile(path);
    file.draft('ours');
    writeFileSync(path, 'theirs');
    expect(() => file.publish()).toThrow(/exists/);
    rmSync(path);
    file.publish();
    file.draft('ours again');
    renameSync(path, folder.path('moved.json'));
    writeFileSync(path, 'theirs');
    expect(() => file.publish()).toThrow(/another file in the place/);
    file.remove('all');
    expect(readFileSync(path, 'utf8')).toBe('theirs');
    expect(names()).toEqual(['moved.json', 'two.json']);
  });

  it('says where it cannot be written', () => {
    const path = folder.path('nowhere/r.json');
    expect(() => new RecordFile(path).draft('x')).toThrow(`${path}: the record cannot be written: ENOENT`);
    expect(() => new RecordFile('/dev/full/r.json')).toThrow(/the record cannot be written: ENOTDIR/);
  });

  it('is read only where it may be one', () => {
    expect(() => readRecordText(folder.path('none'))).toThrow('no such file');
    writeFileSync(folder.path('text'), 'abc');
    expect(readRecordText(folder.path('text'))).toBe('abc');
  });
});

describe('the state of a file', () => {
  it('has times to the nanosecond', () => {
    expect(isoOf(0n)).toBe('1970-01-01T00:00:00.000000000Z');
    expect(isoOf(1_577_934_245_678_901_234n)).toBe('2020-01-02T03:04:05.678901234Z');
    expect(isoOf(-1n)).toBe('1969-12-31T23:59:59.999999999Z');
  });

  it('differs where it does', () => {
    const path = folder.path('file');
    writeFileSync(path, 'abc');
    const look = () => stateOf(statSync(path, { bigint: true }), statSync(path).size);
    const before = look();
    expect(differences(path, before, look(), ['size', 'modified', 'accessed', 'inode'])).toEqual([]);
    writeFileSync(path, 'abcd');
    utimesSync(path, 1, 2);
    const found = differences(path, before, look(), ['size', 'modified', 'accessed', 'inode']);
    expect(found.map(({ what }) => what)).toEqual(['size', 'modified', 'accessed']);
    expect(describeDifference(found[0]!)).toBe(`${path}: size was 3, is 4`);
    expect(found[1]!.after).toBe('1970-01-01T00:00:02.000000000Z');
  });

  it('knows a file from another one in its place', () => {
    const path = folder.path('place');
    writeFileSync(path, 'abc');
    const found = stateOf(statSync(path, { bigint: true }), 3);
    expect(pathDifference(path, found)).toBeUndefined();
    renameSync(path, folder.path('aside'));
    expect(pathDifference(path, found)).toMatchObject({ what: 'path', after: 'no file' });
    writeFileSync(path, 'abc');
    expect(pathDifference(path, found)?.after).toMatch(/^inode \d+ of device \d+:\d+$/);
    expect(pathDifference(`${path}/below`, found)?.after).toContain('ENOTDIR');
  });
});

describe('progress', () => {
  it.each([
    [0, GIB, 0, 'hashing: 0 % of 1.00 GiB'],
    [GIB / 2, GIB, 1000, 'hashing: 50 % of 1.00 GiB, 512 MiB/s, 0:01 left'],
    [GIB, GIB, 2000, 'hashing: 100 % of 1.00 GiB, 512 MiB/s, 0:00 left'],
    [100 * MIB, 1000 * GIB, 1000, 'hashing: 0 % of 1000 GiB, 100 MiB/s, 2:50:39 left'],
    [0, 0, 5, 'hashing: 100 % of 0.00 GiB'],
  ])('%i of %i after %i ms', (done, total, ms, text) => {
    expect(progressText(done, total, ms)).toBe(text);
  });
});
