/** One commit for all that wait, nothing acknowledged too early, and what failures leave behind. */

import { describe, expect, it } from 'vitest';
import { EIO, ENOSPC, type Status } from '../../../src/base/errno.ts';
import { type CommitSteps, GroupCommit } from '../../../src/image/group-commit.ts';
import { FaultSource } from '../../support/fault-source.ts';
import { MemorySource } from '../../support/memory-source.ts';
import { threadScript } from '../../support/threads.ts';

/** Steps that note their calls; `write` gives the statuses in turn, then 0. */
function setUp(statuses: Status[] = [], metadata = true) {
  const memory = GroupCommit.seed();
  const commit = new GroupCommit(memory);
  const calls: string[] = [];
  const steps: CommitSteps = {
    gather: () => {
      calls.push('gather');
      return metadata;
    },
    write: (found) => {
      calls.push(`write ${found}`);
      return statuses.shift() ?? 0;
    },
    settle: (status) => calls.push(`settle ${status}`),
  };
  return { memory, commit, calls, steps };
}

describe('the first change', () => {
  it('runs `first` once per mount, for all threads', () => {
    const { memory, commit } = setUp();
    let runs = 0;
    const first = () => {
      runs += 1;
      return 0;
    };
    expect(commit.begun).toBe(false);
    expect([commit.begin(first), new GroupCommit(memory).begin(first), commit.begin(first)]).toEqual([
      0, 0, 0,
    ]);
    expect([runs, commit.begun]).toEqual([1, true]);
  });

  it('runs it again where it failed', () => {
    const { commit } = setUp();
    expect([commit.begin(() => -ENOSPC), commit.begun, commit.begin(() => 0), commit.begun]).toEqual([
      -ENOSPC,
      false,
      0,
      true,
    ]);
  });

  it('gives its locks back where it throws', () => {
    const { commit } = setUp();
    expect(() =>
      commit.begin(() => {
        throw new Error('a defect');
      }),
    ).toThrow('a defect');
    expect(commit.begin(() => 0)).toBe(0);
  });
});

describe('a flush', () => {
  it('gathers, writes and settles; the next one has nothing to do', () => {
    const { commit, calls, steps } = setUp();
    commit.changed();
    expect([commit.flush(steps), commit.flush(steps)]).toEqual([0, 0]);
    expect(calls).toEqual(['gather', 'write true', 'settle 0']);
    commit.changed();
    commit.flush(steps);
    expect(calls.length).toBe(6);
    expect(commit.counters()).toEqual(expect.objectContaining({ flushes: 3, shared: 0, commits: 2 }));
  });

  it('settles nothing where there is only payload', () => {
    const { commit, calls, steps } = setUp([], false);
    commit.changed();
    commit.flush(steps);
    expect(calls).toEqual(['gather', 'write false']);
  });

  it('reaches the medium the first time, also where nothing was changed: somebody before may not have flushed', () => {
    const { commit, calls, steps } = setUp([-ENOSPC], false);
    expect([commit.flush(steps), commit.flush(steps), commit.flush(steps)]).toEqual([-ENOSPC, 0, 0]);
    expect(calls.length).toBe(4);
  });

  it('knows metadata that waits in memory from payload', () => {
    const { commit, steps } = setUp([-EIO]);
    commit.changed();
    expect(commit.isDirty).toBe(false);
    commit.dirtied();
    expect(commit.isDirty).toBe(true);
    commit.flush(steps);
    expect(commit.isDirty).toBe(true);
    commit.flush(steps);
    expect(commit.isDirty).toBe(false);
  });

  it('that failed is told, settled as failed, and repeated by the next', () => {
    const { commit, calls, steps } = setUp([-EIO]);
    commit.changed();
    expect([commit.flush(steps), commit.flush(steps), commit.flush(steps)]).toEqual([-EIO, 0, 0]);
    expect(calls).toEqual(['gather', 'write true', `settle ${-EIO}`, 'gather', 'write true', 'settle 0']);
    expect(commit.failed).toBe(false);
  });

  it('gives its locks back and counts as failed where a step throws', () => {
    const { commit, calls, steps } = setUp();
    commit.changed();
    const broken: CommitSteps = {
      ...steps,
      write: () => {
        throw new Error('a defect');
      },
    };
    expect(() => commit.flush(broken)).toThrow('a defect');
    expect(calls.at(-1)).toBe(`settle ${-EIO}`);
    expect(commit.flush(steps)).toBe(0);
  });

  it('of the medium that fails ends writing for good', () => {
    const { memory, commit, steps } = setUp();
    const source = new FaultSource(new MemorySource(new Uint8Array(1), 'medium', true));
    source.set({ step: 'flush', nth: 1, times: 1, errno: EIO, part: 0 });
    const flushing: CommitSteps = { ...steps, write: () => commit.stable(source) };
    commit.begin(() => 0);
    commit.changed();
    expect([commit.flush(flushing), commit.failed]).toEqual([-EIO, true]);
    const other = new GroupCommit(memory);
    expect([other.flush(flushing), other.begin(() => 0), other.failed]).toEqual([-EIO, -EIO, true]);
    expect(source.counts.get('flush')).toBe(1);
  });
});

describe('four threads', () => {
  const flusher = threadScript('test/unit/image/threads/flusher.ts');
  const threads = 4;

  it.each([
    ['that takes long', 2, 100],
    ['that takes no time', 0, 3000],
  ])(
    'share the flushes of a medium %s, and nothing is acknowledged too early',
    async (_name, slow, rounds) => {
      const commit = GroupCommit.seed();
      const memory = new SharedArrayBuffer((4 * threads + 2) * 4);
      const wrong = await flusher.run<number>(
        Array.from({ length: threads }, (_, number) => ({ commit, memory, number, threads, rounds, slow })),
      );
      expect(wrong).toEqual(Array(threads).fill(0));
      const { flushes, shared, commits } = new GroupCommit(commit).counters();
      const onMedium = new Int32Array(memory)[4 * threads]!;
      expect(flushes).toBe(threads * rounds);
      expect(commits).toBe(onMedium);
      // Whoever arrives while a commit runs waits for the next one, together with the others.
      if (slow > 0) {
        expect(onMedium).toBeLessThan(0.7 * flushes);
        expect(shared).toBeGreaterThan(0.3 * flushes);
      }
    },
  );
});
