import { statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { EIO, ENOENT, errnoOf } from '../../../src/base/errno.ts';
import { corrupt, ImageError, unsupported } from '../../../src/base/errors.ts';

describe('ImageError', () => {
  it('survives a message between threads as plain data', () => {
    const problem = new ImageError('missing', 'the parent is gone', { hint: 'Name it.' });
    const back = ImageError.fromWire(structuredClone(problem.toWire()));
    expect(back).toBeInstanceOf(ImageError);
    expect(back).toMatchObject({ kind: 'missing', message: 'the parent is gone', hint: 'Name it.' });
    expect(corrupt('torn').toWire()).toEqual({ kind: 'corrupt', message: 'torn' });
    expect(ImageError.fromWire(corrupt('torn').toWire()).hint).toBeUndefined();
  });

  it('carries what is wanted of a parent, and explains itself in lines', () => {
    const wanted = {
      by: '/a/top.vhd',
      identity: 'unique id 5',
      places: ['".\\\\base.vhd" (W2ru)'],
      looked: [{ path: '/a/base.vhd', reason: 'there is no such file' }],
    };
    const problem = new ImageError('missing', 'no parent', { hint: 'Name it.', wanted });
    const back = ImageError.fromWire(JSON.parse(JSON.stringify(problem.toWire())));
    expect(back.wanted).toEqual(wanted);
    expect(back.explanation).toEqual(['looked at /a/base.vhd: there is no such file', 'Name it.']);
    expect(corrupt('torn').explanation).toEqual([]);
  });

  it('takes in other errors, and leaves its own as they are', () => {
    const own = unsupported('zlib', 'Convert it.');
    expect(ImageError.from(own, 'io', 'file')).toBe(own);
    expect(own.hint).toBe('Convert it.');
    const cause = new Error('disk on fire');
    const taken = ImageError.from(cause, 'io', 'a.vdi');
    expect(taken).toMatchObject({ kind: 'io', message: 'a.vdi: disk on fire', cause });
    expect(ImageError.from('text', 'bug').message).toBe('text');
  });
});

describe('errnoOf', () => {
  it('is what the system said, EIO for anything else', () => {
    try {
      statSync('/nonexistent/file');
      expect.fail('the file is there');
    } catch (problem) {
      expect(errnoOf(problem)).toBe(ENOENT);
    }
    expect(errnoOf(new Error('plain'))).toBe(EIO);
    expect(errnoOf('text')).toBe(EIO);
    expect(errnoOf(undefined)).toBe(EIO);
  });
});
