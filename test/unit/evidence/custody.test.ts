/** What custody notices between the beginning and the end of a mount. */

import { createHash } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { closeImages, type OpenedImage, openImages } from '../../../src/daemon/images.ts';
import { Custody, type EvidenceSettings } from '../../../src/evidence/custody.ts';
import type { EvidenceRecord } from '../../../src/evidence/record.ts';
import { PagePool } from '../../../src/shared/page-pool.ts';
import { chains, encodeVdi, FREE } from '../../support/encoders/vdi.ts';
import { privateFolder } from '../../support/oracle.ts';
import { random } from '../../support/random.ts';
import type { SampleImage } from '../../support/sample.ts';
import { builtThread } from '../../support/threads.ts';

const folder = privateFolder();
const script = builtThread('src/evidence/hash-thread.ts');
const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const said = { warn: [] as string[], error: [] as string[] };
let count = 0;
let place = '';
beforeEach(() => {
  said.warn.splice(0);
  said.error.splice(0);
  count += 1;
  place = folder.path(`r${count}.json`);
});

const settings = (some: Partial<EvidenceSettings> = {}): EvidenceSettings => ({
  record: place,
  hash: 'now',
  version: '1',
  commandLine: ['vdisk-mount', '--evidence'],
  watched: false,
  ...some,
});

const custodyOf = (some: Partial<EvidenceSettings> = {}, sideFiles: readonly string[] = []): Custody =>
  new Custody(settings(some), {
    mountpoint: '/mnt',
    'mount-options': ['ro'],
    'opened-with': { 'format-options': [], 'force-parent': false, locks: false },
    sideFiles,
    log: { warn: (text) => said.warn.push(text), error: (text) => said.error.push(text) },
  });

function open(...paths: string[]): OpenedImage[] {
  const chain = { parents: paths.slice(1), parentDirs: [], force: false };
  const config = { format: undefined, formatOptions: [], lock: false, readOnly: true, chain };
  return openImages({ ...config, images: [paths[0]!], noAtime: true }, (text) => said.warn.push(text));
}

const control = () => ({ script: script() });
const take = (custody: Custody, opened: readonly OpenedImage[]): Promise<void> =>
  custody.take(
    opened.map((top) => ({ name: 'disk.raw', layers: [top, ...top.parents] })),
    PagePool.seed(MIB),
    control(),
  );
const record = (): EvidenceRecord => JSON.parse(readFileSync(place, 'utf8')) as EvidenceRecord;

/** A small VDI at `name`, older than now; its disk. */
function image(name: string): { path: string; disk: Uint8Array; file: Uint8Array } {
  const path = folder.path(name);
  const { file, disk } = encodeVdi({ map: [1, FREE, 0], blockSize: 4096 }, random(count));
  writeFileSync(path, file);
  utimesSync(path, 1_500_000_000, 1_500_000_000);
  return { path, disk, file };
}

