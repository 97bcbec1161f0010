/** vdisk-mount(8) */

import { MOUNT_STATUSES } from '../mount-help.ts';
import { referenceOfMount } from '../reference.ts';
import { exampleList, optionList, synopsis } from './parts.ts';
import {
  type About,
  bold,
  escaped,
  heading,
  marked,
  paragraph,
  section,
  seeAlso,
  subsection,
  tagged,
} from './roff.ts';

const texts = (...parts: readonly string[]): string => parts.map((text) => paragraph(marked(text))).join('');

const item = (tag: string, text: string) => ({ tag: bold(tag), text: marked(text) });

const DESCRIPTION = texts(
  'vdisk-mount makes a file appear that has exactly the bytes of the disk that a virtual machine sees: `disk.raw` for ' +
    '`disk.vhdx`, in the directory ‹MOUNTPOINT›. Nothing is converted. Loop devices, file system tools and others use the ' +
    'file as if it were the disk. If ‹MOUNTPOINT› is a regular file and there is one image, that file becomes the disk.',
  'The command returns when the mount can be used; a daemon goes on serving it. As in mount(8), a mount is for reading ' +
    'and writing unless `-r` is given. An image that cannot be written is mounted read-only, with a warning that says why. ' +
    'A mount that nobody writes to leaves the image byte for byte as it was.',
  'What fsync(2) on the file has acknowledged is in the image after any crash. Without `--sync`, what was written since ' +
    'may be lost in one, as on a disk with a write cache. The size of the file does not change. Discards (`fstrim`, ' +
    '`fallocate --punch-hole`) give space back to the host.',
  'Formats are recognized by content. A file that matches none is taken as raw only by its suffix ' +
    'or because it is a block device, and such a device is written to only with `--format=raw`.',
);

const PARENTS = texts(
  'An image may hold only what differs from a parent. Parents are found where the image says, beside it, in each ' +
    '`--parent-dir`, and by their identity among the images of these directories. ' +
    "Nothing outside of the first image's directory tree and these directories is opened because an image says so; " +
    '`--parent` names a file wherever it is. A parent that is another image than the recorded one is refused, unless ' +
    '`--force-parent` is given. Parents are never written to.',
  'With `--overlay`, the image itself is treated so: what is written goes to a QED image over it.',
);

const END = texts(
  '`umount`, `fusermount3 -u`, SIGTERM and SIGINT end a mount. While something uses it, a signal makes the daemon say who, ' +
    'and go on serving until it is released; a second signal cuts it off. After the mount is gone, the daemon ' +
    'writes what waits in memory, and holds the locks of the image until it ends. Where our helper is installed, umount(8) ' +
    'waits for that, and says with status 2 where an image was not left clean; fusermount3(1) does not wait. With ' +
    '`--pid-file`, the end of that file says that it is done.',
);

const FSTAB = texts(
  'With the helpers in /sbin, mount(8) knows the types fuse.vdisk-mount and vdisk-mount: `mount -t fuse.vdisk-mount ' +
    '/img/a.vhdx /mnt/a -o ro,allow_other`, and in fstab(5):',
  '`/img/a.vhdx /mnt/a fuse.vdisk-mount ro,allow_other,nofail 0 0`',
  '`/mnt/a/a.raw /srv/guest ext4 ro,loop,nofail,x-systemd.requires-mounts-for=/mnt/a 0 0`',
  'All options of this page can be used there, and those of mount(8) and systemd.mount(5) that are for others. The type ' +
    'vdisk-mount.FORMAT is `--format`. `remount,ro` makes a mount read-only; it cannot be made writable again.',
);

const CONFIG = texts(
  'A file describes a mount, for `--config NAME` and for systemd, vdisk-mount@NAME.service. It is written in TOML: `images` ' +
    '(a list of paths), `mountpoint`, `read_only`, and every long option with "_" for "-". Flags are true or false, options that ' +
    'are repeatable take lists, and paths are absolute. What is given on the command line goes before it. `vdisk config check` ' +
    'says what is wrong, with line and column.',
  '`images = ["/srv/images/disk.vhdx"]`',
  '`mountpoint = "/mnt/img"`',
  '`allow_other = true`',
);

/** The page. */
export function mountPage(about: About): string {
  const program = referenceOfMount();
  return [
    heading({ ...about, name: program.name, section: 8, manual: 'Disk images' }),
    section('NAME', `vdisk\\-mount \\- ${escaped(program.doc)}\n`),
    section('SYNOPSIS', `${synopsis(program.name, program)}\n`),
    section(
      'DESCRIPTION',
      DESCRIPTION,
      subsection('Parents', PARENTS),
      subsection('The end of a mount', END),
      subsection('mount(8) and fstab(5)', FSTAB),
      subsection('Descriptions of mounts', CONFIG),
    ),
    section(
      'OPTIONS',
      texts('They stand before, between or after the other words, or in the list of `-o`.'),
      optionList(program.options),
    ),
    section(
      'EXIT STATUS',
      texts('Those of mount(8), and one more:'),
      tagged(MOUNT_STATUSES.map(([status, what]) => item(`${status}`, `${what}.`))),
    ),
    section('EXAMPLES', exampleList(program.name, program.examples)),
    section(
      'FILES',
      tagged([
        item('/dev/fuse', 'The FUSE device of the kernel.'),
        item(
          '/etc/fuse.conf',
          'Must say user_allow_other before users other than root may use `--allow-other`.',
        ),
        item(
          '/etc/vdisk-mount/NAME.toml',
          'What `--config NAME` mounts. Users other than root: ~/.config/vdisk-mount.',
        ),
        item('/run/vdisk-mount', 'Which daemon serves which mount: whom umount(8) waits for.'),
      ]),
    ),
    section(
      'ENVIRONMENT',
      tagged([item('TMPDIR', 'Where `--overlay tmp` keeps what is written. Default: /var/tmp.')]),
    ),
    section(
      'NOTES',
      texts(
        'Users other than root need fusermount3(1). Without `--allow-other` nobody but who made the mount sees it, root included.',
        'getfattr(1) with `-d` shows what the raw file comes from (`user.vdisk.format`, `user.vdisk.source` and others).',
      ),
    ),
    seeAlso(
      'vdisk(1)',
      'vdisk-image-formats(5)',
      'fusermount3(1)',
      'fuse(4)',
      'losetup(8)',
      'mount(8)',
      'umount(8)',
    ),
  ].join('');
}
