import { describe, expect, it } from 'vitest';
import { EIO, ENOSPC } from '../../../../src/base/errno.ts';
import { guestOffset } from '../../../../src/base/units.ts';
import { vdiDriver } from '../../../../src/formats/vdi/driver.ts';
import { TableAllocator } from '../../../../src/shared/paged-table.ts';
import { openDisk, openEditable, readDisk } from '../../../support/disk.ts';
import { encodeVdi, FREE, type VdiDescription, ZERO } from '../../../support/encoders/vdi.ts';
import { FaultSource } from '../../../support/fault-source.ts';
import { MemorySource } from '../../../support/memory-source.ts';
import { random, randomBytes } from '../../../support/random.ts';
import { describeChange, RecordingSource } from '../../../support/recording-source.ts';

const K = 4096;
const EMPTY: VdiDescription = { map: [FREE, FREE, FREE, FREE, FREE, FREE, FREE, FREE], blockSize: K };
/** Where the data of the images with eight blocks of map begin. */
const DATA = 0x400;

const noise = (length: number) => randomBytes(random(7), length);

/** An image open for writing, with everything that happens to its file. */
function opened(vdi: VdiDescription, change: (file: Uint8Array) => Uint8Array = (file) => file) {
  const { file, disk: content } = encodeVdi(vdi, random(1));
  const memory = new MemorySource(change(file), 'image', true);
  const recording = new RecordingSource(memory);
  const source = new FaultSource(recording);
  const before = memory.bytes.slice();
  const { disk } = openEditable(vdiDriver, source);
  const said: string[] = [];
  return {
    memory,
    source,
    disk,
    before,
    content,
    write: (block: number, length = K) => disk.write(noise(length), 0, length, guestOffset(block * K)),
    punch: (block: number, blocks = 1) => disk.zero(guestOffset(block * K), blocks * K, 'punch'),
    /** What happened since the last call. */
    changes: () => {
      const all = recording.changes.map(describeChange);
      return all.slice(said.length, said.push(...all.slice(said.length)));
    },
    map: () => {
      const view = new DataView(memory.bytes.buffer, memory.bytes.byteOffset);
      return vdi.map.map((_, n) => view.getUint32(0x200 + 4 * n, true));
    },
    counter: () => new DataView(memory.bytes.buffer, memory.bytes.byteOffset).getUint32(0x184, true),
    physical: () => (memory.size - DATA) / K,
  };
}

const report = (source: MemorySource) =>
  vdiDriver.check!(source, { tables: new TableAllocator(), report: () => {}, options: new Map() });
const expectClean = (source: MemorySource) => expect(report(source).findings).toEqual([]);
const reread = (source: MemorySource) => readDisk(openDisk(vdiDriver, new MemorySource(source.bytes)).disk);

