/** What the command line makes of evidence. */

import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { configure, readCommandLine } from '../../../src/cli/mount-command.ts';

function configOf(...args: string[]) {
  const commandLine = readCommandLine([...args, '/vm/disk.vhdx', '/nowhere/mnt']);
  if (typeof commandLine === 'string') throw new Error(commandLine);
  return configure(commandLine);
}

function refusal(...args: string[]): string {
  try {
    configOf(...args);
  } catch (problem) {
    expect(problem).toBeInstanceOf(ImageError);
    expect((problem as ImageError).kind).toBe('usage');
    return (problem as ImageError).message;
  }
  throw new Error('it was taken');
}

describe('--evidence', () => {
  it('is not there unless it is asked for', () => {
    expect(configOf().evidence).toBeUndefined();
    expect(configOf().readOnly).toBe(false);
  });

  it('is read-only and noexec, and hashes at once', () => {
    for (const args of [['--evidence'], ['-o', 'evidence'], ['-o', 'rw,ro,evidence'], ['--evidence', '-r']]) {
      const { readOnly, noexec, evidence } = configOf(...args);
      expect({ readOnly, noexec }).toEqual({ readOnly: true, noexec: true });
      expect(evidence).toMatchObject({ record: undefined, hash: 'now' });
    }
  });

  it('makes the path of the record absolute', () => {
    expect(configOf('--evidence', '--record', 'case.json').evidence!.record).toBe(
      `${process.cwd()}/case.json`,
    );
    expect(configOf('-o', 'evidence,record=/x/y.json,hash=at-end').evidence).toMatchObject({
      record: '/x/y.json',
      hash: 'at-end',
    });
  });

  it.each([
    [['--evidence', '--rw'], '--evidence and --rw'],
    [['-o', 'evidence,rw'], '--evidence and --rw'],
    [['--evidence', '--overlay', '/x.qed'], 'overlay'],
    [['--record', 'r.json'], '--record: is for evidence'],
    [['--hash', 'now'], '--hash: is for evidence'],
    [['--evidence', '--hash', 'soon'], '--hash: expected one of now, at-end, none, found "soon"'],
    [['--evidence', '--record', '/vm/disk.vhdx'], 'is evidence'],
    [['--evidence', '--record', '/nowhere/mnt/r.json'], 'is in the mountpoint'],
    [['--evidence', '--log-file', '/vm/../vm/disk.vhdx'], '--log-file: /vm/disk.vhdx is evidence'],
  ])('%j is refused', (args, said) => {
    expect(refusal(...args)).toContain(said);
  });
});
