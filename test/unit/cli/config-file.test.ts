import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CONFIG_KEYS, ConfigProblems, configPath, parseConfig } from '../../../src/cli/config-file.ts';
import { configure, readCommandLine } from '../../../src/cli/mount-command.ts';
import { MOUNT_OPTIONS } from '../../../src/cli/mount-options.ts';
import { vdisk } from '../../support/vdisk.ts';

const WHOLE = `
images = ["/img/a.vhdx", "/img/b, c.vdi"]   # two
mountpoint = "/mnt/a"
read_only = true
allow_other = true
nonempty = false
umask = "027"
uid = 1000
cache_size = "128M"
parent_dir = ["/base", "/more"]
lock = false
fsname = 'a "name"'
`;

const problemsOf = (text: string): readonly string[] => {
  try {
    parseConfig(text, '/etc/x.toml');
  } catch (problem) {
    if (problem instanceof ConfigProblems) return problem.problems;
    throw problem;
  }
  return [];
};
const BASE = 'images = "/i"\nmountpoint = "/m"\n';

describe('the description of a mount', () => {
  it('says what a command line could say', () => {
    expect(configure(parseConfig(WHOLE, 'x'))).toMatchObject({
      images: ['/img/a.vhdx', '/img/b, c.vdi'],
      mountpoint: '/mnt/a',
      readOnly: true,
      allowOther: true,
      nonempty: false,
      umask: 0o027,
      uid: 1000,
      cacheBytes: 128 << 20,
      chain: { parents: [], parentDirs: ['/base', '/more'], force: false },
      lock: false,
      fsname: 'a "name"',
    });
  });

  it('has a key for every option that is of use there', () => {
    const missing = MOUNT_OPTIONS.filter(({ name }) => !CONFIG_KEYS.includes(name.replaceAll('-', '_')));
    expect(missing.map(({ name }) => name)).toEqual(['foreground', 'debug', 'ro', 'rw']);
  });

  it('tells all that is wrong, each with its place', () => {
    const text =
      'imags = 1\nmountpoint = "mnt"\numask = 22\nread_only = "yes"\nthreads = "many"\nformat = "vmdk9"\n';
    expect(problemsOf(text)).toEqual([
      expect.stringMatching(/^\/etc\/x\.toml:1:1: imags: unknown key; the keys are images, mountpoint, /),
      '/etc/x.toml:2:14: mountpoint: expected an absolute path, found "mnt"',
      '/etc/x.toml:3:9: umask: expected octal digits in quotes, like "022"',
      '/etc/x.toml:4:13: read_only: expected true or false',
      '/etc/x.toml:5:11: threads: expected a number, found "many"',
      expect.stringMatching(/^\/etc\/x\.toml:6:10: format: expected one of .*found "vmdk9"/),
      '/etc/x.toml:7:1: images: is missing',
    ]);
  });

  it.each([
    ['ro = true', ':3:1: ro: unknown key; write read_only = true'],
    ['foreground = true', ':3:1: foreground: unknown key; it belongs on the command line'],
    ['parent = ["/a", "b"]', ':3:10: parent: expected an absolute path, found "b"'],
    ['overlay = "temp"', ':3:11: overlay: expected an absolute path, found "temp"'],
    ['partitions = 1', ':3:14: partitions: expected true or false'],
    ['uid = -1', ':3:7: uid: expected a number, found "-1"'],
    ['fsname = "a\\nb"', ':3:10: fsname: expected one line'],
    ['format = ["raw"]', ':3:10: format: expected a text in quotes'],
  ])('refuses %s', (line, message) => {
    expect(problemsOf(`${BASE}${line}\n`)).toEqual([`/etc/x.toml${message}`]);
  });

  it('a name that Node could not read is told as such', () => {
    const line = { paths: ['/no/such/\ufffd.img', '/m'], values: new Map(), lists: new Map() };
    expect(() => configure(line)).toThrow('/no/such/\ufffd.img: the name is not valid UTF-8');
  });

  it('an empty list of images is none', () => {
    expect(problemsOf('images = []\nmountpoint = "/m"')).toEqual(['/etc/x.toml:1:1: images: is empty']);
    expect(problemsOf(`${BASE}overlay = "tmp"`)).toEqual([]);
  });

  it('a name stands for a file of the directory', () => {
    expect(configPath('a')).toMatch(/\/vdisk-mount\/a\.toml$/);
    expect(configPath('./a')).toBe('./a');
    expect(configPath('a.toml')).toBe('a.toml');
  });
});

describe('files', () => {
  let folder: string;
  const file = (name: string, content: string | Buffer): string => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'vdisk-config-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('vdisk config check', async () => {
    const good = file('good.toml', WHOLE);
    const bad = file('bad.toml', 'images = "/i"\nwhat = 1\n');
    expect(await vdisk('config', 'check', good)).toEqual({
      status: 0,
      stdout: `${good}: fine\n`,
      stderr: '',
    });
    const ran = await vdisk('config', 'check', good, bad);
    expect(ran.status).toBe(1);
    expect(ran.stdout).toBe(`${good}: fine\n`);
    expect(ran.stderr).toMatch(
      new RegExp(`^${bad}:2:1: what: unknown key.*\\n${bad}:3:1: mountpoint: is missing\\n$`),
    );
    expect((await vdisk('config', 'check', join(folder, 'none.toml'))).stderr).toContain('does not exist');
    const both = file('both.toml', `${BASE}evidence = true\noverlay = "tmp"\n`);
    expect((await vdisk('config', 'check', both)).stderr).toContain(`${both}: --evidence and --overlay`);
    const latin = file('latin.toml', Buffer.from('images = "/\xe9"', 'latin1'));
    expect((await vdisk('config', 'check', latin)).stderr).toBe(`${latin}: is not valid UTF-8\n`);
  });

  it('vdisk-mount --config: what is typed goes before it', () => {
    const path = file('rw.toml', `${BASE}read_only = false\numask = "077"\nparent_dir = "/base"\n`);
    const read = (...args: string[]) => {
      const line = readCommandLine(['--config', path, ...args]);
      if (typeof line === 'string') throw new Error(line);
      return configure(line);
    };
    expect(read()).toMatchObject({ images: ['/i'], mountpoint: '/m', readOnly: false, umask: 0o077 });
    expect(read('-r', '--umask', '0')).toMatchObject({ readOnly: true, umask: 0 });
    expect(read('-o', 'ro,parent-dir=/more')).toMatchObject({
      readOnly: true,
      chain: { parentDirs: ['/base', '/more'] },
    });
    expect(() => read('image', '/mnt')).toThrow('--config: says what is mounted where');
    expect(() => readCommandLine(['--config', path, '--config', path])).toThrow('given twice');
  });
});