describe('the order of writes', () => {
  it('allocation: size, payload, counter, flush, map, flush', () => {
    const image = opened(EMPTY);
    expect(image.write(2)).toBe(K);
    expect(image.changes()).toEqual([
      'flush',
      'header.write 0x0 +512',
      'size.set 0x400 -> 0x8400',
      'payload.write 0x400 +4096',
    ]);
    expect(image.map()).toEqual(EMPTY.map);
    expect(image.disk.flush()).toBe(0);
    const first = image.changes();
    expect(first).toHaveLength(4);
    expect(first[0]).toBe('header.write 0x0 +512');
    expect(first[1]).toBe('flush');
    expect(first[2]).toMatch(/^table.write 0x200 \+/);
    expect(first[3]).toBe('flush');
    expect(image.map()[2]).toBe(0);
    // All that the file holds: it grew to the disk's eight blocks at once.
    expect(image.counter()).toBe(8);
    expect(report(image.memory).errors).toBe(0);
    expect(image.disk.close()).toBe(0);
    expect(image.counter()).toBe(1);
    expectClean(image.memory);
  });

  it('allocation where an earlier commit left stable zeros: payload, map, one flush', () => {
    const image = opened(EMPTY);
    image.write(2);
    image.disk.flush();
    image.changes();
    image.write(5);
    expect(image.disk.flush()).toBe(0);
    expect(image.changes()).toEqual([
      'payload.write 0x1400 +4096',
      expect.stringMatching(/^table.write/),
      'flush',
    ]);
    // A place that was used before needs the order.
    image.punch(2);
    image.disk.flush();
    image.changes();
    image.write(7);
    expect(image.disk.flush()).toBe(0);
    expect(image.changes()).toEqual([
      'payload.zero (zero) 0x400 +4096',
      'payload.write 0x400 +4096',
      'flush',
      expect.stringMatching(/^table.write/),
      'flush',
    ]);
    expect(image.disk.close()).toBe(0);
    expectClean(image.memory);
  });

  it('overwriting: payload and one flush', () => {
    const image = opened({ map: [0, 1], blockSize: K });
    image.write(1);
    image.disk.flush();
    image.changes();
    image.write(0, 512);
    image.disk.flush();
    expect(image.changes()).toEqual(['payload.write 0x400 +512', 'flush']);
  });

  it('a flush with nothing to do does nothing', () => {
    const image = opened(EMPTY);
    image.write(0);
    image.disk.flush();
    image.changes();
    expect(image.disk.flush()).toBe(0);
    expect(image.changes()).toEqual([]);
  });

  it('unmapping alone: the punch, the map, one flush', () => {
    const image = opened({ map: [0, 1, 2], blockSize: K });
    expect(image.punch(1)).toBe(0);
    expect(image.disk.flush()).toBe(0);
    const changes = image.changes();
    expect(changes.slice(0, 3)).toEqual([
      'flush',
      'header.write 0x0 +512',
      'payload.zero (zero) 0x1400 +4096',
    ]);
    expect(changes[3]).toMatch(/^table.write/);
    expect(changes.slice(4)).toEqual(['flush']);
    expect(image.map()).toEqual([0, ZERO, 2]);
  });

  it('a commit that failed with new blocks is ordered again when it is repeated', () => {
    const image = opened({ map: [0, FREE, FREE], blockSize: K });
    image.write(1);
    image.source.set({ step: 'table.write', nth: 1, times: 1, errno: EIO, part: 0 });
    expect(image.disk.flush()).toBe(-EIO);
    image.source.lift();
    expect(image.map()).toEqual([0, FREE, FREE]);
    image.punch(0);
    image.changes();
    expect(image.disk.flush()).toBe(0);
    const kinds = image.changes().map((text) => text.split(' ')[0]);
    expect(kinds).toEqual(['flush', 'table.write', 'flush']);
    expect(image.map()).toEqual([ZERO, 1, FREE]);
  });

  it('neighbours in the file are punched in one go', () => {
    const image = opened({ map: [2, 0, 1, 5, 4, 3], blockSize: K });
    image.punch(0, 6);
    expect(image.changes().filter((text) => text.startsWith('payload.zero'))).toEqual([
      'payload.zero (zero) 0x2400 +4096',
      'payload.zero (zero) 0x400 +8192',
      'payload.zero (zero) 0x5400 +4096',
      'payload.zero (zero) 0x4400 +4096',
      'payload.zero (zero) 0x3400 +4096',
    ]);
  });
});

