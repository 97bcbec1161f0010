/** The overlay's record of its image while a commit goes into the image. Real files. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Layer, type LayerContext, openLayer } from '../../../src/chain/layer.ts';
import { openOverlay } from '../../../src/chain/overlay.ts';
import { beginCommit, differenceOf, overlayOf, renewRecord } from '../../../src/chain/overlay-record.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { qedBytes, withBacking } from '../../support/encoders/qed.ts';
import { random, randomBytes } from '../../support/random.ts';

let folder = '';
let opened: Layer[] = [];

const path = (name: string): string => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-overlay-record-'));
  writeFileSync(path('base.raw'), randomBytes(random(1), 10_000));
  mount()();
});
afterEach(() => {
  close();
  rmSync(folder, { recursive: true, force: true });
});

function close(): void {
  for (const { source } of opened) source.close();
  opened = [];
}

const context = (): LayerContext => ({
  tables: new TableAllocator(),
  report: () => {},
  formatOptions: [],
  lock: false,
  holders: () => [],
});

function open(name: string, access: 'read' | 'write' = 'read'): Layer {
  const layer = openLayer(path(name), access, undefined, context());
  opened.push(layer);
  return layer;
}

/** What a mount with the overlay does. */
function mount(): () => void {
  const { layer } = openOverlay(
    open('base.raw'),
    [],
    { place: path('over.qed'), access: 'write', force: false },
    context(),
  );
  opened.push(layer);
  return close;
}

test('says of which image an overlay is, and whether it fits', () => {
  const overlay = overlayOf(open('over.qed'))!;
  expect(overlay).toMatchObject({ name: 'base.raw', path: path('base.raw'), committing: false });
  expect(overlay.state).toMatchObject({ format: 'raw', virtualSize: 10_000 });
  expect(differenceOf(overlay, open('base.raw'))).toBeUndefined();
  writeFileSync(path('base.raw'), 'x', { flag: 'r+' });
  expect(differenceOf(overlay, open('base.raw'))).toMatch(/not an overlay of .* as it is now/);
  writeFileSync(path('other.qed'), qedBytes(withBacking(SMALL, 'base.raw', true)));
  writeFileSync(path('alone.qed'), qedBytes(SMALL));
  expect([open('base.raw'), open('other.qed'), open('alone.qed')].map(overlayOf)).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
});

const SMALL = { clusterSize: 4096, tableSize: 2, imageSize: 8192 };

test('a commit begun, ended: refused by mounts in between, taken by commit, used on afterwards', () => {
  const before = readFileSync(path('over.qed'));
  beginCommit(open('over.qed', 'write'), open('base.raw'));
  writeFileSync(path('base.raw'), 'changed', { flag: 'r+' });
  close();
  const overlay = overlayOf(open('over.qed'))!;
  expect(overlay.committing).toBe(true);
  expect(differenceOf(overlay, open('base.raw'))).toBeUndefined();
  expect(mount).toThrow(/was begun and not ended/);
  writeFileSync(path('base.raw'), randomBytes(random(2), 9_000));
  expect(differenceOf(overlay, open('base.raw'))).toMatch(/virtual size 10000.*virtual size 9000/);
  writeFileSync(path('base.raw'), randomBytes(random(2), 10_000));
  close();
  renewRecord(open('over.qed', 'write'), open('base.raw'));
  close();
  expect(mount).not.toThrow();
  const after = readFileSync(path('over.qed'));
  const changed = [...after.keys()].filter((at) => after[at] !== before[at]);
  expect(Math.min(...changed)).toBeGreaterThanOrEqual(2048);
  expect(Math.max(...changed)).toBeLessThan(2048 + 512);
});

test('a begun commit keeps a mount away also where nothing was written yet', () => {
  beginCommit(open('over.qed', 'write'), open('base.raw'));
  close();
  expect(mount).toThrow(/was begun and not ended/);
});

test('without a record nothing is written', () => {
  const file = qedBytes(withBacking(SMALL, 'base.raw', true));
  writeFileSync(path('other.qed'), file);
  beginCommit(open('other.qed', 'write'), open('base.raw'));
  renewRecord(open('other.qed', 'write'), open('base.raw'));
  expect(readFileSync(path('other.qed'))).toEqual(Buffer.from(file));
});
