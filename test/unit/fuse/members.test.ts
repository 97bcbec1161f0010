/** Files that join and leave a file system while it serves. */

import { afterAll, describe, expect, it } from 'vitest';
import { EBADF, EIO, ENOENT } from '../../../src/base/errno.ts';
import { Counters, READ } from '../../../src/fuse/counters.ts';
import { Members } from '../../../src/fuse/members.ts';
import { FileTimes } from '../../../src/fuse/times.ts';
import { Responder } from '../../../src/transport/kernel/responder.ts';
import { ask as askMaybe, type Reply, request, Trees, u32, u64 } from '../transport/support.ts';

const trees = new Trees();
afterAll(() => trees.close());

const ask = (responder: Responder, message: Buffer): Reply => askMaybe(responder, message)!;

const SLOTS = 5;
/** Two files and spare slots. */
function spareTree() {
  const seed = trees.seed([
    { name: 'a.raw', content: Buffer.from('aaaa') },
    { name: 'b.raw', content: Buffer.from('bbbb') },
  ]);
  const spare = {
    ...seed,
    members: Members.seed(2, SLOTS),
    counters: Counters.seed(4, SLOTS),
    times: FileTimes.seed(SLOTS),
    allocated: new SharedArrayBuffer(SLOTS * 8),
  };
  return { seed: spare, fs: trees.attach(spare), members: new Members(spare.members) };
}

const text = (fs: ReturnType<Trees['attach']>, handle: number): string | number => {
  const into = Buffer.alloc(4);
  const moved = fs.read(handle, into, 0, 4, 0);
  return moved < 0 ? moved : into.toString('utf8', 0, moved);
};

describe('members', () => {
  it('leave only while they are closed, and are not opened afterwards', () => {
    const members = new Members(Members.seed(1, 2));
    expect(members.open(0)).toBe(true);
    expect(members.open(0)).toBe(true);
    expect(members.leave(0)).toBe(false);
    members.close(0);
    expect([members.opens(0), members.leave(0)]).toEqual([1, false]);
    members.close(0);
    expect([members.leave(0), members.open(0), members.leave(0)]).toEqual([true, false, false]);
    expect(members.open(1)).toBe(false);
    members.join(1);
    expect(members.open(1)).toBe(true);
    members.cut(1);
    expect([members.open(1), members.opens(1)]).toEqual([false, 0]);
    // Those who had it open close it later: that says nothing of who is there then.
    members.close(1);
    expect(members.open(1)).toBe(false);
    expect(members.open(-1)).toBe(false);
  });

  it('get no node twice, and none once the numbers have run out', () => {
    const members = new Members(Members.seed(0, 10));
    const nodes = [0, 1, 2].flatMap((use) =>
      [...Array(10).keys()].map((slot) => members.nodeOf(2, slot, use)),
    );
    expect(new Set(nodes).size).toBe(30);
    expect(members.nodeOf(2, 0, 214_748_364)).toBe(2_147_483_642);
    expect(members.nodeOf(2, 9, 214_748_364)).toBeUndefined();
  });
});