describe('what is not touched', () => {
  it('nothing at all where nobody writes, whatever is wrong with the counter', () => {
    const image = opened({ ...EMPTY, allocated: 7 });
    readDisk(image.disk);
    expect(image.disk.write(noise(1), 0, 1, guestOffset(image.disk.size))).toBe(-ENOSPC);
    expect(image.disk.zero(guestOffset(image.disk.size), 4096, 'punch')).toBe(0);
    expect(image.disk.close()).toBe(0);
    expect(image.changes()).toEqual([]);
    expect(Buffer.compare(image.memory.bytes, image.before)).toBe(0);
  });

  it.each([
    ['1.1', { headerSize: 0x190, mapOffset: 0x300, lchs: [1, 2, 3, 512] as const }, 0x198, 0x184, 0x300],
    ['0.2, whose map begins in the sector of the header', { version: 2 }, 0x184, 0x170, 0x1a4],
  ])('of the header only the modify UUID and the counter: %s', (_name, some, uuidAt, counterAt, mapAt) => {
    const image = opened({ ...EMPTY, ...some }, (file) => {
      // What lies between header and map belongs to somebody.
      if (mapAt === 0x300) file.fill(0xab, 0x1d8, 0x300);
      return file;
    });
    const uuids = new Set<string>();
    const note = () =>
      uuids.add(Buffer.from(image.memory.bytes.subarray(uuidAt, uuidAt + 16)).toString('hex'));
    note();
    for (const block of [1, 2, 1, 5]) {
      expect(image.write(block)).toBe(K);
      image.disk.flush();
      note();
    }
    image.disk.close();
    note();
    expect(uuids.size).toBe(2);
    const after = image.memory.bytes.slice(0, mapAt);
    after.set(image.before.subarray(uuidAt, uuidAt + 16), uuidAt);
    after.set(image.before.subarray(counterAt, counterAt + 4), counterAt);
    expect(Buffer.compare(after, image.before.subarray(0, mapAt))).toBe(0);
    expectClean(image.memory);
    const model = new Uint8Array(8 * K);
    for (const block of [1, 2, 5]) model.set(noise(K), block * K);
    expect(Buffer.compare(reread(image.memory), model)).toBe(0);
  });
});

