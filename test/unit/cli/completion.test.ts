import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { completion, SHELLS, type Shell } from '../../../src/cli/completion.ts';
import { referenceOfMount, referenceOfVdisk } from '../../../src/cli/reference.ts';
import { commandsDeclared } from '../../../src/cli/vdisk.ts';
import { DRIVERS } from '../../../src/formats/registry.ts';
import { gateOf, must } from '../../support/machine.ts';

const declareCommands = await commandsDeclared();

const scriptOf = (shell: Shell): string => completion(shell, declareCommands);
const program = referenceOfVdisk(declareCommands);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'vdisk-completion-'));
  for (const shell of SHELLS) writeFileSync(join(folder, shell), scriptOf(shell));
  mkdirSync(join(folder, 'some', 'dir'), { recursive: true });
  mkdirSync(join(folder, 'plain'));
  const files = ['some/a.vhd', 'some/B.VHDX', 'some/my disk.vdi', 'some/x:y.qed', 'some/notes.txt'];
  for (const file of [...files, 'plain/disk', 'plain/notes']) writeFileSync(join(folder, file), '');
});
afterAll(() => rmSync(folder, { recursive: true }));

const QUOTE = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

const bash = gateOf('program: bash');
describe(bash.title('completion in bash'), { skip: bash.skip }, () => {
  /**
   * What bash would be told for these words, of which the last one is being typed. `=` and `:` are words of their own, as
   * bash splits them.
   */
  async function asked(
    words: readonly string[],
    { cwd = 'some', breaks = ' \t\n"\'><=;|&(:' } = {},
  ): Promise<string[]> {
    const script = `
      set -u
      . ${QUOTE(join(folder, 'bash'))}
      COMP_WORDBREAKS=$'${breaks.replaceAll("'", "\\'").replaceAll('\t', '\\t').replaceAll('\n', '\\n')}'
      COMP_WORDS=(${words.map(QUOTE).join(' ')})
      COMP_CWORD=${words.length - 1}
      COMPREPLY=()
      set -- $(complete -p ${words[0]})
      while [[ $1 != -F ]]; do shift; done
      $2
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    const said = await must('bash', ['--norc', '-c', script], { cwd: join(folder, cwd) });
    return said
      .split('\n')
      .filter((reply) => reply !== '')
      .sort();
  }

  it('offers every command, and those that begin with what is typed', async () => {
    expect(await asked(['vdisk', ''])).toEqual(program.commands.map(({ name }) => name).sort());
    expect(await asked(['vdisk', 'inf'])).toEqual(['info']);
    expect(await asked(['vdisk', 'nothing', ''])).toEqual([]);
  });

  it.each(program.commands)('offers every option of vdisk $name', async ({ name, options }) => {
    expect(await asked(['vdisk', name, '-'])).toEqual(options.flatMap(({ names }) => names).sort());
  });

  it('offers every option of vdisk-mount, on the line and in -o', async () => {
    const { options } = referenceOfMount();
    expect(await asked(['vdisk-mount', '-'])).toEqual(options.flatMap(({ names }) => names).sort());
    const words = options
      .filter(({ inMountOptions }) => inMountOptions)
      .map(
        ({ names, value }) => `${names[0]!.slice(2).replaceAll('-', '_')}${value === undefined ? '' : '='}`,
      );
    expect(await asked(['vdisk-mount', '-o', ''])).toEqual(words.sort());
  });

  it('offers the values of an option, behind a space or "="', async () => {
    const formats = DRIVERS.map(({ id }) => id).sort();
    expect(await asked(['vdisk', 'info', '--format', ''])).toEqual(formats);
    expect(await asked(['vdisk', 'info', '--format', '='])).toEqual(formats);
    expect(await asked(['vdisk', 'info', '--format', '=', 'vh'])).toEqual(['vhd', 'vhdx']);
    expect(await asked(['vdisk-mount', '--hash', 'n'])).toEqual(['none', 'now']);
    expect(await asked(['vdisk-mount', '--threads', ''])).toEqual([]);
    expect(await asked(['vdisk-mount', '--ro', '=', ''])).toEqual([]);
  });

  it('offers whole words where bash does not split at "="', async () => {
    expect(await asked(['vdisk', 'info', '--format=vh'], { breaks: ' ' })).toEqual([
      '--format=vhd',
      '--format=vhdx',
    ]);
    expect(await asked(['vdisk-mount', '--record=no'], { breaks: ' ' })).toEqual(['--record=notes.txt']);
  });

  it('offers the last of a list of mount options, and its values', async () => {
    expect(await asked(['vdisk-mount', '-o', 'ro,allow'])).toEqual(['ro,allow_other']);
    expect(await asked(['vdisk-mount', '-o', 'ro,parent-'])).toEqual(['ro,parent-dir=']);
    expect(await asked(['vdisk-mount', '-o', 'ro,vhd_size', '=', ''])).toEqual(['chs', 'current-size']);
    expect(await asked(['vdisk-mount', '-o', 'ro,vhd_size', '=', 'chs,part'])).toEqual(['chs,partitions']);
    expect(await asked(['vdisk-mount', '-o', 'vhd_size=c'], { breaks: ' ' })).toEqual([
      'vhd_size=chs',
      'vhd_size=current-size',
    ]);
    expect(await asked(['vdisk-mount', '-o', 'sync,record', '=', 'no'])).toEqual(['notes.txt']);
  });

  it('offers images before other files, by any case of their suffix', async () => {
    expect(await asked(['vdisk', 'info', ''])).toEqual(['B.VHDX', 'a.vhd', 'dir', 'my disk.vdi', 'x:y.qed']);
    expect(await asked(['vdisk', 'info', '-U', 'a.vhd', 'b'])).toEqual([]);
    expect(await asked(['vdisk', 'info', 'my\\ d'])).toEqual(['my disk.vdi']);
    expect(await asked(['vdisk', 'info', '"my d'])).toEqual(['my disk.vdi']);
    expect(await asked(['vdisk', 'info', 'x', ':', ''])).toEqual(['y.qed']);
    expect(await asked(['vdisk', 'info', '../some/a'])).toEqual(['../some/a.vhd']);
    expect(await asked(['vdisk', 'info', '--parent', 'a'])).toEqual(['a.vhd']);
  });

  it('offers all files where none is named like an image, or where any may be meant', async () => {
    expect(await asked(['vdisk', 'info', ''], { cwd: 'plain' })).toEqual(['disk', 'notes']);
    expect(await asked(['vdisk', 'info', 'n'])).toEqual(['notes.txt']);
    expect(await asked(['vdisk', 'verify', 'n'])).toEqual(['notes.txt']);
    expect(await asked(['vdisk-mount', 'a.vhd', ''])).toContain('notes.txt');
    expect(await asked(['vdisk-mount', ''])).not.toContain('notes.txt');
  });

  it('offers directories only where one is wanted', async () => {
    expect(await asked(['vdisk-mount', '--parent-dir', ''])).toEqual(['dir']);
  });

  it('offers no options behind "--"', async () => {
    expect(await asked(['vdisk', 'info', '--', '-'])).toEqual([]);
    expect(await asked(['vdisk', 'info', '--', 'a'])).toEqual(['a.vhd']);
  });

  it('offers the shells', async () => {
    expect(await asked(['vdisk', 'completion', ''])).toEqual([...SHELLS].sort());
  });
});

describe('the scripts of the other shells', () => {
  it.each(['zsh', 'fish'] as const)('for %s name every command and every option', (shell) => {
    const script = scriptOf(shell);
    for (const { options, commands } of [program, referenceOfMount()]) {
      const names = [{ options }, ...commands].flatMap((one) =>
        one.options.flatMap((option) => option.names),
      );
      for (const name of names) {
        const inFish = name.startsWith('--') ? ` -l ${name.slice(2)} ` : ` -s ${name.slice(1)} `;
        expect(script).toContain(shell === 'zsh' ? name : inFish);
      }
      for (const { name } of commands) expect(script).toContain(name);
    }
  });

  const zsh = gateOf('program: zsh');
  it(zsh.title('are read by zsh'), { skip: zsh.skip }, async () => {
    expect(await must('zsh', ['-f', '-n', join(folder, 'zsh')])).toBe('');
  });

  const fish = gateOf('program: fish');
  it(fish.title('complete in fish'), { skip: fish.skip }, async () => {
    await must('fish', ['--no-config', '--no-execute', join(folder, 'fish')]);
    const ask = async (line: string): Promise<string[]> => {
      const script = `source ${QUOTE(join(folder, 'fish'))}; complete -C ${QUOTE(line)}`;
      const home = join(folder, 'home');
      const env = { HOME: home, XDG_CONFIG_HOME: home, XDG_DATA_HOME: home };
      const said = await must('fish', ['--no-config', '-c', script], { cwd: join(folder, 'some'), env });
      return said
        .split('\n')
        .filter((reply) => reply !== '')
        .map((reply) => reply.split('\t')[0]!)
        .sort();
    };
    expect(await ask('vdisk ')).toEqual(program.commands.map(({ name }) => name).sort());
    expect(await ask('vdisk info --format vh')).toEqual(['vhd', 'vhdx']);
    expect(await ask('vdisk info ')).toEqual(['B.VHDX', 'a.vhd', 'dir/', 'my disk.vdi', 'x:y.qed']);
    expect(await ask('vdisk verify n')).toEqual(['notes.txt']);
    expect(await ask('vdisk-mount --hash n')).toEqual(['none', 'now']);
    expect(await ask('vdisk-mount -o ro,allow')).toEqual(['ro,allow_other']);
  });
});
