/** /proc/self/mountinfo: fields, optional fields, and names with blanks in them. */

import { describe, expect, it } from 'vitest';
import { findMount, parseMountinfo } from '../../../src/transport/mountinfo.ts';

describe('parseMountinfo', () => {
  it('reads the example of proc(5)', () => {
    const line = '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n';
    expect(parseMountinfo(line)).toEqual([
      {
        id: 36,
        device: '98:0',
        mountpoint: '/mnt2',
        type: 'ext3',
        source: '/dev/root',
        options: ['rw', 'noatime'],
        superOptions: ['rw', 'errors=continue'],
      },
    ]);
  });

  it.each([
    ['none', '43 27 0:40 / /m ro - fuse.vdisk-mount /d.vhdx ro'],
    ['one', '43 27 0:40 / /m ro shared:7 - fuse.vdisk-mount /d.vhdx ro'],
    [
      'several',
      '43 27 0:40 / /m ro shared:7 master:1 propagate_from:2 unbindable - fuse.vdisk-mount /d.vhdx ro',
    ],
  ])('reads a line with optional fields: %s', (_, line) => {
    expect(parseMountinfo(line)).toMatchObject([
      { id: 43, device: '0:40', mountpoint: '/m', type: 'fuse.vdisk-mount', source: '/d.vhdx' },
    ]);
  });

  it('decodes blanks, newlines and backslashes', () => {
    const line = String.raw`1 2 0:3 / /a\040b\011c\012d\134e\134040f ro - fuse /x\040y,z ro`;
    expect(parseMountinfo(line)).toMatchObject([{ mountpoint: '/a b\tc\nd\\e\\040f', source: '/x y,z' }]);
  });

  it('keeps the bytes of names in UTF-8', () => {
    expect(parseMountinfo('1 2 0:3 / /ä/日本 ro - fuse /ö ro')).toMatchObject([
      { mountpoint: '/ä/日本', source: '/ö' },
    ]);
  });

  it('takes a lone dash among the names for a name', () => {
    expect(parseMountinfo('1 2 0:3 / /- ro - tmpfs - rw')).toMatchObject([
      { mountpoint: '/-', type: 'tmpfs', source: '-' },
    ]);
  });

  it('leaves out lines that do not fit, and keeps the order of the others', () => {
    const text = [
      '',
      'nonsense',
      '1 2 0:3 / /first ro - tmpfs a rw',
      '1 2 0:3 / /short ro -',
      '1 2 0:3 / - tmpfs a rw',
      '4 5 0:6 / /second ro - tmpfs b rw',
      '',
    ].join('\n');
    expect(parseMountinfo(text).map((entry) => entry.mountpoint)).toEqual(['/first', '/second']);
  });
});

describe('findMount', () => {
  it('finds the root of this machine and nothing at a path that is no mountpoint', () => {
    expect(findMount('/proc')).toMatchObject({ mountpoint: '/proc', type: 'proc' });
    expect(findMount('/proc/self/nothing')).toBeUndefined();
    expect(findMount('/proc/')).toBeUndefined();
  });
});