describe('space', () => {
  it('freed blocks are given out again before the file grows, and read as zeros', () => {
    const image = opened({ map: [0, 1, 2, 3, FREE, FREE], blockSize: K });
    image.punch(1, 2);
    image.disk.flush();
    expect(image.write(4, 512)).toBe(512);
    expect(image.write(5, 512)).toBe(512);
    expect(image.physical()).toBe(4);
    image.disk.flush();
    expect(image.map()).toEqual([0, ZERO, ZERO, 3, 1, 2]);
    expect(readDisk(image.disk, 4 * K + 512, K - 512)).toEqual(new Uint8Array(K - 512));
    expect(image.write(1)).toBe(K);
    expect(image.map()[1]).toBe(ZERO);
    expect(image.disk.close()).toBe(0);
    expect(image.map()).toEqual([0, 4, ZERO, 3, 1, 2]);
    expect(image.physical()).toBe(5);
    expectClean(image.memory);
  });

  it('not before the commit that unmaps them', () => {
    const image = opened({ map: [0, 1, FREE], blockSize: K });
    image.punch(0);
    image.write(2);
    expect(image.physical()).toBe(3);
  });

  it('where there is no other place a commit is made for it', () => {
    const image = opened({ map: [0, 1, 2], blockSize: K });
    image.punch(0, 3);
    for (let block = 0; block < 3; block += 1) expect(image.write(block)).toBe(K);
    expect(image.physical()).toBe(3);
    image.disk.close();
    expectClean(image.memory);
  });

  it('blocks that a crash left behind are found and used', () => {
    const image = opened({ map: [3, FREE, FREE, FREE, 1], blockSize: K, allocated: 5 }, (file) => {
      const more = new Uint8Array(DATA + 5 * K + 77).fill(0xee);
      more.set(file);
      return more;
    });
    for (const block of [1, 2, 3]) expect(image.write(block, 1)).toBe(1);
    expect(image.memory.size).toBe(DATA + 5 * K + 77);
    image.disk.close();
    expect(image.map()).toEqual([3, 0, 2, 4, 1]);
    expect(image.memory.size).toBe(DATA + 5 * K);
    expectClean(image.memory);
    const model = image.content.slice();
    for (const block of [1, 2, 3]) model[block * K] = noise(1)[0]!;
    expect(Buffer.compare(reread(image.memory), model)).toBe(0);
  });

  it('what follows the last block is never mistaken for zeros', () => {
    const image = opened({ map: [0, FREE, FREE], blockSize: K }, (file) => {
      const more = new Uint8Array(file.length + K + 100).fill(0xee);
      more.set(file);
      return more;
    });
    image.write(1, 1);
    image.write(2, 1);
    expect(readDisk(image.disk, K + 1, K - 1)).toEqual(new Uint8Array(K - 1));
    expect(readDisk(image.disk, 2 * K + 1, K - 1)).toEqual(new Uint8Array(K - 1));
  });

  it('the place of an entry that the disk does not need is not free', () => {
    const image = opened({ map: [0, FREE, FREE], blockSize: K, spareBlocks: 2, allocated: 2 }, (file) => {
      const more = new Uint8Array(file.length + K).fill(0xee);
      more.set(file);
      new DataView(more.buffer).setUint32(0x200 + 16, 1, true);
      return more;
    });
    image.write(1);
    image.disk.close();
    expect(image.map()).toEqual([0, 2, FREE]);
    expect(report(image.memory).errors).toBe(0);
    expect(image.memory.bytes.subarray(DATA + K, DATA + 2 * K).every((byte) => byte === 0xee)).toBe(true);
  });

  it('a fixed image is punched in place', () => {
    const image = opened({ map: [0, 1, 2], blockSize: K, type: 2 });
    expect(image.punch(0, 3)).toBe(0);
    image.disk.close();
    expect(image.map()).toEqual([0, 1, 2]);
    expect(image.physical()).toBe(3);
    expect(reread(image.memory)).toEqual(new Uint8Array(3 * K));
    expect(image.changes().some((text) => text.startsWith('table.write'))).toBe(false);
  });

  it('no more blocks than the disk has', () => {
    const image = opened({ map: [FREE, FREE], blockSize: K, allocated: 0xffffffff });
    expect(image.disk.write(noise(2 * K), 0, 2 * K, guestOffset(0))).toBe(2 * K);
    image.disk.close();
    expect(image.counter()).toBe(2);
    expectClean(image.memory);
  });

  it('a host without space: the error reaches the writer, and writing goes on after', () => {
    const image = opened(EMPTY);
    // A batch that cannot be had is tried for one block.
    for (const [step, times] of [
      ['size.set', 2],
      ['payload.write', 1],
    ] as const) {
      image.source.set({ step, nth: 1, times, errno: ENOSPC, part: 0 });
      expect(image.write(1)).toBe(-ENOSPC);
      image.source.lift();
    }
    image.write(0);
    for (const step of ['header.write', 'table.write'] as const) {
      expect(image.write(step === 'header.write' ? 2 : 3)).toBe(K);
      image.source.set({ step, nth: 1, times: 1, errno: ENOSPC, part: 0 });
      expect(image.disk.flush()).toBe(-ENOSPC);
      image.source.lift();
      expect(report(image.memory).errors).toBe(0);
    }
    expect(image.write(1)).toBe(K);
    expect(image.disk.close()).toBe(0);
    expectClean(image.memory);
  });
});

