/** Differencing images: what they say of their parent, and how they are written. */

import { describe, expect, it } from 'vitest';
import { formatGuid } from '../../../../src/base/guid.ts';
import { guestOffset } from '../../../../src/base/units.ts';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import type { Image } from '../../../../src/image/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { encodeVdi, FREE, type VdiDescription, ZERO } from '../../../support/encoders/vdi.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { describeChange, RecordingSource } from '../../../support/recording-source.ts';

const K = 4096;
const CREATE = new Uint8Array(16).fill(0xc1);
const MODIFY = new Uint8Array(16).fill(0xd1);
const OTHER = new Uint8Array(16).fill(0xee);
const BASE: VdiDescription = { map: [0, 1, 2, 3, FREE, ZERO], blockSize: K, create: CREATE, modify: MODIFY };
const CHILD: VdiDescription = {
  map: Array<number>(6).fill(FREE),
  blockSize: K,
  type: 4,
  linkage: CREATE,
  parentModify: MODIFY,
};

const open = (vdi: VdiDescription): Image => {
  const context = { tables: new TableAllocator(), report: () => {}, options: new Map<string, string>() };
  return vdiDriver.open(new MemorySource(encodeVdi(vdi, random(3)).file), context);
};

function setUp(child: VdiDescription = CHILD) {
  const base = encodeVdi(BASE, random(3));
  const parent = openDisk(vdiDriver, new MemorySource(base.file)).disk;
  const memory = new MemorySource(encodeVdi(child, random(4)).file, 'child', true);
  const recording = new RecordingSource(memory);
  const { disk } = openEditable(vdiDriver, recording, {}, undefined, parent);
  const model = new Uint8Array(readDisk(disk));
  let said = 0;
  return {
    disk,
    memory,
    base: base.disk,
    model,
    changes: () => {
      const all = recording.changes.slice(said).map(describeChange);
      said += all.length;
      return all;
    },
    write: (at: number, length: number) => {
      const bytes = randomBytes(random(at + 1), length);
      expect(disk.write(bytes, 0, length, guestOffset(at))).toBe(length);
      model.set(bytes, at);
    },
    map: () => {
      const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
      return child.map.map((_, n) => view.getUint32(0x200 + 4 * n, true));
    },
    physical: () => Math.ceil((memory.size - 0x400) / K),
    expectClean: () => {
      expect(disk.close()).toBe(0);
      const context = { tables: new TableAllocator(), report: () => {}, options: new Map<string, string>() };
      expect(vdiDriver.check!(memory, context).findings).toEqual([]);
      const again = openDisk(vdiDriver, new MemorySource(memory.bytes), {}, undefined, parent);
      expect(Buffer.compare(readDisk(again.disk), model)).toBe(0);
    },
  };
}

describe('the parent', () => {
  it('is named by two UUIDs, and by no path', () => {
    const { parent, facts } = open(CHILD);
    expect(parent).toMatchObject({
      places: [],
      format: undefined,
      identity: `create UUID ${formatGuid(CREATE)}, modify UUID ${formatGuid(MODIFY)}`,
    });
    expect(facts.get('parent-uuid-create')).toBe(formatGuid(CREATE));
    expect(facts.get('parent-uuid-modify')).toBe(formatGuid(MODIFY));
    expect(open(BASE).parent).toBeUndefined();
  });

  it('counts by its UUID, whatever the type says', () => {
    expect(open({ ...CHILD, type: 1 }).parent).toBeDefined();
    expect(
      open({ ...CHILD, linkage: new Uint8Array(16), parentModify: new Uint8Array(16) }).parent,
    ).toBeUndefined();
  });

  it('is told from others, and from itself in another state', () => {
    const { parent } = open(CHILD);
    expect(parent!.compare(open(BASE))).toBeUndefined();
    expect(parent!.compare(open({ ...BASE, create: OTHER }))).toEqual({
      severity: 'other',
      wanted: `create UUID ${formatGuid(CREATE)}`,
      found: `create UUID ${formatGuid(OTHER)}`,
    });
    expect(parent!.compare(open({ ...BASE, modify: OTHER }))).toEqual({
      severity: 'changed',
      wanted: `modify UUID ${formatGuid(MODIFY)}`,
      found: `modify UUID ${formatGuid(OTHER)}`,
    });
    const unmarked = { ...open(BASE), identity: [] };
    expect(parent!.compare(unmarked)).toMatchObject({ severity: 'other', found: 'none' });
  });

  it('may be a VHD, which has the same bytes for its only mark', () => {
    const { parent } = open({ ...CHILD, linkage: Uint8Array.from({ length: 16 }, (_, n) => n) });
    const vhd = (text: string) => ({ ...open(BASE), identity: [{ name: 'unique-id', text }] });
    expect(parent!.compare(vhd('00010203-0405-0607-0809-0a0b0c0d0e0f'))).toBeUndefined();
    expect(parent!.compare(vhd('ff020100-0504-0706-0809-0a0b0c0d0e0f'))).toMatchObject({
      severity: 'other',
      found: 'create UUID ff020100-0504-0706-0809-0a0b0c0d0e0f',
    });
  });

  it('in any state, where the child records none (0.2)', () => {
    const old = open({ ...CHILD, parentModify: new Uint8Array(16) });
    expect(old.parent!.identity).toBe(`create UUID ${formatGuid(CREATE)}`);
    expect(old.parent!.compare(open({ ...BASE, modify: OTHER }))).toBeUndefined();
  });
});

