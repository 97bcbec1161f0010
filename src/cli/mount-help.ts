/** The help of vdisk-mount, made by yargs from the option table. */

import yargs from 'yargs';
import { DRIVERS } from '../formats/registry.ts';
import { MOUNT_OPTIONS } from './mount-options.ts';

/** "$0" stands for the program. */
export const MOUNT_EXAMPLES = [
  ['$0 disk.vhdx /mnt/img', 'show disk.vhdx as /mnt/img/disk.raw'],
  ['losetup -fP --show /mnt/img/disk.raw', 'then attach it with its partitions'],
  ['$0 -r disk.vhdx /mnt/img', 'only to read: the image is not changed, whatever happens'],
  ['$0 a.vdi b.qed /mnt/img', 'two images in one mount'],
  ['$0 disk.vhd ./disk.raw', 'on a regular file: that file becomes the disk'],
  ['$0 -o allow_other,format=raw dump /mnt/img', 'options in the manner of mount(8)'],
  ['umount /mnt/img', 'the end (not root: fusermount3 -u /mnt/img)'],
] as const;

/** What --config is for. */
export const CONFIG_DOC =
  'mount what /etc/vdisk-mount/NAME.toml describes, or another file (not root: ~/.config/vdisk-mount); see vdisk config';

/** Exit statuses: those of mount(8), and one of ours. */
export const MOUNT_STATUSES = [
  [0, 'mounted'],
  [1, 'usage or permission'],
  [2, 'system error; of the daemon also: cut off while in use'],
  [4, 'internal bug'],
  [8, 'interrupted'],
  [32, 'mount failure'],
  [200, 'evidence that has changed (of the daemon, which has the command as its parent only with -f)'],
] as const;

const EPILOGUE =
  `Formats: ${DRIVERS.map((driver) => driver.id).join(', ')}. ` +
  `Exit status: ${MOUNT_STATUSES.map(([status, what]) => `${status} ${what}`).join(', ')}.`;

/** What `vdisk-mount --help` prints. */
export async function mountHelp(): Promise<string> {
  let help = yargs([])
    .scriptName('vdisk-mount')
    .usage(
      'Usage: $0 [options] IMAGE... MOUNTPOINT\n       $0 [options] --config NAME\n\nShows disk images as flat raw files, for reading and writing.',
    )
    .option('o', {
      type: 'string',
      array: true,
      describe: 'options, separated by commas: every long option, and those of mount(8)',
    })
    .option('config', { type: 'string', describe: CONFIG_DOC })
    .option('s', { type: 'boolean', describe: 'ignore unknown words in -o' })
    .version(false)
    .help(false)
    .option('help', { type: 'boolean', alias: 'h', describe: 'show this' })
    .option('version', { type: 'boolean', alias: 'V', describe: 'show the version and the formats' })
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .epilogue(EPILOGUE);
  for (const spec of MOUNT_OPTIONS) {
    help = help.option(spec.name, {
      type: spec.value === undefined ? 'boolean' : 'string',
      describe: spec.doc,
      ...(spec.short === undefined ? {} : { alias: spec.short }),
      ...(spec.choices === undefined ? {} : { choices: spec.choices }),
      ...(spec.default === undefined ? {} : { defaultDescription: spec.default }),
    });
  }
  for (const [command, what] of MOUNT_EXAMPLES) help = help.example(command, what);
  return `${await help.getHelp()}\n`;
}

/** What `vdisk-mount --version` prints. */
export function versionText(version: string): string {
  const formats = DRIVERS.map(({ id, title }) => `  ${id.padEnd(5)} ${title}\n`).join('');
  return `vdisk-mount ${version}\nformats:\n${formats}`;
}