describe('the end of a mount', () => {
  const full: VdiDescription = { map: [0, 1, 2, 3, 4, 5, 6, 7], blockSize: K };

  it('cuts off what is free at the end, and gives what is free inside to blocks of zeros', () => {
    const image = opened(full);
    image.punch(1, 2);
    image.punch(5, 3);
    expect(image.disk.close()).toBe(0);
    expect(image.physical()).toBe(5);
    expect(image.counter()).toBe(5);
    expect([...image.map()].filter((entry) => entry < ZERO).sort()).toEqual([0, 1, 2, 3, 4]);
    expectClean(image.memory);
    const model = image.content
      .slice()
      .fill(0, K, 3 * K)
      .fill(0, 5 * K);
    expect(Buffer.compare(reread(image.memory), model)).toBe(0);
  });

  it('in this order: the map, the counter, the size, each stable before the next', () => {
    const image = opened(full);
    image.punch(1);
    image.punch(7);
    image.disk.flush();
    image.changes();
    image.disk.close();
    const kinds = image.changes().map((text) => text.split(' ')[0]);
    expect(kinds).toEqual([
      'payload.zero',
      'flush',
      'table.write',
      'flush',
      'header.write',
      'flush',
      'size.set',
      'flush',
    ]);
  });

  it('may be called again', () => {
    const image = opened({ ...full, map: [...full.map, FREE, ZERO, FREE, ZERO] });
    image.punch(1, 2);
    image.punch(4);
    expect(image.disk.close()).toBe(0);
    const map = image.map();
    image.changes();
    expect(image.disk.close()).toBe(0);
    expect(image.changes()).toEqual([]);
    expect(image.map()).toEqual(map);
    expectClean(image.memory);
  });

  it('may fail anywhere, and the image is sound', () => {
    for (const step of ['payload.zero', 'header.write', 'table.write', 'size.set', 'flush'] as const) {
      for (let nth = 1; nth < 8; nth += 1) {
        const image = opened(full);
        image.punch(1, 2);
        image.punch(4);
        image.punch(7);
        image.source.set({ step, nth, times: 1, errno: EIO, part: 0.5 });
        const status = image.disk.close();
        image.source.lift();
        if (image.source.hits > 0) expect(status, `${step} ${nth}`).toBe(-EIO);
        expect(report(image.memory).errors, `${step} ${nth}`).toBe(0);
        expect(image.counter()).toBeGreaterThan(Math.max(...image.map().filter((entry) => entry < ZERO)));
        const model = image.content
          .slice()
          .fill(0, K, 3 * K)
          .fill(0, 4 * K, 5 * K)
          .fill(0, 7 * K);
        expect(Buffer.compare(reread(image.memory), model), `${step} ${nth}`).toBe(0);
      }
    }
  });

  it('corrects a counter that was behind the map', () => {
    const image = opened({ map: [0, 3, 2, 1], blockSize: K, allocated: 1 });
    expect(report(image.memory).errors).toBe(1);
    image.write(0, 512);
    image.disk.flush();
    expect(image.counter()).toBe(4);
    expectClean(image.memory);
  });
});

describe('not written', () => {
  const refusal = (vdi: VdiDescription, change?: (file: Uint8Array) => Uint8Array) => {
    try {
      opened(vdi, change);
    } catch (problem) {
      return problem instanceof Error ? problem.message : String(problem);
    }
    return 'it was opened';
  };
  const entry = (n: number, value: number) => (file: Uint8Array) => {
    new DataView(file.buffer).setUint32(0x200 + 4 * n, value, true);
    return file;
  };

  it.each([
    ['an entry beyond the image', entry(1, 9), 'physical block is 9, the image has 3 blocks'],
    ['a block named twice', entry(1, 0), 'physical block 0 is in use by another entry'],
    [
      'a block that the file cuts off',
      (file: Uint8Array) => file.slice(0, -1),
      'physical block 2 is at 0x2400 to 0x3400, the file ends at 0x33ff',
    ],
  ])('%s', (_name, change, text) => {
    expect(refusal({ map: [0, 1, 2], blockSize: K }, change)).toContain(text);
  });

  it('flags that nobody knows', () => {
    expect(refusal({ ...EMPTY, flags: 2 })).toBe('VDI header: flags are 0x2, only bit 0 is known');
  });

  it('a map whose entries lie across sectors', () => {
    expect(refusal({ ...EMPTY, mapOffset: 0x1fe })).toContain('its entries lie across sectors');
  });
});