describe('writing', () => {
  it('a part of a block: the rest is copied, all of it stable before the entry', () => {
    const child = setUp();
    child.write(2 * K + 512, 1024);
    expect(child.changes()).toEqual([
      'flush',
      expect.stringMatching(/^header.write/),
      expect.stringMatching(/^size.set/),
      'payload.write 0x400 +512',
      'payload.write 0x600 +1024',
      'payload.write 0xa00 +2560',
    ]);
    expect(child.disk.flush()).toBe(0);
    expect(child.changes().map((text) => text.split(' ')[0])).toEqual([
      'header.write',
      'flush',
      'table.write',
      'flush',
    ]);
    expect(child.map()[2]).toBe(0);
    // The place was stable as zeros before: that does not help where the parent shows.
    child.write(0, 10);
    child.changes();
    expect(child.disk.flush()).toBe(0);
    expect(child.changes().map((text) => text.split(' ')[0])).toEqual(['flush', 'table.write', 'flush']);
    child.expectClean();
  });

  it('a whole block copies nothing; where the parent has zeros, nothing is copied either', () => {
    const child = setUp();
    child.write(K, K);
    child.write(4 * K + 512, 512);
    child.write(5 * K + 512, 512);
    expect(child.changes().filter((text) => text.startsWith('payload'))).toHaveLength(3);
    child.expectClean();
  });

  it('a discard hides the parent, also where nothing was allocated', () => {
    const child = setUp();
    child.write(0, K);
    expect(child.disk.zero(guestOffset(0), 3 * K, 'punch')).toBe(0);
    child.model.fill(0, 0, 3 * K);
    child.write(K + 7, 7);
    expect(child.disk.flush()).toBe(0);
    expect(child.map().slice(0, 4)).toEqual([ZERO, expect.any(Number), ZERO, FREE]);
    child.expectClean();
  });
});

describe('the end of a mount', () => {
  it('moves the last blocks into places that nobody uses, where no block reads as zeros', () => {
    const child = setUp({ ...CHILD, map: [0, 1, 2, 3, FREE, FREE] });
    // Blocks 0 and 1 are discarded, and written again: their old places stay free.
    for (const block of [0, 1]) {
      expect(child.disk.zero(guestOffset(block * K), K, 'punch')).toBe(0);
      child.write(block * K, K);
    }
    child.write(4 * K, K);
    expect(child.disk.flush()).toBe(0);
    child.expectClean();
    expect([...child.map()].sort()).toEqual([0, 1, 2, 3, 4, FREE]);
    expect(child.physical()).toBe(5);
  });

  it('gives such places to zero entries first, and never to what shows the parent', () => {
    const child = setUp({ ...CHILD, map: [0, 1, 2, ZERO, FREE, FREE] });
    expect(child.disk.zero(guestOffset(0), K, 'punch')).toBe(0);
    child.model.fill(0, 0, K);
    child.expectClean();
    expect(child.map()).toEqual([0, 1, 2, ZERO, FREE, FREE]);
  });
});
