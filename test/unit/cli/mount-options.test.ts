/** The words of -o, and the values of options. */

import { describe, expect, it } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import {
  addTo,
  checkValues,
  defaultThreads,
  type OptionLists,
  type OptionValues,
  readOptionWords,
  splitOptions,
} from '../../../src/cli/mount-options.ts';

describe('splitOptions', () => {
  it.each([
    ['', []],
    ['ro', ['ro']],
    ['ro,allow_other,uid=5', ['ro', 'allow_other', 'uid=5']],
    [',,ro,,', ['ro']],
    // A comma is kept by a backslash or by double quotes.
    ['fsname=a\\,b,ro', ['fsname=a,b', 'ro']],
    ['fsname="a,b",ro', ['fsname=a,b', 'ro']],
    ['"fsname=a,b,c"', ['fsname=a,b,c']],
    ['fsname=a\\\\,ro', ['fsname=a\\', 'ro']],
    ['fsname=\\"a,ro', ['fsname="a', 'ro']],
    ['fsname="a\\"b,c",ro', ['fsname=a"b,c', 'ro']],
    ['fsname=a""b', ['fsname=ab']],
    // What does not end, ends with the text.
    ['fsname="a,b', ['fsname=a,b']],
    ['ro\\', ['ro\\']],
    ['fsname=a b=c', ['fsname=a b=c']],
  ])('splits %j', (text, words) => {
    expect(splitOptions(text)).toEqual(words);
  });
});

function read(words: readonly string[], sloppy = false): Record<string, string> {
  const values: OptionValues = new Map();
  readOptionWords(words, values, new Map(), sloppy);
  return Object.fromEntries(values);
}

/** The error of `work`, which must throw an ImageError. */
function errorOf(work: () => void): ImageError {
  try {
    work();
  } catch (problem) {
    expect(problem).toBeInstanceOf(ImageError);
    return problem as ImageError;
  }
  throw new Error('nothing was thrown');
}

describe('readOptionWords', () => {
  it('reads flags and values, with - and _ the same', () => {
    expect(read(['allow_other', 'cache-size=1G', 'log_file=/a=b', 'uid=5'])).toEqual({
      'allow-other': 'true',
      'cache-size': '1G',
      'log-file': '/a=b',
      uid: '5',
    });
  });

  it('lets the last of several win', () => {
    expect(read(['uid=5', 'uid=6'])).toEqual({ uid: '6' });
  });

  it('keeps all values of what can be given several times', () => {
    const lists: OptionLists = new Map();
    const values: OptionValues = new Map();
    readOptionWords(['parent=/a', 'ro', 'parent_dir=/d', 'parent=/b=c'], values, lists);
    addTo(lists, 'parent', ['/e']);
    expect([...lists]).toEqual([
      ['parent', ['/a', '/b=c', '/e']],
      ['parent-dir', ['/d']],
    ]);
    expect([...values]).toEqual([['ro', 'true']]);
    expect(() => checkValues(values, lists)).not.toThrow();
    expect(errorOf(() => checkValues(values, new Map([['parent', ['/a', '']]]))).message).toContain(
      '--parent',
    );
  });

  it('takes what mount(8) and fstab add', () => {
    const words = [
      'rw',
      'nosuid',
      '_netdev',
      'x-systemd.automount',
      'X-mount.mkdir',
      'comment=a',
      'max_read=4096',
    ];
    expect(read(words)).toEqual({ rw: 'true', _netdev: 'true' });
  });

  it.each([
    ['frobnicate', 'unknown option'],
    ['allow_others', 'unknown option'],
    ['=', 'unknown option'],
    ['allow_other=yes', 'takes no value'],
    ['uid', 'needs a value'],
  ])('refuses %s', (word, said) => {
    const error = errorOf(() => read([word]));
    expect(error.kind).toBe('usage');
    expect(error.message).toContain(word);
    expect(error.message).toContain(said);
  });

  it('passes over unknown words where it is told to, but not over wrong ones', () => {
    expect(read(['frobnicate', 'x=y', 'ro'], true)).toEqual({ ro: 'true' });
    expect(errorOf(() => read(['uid'], true)).kind).toBe('usage');
  });
});

describe('checkValues', () => {
  const check = (name: string, value: string): void => checkValues(new Map([[name, value]]));

  it.each([
    ['threads', '4'],
    ['uid', '4294967295'],
    ['umask', '0'],
    ['umask', '0027'],
    ['cache-size', '1.5G'],
    ['cache-size', '0'],
    ['transport', 'fuse-native'],
    ['lock', 'off'],
    ['format', 'raw'],
    ['fsname', 'a b,c'],
    ['not-ours', 'anything'],
  ])('takes %s=%s', (name, value) => {
    expect(() => check(name, value)).not.toThrow();
  });

  it.each([
    ['threads', ''],
    ['threads', '-1'],
    ['threads', '1.5'],
    ['threads', '0x4'],
    ['threads', '12345678901'],
    ['uid', 'root'],
    ['umask', '8'],
    ['umask', '00000'],
    ['umask', ''],
    ['cache-size', '64 pages'],
    ['cache-size', '-1M'],
    ['cache-size', '9999999P'],
    ['transport', 'pigeon'],
    ['lock', 'ON'],
    ['format', 'qcow9'],
    ['fsname', ''],
    ['pid-file', ''],
  ])('refuses %s=%s, naming option and value', (name, value) => {
    const error = errorOf(() => check(name, value));
    expect(error.kind).toBe('usage');
    expect(error.message).toContain(`--${name}`);
    if (value !== '') expect(error.message).toContain(value);
  });
});

describe('defaultThreads', () => {
  it('is from 2 to 4', () => {
    expect([2, 3, 4]).toContain(defaultThreads());
  });
});