describe('a file system whose files come and go', () => {
  it('shows who joins in a slot that was left under another node', () => {
    const { seed, fs, members } = spareTree();
    const file = trees.seed([{ name: 'c.raw', content: Buffer.from('cccc') }]).files[0]!;
    expect(text(fs, 3)).toBe('bbbb');
    fs.listing.change({ kind: 'leave', slots: [1] });
    expect([fs.lookup(1, 'b.raw'), text(fs, 3), text(fs, 2)]).toEqual([-ENOENT, -EIO, 'aaaa']);
    expect(fs.size()).toEqual({ bytes: 4, files: 1 });
    const node = members.nodeOf(2, 1, 1)!;
    expect(node).toBe(3 + SLOTS);
    fs.listing.change({ kind: 'join', slot: 1, node, number: 1, file, windows: [] });
    expect([fs.lookup(1, 'c.raw'), text(fs, node), text(fs, 3)]).toEqual([node, 'cccc', -EIO]);
    expect(text(fs, node + SLOTS)).toBe(-EBADF);
    expect(fs.listing.entries.map((entry) => entry?.name.toString())).toEqual(['a.raw', 'c.raw']);
    const counters = new Counters(seed.counters, SLOTS, 0);
    expect(counters.tally(1, READ)).toMatchObject({ count: 2, bytes: 8, errors: 0 });
    counters.reset(1);
    expect([counters.tally(1, READ).count, counters.tally(0, READ).count]).toEqual([0, 1]);
  });

  it('shows parts of a disk that join with it, and no byte of them when it has left', () => {
    const { fs, members } = spareTree();
    const content = Buffer.from('abcdefgh');
    const [file, kept] = trees.seed([
      { name: 'c.raw', content, writable: true },
      { name: 'd.raw', content },
    ]).files;
    const [node, part, other] = [2, 3, 4].map((slot) => members.nodeOf(2, slot, 0)!);
    const window = { name: 'c.p1', start: 4, size: 3, attributes: [['user.vdisk.number', '1']] as const };
    const windows = [{ slot: 3, node: part!, part: window }];
    fs.listing.change({ kind: 'join', slot: 2, node: node!, number: 2, file: file!, windows });
    fs.listing.change({ kind: 'join', slot: 4, node: other!, number: 3, file: kept!, windows: [] });
    expect([fs.lookup(1, 'c.p1'), text(fs, part!), text(fs, node!)]).toEqual([part, 'efg', 'abcd']);
    expect(fs.attribute(part!, 'user.vdisk.number')).toBe('1');
    // The same bytes: they go past the kernel's cache.
    expect([node, part, other].map((one) => fs.isShared(one!))).toEqual([true, true, false]);
    expect(fs.size()).toEqual({ bytes: 8 + 8 + 8, files: 5 });
    fs.listing.change({ kind: 'leave', slots: [2, 3] });
    expect([fs.lookup(1, 'c.p1'), text(fs, part!), text(fs, other!)]).toEqual([-ENOENT, -EIO, 'abcd']);
  });

  it('lists every file that stays, once, whoever leaves between two pieces', () => {
    const { fs } = spareTree();
    const responder = new Responder(fs);
    const names = (cookie: number, size: number) => {
      const reply = ask(
        responder,
        request(28, 1, Buffer.concat([u64(0), u64(cookie), u32(size), Buffer.alloc(20)])),
      );
      const found: string[] = [];
      for (let at = 0; at < reply.payload.length; ) {
        const length = reply.payload.readUInt32LE(at + 16);
        found.push(reply.payload.toString('utf8', at + 24, at + 24 + length));
        at += 24 + Math.ceil(length / 8) * 8;
      }
      return found;
    };
    expect(names(0, 4096)).toEqual(['.', '..', 'a.raw', 'b.raw']);
    expect(names(0, 100)).toEqual(['.', '..', 'a.raw']);
    fs.listing.change({ kind: 'leave', slots: [0] });
    expect(names(3, 4096)).toEqual(['b.raw']);
    expect(names(0, 4096)).toEqual(['.', '..', 'b.raw']);
  });

  it('counts how often a file is open, and opens none that is leaving', () => {
    const { fs, members } = spareTree();
    const responder = new Responder(fs);
    const open = () => ask(responder, request(14, 2, u64(0))).error;
    const release = () => ask(responder, request(18, 2, Buffer.alloc(24))).error;
    expect([open(), open(), members.opens(0)]).toEqual([0, 0, 2]);
    expect([release(), members.leave(0), release(), members.leave(0), open()]).toEqual([
      0,
      false,
      0,
      true,
      -ENOENT,
    ]);
  });

  it('has the kernel keep nothing of the directory after a change', () => {
    const { fs } = spareTree();
    const responder = new Responder(fs);
    const flags = () => ask(responder, request(27, 1, u64(0))).payload.readUInt32LE(8);
    expect(flags()).not.toBe(0);
    fs.listing.change({ kind: 'leave', slots: [0] });
    expect(flags()).toBe(0);
  });
});
