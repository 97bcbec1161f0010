/** The collector of findings. */

import { describe, expect, it } from 'vitest';
import { CheckCollector } from '../../../src/image/check.ts';

describe('the collector', () => {
  it('counts each kind, and keeps the findings in order', () => {
    const collector = new CheckCollector();
    collector.warning('w');
    collector.error('e');
    collector.leak('l', 512);
    collector.leak('m', 1024);
    collector.allocated(4096);
    collector.allocated(100);
    expect(collector.report()).toEqual({
      findings: [
        { severity: 'warning', text: 'w' },
        { severity: 'error', text: 'e' },
        { severity: 'leak', text: 'l' },
        { severity: 'leak', text: 'm' },
      ],
      errors: 1,
      leaks: 2,
      leakedBytes: 1536,
      warnings: 1,
      allocatedBytes: 4196,
    });
  });

  it('says nothing of a sound image', () => {
    const { findings, errors, leaks, leakedBytes, warnings } = new CheckCollector().report();
    expect([findings, errors, leaks, leakedBytes, warnings]).toEqual([[], 0, 0, 0, 0]);
  });

  it('keeps a bounded number of words, and counts on', () => {
    const collector = new CheckCollector();
    for (let n = 0; n < 5000; n += 1) collector.error(`entry ${n}`);
    const { findings, errors } = collector.report();
    expect([findings.length, errors, findings.at(-1)?.text]).toEqual([1000, 5000, 'entry 999']);
  });
});