describe('custody', () => {
  it('records what was there, and that it still is', async () => {
    const { path, disk, file } = image('same.vdi');
    const custody = custodyOf();
    expect(existsSync(place)).toBe(false);
    const opened = open(path);
    await take(custody, opened);
    custody.served();
    const open1 = record();
    expect(open1.state).toBe('open');
    expect(open1).not.toHaveProperty('result');
    expect(open1.files).toHaveLength(1);
    expect(open1.files[0]).toMatchObject({
      path,
      'real-path': path,
      size: file.length,
      inode: `${statSync(path).ino}`,
      modified: '2017-07-14T02:40:00.000000000Z',
      accessed: '2017-07-14T02:40:00.000000000Z',
      'no-atime': true,
      format: 'vdi',
      sha256: digest(file),
    });
    expect(Object.keys(open1.files[0]!.identity)).not.toEqual([]);
    expect(open1.disks).toEqual([
      { name: 'disk.raw', size: disk.length, files: [path], sha256: digest(disk) },
    ]);
    custody.note('something was damaged');
    await custody.close('unmounted', control());
    custody.drop();
    closeImages(opened);
    const closed = record();
    expect(closed.state).toBe('closed');
    expect(closed.result).toMatchObject({ outcome: 'unchanged', mount: 'unmounted', differences: [] });
    expect(closed.result!.files[0]).toMatchObject({ path, sha256: digest(file), size: file.length });
    expect(closed.notices).toContain('something was damaged');
    expect(said.error).toEqual([]);
    expect(readdirSync(folder.at).filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  it('a chain: each file once, with its parent', async () => {
    const top = chains(random(9)).find(({ parent }) => parent !== undefined)!;
    const paths: string[] = [];
    for (let one: SampleImage | undefined = top; one !== undefined; one = one.parent) {
      paths.push(folder.path(`layer${paths.length}.${one.format}`));
      writeFileSync(paths.at(-1)!, one.file);
    }
    const custody = custodyOf();
    const opened = open(...paths);
    await take(custody, opened);
    custody.served();
    const { files, disks } = record();
    closeImages(opened);
    expect(files.map((file) => file.path)).toEqual(paths);
    expect(files[0]!.parent?.path).toBe(paths[1]);
    expect(files[0]!.parent?.wanted).toContain(Object.values(files[1]!.identity)[0]);
    expect(disks[0]).toMatchObject({ files: paths, sha256: digest(top.disk) });
  });

  const changes: [string, (path: string) => void, readonly string[]][] = [
    ['bytes are appended', (path) => appendFileSync(path, 'x'), ['size', 'modified', 'changed', 'sha256']],
    [
      'a byte is changed, and the time set back',
      (path) => {
        const bytes = readFileSync(path);
        bytes[5000]! ^= 1;
        writeFileSync(path, bytes);
        utimesSync(path, 1_500_000_000, 1_500_000_000);
      },
      ['changed', 'sha256'],
    ],
    ['only its times are', (path) => utimesSync(path, 1_500_000_000, 1_600_000_000), ['modified', 'changed']],
    ['it is read', (path) => utimesSync(path, 1_600_000_000, 1_500_000_000), ['changed', 'accessed']],
    ['it is removed', (path) => rmSync(path), ['changed', 'path']],
    [
      'another one takes its place',
      (path) => {
        writeFileSync(`${path}.new`, 'of whatever content');
        renameSync(`${path}.new`, path);
      },
      ['changed', 'path'],
    ],
  ];
  for (const hash of ['now', 'none'] as const) {
    it.each(changes)(`hash ${hash}: says that %s`, async (_, change, what) => {
      const { path } = image('changed.vdi');
      const custody = custodyOf({ hash });
      const opened = open(path);
      await take(custody, opened);
      custody.served();
      // A tick of the file system's clock.
      await new Promise((resolve) => setTimeout(resolve, 20));
      change(path);
      await expect(custody.close('unmounted', control())).rejects.toMatchObject({
        kind: 'changed',
        message: expect.stringContaining(`CHANGED while it was mounted: ${path}`),
      });
      closeImages(opened);
      const { state, result } = record();
      expect([state, result?.outcome]).toEqual(['closed', 'changed']);
      const expected = what.filter((field) => hash === 'now' || field !== 'sha256');
      expect(result!.differences.map((difference) => difference.what).sort()).toEqual([...expected].sort());
      expect(said.error).toHaveLength(expected.length);
    });
  }

  it('hash at-end: the hashes are those of the end', async () => {
    const { path, disk, file } = image('late.vdi');
    const custody = custodyOf({ hash: 'at-end' });
    const opened = open(path);
    await take(custody, opened);
    custody.served();
    expect(record().files[0]).not.toHaveProperty('sha256');
    await custody.close('unmounted', control());
    closeImages(opened);
    expect(record().files[0]!.sha256).toBe(digest(file));
    expect(record().disks[0]!.sha256).toBe(digest(disk));
  });

  it('one that changes while it is hashed is not mounted', async () => {
    const { path } = image('moving.vdi');
    const custody = custodyOf();
    const opened = open(path);
    utimesSync(path, 1_500_000_000, 1_600_000_000);
    await expect(take(custody, opened)).rejects.toMatchObject({
      kind: 'in-use',
      message: expect.stringContaining('somebody writes to it'),
    });
    custody.drop();
    closeImages(opened);
    expect(existsSync(place)).toBe(false);
  });

  it('a damaged disk has no hash, and says so; its file has', async () => {
    const path = folder.path('damaged.vdi');
    const { file } = encodeVdi({ map: [0, 2000], blockSize: 4096 }, random(5));
    writeFileSync(path, file);
    const custody = custodyOf();
    const opened = open(path);
    await take(custody, opened);
    expect(record().disks[0]).toMatchObject({ name: 'disk.raw', problem: expect.any(String) });
    expect(record().files[0]!.sha256).toBe(digest(file));
    // Never mounted: it is no record of a mount.
    custody.drop();
    closeImages(opened);
    expect(existsSync(place)).toBe(false);
    expect(said.warn.at(-1)).toMatch(/^disk\.raw: has no hash: its content cannot be read: at 0x0/);
  });

  it('interrupted: before the mount nothing is left, after it the record stays open', async () => {
    const { path } = image('cut.vdi');
    const signal = AbortSignal.abort();
    const early = custodyOf();
    const opened = open(path);
    const layers = [opened[0]!] as const;
    const taken = early.take([{ name: 'd', layers }], PagePool.seed(MIB), { ...control(), signal });
    await expect(taken).rejects.toMatchObject({ kind: 'interrupted' });
    early.drop();
    expect(existsSync(place)).toBe(false);
    const late = custodyOf();
    await take(late, opened);
    late.served();
    const closing = late.close('unmounted', { ...control(), signal });
    await expect(closing).rejects.toMatchObject({ kind: 'interrupted' });
    late.drop();
    closeImages(opened);
    expect(record().state).toBe('open');
    expect(readdirSync(folder.at).filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  it('a record that cannot be completed stays open, and that is said', async () => {
    const { path } = image('lost.vdi');
    const custody = custodyOf();
    const opened = open(path);
    await take(custody, opened);
    custody.served();
    renameSync(place, `${place}.aside`);
    writeFileSync(place, 'theirs');
    await expect(custody.close('unmounted', control())).rejects.toMatchObject({
      kind: 'io',
      message: expect.stringContaining('it stays "open"'),
    });
    custody.drop();
    closeImages(opened);
    expect(readFileSync(place, 'utf8')).toBe('theirs');
  });

  it('nothing that is written meanwhile is evidence', async () => {
    const { path } = image('side.vdi');
    const custody = custodyOf({}, [path]);
    const opened = open(path);
    await expect(take(custody, opened)).rejects.toMatchObject({ kind: 'usage' });
    custody.drop();
    closeImages(opened);
  });

  it('a record overwrites nothing', () => {
    writeFileSync(place, 'theirs');
    expect(() => custodyOf()).toThrow(/exists/);
    expect(readFileSync(place, 'utf8')).toBe('theirs');
  });
});
